"""Hundreds of views without a block: no body can carry the whole proof of that, yet the chain goes on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from chain.crypto import KeyPair, hash_bytes
from chain.types.blocks import MAX_NULLIFICATIONS
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote, VoteKind
from consensus.simplex.messages import Message, Propose, Repropose
from tests.support.agreement.agreement import Node, Simulation

KEYS = [KeyPair(hash_bytes("long halt", bytes([number]))) for number in range(4)]
COMMITTEE = ValidatorSet.of((key.public_key, 1000) for key in KEYS)

VIEWS = 80
MANY_VIEWS = 300


def get_view(node: Node) -> int:
    return 0 if node.core is None else node.core.view


def halt(simulation: Simulation, views: int) -> None:
    """Every block is found invalid, until every node that runs is ``views`` views on."""
    simulation.judge = lambda block: False
    up = [node for node in simulation.nodes if node.is_up]
    assert simulation.run(40.0 * views, lambda: all(get_view(node) > views for node in up))
    assert max(simulation.heights) == 0
    simulation.judge = lambda block: True


def assert_goes_on(simulation: Simulation, seconds: float, nodes: Sequence[Node]) -> None:
    goal = max(simulation.heights) + 3
    assert simulation.run(seconds, lambda: all(node.disk.final.height >= goal for node in nodes)), simulation.heights
    assert not simulation.violations
    assert not simulation.rejects
    chain = nodes[0].disk.chain
    assert max(len(block.body.nullifications) for block in chain) <= MAX_NULLIFICATIONS
    views = [0, *(block.header.view for block in chain)]
    assert max(later - earlier for earlier, later in pairwise(views)) > MAX_NULLIFICATIONS, "nothing had to be left out"


@pytest.mark.parametrize(
    ("views", "restarts"),
    [(VIEWS, False), *(pytest.param(MANY_VIEWS, restarts, marks=pytest.mark.long) for restarts in (False, True))],
)
def test_a_chain_goes_on_after_a_long_halt(views: int, restarts: bool) -> None:
    """After a restart of everybody too: their votes are durable, the nullifications that they made are not."""
    simulation = Simulation(1, KEYS, lambda epoch: COMMITTEE)
    simulation.start()
    halt(simulation, views)
    if restarts:
        for node in simulation.nodes:
            node.crash()
        for node in simulation.nodes:
            node.start()
        assert {get_view(node) for node in simulation.nodes} == {1}
    assert_goes_on(simulation, 120.0, simulation.nodes)


@pytest.mark.parametrize(
    ("views", "loss"), [(VIEWS, 0.3), *(pytest.param(MANY_VIEWS, loss, marks=pytest.mark.long) for loss in (0.0, 0.3))]
)
def test_who_slept_through_a_long_halt_catches_up_and_votes(views: int, loss: float) -> None:
    """One of those who were awake leaves for good: without the vote of the one that slept nothing becomes final."""
    simulation = Simulation(2, KEYS, lambda epoch: COMMITTEE)
    for node in simulation.nodes[:3]:
        node.start()
    halt(simulation, views)
    simulation.network.loss = loss
    simulation.nodes[0].crash()
    sleeper = simulation.nodes[3]
    sleeper.start()
    assert_goes_on(simulation, 400.0, simulation.nodes[1:])
    signers = {vote.signer for vote in simulation.votes.durable if vote.kind == VoteKind.FINALIZE}
    assert sleeper.key.public_key in signers


def test_everybody_restarts_with_votes_of_different_views() -> None:
    """Two of four saw the last views only; some of their nullify votes are alone in their view after the restart."""
    simulation = Simulation(3, KEYS, lambda epoch: COMMITTEE)
    simulation.start()
    halt(simulation, 60)
    simulation.judge = lambda block: False
    simulation.nodes[3].crash()
    simulation.run(60 * 40.0)
    simulation.network.groups = ([0, 1], [2])
    simulation.run(10 * 40.0)
    simulation.judge = lambda block: True
    simulation.network.groups = ()
    for node in simulation.nodes[:3]:
        node.crash()
    for node in simulation.nodes[1:]:
        node.start()
    assert_goes_on(simulation, 400.0, simulation.nodes[1:])


def test_lost_proposals_nullify_hundreds_of_views() -> None:
    """A partition that only votes and certificates cross."""
    simulation = Simulation(4, KEYS, lambda epoch: COMMITTEE)
    simulation.network.passes = lambda sender, receiver, message: not isinstance(message, Propose | Repropose)
    simulation.start()
    assert simulation.run(1e5, lambda: min(map(get_view, simulation.nodes)) > 200)
    assert max(simulation.heights) == 0
    simulation.network.passes = lambda sender, receiver, message: True
    assert_goes_on(simulation, 120.0, simulation.nodes)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_tip_that_only_one_knows_spreads_over_a_long_halt(restarts: bool) -> None:
    """One holds the notarization of view 1, the others its nullification; and then the one's vote is needed.

    What leads from there to the present is longer than a body may be, so that the one cannot vote for a block on
    anything older: the others have to learn of its tip.
    """
    simulation = Simulation(5, KEYS, lambda epoch: COMMITTEE)
    network, keeper = simulation.network, 3

    def passes(sender: int, receiver: int, message: Message) -> bool:
        if isinstance(message, Vote | Certificate) and message.kind == VoteKind.NOTARIZE:
            return receiver == keeper
        if isinstance(message, Certificate) and message.view == 1:
            return receiver != keeper and sender != keeper
        return not isinstance(message, Propose) or message.proposal.view == 1

    network.passes = passes
    simulation.start()
    assert simulation.run(1e5, lambda: min(map(get_view, simulation.nodes)) > 3 * MAX_NULLIFICATIONS)
    core = simulation.nodes[keeper].core
    assert core is not None and not core.is_settled
    network.passes = lambda sender, receiver, message: True
    simulation.nodes[0].crash()
    if restarts:
        for node in simulation.nodes[1:]:
            node.crash()
        for node in simulation.nodes[1:]:
            node.start()
    assert simulation.run(400.0, lambda: min(node.disk.final.height for node in simulation.nodes[1:]) >= 3)
    assert not simulation.violations
    assert simulation.nodes[1].disk.chain[0].header.view == 1
