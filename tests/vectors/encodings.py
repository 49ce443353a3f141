"""Vectors of encodings: every record that travels or is stored, and what a decoder must refuse."""

from __future__ import annotations

import dataclasses
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgpack

from chain import genesis
from chain.codec import MAX_INT, Bounds, PrintableAscii, Record
from chain.exceptions import CodecError
from chain.light import client as light
from chain.light import proofs
from chain.merkle import snapshot
from chain.state.records import Account
from chain.transition import restart_file
from chain.types.operations import Bond, CaptureItem, Operation, SignedOperation, Transfer
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate
from consensus.network import compact_blocks as compact
from consensus.network import gossip as dissemination
from consensus.simplex import messages
from consensus.sync import messages as sync_records
from p2p import ping
from p2p.nat import dial_back as reachability
from p2p.nat import hole_punching as punching
from p2p.peers import announcement as announcements
from p2p.peers import anti_entropy
from p2p.peers import suspect_message as suspect_messages
from serving.config import invitation
from serving.offload import protocol as offers
from serving.quality.duels import protocol as duel_texts
from serving.quality.same_model import identity as identities
from serving.quality.same_model import transcript as transcripts
from tests.vectors.plain import Json, Sampler, list_records, to_plain

MODULES = (
    genesis, light, proofs, restart_file, snapshot, compact, dissemination, messages, sync_records, announcements,
    suspect_messages, reachability, punching, anti_entropy, offers, duel_texts,
    identities, transcripts, ping, invitation,
)  # fmt: skip
"""Importing these defines every record of the protocol."""

PRIVATE = {"chain.merkle.snapshot.Frontier"}
PRIVATE_MODULES = {
    "chain.store.snapshot_import",
    "chain.store.reader",
    "consensus.voting.journal",
    "p2p.discovery.peer_store",
    "serving.quality.duels.table",
}
"""Records that never leave the node that made them, or are not part of the protocol."""


def list_public_records() -> list[type[Record]]:
    """Every record of the protocol, by name."""
    public = (
        cls
        for cls in list_records()
        if cls.__module__ not in PRIVATE_MODULES and f"{cls.__module__}.{cls.__name__}" not in PRIVATE
    )
    return sorted(public, key=name_record)


def name_record(cls: type[Record]) -> str:
    """The name of a record, which no other has."""
    return cls.__name__


def make_encodings() -> Json:
    """Two samples of each record: the least possible, and one with more in it."""
    cases: list[Json] = []
    for cls in list_public_records():
        for is_rich in (False, True):
            record = Sampler(is_rich).make(cls)
            encoded = record.encode()
            assert cls.decode(encoded) == record
            cases.append({"record": name_record(cls), "value": to_plain(record), "encoded": encoded.hex()})
    return {
        "description": "Records and their encodings. The values make no sense, keys and signatures are patterns.",
        "section": "3",
        "cases": cases,
    }


def make_refused() -> Json:
    """What is not the encoding of the record that is expected."""
    return {
        "description": "Byte strings that are not the encoding of the record named; 'max_size' where it is not 2^20.",
        "section": "3",
        "cases": [_refuse(cls, why, raw, max_size) for cls, why, raw, max_size in _list_refused()],
    }


def _refuse(cls: type[Record], why: str, raw: bytes, max_size: int | None) -> Json:
    try:
        cls.decode(raw) if max_size is None else cls.decode(raw, max_size)
    except CodecError:
        case = {"record": cls.__name__, "why": why, "encoded": raw.hex()}
        return case if max_size is None else {**case, "max_size": max_size}
    raise AssertionError(f"{cls.__name__} takes: {why}")


def _list_refused() -> list[tuple[type[Record], str, bytes, int | None]]:
    bond = Bond(5, 7).encode()
    signed = SignedOperation(Bond(5, 7), bytes(32), bytes(64)).encode()
    two = ValidatorSet.of([(b"\1" * 32, 5), (b"\2" * 32, 4)]).encode()

    def wire(cls: type[Record], why: str, value: Any) -> tuple[type[Record], str, bytes, int | None]:
        return cls, why, msgpack.packb(value, use_bin_type=True), None

    def raw(cls: type[Record], why: str, text: str) -> tuple[type[Record], str, bytes, int | None]:
        return cls, why, bytes.fromhex(text), None

    certificate = [1, 0, 1, bytes(32), [], []]
    account = [0, 0, 0, 0, [], [], 0, 0, 0, None]
    transfer = [1, 0, bytes(32), 1, b""]
    assert bond == bytes.fromhex("93020507")
    return [
        raw(Bond, "empty", ""),
        raw(Bond, "a byte is missing", "930205"),
        raw(Bond, "a byte too many", "9302050700"),
        raw(Bond, "5 as uint 8", "9302cc0507"),
        raw(Bond, "5 as uint 16", "9302cd000507"),
        raw(Bond, "5 as int 8", "9302d00507"),
        raw(Bond, "200 as uint 16", "9302cd00c807"),
        raw(Bond, "2^16 as uint 64", "9302cf000000000001000007"),
        raw(Bond, "an array of 3 as array 16", "dc0003020507"),
        raw(Bond, "an array of 3 as array 32", "dd00000003020507"),
        raw(Bond, "a negative integer", "9302ff07"),
        raw(Bond, "2^63", "9302cf800000000000000007"),
        raw(Bond, "true for 1", "9302c307"),
        raw(Bond, "a float for 5", "9302cb401400000000000007"),
        raw(Bond, "a float of 4 bytes for 5", "9302ca40a0000007"),
        raw(Bond, "nil for an integer", "9302c007"),
        raw(Bond, "text for an integer", "9302a13507"),
        raw(Bond, "true for the tag 1 of another record", "93c30507"),
        raw(Bond, "another tag", "93030507"),
        raw(Bond, "no tag", "920507"),
        raw(Bond, "a field too many", "9402050707"),
        raw(Bond, "a map", "83020507050507"),
        raw(Bond, "an empty map", "80"),
        raw(Bond, "an extension", "d40100"),
        raw(Bond, "a timestamp", "9302d6ff0000000507"),
        raw(Bond, "the byte c1, which means nothing", "9302c107"),
        raw(Bond, "not an array", "05"),
        (Bond, "arrays 2,000 deep", b"\x91" * 2_000 + b"\xc0", None),
        (Bond, "an array that claims 2^32 - 1 elements", bytes.fromhex("ddffffffff"), None),
        (SignedOperation, "longer than allowed", signed, len(signed) - 1),
        wire(Transfer, "text for bytes", [1, 0, bytes(32), 1, "a"]),
        wire(Transfer, "a key of 31 bytes", [1, 0, bytes(31), 1, b""]),
        wire(Transfer, "a memo of 65 bytes", [1, 0, bytes(32), 1, bytes(65)]),
        (
            Transfer,
            "1 byte as bin 16",
            msgpack.packb([*transfer[:4], b"m"]).replace(b"\xc4\x01m", b"\xc5\x00\x01m"),
            None,
        ),
        wire(SignedOperation, "no such operation", [[99, 0], bytes(32), bytes(64)]),
        wire(SignedOperation, "an operation as a byte string", [bond, bytes(32), bytes(64)]),
        wire(SignedOperation, "a signature of 63 bytes", [[2, 5, 7], bytes(32), bytes(63)]),
        wire(CaptureItem, "0 for nil", [[bytes(32), 0, bytes(32), [0, 0], "stop"], 0]),
        wire(CaptureItem, "a finish reason of 33 bytes", [[bytes(32), 0, bytes(32), [0, 0], "s" * 33], None]),
        wire(
            CaptureItem,
            "a finish reason of 33 bytes in 17 characters",
            [[bytes(32), 0, bytes(32), [0, 0], "é" * 16 + "s"], None],
        ),
        wire(CaptureItem, "an empty finish reason", [[bytes(32), 0, bytes(32), [0, 0], ""], None]),
        wire(Account, "17 models", [*account[:5], ["m"] * 17, *account[6:]]),
        wire(Account, "an empty model name", [*account[:5], [""], *account[6:]]),
        wire(Account, "a model name of 129 bytes", [*account[:5], ["m" * 129], *account[6:]]),
        wire(Account, "a model name with a line feed", [*account[:5], ["a\nb"], *account[6:]]),
        wire(Account, "a model name with U+007F", [*account[:5], ["a\x7f"], *account[6:]]),
        wire(Account, "a model name with é", [*account[:5], ["é"], *account[6:]]),
        wire(Account, "a model name with U+202E, which turns text around", [*account[:5], ["a\u202eb"], *account[6:]]),
        (
            Account,
            "text that is not UTF-8",
            msgpack.packb([*account[:5], ["m"], *account[6:]]).replace(b"\xa1m", b"\xa1\xff"),
            None,
        ),
        (
            Account,
            "text of 1 byte as str 8",
            msgpack.packb([*account[:5], ["m"], *account[6:]]).replace(b"\xa1m", b"\xd9\x01m"),
            None,
        ),
        wire(Certificate, "kind 0", [0, *certificate[1:]]),
        wire(Certificate, "kind 4", [4, *certificate[1:]]),
        wire(Certificate, "65 signers", [*certificate[:4], list(range(65)), []]),
        wire(ValidatorSet, "no validator", [[]]),
        wire(ValidatorSet, "the smaller stake first", [[[b"\2" * 32, 4], [b"\1" * 32, 5]]]),
        wire(ValidatorSet, "equal stakes, the greater key first", [[[b"\2" * 32, 5], [b"\1" * 32, 5]]]),
        wire(ValidatorSet, "a key twice", [[[b"\1" * 32, 5], [b"\1" * 32, 4]]]),
        (ValidatorSet, "without the array of its one field", two[1:], None),
    ]


def describe_record(cls: type[Record]) -> tuple[int | None, dict[str, str]]:
    """Tag and fields of a record in the words of the document, where public keys are hashes."""
    hints = get_type_hints(cls, include_extras=True)
    return cls.TAG, {field.name: _describe_type(hints[field.name]) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def _describe_type(annotation: Any) -> str:
    """A field type in the words of the document, where public keys are hashes."""
    if annotation == Operation:
        return "Operation"
    if annotation == offers.Message:
        return "any record with a tag below"
    limits = None
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        limits = next((extra.low, extra.high) for extra in extras if isinstance(extra, Bounds))
        if PrintableAscii in extras:
            return "model"
    if annotation is int and limits == (0, MAX_INT):
        limits = None
    bounds = "" if limits is None else f" {limits[0]}" if limits[0] == limits[1] else f" {limits[0]}..{limits[1]}"
    if get_origin(annotation) is tuple:
        return f"[{_describe_type(get_args(annotation)[0])}]{bounds}"
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join("nil" if each is types.NoneType else _describe_type(each) for each in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return name_record(annotation)
    name: str = annotation.__name__ + bounds
    return _SHORT.get(name, name)


_SHORT = {"bytes 32": "hash", "bytes 64": "sig"}
