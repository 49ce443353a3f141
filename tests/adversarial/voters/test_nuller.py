"""A validator that finalizes and nullifies every view."""

from __future__ import annotations

from collections.abc import Iterator

from chain.types.votes import NO_BLOCK, Vote, VoteKind, sign_vote
from consensus.simplex.messages import Broadcast, Effect
from tests.support.agreement.conspirator import Conspirator
from tests.support.agreement.scenarios import fight


class Nuller(Conspirator):
    """Whenever it votes for a block it votes against the view as well."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        assert self._key is not None
        yield effect
        match effect:
            case Broadcast(Vote(VoteKind.NOTARIZE | VoteKind.FINALIZE, epoch, view, signer=self._me)):
                yield Broadcast(sign_vote(self._key, self.chain_id, VoteKind.NULLIFY, epoch, view, NO_BLOCK))


class QuietNuller(Nuller):
    """Tells half of the others that it finalizes, and the other half that it nullifies."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        for other in super().corrupt(effect):
            match other:
                case Broadcast(Vote(VoteKind.FINALIZE)):
                    yield from self.tell(0, other.message)
                case Broadcast(Vote(VoteKind.NULLIFY)):
                    yield from self.tell(1, other.message)
                case _:
                    yield other


def test_no_view_is_finalized_and_nullified() -> None:
    for adversary in (Nuller, QuietNuller):
        conflicts = [c for seed in range(6) for c in fight(seed, adversary, count=4 + seed % 4).conflicts]
        assert len(conflicts) > 10
        for conflict in conflicts:
            assert {conflict.first.kind, conflict.second.kind} == {VoteKind.NULLIFY, VoteKind.FINALIZE}
