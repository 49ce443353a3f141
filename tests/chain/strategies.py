"""A hypothesis strategy for any record type, derived from its annotations as its encoding is."""

from __future__ import annotations

import dataclasses
import types
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from chain.codec import MAX_INT, Bounds, PrintableAscii, Record
from chain.types import validators


def records(kind: Any) -> st.SearchStrategy[Any]:
    """Valid records of a type, with small tuples."""
    return _records(kind)


@cache
def _records(kind: Any) -> st.SearchStrategy[Any]:
    if kind is validators.ValidatorSet:  # its order is part of its validity
        pairs = st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(0, MAX_INT), min_size=1, max_size=4)
        return pairs.map(lambda stakes: validators.ValidatorSet.of(stakes.items()))
    hints = get_type_hints(kind, include_extras=True)
    fields = [_field(hints[field.name]) for field in dataclasses.fields(kind)]
    return st.tuples(*fields).map(lambda values: _build(kind, values)).filter(lambda record: record is not None)


def _build(kind: type[Record], values: tuple[Any, ...]) -> Record | None:
    """The record, or None if its fields contradict one another."""
    try:
        return kind(*values)
    except ValueError:
        return None


def _field(annotation: Any) -> st.SearchStrategy[Any]:
    bounds = None
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        bounds = next((extra for extra in extras if isinstance(extra, Bounds)), None)
        if PrintableAscii in extras:
            return st.text("ab ~", min_size=1, max_size=3)
    if annotation is int:
        low, high = (bounds.low, bounds.high) if bounds else (0, MAX_INT)
        return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
    if annotation is bool:
        return st.booleans()
    if annotation is bytes:
        low, high = (bounds.low, bounds.high) if bounds else (0, 40)
        return st.binary(min_size=low, max_size=min(high, max(low, 40)))
    if annotation is str:
        low, high = (bounds.low, bounds.high) if bounds else (0, 40)
        return st.text("ab é", min_size=low, max_size=min(high, 12) // 4 or 1)
    origin = get_origin(annotation)
    if origin is tuple:
        low, high = (bounds.low, bounds.high) if bounds else (0, 3)
        return st.lists(_field(get_args(annotation)[0]), min_size=low, max_size=min(high, low + 3)).map(tuple)
    if origin in (Union, types.UnionType):
        return st.one_of(*[st.none() if part is types.NoneType else _field(part) for part in get_args(annotation)])
    return records(annotation)
