"""A committee whose every key a test holds: it makes the votes, certificates and blocks that a core is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chain.crypto import KeyPair, hash_bytes
from chain.transition.epochs import Epoch
from chain.types.blocks import Block, sign_proposal
from chain.types.validators import ValidatorSet
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, make_certificate, sign_vote
from consensus.simplex.core import Simplex
from consensus.simplex.messages import Broadcast, Build, Effect, PersistVote, Propose
from consensus.simplex.validation import FinalizedBlock
from tests.support.agreement.agreement_ledger import FakeLedger


class Committee:
    """``size`` validators of equal stake, in one epoch on a fake ledger."""

    def __init__(self, size: int = 4, *, epoch: int = 0, last_height: int = 1000, seed: int = 0) -> None:
        self.keys = [KeyPair(hash_bytes("committee", bytes([number]))) for number in range(size)]
        self.validators = ValidatorSet.of((key.public_key, 1000) for key in self.keys)
        self.keys.sort(key=lambda key: self.validators.get_position(key.public_key))
        self.ledger = FakeLedger(seed, lambda epoch: self.validators, 1000)
        self.chain_id, self.epoch, self.last_height = self.ledger.chain_id, epoch, last_height
        self.beacon = self.ledger.get_beacon(epoch)
        self.final = self.ledger.genesis

    def make_core(self, number: int | None, core: type[Simplex] = Simplex, **changes: Any) -> Simplex:
        """The core of one validator, or of an observer, not started; ``changes`` to its epoch or its arguments."""
        fields = {
            "number": self.epoch,
            "last_height": self.last_height,
            "validators": self.validators,
            "next_validators": self.validators,
            "previous_validators": None,
            "beacon": self.beacon,
        }
        epoch = Epoch(**{name: changes.pop(name, value) for name, value in fields.items()})
        arguments = {"finalized": self.final, "key": None if number is None else self.keys[number]}
        return core(chain_id=self.chain_id, epoch=epoch, **arguments | changes)

    def get_leader(self, view: int) -> KeyPair:
        leader = self.validators.compute_leader(self.beacon, view)
        return next(key for key in self.keys if key.public_key == leader)

    def get_follower(self, *views: int) -> int:
        """A validator that leads none of these views."""
        leaders = [self.get_leader(view) for view in views]
        return next(number for number, key in enumerate(self.keys) if key not in leaders)

    def vote(self, number: int, kind: VoteKind, view: int, block_id: bytes = NO_BLOCK) -> Vote:
        return sign_vote(self.keys[number], self.chain_id, kind, self.epoch, view, block_id)

    def certify(self, kind: VoteKind, view: int, block_id: bytes = NO_BLOCK, signers: int = 3) -> Certificate:
        """A certificate by the first ``signers`` validators, enough or not."""
        return make_certificate([self.vote(i, kind, view, block_id) for i in range(signers)], self.validators)

    def build(
        self,
        key: KeyPair,
        view: int,
        parent: Block | None = None,
        certificate: Certificate | None = None,
        nullifications: tuple[Certificate, ...] = (),
        *,
        epoch: int | None = None,
        height: int | None = None,
        timestamp: int = 0,
    ) -> Block:
        """A block on ``parent`` (the block the epoch starts from by default)."""
        base = FinalizedBlock(parent.id, parent.height, None) if parent else self.final
        order = Build(view, base.block_id, certificate if parent else base.certificate, nullifications)
        height = base.height + 1 if height is None else height
        return self.ledger.build(key, self.epoch if epoch is None else epoch, height, order, timestamp)

    def propose(self, block: Block, view: int | None = None, key: KeyPair | None = None) -> Propose:
        view = block.header.view if view is None else view
        leader = key or self.get_leader(view)
        return Propose(sign_proposal(leader, self.chain_id, self.epoch, view, block.id), block)


def get_votes(effects: Sequence[Effect]) -> list[tuple[str, int]]:
    """Kind and view of the votes that were signed; each is durable first and then sent."""
    signed = [effect.vote for effect in effects if isinstance(effect, PersistVote)]
    for vote in signed:
        after = False
        for effect in effects:
            after = after or (isinstance(effect, PersistVote) and effect.vote == vote)
            assert after or effect != Broadcast(vote), "sent before it was durable"
        assert Broadcast(vote) in effects
    return [(VoteKind(vote.kind).domain, vote.view) for vote in signed]
