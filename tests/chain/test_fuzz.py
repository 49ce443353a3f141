"""Every decoder of every package, fed with invalid input: one kind of error, or the very bytes again.

The record types are found by walking the subclasses of ``Record`` after everything was imported, so that none is
forgotten. A fixed number of examples each, the same ones in every run.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.codec import MAX_INT, Record, unpack
from chain.exceptions import CodecError
from consensus.simplex.messages import decode_message
from tests.chain.strategies import records

PACKAGES = ("chain", "consensus", "p2p", "serving")


@cache
def get_kinds() -> list[type[Record]]:
    """Every record type of the program, by name."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)
    # A slotted dataclass leaves behind the class that it was made from.
    kinds = {kind for kind in walk(Record) if getattr(sys.modules[kind.__module__], kind.__name__, None) is kind}
    known = [kind for kind in kinds if kind.__module__.partition(".")[0] in PACKAGES]
    return sorted(known, key=lambda kind: (kind.__module__, kind.__name__))


def walk(kind: type[Record]) -> Iterator[type[Record]]:
    for derived in kind.__subclasses__():
        yield derived
        yield from walk(derived)


def decode_or_refuse(kind: type[Record], raw: bytes) -> Record | None:
    """The record, or None if it was refused as it should be; whatever is accepted must be canonical."""
    try:
        record = kind.decode(raw)
    except CodecError as error:
        assert str(error)
        return None
    assert type(record) is kind
    assert record.encode() == raw
    assert kind.decode(record.encode()) == record
    return record


by_name = pytest.mark.parametrize("kind", get_kinds(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")

odd_bytes = st.one_of(
    st.integers(0, 255),
    # The prefixes of msgpack: empty map and array, nil, unused, bool, bin, ext, float, long ints, str, long arrays.
    st.sampled_from([0x80, 0x90, 0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC7, 0xCA, 0xCB, 0xCC, 0xCF, 0xD0, 0xD9, 0xDC, 0xDD]),
)

aliens = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, MAX_INT, MAX_INT + 1, 2**64 - 1, -(2**63)]),
    st.floats(),
    st.binary(max_size=70),
    st.text("aé", max_size=4),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=16)),
    st.just(msgpack.Timestamp(0)),
    st.dictionaries(st.one_of(st.integers(0, 3), st.binary(max_size=2)), st.integers(0, 3), max_size=2),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(1, 40).map(lambda depth: _nest(depth)),
)


def _nest(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def get_paths(wire: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Where every value of a nested list stands."""
    inner = enumerate(wire) if type(wire) is list else ()
    return [path, *(deeper for index, item in inner for deeper in get_paths(item, (*path, index)))]


def graft(wire: Any, path: tuple[int, ...], value: Any) -> Any:
    """``wire`` with another value at ``path``."""
    if not path:
        return value
    return [graft(item, path[1:], value) if index == path[0] else item for index, item in enumerate(wire)]


@by_name
@settings(max_examples=8)
@given(data=st.data())
def test_a_record_survives_and_nothing_like_it_does(kind: type[Record], data: st.DataObject) -> None:
    check_a_record(kind, data)


@pytest.mark.long
@by_name
@settings(max_examples=30)
@given(data=st.data())
def test_many_records_survive_and_nothing_like_them_does(kind: type[Record], data: st.DataObject) -> None:
    check_a_record(kind, data)


def check_a_record(kind: type[Record], data: st.DataObject) -> None:
    """A record is read as it was written; with something else in it, it is refused or another record."""
    record = data.draw(records(kind))
    raw = record.encode()
    assert kind.decode(raw) == record and kind.decode(raw).encode() == raw
    changed = bytearray(raw)
    how = data.draw(st.sampled_from(["set", "insert", "delete", "cut", "append", "twice", "graft", "graft", "graft"]))
    position = data.draw(st.integers(0, len(raw) - 1))
    match how:
        case "set":
            changed[position] = data.draw(odd_bytes)
        case "insert":
            changed.insert(position, data.draw(odd_bytes))
        case "delete":
            del changed[position]
        case "cut":
            del changed[position:]
        case "append":
            changed.append(data.draw(odd_bytes))
        case "twice":
            changed += raw
        case "graft":
            wire = unpack(raw)
            path = data.draw(st.sampled_from(get_paths(wire)))
            changed = bytearray(msgpack.packb(graft(wire, path, data.draw(aliens)), use_bin_type=True))
    found = decode_or_refuse(kind, bytes(changed))
    assert found is None or (found == record) is (changed == raw)


wires = st.recursive(aliens, lambda inner: st.lists(inner, max_size=16), max_leaves=20)


@by_name
@settings(max_examples=4)
@given(wire=wires, raw=st.binary(max_size=200))
def test_other_values_and_random_bytes_are_refused_or_canonical(kind: type[Record], wire: Any, raw: bytes) -> None:
    decode_or_refuse(kind, msgpack.packb(wire, use_bin_type=True))
    decode_or_refuse(kind, raw)


@pytest.mark.parametrize("depth", [10, 500, 1_100, 100_000])
def test_depth_is_no_way_in(depth: int) -> None:
    bombs = (
        b"\x91" * depth + b"\x90",
        b"\x91" * depth,
        b"\x81\x00" * depth + b"\x00",
        b"\xdd\xff\xff\xff\xff" * min(depth, 1_000),
        b"\xdc\xff\xff" * min(depth, 1_000),
    )
    for kind in get_kinds():
        for bomb in bombs:
            assert decode_or_refuse(kind, bomb) is None


kinds_of_message = st.builds(lambda tag, rest: bytes([tag]) + rest, st.integers(0, 12), st.binary(max_size=80))


@settings(max_examples=200)
@given(raw=st.one_of(st.binary(max_size=80), kinds_of_message))
def test_messages_of_agreement_are_refused_or_canonical(raw: bytes) -> None:
    try:
        message = decode_message(raw)
    except CodecError as error:
        assert str(error)
    else:
        assert message.encode() in raw


def test_all_kinds_are_found() -> None:
    names = {kind.__name__ for kind in get_kinds()}
    assert {
        "Block",
        "ValidatorRecord",
        "Evidence",
        "Genesis",
        "Vote",
        "Certificate",
        "Proposal",
        "Announcement",
    } <= names
    assert len(get_kinds()) >= 60
