"""A validator that votes where it has no business: in epochs that are over, that have not begun, that it is not in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from chain import crypto
from chain.transition.epochs import Epoch
from chain.types.votes import Certificate, Vote, VoteKind, make_certificate, sign_vote
from consensus.exceptions import InvalidMessage
from consensus.simplex.messages import Broadcast, Effect, Propose, Repropose
from consensus.simplex.validation import FinalizedBlock, MessageValidation
from tests.support.agreement.agreement import Network, Simulation
from tests.support.agreement.conspirator import Conspirator, watch
from tests.support.agreement.scenarios import fight, make_keys, make_set


class StaleVoter(Conspirator):
    """Signs each vote for the epochs and views around it as well."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        assert self._key is not None
        yield effect
        match effect:
            case Broadcast(Vote(kind, epoch, view, block_id)):
                for other, turn in ((epoch - 1, view), (epoch + 1, view), (epoch, max(1, view - 5)), (epoch, view + 9)):
                    if other >= 0 and (other, turn) != (epoch, view):
                        stale = sign_vote(self._key, self.chain_id, VoteKind(kind), other, turn, block_id)
                        yield Broadcast(stale)
                yield Broadcast(dataclasses.replace(effect.message, epoch=epoch + 1))


class Expelled(Conspirator):
    """Votes on when it is no member any more, in every view that it hears of, as if it were."""

    def on_message(self, message: object) -> list[Effect]:
        effects = super().on_message(message)  # type: ignore[arg-type]
        if isinstance(message, Propose | Repropose) and self._key is None:
            key, proposal = make_keys(1)[0], message.proposal
            for kind in (VoteKind.NOTARIZE, VoteKind.FINALIZE):
                vote = sign_vote(key, self.chain_id, kind, self.epoch, proposal.view, proposal.block_id)
                effects.append(Broadcast(vote))
                self.note(vote)
        return effects


def test_votes_of_other_epochs_and_views_change_nothing() -> None:
    for seed in range(8):
        fight(seed, StaleVoter, count=4 + seed % 4, epoch_heights=(1, 3)[seed % 2])


def test_who_was_voted_out_counts_no_more() -> None:
    """The committees of odd epochs do not contain it; without its vote two of three are no quorum there."""
    keys = make_keys(5)
    whole, rest = make_set(keys[:4]), make_set(keys[1:])
    expelled = watch(Expelled)
    simulation = Simulation(
        1,
        keys,
        lambda epoch: rest if epoch % 2 else whole,
        epoch_heights=2,
        honest=range(1, 5),
        network=Network(loss=0.05),
        cores={0: expelled},
    )
    simulation.start()
    assert simulation.run(200, lambda: min(simulation.heights[1:]) >= 20)
    assert not simulation.violations
    assert not simulation.conflicts
    refused = sum("the signer is not a validator" in reject for reject in simulation.rejects)
    assert refused >= expelled.deeds["Vote"] >= 20
    outsider = keys[0].public_key
    for node in simulation.nodes[1:]:
        for certificate in node.disk.finals.values():
            members = rest if certificate.epoch % 2 else whole
            assert certificate.epoch % 2 == 0 or outsider not in members
            certificate.verify(simulation.ledger.chain_id, members)


def test_a_certificate_is_weighed_with_its_own_epochs_stake() -> None:
    """Two of three with a new weight are a quorum today; yesterday, when the block was made final, they were not."""
    keys = sorted(make_keys(4), key=lambda key: key.public_key)
    before, now = make_set(keys, [1000, 1000, 1000, 1000]), make_set(keys, [5000, 5000, 1, 1])
    order = [key.public_key for key in keys]
    assert [each.public_key for each in before] == [each.public_key for each in now] == order, (
        "the weight alone differs"
    )
    chain_id, last = b"c" * 32, b"x" * 32

    def finalize(*signers: int) -> Certificate:
        votes = [sign_vote(keys[number], chain_id, VoteKind.FINALIZE, 0, 3, last) for number in signers]
        return make_certificate(votes, before)

    epoch = Epoch(1, 2, now, now, before, bytes(32))
    rules = MessageValidation(chain_id, epoch, FinalizedBlock(last, 1, finalize(0, 1, 2)), crypto.verify_all)
    rules.validate_certificate(finalize(1, 2, 3))
    for few in ((0, 1), (0, 3)):
        with pytest.raises(InvalidMessage, match="not more than 2/3"):
            rules.validate_certificate(finalize(*few))
