"""Why the next committee waits for finality: one member of each committee forks a chain without the hand-over's gate.

A, B, C and D are the committee of epoch 0, which has one block; E, F, G and H that of all later epochs; D and H are
faulty. B1 is notarized in view 1 by A, B and D, but only D knows: A, B and C nullify the view, and in view 2 make B2
final. D shows B1 and its notarization to the next committee. Without the gate E, F and G build on it. No validator has
signed two votes that exclude each other: neither D nor H has even voted against the rules. D has kept a certificate to
itself for a while, and H has done nothing at all.
"""

from __future__ import annotations

import itertools

import pytest

from chain.crypto import KeyPair, hash_bytes
from chain.types.votes import Certificate, Vote, VoteKind, is_slashable
from consensus.exceptions import InvalidMessage
from consensus.simplex.core import Simplex
from consensus.simplex.messages import Build, Commit, ExecuteBlock, Message, Reject
from consensus.simplex.validation import FinalizedBlock
from tests.adversarial.voters.flip_flopper import Gateless
from tests.simulation.twins import ScriptedSet, get_place
from tests.support.agreement.agreement import Simulation
from tests.support.agreement.committee import Committee
from tests.support.agreement.scenarios import make_set

pytestmark = pytest.mark.double_spend

KEYS = [KeyPair(hash_bytes("successor", bytes([number]))) for number in range(8)]
FIRST, NEXT = range(4), range(4, 8)
D = 3


def attack(core: type[Simplex]) -> tuple[Simulation, set[Vote]]:
    """What the script says, by nodes that run ``core``; then everybody hears everybody. Also all votes ever sent."""
    committees = [make_set([KEYS[number] for number in members]) for members in (FIRST, NEXT)]
    first = ScriptedSet(committees[0].validators)
    first.__dict__["script"] = {1: KEYS[0].public_key, 2: KEYS[1].public_key}
    # Only the next committee runs the other core: the first one's honest members are as good as they can be.
    simulation = Simulation(
        1, KEYS, lambda epoch: committees[1] if epoch else first, epoch_heights=1, cores=dict.fromkeys(NEXT, core)
    )
    said: set[Vote] = set()

    def passes(sender: int, receiver: int, message: Message) -> bool:
        if isinstance(message, Vote):
            said.add(message)
        epoch, view, kind = get_place(message)
        if epoch == 0 and view == 1 and kind in ("notarize", "certificate"):
            is_notarization = not isinstance(message, Certificate) or message.kind == VoteKind.NOTARIZE
            return receiver == D if kind == "notarize" else is_notarization == (sender == D) and receiver in NEXT
        if epoch == 0 and view == 1 and kind == "proposal":
            return receiver in (1, D)
        return (sender in NEXT) == (receiver in NEXT) and D not in (sender, receiver)

    def passes_nullify(sender: int, receiver: int, message: Message) -> bool:
        if isinstance(message, Certificate) and message.kind == VoteKind.NULLIFY:
            return sender in FIRST and receiver in FIRST and D not in (sender, receiver)
        return passes(sender, receiver, message)

    simulation.network.passes = passes_nullify
    simulation.start()
    simulation.run(10.0, lambda: len(simulation.nodes[0].disk.chain) > 0 and len(simulation.nodes[4].disk.chain) > 2)
    return simulation, said


def test_without_the_gate_two_chains_are_final_and_no_vote_is_slashable() -> None:
    simulation, said = attack(Gateless)
    ours, theirs = simulation.nodes[0].disk, simulation.nodes[4].disk
    assert ours.chain[0].header.view == 2 and theirs.chain[0].header.view == 1
    assert ours.chain[0].id != theirs.chain[0].id
    chain_id = simulation.ledger.chain_id
    for disk, height, epoch in ((ours, 1, 0), (theirs, 2, 1)):
        certificate = disk.finals[height]
        assert (certificate.kind, certificate.epoch) == (VoteKind.FINALIZE, epoch)
        certificate.verify(chain_id, simulation.ledger.committee(epoch))
    assert theirs.chain[1].header.parent_id == theirs.chain[0].id
    by_place: dict[tuple[bytes, int, int], list[Vote]] = {}
    for vote in said:
        by_place.setdefault((vote.signer, vote.epoch, vote.view), []).append(vote)
    for votes in by_place.values():
        assert not any(is_slashable(*pair) for pair in itertools.combinations(votes, 2))


def test_with_the_gate_the_next_committee_waits_and_then_follows() -> None:
    simulation, _ = attack(Simplex)
    assert not simulation.violations
    assert [len(simulation.nodes[number].disk.chain) for number in (0, *NEXT)] == [1, 0, 0, 0, 0]
    assert {node.core.epoch for node in simulation.nodes[4:] if node.core is not None} == {0}
    simulation.network.passes = lambda sender, receiver, message: True
    for number in NEXT:  # no node is busy in epoch 0 any more: gossip and sync would bring it
        simulation.nodes[0].tell_end(number, 0)
    assert simulation.run(120.0, lambda: min(simulation.heights) >= 4)
    assert not simulation.violations
    assert {node.disk.chain[0].header.view for node in simulation.nodes} == {2}


def test_no_instance_begins_on_a_notarized_block() -> None:
    """Even if an engine made one, it would vote for nothing: no finalization, no first parent."""
    before = Committee(last_height=1)
    last = before.build(before.get_leader(1), 1)
    notarization = before.certify(VoteKind.NOTARIZE, 1, last.id)
    observer = before.make_core(None)
    observer.start()
    for message in (before.propose(last), notarization):
        effects = observer.on_message(message)
        assert not [effect for effect in effects if isinstance(effect, Commit)]
    assert not observer.is_finished

    committee = Committee(epoch=1)
    committee.final = FinalizedBlock(last.id, 1, notarization)
    core = committee.make_core(committee.get_follower(1), previous_validators=before.validators)
    core.start()
    effects = core.on_message(committee.propose(committee.build(committee.get_leader(1), 1)))
    assert [type(effect) for effect in effects] == [Reject]
    with pytest.raises(InvalidMessage, match="not a finalization"):
        core._validation.validate_proposal(committee.propose(committee.build(committee.get_leader(1), 1)))


def test_no_block_follows_the_last_one_in_its_epoch() -> None:
    """The other way around the gate: no validator may make a child of the last block in the same epoch."""
    committee = Committee(last_height=1)
    last = committee.build(committee.get_leader(1), 1)
    notarization = committee.certify(VoteKind.NOTARIZE, 1, last.id)
    leader = committee.get_leader(2)
    core = committee.make_core(committee.keys.index(leader))
    effects = core.start() + core.on_message(committee.propose(last)) + core.on_message(notarization)
    for check in [effect for effect in effects if isinstance(effect, ExecuteBlock)]:
        effects += core.on_executed(check.block.id, True)
    assert not [effect for effect in effects if isinstance(effect, Build) and effect.parent_id == last.id]
    child = committee.build(leader, 2, last, notarization)
    other = committee.make_core(committee.get_follower(1, 2))
    other.start()
    assert isinstance(other.on_message(committee.propose(child))[0], Reject)
