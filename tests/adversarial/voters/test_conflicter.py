"""A validator that votes twice: for whatever it sees, for every view's end, for every certificate, all at once."""

from __future__ import annotations

from typing import Any

import pytest

from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, sign_vote
from consensus.simplex.messages import Broadcast, Build, Effect, Message, PersistVote, Propose, Repropose, SetTimer
from tests.support.agreement.conspirator import Conspirator
from tests.support.agreement.scenarios import fight

pytestmark = pytest.mark.double_spend


class Conflicter(Conspirator):
    """Never builds or answers; signs every vote that could help another validator, for each view once per block."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._signed: set[tuple[VoteKind, int, bytes]] = set()

    def on_message(self, message: Message) -> list[Effect]:
        """Follow honestly (to know the view and the epoch), then say everything there is to say."""
        effects = super().on_message(message)
        if isinstance(message, Propose | Repropose):
            effects += self._back(message.proposal.view, message.proposal.block_id)
        elif isinstance(message, Vote | Certificate) and message.block_id != NO_BLOCK:
            effects += self._back(message.view, message.block_id)
        return effects

    def _act(self) -> list[Effect]:
        return [
            effect for effect in super()._act() if not isinstance(effect, Broadcast | PersistVote | Build | SetTimer)
        ]

    def _back(self, view: int, block_id: bytes) -> list[Effect]:
        assert self._key is not None
        effects: list[Effect] = []
        for kind in VoteKind:
            target = NO_BLOCK if kind is VoteKind.NULLIFY else block_id
            if (kind, view, target) not in self._signed:
                self._signed.add((kind, view, target))
                vote = sign_vote(self._key, self.chain_id, kind, self.epoch, view, target)
                effects.append(Broadcast(vote))
                self.note(vote)
        return effects


def test_the_others_agree_and_hold_the_proof() -> None:
    conflicts = [c for seed in range(8) for c in fight(seed, Conflicter, count=4 + seed % 4, epoch_heights=5).conflicts]
    assert len(conflicts) > 50
