"""Canonical encoding: msgpack arrays with a fixed field order, one byte string per value.

A *record* is a frozen dataclass derived from :class:`Record`; its annotations are the only place that defines its
fields, and the encoder and decoder are derived from them. The field types are ``int``, ``bytes``, ``str``, ``bool``,
another record, ``X | None``, ``tuple[X, ...]``, and unions of records that carry a distinct ``TAG`` each; ``Annotated``
adds a :class:`Bounds` on the value of an int or on the length of bytes, str and tuples, or :class:`PrintableAscii` to a
str.

Decoding is strict: exact types (msgpack would let ``True``, ``1`` and ``1.0`` pass for one another), bounds, no maps,
floats or extension types, and the value must encode to the very bytes it came from. Every failure is a
:class:`CodecError`.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

import msgpack

from chain.exceptions import CodecError

MAX_INT = 2**63 - 1
"""Largest integer: that of 64 bits with a sign."""
MAX_UNSCANNED_BYTES = 256
"""Longest encoding, in bytes, whose nested arrays cannot claim enough to be worth a look before they are decoded."""
MAX_RECORD_BYTES = 1 << 20
"""Largest encoding accepted, in bytes, unless the caller allows more."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Inclusive limits: of the value of an int, of the length of bytes, str (in UTF-8 bytes) or a tuple."""

    low: int
    high: int

    def check(self, size: int) -> None:
        if not self.low <= size <= self.high:
            raise CodecError(f"{size} is outside {self.low}..{self.high}")


class PrintableAscii:
    """Text of the characters U+0020 to U+007E alone, which no terminal obeys and no reader takes for others.

    The rule must not depend on Unicode's tables: nodes with different versions of them would fork the chain.
    """


class Address:
    """Marks the annotation of a public key, which JSON shows as an address (:mod:`chain.json_form`)."""


Hash = Annotated[bytes, Bounds(32, 32)]
PublicKey = Annotated[bytes, Bounds(32, 32), Address]
Signature = Annotated[bytes, Bounds(64, 64)]
Amount = Annotated[int, Bounds(0, MAX_INT)]
"""Micro-credits."""
Natural = Annotated[int, Bounds(0, MAX_INT)]
MAX_MODEL_NAME_BYTES = 128
"""Longest name of a model."""
ModelName = Annotated[str, Bounds(1, MAX_MODEL_NAME_BYTES), PrintableAscii]

_Coder = Callable[[Any], Any]
"""Turns a value into what msgpack packs, or back, and raises CodecError saying where in the value it is wrong."""


class Record:
    """Base of every encoded dataclass."""

    __slots__ = ()
    TAG: ClassVar[int | None] = None
    """Distinguishes the members of a union of records; leads the array when set."""

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            CodecError: a field has the wrong type or is out of bounds.
        """
        return pack(_record_codec(type(self))[0](self))

    @classmethod
    def decode(cls, raw: bytes, max_size: int = MAX_RECORD_BYTES) -> Self:
        """The record whose canonical bytes are ``raw``.

        Raises:
            CodecError: ``raw`` is not the canonical encoding of such a record, or is longer than ``max_size``.
        """
        record: Self = _record_codec(cls)[1](unpack(raw, max_size))
        return record


def pack(wire: Any) -> bytes:
    """Encode nested lists of ints, bytes, str, bool and None."""
    try:
        packed = msgpack.packb(wire, use_bin_type=True)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CodecError(f"not encodable: {error}") from error
    assert isinstance(packed, bytes)
    return packed


def unpack(raw: bytes, max_size: int = MAX_RECORD_BYTES) -> Any:
    """Decode ``raw`` to nested lists and require that it is the canonical encoding of them.

    Raises:
        CodecError: malformed, too long, trailing bytes, or not canonical.
    """
    if len(raw) > max_size:
        raise CodecError(f"{len(raw)} bytes, more than {max_size}")
    try:
        # First a pass that builds nothing: nested arrays that claim more than follows would cost 10 ms of allocation
        # in 4 KiB. In complete input every claimed element takes at least a byte.
        if len(raw) > MAX_UNSCANNED_BYTES:
            scanner = msgpack.Unpacker(max_buffer_size=len(raw))
            scanner.feed(raw)
            scanner.skip()
        wire = msgpack.unpackb(raw, raw=False, use_list=True, max_map_len=0, max_ext_len=0, strict_map_key=True)
    except Exception as error:  # msgpack raises many kinds, all of which mean the same here
        raise CodecError(f"malformed msgpack: {error or type(error).__name__}") from error
    if pack(wire) != raw:
        raise CodecError("not the canonical encoding")
    return wire


_CODECS: dict[Any, tuple[_Coder, _Coder]] = {}


def _record_codec(cls: Any) -> tuple[_Coder, _Coder]:
    """Encoder and decoder of a record class, derived from its annotations on first use."""
    if cls not in _CODECS:
        _CODECS[cls] = _derive_codec(cls)
    return _CODECS[cls]


def _derive_codec(cls: Any) -> tuple[_Coder, _Coder]:
    hints = get_type_hints(cls, include_extras=True)
    fields = [(field.name, *_codec(hints[field.name])) for field in dataclasses.fields(cls)]
    tag = cls.TAG
    count = len(fields) + (tag is not None)
    skip = count - len(fields)

    def encode(record: Record) -> list[Any]:
        if type(record) is not cls:
            raise CodecError(f"expected {cls.__name__}, got {type(record).__name__}")
        wire: list[Any] = [] if tag is None else [tag]
        try:
            for name, encode_field, _ in fields:
                wire.append(encode_field(getattr(record, name)))
        except CodecError as error:
            raise CodecError(f"{cls.__name__}.{fields[len(wire) - skip][0]}: {error}") from error
        return wire

    def decode(wire: Any) -> Record:
        if type(wire) is not list or len(wire) != count:
            raise CodecError(f"{cls.__name__}: expected an array of {count}")
        if skip and (type(wire[0]) is not int or wire[0] != tag):
            raise CodecError(f"{cls.__name__}: expected tag {tag}")
        values: list[Any] = []
        try:
            for (_, _, decode_field), item in zip(fields, wire[skip:], strict=True):
                values.append(decode_field(item))
        except CodecError as error:
            raise CodecError(f"{cls.__name__}.{fields[len(values)][0]}: {error}") from error
        try:
            record: Record = cls(*values)
        except ValueError as error:  # a record that checks its own consistency
            raise CodecError(f"{cls.__name__}: {error}") from error
        return record

    return encode, decode


def _codec(annotation: Any) -> tuple[_Coder, _Coder]:
    """Encoder and decoder of one field type."""
    bounds = None
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        bounds = next((extra for extra in extras if isinstance(extra, Bounds)), None)
        if PrintableAscii in extras:
            return _plain(annotation, bounds, _printable_length)
    origin = get_origin(annotation)
    if annotation is int:
        return _plain(int, bounds or Bounds(0, MAX_INT), None)
    if annotation is bool:
        return _plain(bool, None, None)
    if annotation is bytes:
        return _plain(bytes, bounds, len)
    if annotation is str:
        return _plain(str, bounds, _utf8_length)
    if origin is tuple:
        return _tuple(get_args(annotation), bounds)
    if origin in (Union, types.UnionType):
        return _union(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return _record_codec(annotation)
    raise TypeError(f"a record cannot hold {annotation!r}")


def _utf8_length(value: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError as error:
        raise CodecError("not encodable as UTF-8") from error


def is_printable_ascii(text: str) -> bool:
    """Whether all characters of ``text`` are among U+0020 to U+007E (:class:`PrintableAscii`)."""
    return text.isascii() and text.isprintable()


def _printable_length(value: str) -> int:
    if not is_printable_ascii(value):
        raise CodecError("has characters that are not printable ASCII")
    return len(value)


def _plain(kind: type[Any], bounds: Bounds | None, measure: Callable[[Any], int] | None) -> tuple[_Coder, _Coder]:
    """A value that is its own wire form; bounds are on it or on its ``measure``."""

    low, high = (0, 0) if bounds is None else (bounds.low, bounds.high)

    def check(value: Any) -> Any:
        if type(value) is not kind:
            raise CodecError(f"expected {kind.__name__}, got {type(value).__name__}")
        if bounds is not None and not low <= (value if measure is None else measure(value)) <= high:
            bounds.check(value if measure is None else measure(value))
        return value

    return check, check


def _tuple(arguments: tuple[Any, ...], bounds: Bounds | None) -> tuple[_Coder, _Coder]:
    if len(arguments) != 2 or arguments[1] is not Ellipsis:
        raise TypeError("a record holds only tuples of the form tuple[X, ...]")
    encode_item, decode_item = _codec(arguments[0])

    def encode(value: Any) -> list[Any]:
        if type(value) is not tuple:
            raise CodecError(f"expected tuple, got {type(value).__name__}")
        if bounds is not None:
            bounds.check(len(value))
        return [encode_item(item) for item in value]

    def decode(wire: Any) -> tuple[Any, ...]:
        if type(wire) is not list:
            raise CodecError("expected an array")
        if bounds is not None:
            bounds.check(len(wire))
        items: list[Any] = []
        try:
            for item in wire:
                items.append(decode_item(item))
        except CodecError as error:
            raise CodecError(f"[{len(items)}]: {error}") from error
        return tuple(items)

    return encode, decode


def _union(members: tuple[Any, ...]) -> tuple[_Coder, _Coder]:
    optional = types.NoneType in members
    rest = [member for member in members if member is not types.NoneType]
    if len(rest) == 1:
        encode_one, decode_one = _codec(rest[0])
        return (
            lambda value: None if value is None else encode_one(value),
            lambda wire: None if wire is None else decode_one(wire),
        )
    by_class = {member: _record_codec(member)[0] for member in rest}
    by_tag = {member.TAG: _record_codec(member)[1] for member in rest}
    if optional or None in by_tag or len(by_tag) != len(rest):
        raise TypeError("the members of a union need distinct tags")

    def encode(value: Any) -> Any:
        encoder = by_class.get(type(value))
        if encoder is None:
            raise CodecError(f"unexpected {type(value).__name__}")
        return encoder(value)

    def decode(wire: Any) -> Any:
        if type(wire) is not list or not wire or type(wire[0]) is not int or wire[0] not in by_tag:
            raise CodecError("unknown kind of record")
        return by_tag[wire[0]](wire)

    return encode, decode
