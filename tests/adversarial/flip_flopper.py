"""Validators that break one rule of signing each: the mutants that the vote checker must catch."""

from __future__ import annotations

from typing import Any

from chain.votes import VoteKind
from consensus.simplex import Simplex


class FlipFlopper(Simplex):
    """Finalizes views it has nullified and the reverse; agreement alone hardly ever shows it."""

    def _may_sign(self, kind: VoteKind, view: int) -> bool:
        if self._key is None or view <= self.final_view or self.is_finished:
            return False
        return self._me not in self._get_view(view).votes[kind]


class Forgetful(Simplex):
    """Starts again without the votes of its journal."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "votes": ()})
