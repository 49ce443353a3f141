"""Validators that break one rule each: the mutants that the checkers must catch, and one who profits from them."""

from __future__ import annotations

from typing import Any

from chain.transition.justification import get_views_to_prove
from chain.types.blocks import Block
from chain.types.votes import Certificate, VoteKind
from consensus.simplex.core import Simplex
from consensus.simplex.messages import Build, Commit, Effect
from consensus.simplex.validation import MessageValidation


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
        here, views = self._views[self.view], get_views_to_prove(self._views.final_view, self.view)
        is_held = self.finalized.get_view(self.epoch) == self._views.final_view
        can = is_held and self._me not in here.votes[VoteKind.NOTARIZE]
        if self.leader != self._me or not can or not all(self._views.is_nullified(view) for view in views):
            super()._lead()
        elif here.proposal is None and self._asked != (self.view, self.finalized.block_id):
            self._asked = (self.view, self.finalized.block_id)
            proof = self._views.get_nullifications(views.start, views.stop)
            self._effects.append(Build(self.view, self.finalized.block_id, self.finalized.certificate, proof))


class Gateless(Simplex):
    """Lets the next committee begin on a last block that is merely notarized, and accepts it as their first parent."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        rules = self._validation
        self._validation = _GatelessRules(rules.chain_id, rules.epoch, rules.root, rules.verify)

    def _take_certificate(self, certificate: Certificate) -> None:
        super()._take_certificate(certificate)
        self._hand_over(certificate)

    def on_block(self, block: Block) -> list[Effect]:
        effects = super().on_block(block)
        here = self._views.find(block.header.view)
        if here is not None and VoteKind.NOTARIZE in here.certificates:
            self._hand_over(here.certificates[VoteKind.NOTARIZE])
        return effects + self._act()

    def _hand_over(self, certificate: Certificate) -> None:
        block = self.get_block(certificate.block_id)
        if certificate.kind == VoteKind.NOTARIZE and not self.is_finished:
            if block is None:
                self._blocks.request(certificate.block_id, certificate)
            elif block.height == self.last_height:
                self._effects.append(Commit(certificate, self._blocks.finalize(certificate)))


class _GatelessRules(MessageValidation):
    def _validate_parent(self, parent_id: bytes, certificate: Certificate | None) -> int:
        if certificate is not None and certificate.epoch != self.epoch.number and certificate.kind == VoteKind.NOTARIZE:
            self.validate_certificate(certificate)
            return 0
        return super()._validate_parent(parent_id, certificate)
