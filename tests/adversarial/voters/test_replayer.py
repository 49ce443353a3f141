"""An attacker that repeats messages of others: later, in another epoch, on another chain of the same validators."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from chain.types.votes import Certificate, Vote, VoteKind
from consensus.simplex.messages import Broadcast, Effect, Message, PersistVote, Propose, Reject, Repropose
from tests.support.agreement.agreement import Simulation
from tests.support.agreement.committee import Committee
from tests.support.agreement.conspirator import Conspirator
from tests.support.agreement.scenarios import always, assert_recovers, fight, make_keys, make_set


class Replayer(Conspirator):
    """With every message that it takes it repeats old ones, as they were and as if they were of this epoch."""

    archive: list[Message]

    def on_message(self, message: Message) -> list[Effect]:
        effects = super().on_message(message)
        self.archive = archive = getattr(type(self), "shared", [])
        if len(archive) < 600:
            archive.append(message)
        for old in (archive[(7 * len(self.heard) + turn) % len(archive)] for turn in range(2)):
            sent = [old, *self.transplant(old)]
            effects += [Broadcast(other) for other in sent]
            self.note(old, len(sent))
        return effects

    def transplant(self, message: Message) -> Iterator[Message]:
        if isinstance(message, Vote | Certificate):
            yield dataclasses.replace(message, epoch=self.epoch, view=self.view)


def test_what_was_said_before_says_nothing_new() -> None:
    for seed in range(3):
        Replayer.shared = []  # type: ignore[attr-defined]
        simulation = fight(seed, Replayer, count=4 + seed % 4, epoch_heights=2, calm=True, least=500)
        assert not simulation.conflicts, "an old vote accuses no validator"


def record(seed: int, epoch_heights: int = 2) -> tuple[Simulation, list[Message]]:
    """A run of honest validators, and what they sent."""
    keys = make_keys(4)
    simulation = Simulation(seed, keys, always(make_set(keys)), epoch_heights=epoch_heights)
    said: list[Message] = []

    def listen(sender: int, receiver: int, message: Message) -> bool:
        if not said or said[-1] is not message:
            said.append(message)
        return True

    simulation.network.passes = listen
    simulation.start()
    simulation.run(3.0)
    return simulation, said


def test_a_chain_of_the_same_validators_lends_nothing_to_another() -> None:
    """Keys, epochs and views are the same; all that differs is the chain id inside every signature."""
    _, said = record(1)
    other, _ = record(2)
    assert other.ledger.chain_id != record(1)[0].ledger.chain_id
    for node in other.nodes:
        for message in said:
            core = node.core
            assert core is not None
            effects = core.on_message(message)
            assert all(isinstance(effect, Reject) for effect in effects), effects
    assert {type(message) for message in said} >= {Vote, Certificate, Propose}
    assert_recovers(other)


def test_an_epoch_lends_nothing_to_the_next() -> None:
    """The same key, view and block in an altered epoch: the signature is of the old one."""
    first, second = Committee(epoch=0), Committee(epoch=1)
    block_id = b"x" * 32
    core = second.make_core(None, previous_validators=first.validators)
    core.start()
    for kind in VoteKind:
        target = bytes(32) if kind is VoteKind.NULLIFY else block_id
        for message in (first.vote(0, kind, 1, target), first.certify(kind, 1, target)):
            assert core.on_message(message) == []
            assert [type(e) for e in core.on_message(dataclasses.replace(message, epoch=1))] == [Reject]
    block = first.build(first.get_leader(1), 1)
    again = first.propose(block)
    moved = dataclasses.replace(again, proposal=dataclasses.replace(again.proposal, epoch=1))
    assert core.on_message(again) == []
    assert [type(effect) for effect in core.on_message(moved)] == [Reject]


def test_old_certificates_do_not_make_a_restarted_validator_contradict_itself() -> None:
    """Its journal is whole; an attacker shows it the past, so that it starts from long ago and votes again."""
    committee = Committee()
    number = committee.get_follower(1, 2)
    core = committee.make_core(number)
    core.start()
    block = committee.build(committee.get_leader(1), 1)
    rival = committee.build(committee.get_leader(1), 1, timestamp=7)
    effects = core.on_message(committee.propose(block)) + core.on_executed(block.id, True)
    effects += core.on_message(committee.certify(VoteKind.NOTARIZE, 1, block.id))
    votes = [effect.vote for effect in effects if isinstance(effect, PersistVote)]
    assert [VoteKind(vote.kind) for vote in votes] == [VoteKind.NOTARIZE, VoteKind.FINALIZE]

    again = committee.make_core(number, votes=votes)
    again.start()
    shown: list[Message] = [
        committee.propose(rival),
        *(committee.vote(other, VoteKind.NULLIFY, 1) for other in range(4)),
        committee.certify(VoteKind.NULLIFY, 1),
    ]
    signed: list[Vote] = []
    for message in shown:
        effects = again.on_message(message)
        effects += again.on_executed(rival.id, True)
        signed += [effect.vote for effect in effects if isinstance(effect, PersistVote)]
    again.on_work()
    signed += [effect.vote for effect in again.on_timeout(1) if isinstance(effect, PersistVote)]
    assert not [vote for vote in signed if vote.view == 1]
    assert not isinstance(shown[0], Repropose)


def test_a_vote_of_one_kind_lends_nothing_to_another() -> None:
    """The kind is in the domain of the signature alone."""
    committee = Committee()
    core = committee.make_core(None)
    core.start()
    block_id = b"x" * 32
    for kind, other in ((VoteKind.NOTARIZE, VoteKind.FINALIZE), (VoteKind.FINALIZE, VoteKind.NOTARIZE)):
        for message in (committee.vote(0, kind, 1, block_id), committee.certify(kind, 1, block_id)):
            assert [type(e) for e in core.on_message(dataclasses.replace(message, kind=int(other)))] == [Reject]
    assert core.view == 1
