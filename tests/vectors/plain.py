"""How vectors look in JSON, and a sample of any record."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from chain.codec import MAX_INT, Bounds, PrintableAscii, Record
from chain.types.validators import ValidatorSet
from serving.quality.same_model.transcript import TopToken, TranscriptToken

Json = dict[str, Any]


def to_plain(value: Any) -> Any:
    """A record as an object that begins with its name, bytes as hex, tuples as lists."""
    if isinstance(value, Record):
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        return {
            "record": type(value).__name__,
            **{field.name: to_plain(getattr(value, field.name)) for field in fields},
        }
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def list_records(base: type[Record] = Record) -> list[type[Record]]:
    """The records of all modules imported so far, but for private ones, by module and name."""
    found = {cls.__module__ + "." + cls.__qualname__: cls for cls in _walk(base)}  # slots make each class twice
    named = (name for name in sorted(found) if not found[name].__name__.startswith("_"))
    return [found[name] for name in named if found[name].__module__.split(".")[0] in _PACKAGES]


_PACKAGES = ("chain", "consensus", "p2p", "serving")


def _walk(base: type[Record]) -> Iterator[type[Record]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _walk(cls)


_INTS = (127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 + 1, MAX_INT)


class Sampler:
    """Makes records: with everything at its least, or (``is_rich``) with numbers around the widths of the encoding."""

    def __init__(self, is_rich: bool) -> None:
        self._is_rich = is_rich
        self._numbers = count()

    def make(self, cls: Any) -> Any:
        """A record of this class."""
        if cls is ValidatorSet:
            return ValidatorSet.of([(bytes([number + 1]) * 32, 1_000 + number) for number in range(3)])
        if cls is TranscriptToken:  # whose five likeliest tokens differ
            first = 65_534 if self._is_rich else 0
            return TranscriptToken(first, tuple(TopToken(first + number, first * number) for number in range(5)))
        hints = get_type_hints(cls, include_extras=True)
        return cls(*(self._make_value(hints[field.name]) for field in dataclasses.fields(cls)))

    def _make_value(self, annotation: Any) -> Any:
        low, high = 0, MAX_INT
        if get_origin(annotation) is Annotated:
            annotation, *extras = get_args(annotation)
            low, high = next((extra.low, extra.high) for extra in extras if isinstance(extra, Bounds))
            if PrintableAscii in extras:
                return "ze/7 B" if self._is_rich else "a" * low
        origin, number = get_origin(annotation), next(self._numbers)
        if annotation is int:
            return min(max(_INTS[number % len(_INTS)], low), high) if self._is_rich else low
        if annotation is bool:
            return self._is_rich
        if annotation is bytes:
            size = low if low == high or not self._is_rich else min(high, 40)
            return bytes((number + index) % 256 for index in range(size))
        if annotation is str:
            return "zé/7B"[: 4 if high >= 5 else 1] if self._is_rich else "a" * low
        if origin is tuple:
            size = min(max(low, 2), high) if self._is_rich else low
            return tuple(self._make_value(get_args(annotation)[0]) for _ in range(size))
        if origin in (Union, types.UnionType):
            members = [member for member in get_args(annotation) if member is not types.NoneType]
            if len(members) < len(get_args(annotation)) and not self._is_rich:
                return None
            return self._make_value(members[number % len(members)])
        return self.make(annotation)
