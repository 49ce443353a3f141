"""The JSON form of records, derived from their annotations as the binary encoding is (:mod:`chain.codec`).

Keys of accounts are addresses (of zeros, which is no key: hexadecimal digits), other bytes hexadecimal digits, tuples
lists, and records objects. A field ``public_key`` is called ``address``. Numbers and texts are themselves; reading
leaves the check of their types and bounds to the codec.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from chain.codec import Address, Bounds, Record
from chain.crypto import format_address, parse_address
from chain.exceptions import JsonFormError

R = TypeVar("R", bound=Record)

_Write = Callable[[Any], Any]


def to_plain(record: Any) -> dict[str, Any]:
    """The JSON object of a record, or of another dataclass with such fields."""
    return {name: write(getattr(record, field)) for field, name, write in _get_writers(type(record))}  # type: ignore[arg-type]


def from_plain(kind: type[R], content: Any, where: str) -> R:
    """The record of a JSON object. ``where`` names the object in messages.

    Raises:
        JsonFormError: a field is missing, unknown, or not of its form.
        KeyFormatError: an address is malformed.
    """
    return _read_record(kind, content, where, "")  # type: ignore[no-any-return]


@cache
def _get_writers(kind: type[Any]) -> list[tuple[str, str, _Write]]:
    """Name, JSON name and writer of each field."""
    hints = get_type_hints(kind, include_extras=True)
    return [(field.name, _get_name(field.name), _make_writer(hints[field.name])) for field in dataclasses.fields(kind)]


def _get_name(field: str) -> str:
    return "address" if field == "public_key" else field


def _make_writer(annotation: Any) -> _Write:
    annotation, extras = _split(annotation)
    if annotation is bytes:
        return _write_key if Address in extras else bytes.hex
    if get_origin(annotation) is tuple:
        write_item = _make_writer(get_args(annotation)[0])
        return lambda items: [write_item(item) for item in items]
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        write = to_plain if len(members) > 1 else _make_writer(members[0])
        return lambda value: None if value is None else write(value)
    return to_plain if dataclasses.is_dataclass(annotation) else lambda value: value


def _write_key(key: bytes) -> str:
    return format_address(key) if any(key) else key.hex()


def _read_record(kind: Any, content: Any, where: str, prefix: str) -> Any:
    """``where`` names the object; ``prefix`` stands before the names of its plain fields."""
    if not isinstance(content, dict):
        raise JsonFormError(f"{where}: expected an object")
    fields = {_get_name(field.name): field for field in dataclasses.fields(kind)}
    for name in content:
        if name not in fields:
            with_unit = next((f" (with its unit: {field!r})" for field in fields if field.startswith(f"{name}_")), "")
            raise JsonFormError(f"{where}: unknown field {name!r}{with_unit}")
    for name, field in fields.items():
        if name not in content and field.default is dataclasses.MISSING:
            raise JsonFormError(f"{where}: missing field {name!r}")
    hints = get_type_hints(kind, include_extras=True)
    return kind(
        **{fields[name].name: _read(hints[fields[name].name], value, name, prefix) for name, value in content.items()}
    )


def _read(annotation: Any, value: Any, name: str, prefix: str) -> Any:
    annotation, extras = _split(annotation)
    if annotation is bytes:
        if Address in extras:
            if not isinstance(value, str):
                raise JsonFormError(f"{prefix}{name}: expected text")
            return parse_address(value)
        try:
            return bytes.fromhex(value)
        except (TypeError, ValueError) as error:
            digits = next((2 * extra.high for extra in extras if isinstance(extra, Bounds)), "")
            raise JsonFormError(f"{prefix}{name}: expected {digits} hexadecimal digits") from error
    if get_origin(annotation) is tuple:
        if not isinstance(value, list):
            raise JsonFormError(f"{name}: expected a list")
        return tuple(_read(get_args(annotation)[0], item, name, prefix) for item in value)
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        if len(members) != 1:
            raise TypeError(f"cannot tell the members of {annotation!r} apart in JSON")
        return None if value is None else _read(members[0], value, name, prefix)
    if dataclasses.is_dataclass(annotation):
        return _read_record(annotation, value, name, f"{name}: ")
    return value


def _split(annotation: Any) -> tuple[Any, list[Any]]:
    """A type, and what is annotated to it."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    kind, *extras = get_args(annotation)
    return kind, extras
