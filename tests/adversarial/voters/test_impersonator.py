"""A validator that speaks in the names of others: votes, certificates, proposals for views that it does not lead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from chain.crypto import KeyPair, hash_bytes
from chain.types.blocks import sign_block, sign_proposal
from chain.types.votes import Certificate, Vote
from consensus.simplex.messages import Broadcast, Effect, Propose
from tests.support.agreement.conspirator import Conspirator
from tests.support.agreement.scenarios import fight

STRANGER = KeyPair(hash_bytes("stranger"))


class Impersonator(Conspirator):
    """Repeats in everybody's name what it says itself, with its own signature or that of a stranger."""

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        assert self._key is not None
        yield effect
        match effect:
            case Broadcast(Vote() as vote):
                for name in [*self.others, STRANGER.public_key]:
                    yield Broadcast(dataclasses.replace(vote, signer=name))
            case Broadcast(Certificate() as certificate):
                signers = tuple(range(len(self.validators)))
                signatures = (certificate.signatures[0],) * len(signers)
                yield Broadcast(dataclasses.replace(certificate, signers=signers, signatures=signatures))
            case Broadcast(Propose(proposal, block)):
                view = proposal.view + 1  # mostly led by another
                header = dataclasses.replace(block.header, view=view, proposer=self.leader)
                for key in (self._key, STRANGER):
                    false = sign_block(key, header, block.body)
                    signed = sign_proposal(key, self.chain_id, self.epoch, view, false.id)
                    yield Broadcast(Propose(signed, false))
                    yield Broadcast(Propose(dataclasses.replace(signed, leader=self.others[0]), false))


def test_names_without_signatures_count_for_nothing() -> None:
    rejects: list[str] = []
    for seed in range(8):
        simulation = fight(seed, Impersonator, count=4 + seed % 4, epoch_heights=(5, 1000)[seed % 2])
        assert not simulation.conflicts, "no validator is accused by a vote it did not sign"
        rejects += simulation.rejects
    for reason in ("not signed by its", "not a validator", "signature does not hold", "another validator leads"):
        assert any(reason in reject for reject in rejects), reason
