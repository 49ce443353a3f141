"""The record of a judge's repeated votes: how often another account with an equal judge gave the same ballot.

No one knows which vote is right, but when an equal judge repeats a vote, the two nearly always agree. A judge that
votes by chance, or by a rule of its own, differs about every second time. Of two votes that differ, either may be the
one that was guessed, so both accounts are charged with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Natural, Record

REPEATS = 8
"""Repeated votes that a record remembers."""
MAX_DIFFERENCES = 5
"""How many of them may differ before the account is found guessing. Of the repeated votes of small models up to one in
six differs; with five, an honest one of these is found in one of 450 repeated votes, and a guesser in one of 14."""

SAME, DIFFERENT = 0, 1
"""What repeating a vote showed."""


@dataclass(frozen=True, slots=True)
class JudgeRecord(Record):
    """The results of repeated votes of an account, and of votes that it repeated.

    ``repeats`` has the last :data:`REPEATS`, the oldest first. Before the chain time ``benched_until``, in ms, the
    account cannot declare that it judges.
    """

    repeats: Annotated[bytes, Bounds(0, REPEATS)] = b""
    benched_until: Natural = 0

    def add(self, result: int) -> JudgeRecord:
        """The record after one more vote."""
        return JudgeRecord((self.repeats + bytes([result]))[-REPEATS:], self.benched_until)

    @property
    def is_guessing(self) -> bool:
        """Whether too many of the last votes differ."""
        return self.repeats.count(DIFFERENT) >= MAX_DIFFERENCES
