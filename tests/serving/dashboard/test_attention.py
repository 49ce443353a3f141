"""What the owner is told first: each condition has its line, and a healthy node has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serving.dashboard.attention import MIN_SPAN_BLOCKS, BackendFacts, Facts, find_attention

WELL = Facts(
    final_age_s=3,
    idle_beat_s=10,
    is_syncing=False,
    backends=[BackendFacts("a-model", True)],
    connected=3,
    known=5,
    is_dialable=True,
    listens=True,
    is_jailed=False,
    votes=90,
    blocks=100,
    needed=50,
    spendable=10_000_000,
    bonded=10_000_000,
)


def test_a_healthy_node_needs_no_attention() -> None:
    assert find_attention(WELL) == []
    assert find_attention(replace(WELL, is_dialable=None)) == []


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"final_age_s": 41}, "bad", "No block has become final for 41 s"),
        ({"is_syncing": True, "final_age_s": 1_000}, "note", "catching up"),
        ({"is_jailed": True}, "bad", "jailed"),
        ({"votes": 49}, "warn", "below 50 it is jailed"),
        ({"backends": [BackendFacts("a-model", False)]}, "bad", "a-model does not answer"),
        ({"connected": 0}, "warn", "No other node is connected (5 known)"),
        ({"is_dialable": False}, "note", "cannot dial"),
        ({"spendable": 0}, "warn", "Less than one credit"),
        ({"spendable": 0, "bonded": 0}, "warn", "no credit"),
    ],
)
def test_each_condition_has_its_line(change: dict[str, Any], severity: str, words: str) -> None:
    (found,) = find_attention(replace(WELL, **change))
    assert found.severity == severity and words in found.text
    assert found.mend or severity == "note"


def test_what_says_nothing_is_not_said() -> None:
    assert find_attention(replace(WELL, votes=0, blocks=MIN_SPAN_BLOCKS - 1, needed=8)) == []
    assert find_attention(replace(WELL, listens=False, is_dialable=False)) == []


def test_the_worst_comes_first() -> None:
    found = find_attention(replace(WELL, is_dialable=False, spendable=0, is_jailed=True))
    assert [each.severity for each in found] == ["bad", "warn", "note"]
