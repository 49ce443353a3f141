"""Validators that break one rule each: the mutants that the checkers must catch, and one who profits from them."""

from __future__ import annotations

from typing import Any

from chain.votes import Certificate, VoteKind
from consensus.messages import Build
from consensus.proposals import get_proven_views
from consensus.simplex import Simplex


class FlipFlopper(Simplex):
    """Finalizes views it has nullified and the reverse; agreement alone hardly ever shows it."""

    def _may_sign(self, kind: VoteKind, view: int) -> bool:
        if self._key is None or view <= self._views.final_view or self.is_finished:
            return False
        return self._me not in self._views[view].votes[kind]


class Forgetful(Simplex):
    """Starts again without the votes of its journal."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "votes": ()})


class Gullible(Simplex):
    """Votes for a block on any parent, whatever was notarized since."""

    def _is_place_free(self, parent: Certificate | None) -> bool:
        return True


class Rewinder(Gullible):
    """Proposes on the last final block that it knows as if nothing had been notarized since, where it can."""

    def _lead(self) -> None:
        here, views = self._views[self.view], get_proven_views(self._views.final_view, self.view)
        is_held = self.final.get_view(self.epoch) == self._views.final_view
        can = is_held and self._me not in here.votes[VoteKind.NOTARIZE]
        if self.leader != self._me or not can or not all(self._views.is_nullified(view) for view in views):
            super()._lead()
        elif here.proposal is None and self._asked != (self.view, self.final.block_id):
            self._asked = (self.view, self.final.block_id)
            proof = self._views.get_nullifications(views.start, views.stop)
            self._effects.append(Build(self.view, self.final.block_id, self.final.certificate, proof))
