"""Text from elsewhere on a terminal: nothing of it is obeyed, and what prints stays."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.printable import escape_unprintable

OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of what a terminal may obey instead of showing it."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("modèle 模型", "modèle 模型"),
        ("\x1b[2J", r"\u001b[2J"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x7f\x9b\u202e\u2028\ud800", r"\u007f\u009b\u202e\u2028\ud800"),
        ("\U000e0041", r"\udb40\udc41"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert escape_unprintable(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = escape_unprintable(text)
    assert not {unicodedata.category(character) for character in shown} & set(OBEYED)
    assert escape_unprintable(shown) == shown
    assert escape_unprintable(text, keep="\n").count("\n") == text.count("\n")


@given(st.text(st.characters(exclude_categories=())))
def test_json_is_the_same_json(text: str) -> None:
    assert json.loads(escape_unprintable(json.dumps([text], ensure_ascii=False))) == [text]
