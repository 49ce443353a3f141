"""A validator that makes certificates of its own vote alone: the same signer many times, out of order, out of range."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import product

import pytest

from chain.exceptions import InvalidCertificate
from chain.types.votes import Certificate, Vote, VoteKind
from consensus.simplex.messages import Broadcast, Effect, Reject
from tests.support.agreement.committee import Committee
from tests.support.agreement.conspirator import Conspirator
from tests.support.agreement.scenarios import fight


class CertificateForger(Conspirator):
    """Sends with every vote the certificates that it would like to have."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        yield effect
        if isinstance(effect, Broadcast) and isinstance(effect.message, Vote):
            for certificate in forge(effect.message, self.validators.get_position(self._me), len(self.validators)):
                yield Broadcast(certificate)


def forge(vote: Vote, position: int, count: int) -> Iterator[Certificate]:
    """Certificates in which ``vote`` stands for the votes of all ``count`` validators."""
    for signers in (
        (position,) * count,
        tuple(reversed(range(count))),
        (*range(count - 1), count - 2),
        (position, count, count + 1, count + 2),
        (position,),
        (),
    ):
        signatures = (vote.signature,) * len(signers)
        yield Certificate(vote.kind, vote.epoch, vote.view, vote.block_id, signers, signatures)


def test_one_vote_is_one_vote() -> None:
    for seed in range(6):
        simulation = fight(seed, CertificateForger, count=4 + seed % 4)
        assert not simulation.conflicts
        assert len([reject for reject in simulation.rejects if "not strictly increasing" in reject]) > 10


@pytest.mark.parametrize("kind", VoteKind)
def test_a_certificate_of_real_votes_in_a_wrong_shape_is_refused(kind: VoteKind) -> None:
    """Here every signature holds, so that the form alone stands between it and a quorum that is none."""
    committee = Committee(4)
    block_id = bytes(32) if kind is VoteKind.NULLIFY else b"x" * 32
    good = committee.certify(kind, 1, block_id, signers=4)
    for signers in product(range(5), repeat=3):
        signatures = tuple(good.signatures[position % 4] for position in signers)
        shaped = dataclasses.replace(good, signers=signers, signatures=signatures)
        core = committee.make_core(None)
        core.start()
        effects = core.on_message(shaped)
        is_right = list(signers) == sorted(set(signers)) and max(signers) < 4
        assert (core.view == 2) == is_right
        assert any(isinstance(effect, Reject) for effect in effects) != is_right
        if not is_right:
            with pytest.raises(InvalidCertificate):
                shaped.verify(committee.chain_id, committee.validators)
