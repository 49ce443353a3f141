"""The encoding: one byte string per record and one record per byte string, and a single kind of failure."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Annotated, Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.codec import MAX_INT, MAX_RECORD_BYTES, Bounds, Record, pack, unpack
from chain.exceptions import CodecError
from chain.types.blocks import Block
from chain.types.operations import SignedOperation, Transfer, Usage
from chain.types.validators import Validator, ValidatorSet
from tests.support.chain_builder import Chain


def decode_or_refuse(kind: type[Record], raw: bytes) -> Record | None:
    """The record, or None if it was refused as it should be; whatever is accepted must be canonical."""
    try:
        record = kind.decode(raw)
    except CodecError as error:
        assert str(error)
        return None
    assert type(record) is kind
    assert record.encode() == raw
    return record


@settings(max_examples=100)
@given(data=st.data())
def test_a_real_block_survives_nothing_but_itself(data: st.DataObject) -> None:
    raw = bytearray(REAL_BLOCK)
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    block = decode_or_refuse(Block, bytes(raw))
    assert block is None or block.encode() != REAL_BLOCK


def make_real_block() -> bytes:
    chain = Chain()
    chain.append()
    return chain.append([chain.transfer(chain.users[0], chain.users[1], 5)], skipped=1).encoded


REAL_BLOCK = make_real_block()


@dataclass(frozen=True, slots=True)
class Every(Record):
    """One field of each kind."""

    number: int
    flag: bool
    raw: bytes
    text: Annotated[str, Bounds(0, 4)]
    items: Annotated[tuple[int, ...], Bounds(0, 2)]
    maybe: Usage | None


GOOD = [1, True, b"x", "y", [1], None]


@pytest.mark.parametrize(
    "wire",
    [
        [True, *GOOD[1:]],
        [1.0, *GOOD[1:]],
        [-1, *GOOD[1:]],
        [MAX_INT + 1, *GOOD[1:]],
        ["1", *GOOD[1:]],
        [None, *GOOD[1:]],
        [1, 1, *GOOD[2:]],
        [1, 0, *GOOD[2:]],
        [1, None, *GOOD[2:]],
        [1, True, "x", *GOOD[3:]],
        [1, True, [120], *GOOD[3:]],
        [1, True, b"x", b"y", *GOOD[4:]],
        [1, True, b"x", "five!", *GOOD[4:]],
        [1, True, b"x", "ééé", *GOOD[4:]],
        [1, True, b"x", "y", [1, 2, 3], None],
        [1, True, b"x", "y", [True], None],
        [1, True, b"x", "y", b"\x01", None],
        [1, True, b"x", "y", None, None],
        [1, True, b"x", "y", {}, None],
        [1, True, b"x", "y", [1], 0],
        [1, True, b"x", "y", [1], []],
        [1, True, b"x", "y", [1], False],
        [1, True, b"x", "y", [1], [1, 1.0]],
        [1, True, b"x", "y", [1], {}],
        [1, True, b"x", "y", [1], msgpack.ExtType(1, b"")],
        [1, True, b"x", "y", [1], msgpack.Timestamp(0)],
        GOOD[:-1],
        [*GOOD, None],
        [],
        None,
        1,
        {},
        {0: 1},
    ],
    ids=repr,
)
def test_types_are_exact(wire: Any) -> None:
    assert Every.decode(msgpack.packb(GOOD)).encode() == msgpack.packb(GOOD)
    with pytest.raises(CodecError):
        Every.decode(msgpack.packb(wire))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x92\x01",  # short
        b"\x92\x01\x02\x00",  # trailing byte
        b"\x92\x01\x02\xc1",  # trailing byte that msgpack never uses
        b"\x92\xcc\x01\x02",  # 1 in two bytes
        b"\x92\xd0\x01\x02",  # 1 as a signed byte
        b"\x92\xcf" + bytes(7) + b"\x01\x02",  # 1 in nine bytes
        b"\xdc\x00\x02\x01\x02",  # array of 2 with a long header
        b"\xdd\x00\x00\x00\x02\x01\x02",
        b"\xdd\xff\xff\xff\xff\x01\x02",  # array of 2^32 - 1
        b"\x92\xcb" + bytes(8) + b"\x02",  # a float
        b"\x92\xff\x02",  # -1
        b"\x92\xcf" + b"\xff" * 8 + b"\x02",
        b"\x82\x01\x02\x03\x04",  # a map
        b"\xc7\x00\x01",  # an empty extension
        b"\xd6\xff" + bytes(4),  # a timestamp
        b"\xc1",
    ],
    ids=lambda raw: raw.hex(),
)
def test_bytes_are_canonical(raw: bytes) -> None:
    assert Usage.decode(b"\x92\x01\x02") == Usage(1, 2)
    with pytest.raises(CodecError):
        Usage.decode(raw)


def test_text_is_utf8() -> None:
    for raw in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80"):
        wire = msgpack.packb([1, True, b"", "", [], None]).replace(b"\xa0", bytes([0xA0 + len(raw)]) + raw)
        with pytest.raises(CodecError):
            Every.decode(wire)


@pytest.mark.parametrize("depth", [100, 600, 5_000, 100_000])
def test_depth_bombs_are_refused(depth: int) -> None:
    for raw in (b"\x91" * depth + b"\x00", b"\x91" * depth, b"\x81\x00" * depth + b"\x00"):
        with pytest.raises(CodecError):
            Block.decode(raw)
        with pytest.raises(CodecError):
            SignedOperation.decode(raw)


def test_arrays_that_claim_more_than_follows_are_refused_before_they_are_built() -> None:
    # Each header claims 4,096 elements: built, 500 of them nested would allocate 16 MB out of 4 KiB.
    raw = b"\xdc\x10\x00" * 500 + bytes(2_600)
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="malformed"):
            unpack(raw)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_size_is_limited() -> None:
    raw = pack(b"x" * 100)
    assert unpack(raw, len(raw)) == b"x" * 100
    with pytest.raises(CodecError, match="more than"):
        unpack(raw, len(raw) - 1)
    with pytest.raises(CodecError, match="more than"):
        Block.decode(bytes(MAX_RECORD_BYTES + 1))


def test_unknown_tags_are_refused() -> None:
    chain = Chain()
    signed = chain.transfer(chain.users[0], chain.users[1], 5)
    wire = unpack(signed.encoded)
    for tag in (0, 6, 99, True, 1.0, None, "1", -1, [1]):
        with pytest.raises(CodecError):
            SignedOperation.decode(msgpack.packb([[tag, *wire[0][1:]], *wire[1:]]))
        with pytest.raises(CodecError):
            Transfer.decode(msgpack.packb([tag, *wire[0][1:]]))
    with pytest.raises(CodecError):  # the fields of one kind under the tag of another
        SignedOperation.decode(msgpack.packb([[2, *wire[0][1:]], *wire[1:]]))


@pytest.mark.parametrize(
    "record",
    [
        Usage(-1, 0),
        Usage(2**63, 0),
        Usage(True, 0),
        Usage(1.0, 0),  # type: ignore[arg-type]
        Transfer(0, b"short", 1),
        Transfer(0, bytes(33), 1),
        Transfer(0, bytearray(32), 1),  # type: ignore[arg-type]
        Transfer(0, bytes(32), 1, bytes(65)),
        SignedOperation(Usage(1, 2), bytes(32), bytes(64)),  # type: ignore[arg-type]
        Every(1, True, b"", "\ud800", (), None),
        Every(1, True, b"", "", [], None),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_what_cannot_be_decoded_is_not_encoded(record: Record) -> None:
    with pytest.raises(CodecError):
        record.encode()


def test_an_inconsistent_record_is_refused_like_a_malformed_one() -> None:
    one, two = Validator(bytes(32), 1), Validator(bytes([1]) * 32, 2)
    for wire in ([one, two], [two, two]):
        raw = pack([[unpack(validator.encode()) for validator in wire]])
        with pytest.raises(CodecError, match="ordered"):
            ValidatorSet.decode(raw)
