"""What a validator knows of one view: who voted for what, what was certified, what was proposed."""

from __future__ import annotations

from dataclasses import dataclass, field

from chain.validators import ValidatorSet
from chain.votes import Certificate, Vote, VoteKind, make_certificate
from consensus.messages import Propose, Repropose

NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE

EXCLUSIVE = {NOTARIZE: (NOTARIZE,), NULLIFY: (NULLIFY, FINALIZE), FINALIZE: (FINALIZE, NULLIFY)}
"""For each kind of vote, the kinds of which an honest validator signs only one in a view."""


@dataclass(slots=True)
class View:
    """Per kind the first vote of each signer and the certificate; the first valid proposal; who contradicted itself."""

    votes: dict[VoteKind, dict[bytes, Vote]] = field(default_factory=lambda: {kind: {} for kind in VoteKind})
    certificates: dict[VoteKind, Certificate] = field(default_factory=dict)
    proposal: Propose | Repropose | None = None
    conflicted: set[bytes] = field(default_factory=set)

    def add(self, vote: Vote) -> None:
        """Keep a vote that has no rival."""
        self.votes[VoteKind(vote.kind)][vote.signer] = vote

    def find_rival(self, kind: VoteKind, signer: bytes) -> Vote | None:
        """The vote of ``signer`` that excludes one of ``kind``, unless it says the same."""
        return next((self.votes[other][signer] for other in EXCLUSIVE[kind] if signer in self.votes[other]), None)

    def gather(self, vote: Vote, validators: ValidatorSet) -> Certificate | None:
        """The certificate of all votes that say the same as ``vote``, if they are a quorum."""
        same = [other for other in self.votes[VoteKind(vote.kind)].values() if other.block_id == vote.block_id]
        return make_certificate(same, validators) if validators.is_quorum(other.signer for other in same) else None
