"""A validator that says one thing to some and another to others.

As a leader it proposes two blocks in one view, each to half of the others, and votes for both. Or it runs twice under
one key, each half honest by itself, so that every rule that looks at one vote at a time accepts all it says: only the
size of a quorum stands between the halves and two chains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from chain.crypto import KeyPair, hash_bytes
from chain.types.blocks import Block, sign_block, sign_proposal
from chain.types.validators import ValidatorSet
from chain.types.votes import Vote, VoteKind, sign_vote
from consensus.simplex.messages import Broadcast, Effect, Propose
from tests.support.agreement.agreement import Network, Simulation
from tests.support.agreement.agreement_ledger import FakeLedger
from tests.support.agreement.conspirator import Conspirator
from tests.support.agreement.scenarios import fight

pytestmark = pytest.mark.double_spend

SEEDS = 60

KEYS = [KeyPair(hash_bytes("equivocator", bytes([number]))) for number in range(5)]


class EquivocatingLeader(Conspirator):
    """Each half hears one story: a block, and the votes that fit it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._rivals: dict[bytes, Block] = {}

    def get_block(self, block_id: bytes) -> Block | None:
        return super().get_block(block_id) or next((b for b in self._rivals.values() if b.id == block_id), None)

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        assert self._key is not None
        match effect:
            case Broadcast(Propose(proposal, block)):
                header = dataclasses.replace(block.header, timestamp=block.header.timestamp + 1)
                rival = self._rivals[block.id] = sign_block(self._key, header, block.body)
                again = sign_proposal(self._key, self.chain_id, self.epoch, proposal.view, rival.id)
                yield from self.tell(0, effect.message)
                yield from self.tell(1, Propose(again, rival))
            case Broadcast(Vote(kind, epoch, view, block_id)) if block_id in self._rivals:
                other = sign_vote(self._key, self.chain_id, VoteKind(kind), epoch, view, self._rivals[block_id].id)
                yield from self.tell(0, effect.message)
                yield from self.tell(1, other)
            case _:
                yield effect


def test_two_stories_make_one_chain_and_are_found_out() -> None:
    """No node hears both stories directly: a certificate that holds one of them gives the other away.

    With more validators mostly neither of the blocks is notarized, and the view is lost.
    """
    conflicts = [c for seed in range(6) for c in fight(seed, EquivocatingLeader, calm=True).conflicts]
    assert len(conflicts) > 10
    for seed in range(6):
        fight(seed, EquivocatingLeader, count=4 + seed % 4)


def test_on_the_last_block_of_an_epoch_too() -> None:
    for seed in range(6):
        fight(seed, EquivocatingLeader, epoch_heights=1)


class MajoritySet(ValidatorSet):
    """A committee whose quorum is a bare majority: what the 2/3 rule is measured against."""

    def is_quorum(self, signers: Iterable[bytes]) -> bool:
        return 2 * self.get_stake(signers) > self.total_stake


def make_twins(
    seed: int,
    keys: Sequence[KeyPair],
    committee: Callable[[int], ValidatorSet],
    equivocator: KeyPair,
    groups: Sequence[Sequence[int]],
) -> Simulation:
    """A simulation of ``keys`` in which ``equivocator`` runs twice, once at its place and once as the last node.

    ``groups`` are the sides of the partition, as positions of the honest; the first half of the twins joins the first
    side, the second half the second.
    """
    place = keys.index(equivocator)
    sides = ([*groups[0], place], [*groups[1], len(keys)])
    honest = [number for number in range(len(keys)) if number != place]
    return Simulation(seed, [*keys, equivocator], committee, honest=honest, network=Network(groups=sides))


def partition(seed: int, committee: ValidatorSet) -> Simulation:
    """Run until each side has had the time to finalize: the leader of the first view is the equivocator."""
    leader = committee.compute_leader(FakeLedger(seed, lambda epoch: committee, 1).get_beacon(0), 1)
    equivocator = next(key for key in KEYS if key.public_key == leader)
    rest = [number for number, key in enumerate(KEYS) if key is not equivocator]
    turn = seed % 3 + 1  # each of the three ways to split four in two
    rest[1], rest[turn] = rest[turn], rest[1]
    simulation = make_twins(seed, KEYS, lambda epoch: committee, equivocator, (rest[:2], rest[2:]))
    simulation.target = 3
    simulation.start()
    simulation.run(1.4)
    return simulation


def test_two_halves_under_a_partition() -> None:
    """Two finals at one height with a bare majority, in every seed; none with more than 2/3, and progress after it."""
    stakes = [(key.public_key, 1000) for key in KEYS]
    for seed in range(SEEDS):
        weak = partition(seed, MajoritySet.of(stakes))
        assert weak.agreement.violations, f"seed {seed}: a bare majority held"

        simulation = partition(seed, ValidatorSet.of(stakes))
        assert max(simulation.heights) == 0, f"seed {seed}: final without a quorum"
        simulation.network.groups = ()
        assert simulation.run(120, simulation.is_done), f"seed {seed}: no progress after the partition"
        assert not simulation.violations, f"seed {seed}: {simulation.violations}"
