"""Sections 1 to 4: numbers, records and their encoding, hashes, signatures.

The tables of records are read out of the document. A record is a dict of its fields in order; one that has a tag begins
with its name, as ``record``.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgpack
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

Record = dict[str, Any]

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"

OPERATIONS_SECTION, OFFERS_SECTION = 7, 19
"""Where the document lists the records that an ``Operation`` and the message of an ``Envelope`` may be."""


class Malformed(Exception):
    """Bytes that are not the encoding of the record that was expected."""


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def number(digest: bytes) -> int:
    """A hash as a big-endian number."""
    return int.from_bytes(digest, "big")


def h(domain: str, *parts: bytes) -> bytes:
    """``H(domain; a, b, …)`` of section 4."""
    return hashlib.blake2b(b"".join(parts), digest_size=32, person=domain.encode()).digest()


@cache
def is_usable(key: bytes) -> bool:
    """Whether signatures of a public key can hold at all (section 2)."""
    return len(key) == 32 and crypto_core_ed25519_is_valid_point(key)


@cache
def is_signed(key: bytes, domain: str, chain_id: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature in a domain holds (section 4)."""
    if not is_usable(key):
        return False
    try:
        VerifyKey(key).verify(bytes([len(domain)]) + domain.encode() + chain_id + message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


@cache
def read_tables() -> dict[str, tuple[int | None, dict[str, str]]]:
    """Tag and fields of each record in the document."""
    return {name: row for section in _read_sections().values() for name, row in section.items()}


@cache
def list_members(section: int) -> dict[int | None, str]:
    """The records with a tag in a section of the document, by tag."""
    return {tag: name for name, (tag, _) in _read_sections()[section].items() if tag is not None}


@cache
def _read_sections() -> dict[int, dict[str, tuple[int | None, dict[str, str]]]]:
    sections = {}
    for text in re.split(r"^## (?=\d+\.)", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        tables = {}
        for name, tag, row in re.findall(r"^\| `([\w.]+)` \| (\d*) ?\| (.*?) ?\|$", text, re.MULTILINE):
            fields = dict(part.split(": ") for part in row.replace(r"\|", "|").split(", ") if part)
            tables[name] = (int(tag) if tag else None, fields)
        sections[int(text.partition(".")[0])] = tables
    return sections


def encode(value: Any) -> bytes:
    """The shortest MessagePack of a value, a list or a record, by hand."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        if value < 128:
            return bytes([value])
        width = next(width for width in range(4) if value < 1 << (8 << width))
        return bytes([0xCC + width]) + value.to_bytes(1 << width, "big")
    if isinstance(value, dict):
        value = [read_tables()[item][0] if field == "record" else item for field, item in value.items()]
    if isinstance(value, list):
        size, body, fixed, low, heads = len(value), b"".join(map(encode, value)), 0x90, 16, (0, 0xDC, 0xDD)
    elif isinstance(value, bytes):
        size, body, fixed, low, heads = len(value), value, 0, 0, (0xC4, 0xC5, 0xC6)
    else:
        body = value.encode()
        size, fixed, low, heads = len(body), 0xA0, 32, (0xD9, 0xDA, 0xDB)
    if size < low:
        return bytes([fixed + size]) + body
    head, width = next((head, width) for width, head in enumerate(heads) if head and size < 1 << (8 << width))
    return bytes([head]) + size.to_bytes(1 << width, "big") + body


def decode(name: str, raw: bytes, max_bytes: int = 1 << 20) -> Record:
    """A record of the document.

    Raises:
        Malformed: the bytes are not its one encoding.
    """
    if len(raw) > max_bytes:
        raise Malformed("too long")
    try:
        wire = msgpack.unpackb(raw, raw=False, strict_map_key=False)
        canonical = encode(wire)
    except Exception as error:
        raise Malformed(str(error)) from error
    if canonical != raw:
        raise Malformed("not canonical")
    record: Record = conform(name, wire)
    return record


def conform(kind: str, wire: Any) -> Any:
    """What ``wire`` is as a type of the document."""
    if kind == "Operation":
        return conform_member(list_members(OPERATIONS_SECTION), wire)
    if kind == "any record with a tag below":
        return conform_member(list_members(OFFERS_SECTION), wire)
    if " | " in kind and not kind.startswith("["):
        names = kind.split(" | ")
        if "nil" in names:
            return None if wire is None else conform(names[0], wire)
        return conform_member({read_tables()[name][0]: name for name in names}, wire)
    if kind.startswith("["):
        inner, bounds = kind[1:].rsplit("]", 1)
        check(type(wire) is list, bounds, wire, len)
        return [conform(inner, item) for item in wire]
    if kind in read_tables():
        return conform_record(kind, wire)
    word, _, bounds = _LONG.get(kind, kind).partition(" ")
    expected, measure = {
        "int": (int, int),
        "bytes": (bytes, len),
        "str": (str, lambda text: len(text.encode())),
        "model": (str, lambda text: len(text) if all(" " <= each <= "~" for each in text) else 0),
        "bool": (bool, int),
    }[word]
    check(type(wire) is expected, bounds or ("0..9223372036854775807" if word == "int" else ""), wire, measure)
    return wire


_LONG = {"hash": "bytes 32", "key": "bytes 32", "sig": "bytes 64", "model": "model 1..128"}


def conform_member(members: dict[int | None, str], wire: Any) -> Record:
    """One of several records, as its tag says."""
    if type(wire) is not list or not wire or type(wire[0]) is not int or wire[0] not in members:
        raise Malformed("no such tag")
    return conform_record(members[wire[0]], wire)


def conform_record(name: str, wire: Any) -> Record:
    tag, fields = read_tables()[name]
    if type(wire) is not list or len(wire) != len(fields) + (tag is not None):
        raise Malformed("an array of another length")
    record: Record = {}
    if tag is not None:
        if type(wire[0]) is not int or wire[0] != tag:
            raise Malformed("another tag")
        record, wire = {"record": name}, wire[1:]
    record |= {field: conform(kind, item) for (field, kind), item in zip(fields.items(), wire, strict=True)}
    if name == "ValidatorSet":
        ranks = [(-each["stake"], each["public_key"]) for each in record["validators"]]
        if ranks != sorted(ranks) or len({key for _, key in ranks}) != len(ranks):
            raise Malformed("not in order")
    return record


def check(is_kind: bool, bounds: str, wire: Any, measure: Any) -> None:
    if not is_kind:
        raise Malformed("of another type")
    if bounds.strip():
        low, _, high = bounds.strip().partition("..")
        if not int(low) <= measure(wire) <= int(high or low):
            raise Malformed("out of bounds")
