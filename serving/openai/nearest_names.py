"""The names that are most like an unknown one, for the error about it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

MAX_NEAREST = 5
"""Most names that are found."""
MAX_COMPARED = 2000
"""Most names that an unknown one is compared with."""
MAX_COMPARED_CHARS = 128
"""Longest unknown name that is compared: the time grows with the square of its length."""
LEAST_SIMILARITY = 0.4
"""Similarity (of ``difflib``) from which on a name is found."""


def find_nearest(name: str, known: Iterable[str]) -> list[str]:
    """The names that are most like ``name``, best first; the case of letters does not count."""
    if len(name) > MAX_COMPARED_CHARS:
        return []
    names = {each.casefold(): each for each in islice(known, MAX_COMPARED)}
    return [names[found] for found in get_close_matches(name.casefold(), names, MAX_NEAREST, LEAST_SIMILARITY)]
