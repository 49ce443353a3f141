"""What a validator votes with: its key, and the places where its votes are made durable, each before it is sent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from chain import crypto
from chain.types.blocks import Block
from chain.types.votes import Certificate, Vote
from consensus.voting.journal import Journal
from consensus.voting.lockout import VotingLockout
from consensus.voting.vote_support import VoteSupportStore

logger = structlog.get_logger(__name__)

KEPT_EPOCHS = 2
"""Epochs before that of the last final block whose votes stay in the journal. None is ever signed again."""


@dataclass(frozen=True, slots=True)
class VoteStore:
    """What a validator needs to vote: its key, and where votes are made durable."""

    key: crypto.KeyPair
    journal: Journal
    support: VoteSupportStore
    lockout: VotingLockout = field(init=False)

    def __post_init__(self) -> None:
        start = self.journal.start
        object.__setattr__(self, "lockout", VotingLockout(self.key.public_key, start.first_epoch, start.nonce))

    @property
    def mark(self) -> tuple[int, bytes]:
        """Length and head hash of the journal, by which the chain's database can tell that votes are missing."""
        return self.journal.length, self.journal.head_hash

    def persist(self, vote: Vote, support: Block | Certificate | None) -> None:
        """Make a vote durable, after what it rests on."""
        self.support.put(vote, support, self.journal.compute_mark(vote))
        self.journal.append(vote)

    def reconcile(self, mark: tuple[int, bytes] | None) -> None:
        """Complete the journal after a crash within :meth:`persist`, and check that it reaches ``mark``.

        Raises:
            JournalDamaged: votes are missing from it.
        """
        if mark is None:
            return
        vote = self.support.last_vote
        if vote is not None and self.journal.compute_mark(vote) == mark:
            self.journal.append(vote)
        self.journal.validate_mark(*mark)

    def on_final(self, blocks: Iterable[Block]) -> None:
        """Take blocks that are about to count as final here."""
        for block in blocks:
            if self.lockout.on_final(block):
                self.journal.unlock(self.lockout.first_epoch)
                logger.warning("this validator votes again", from_epoch=self.lockout.first_epoch, height=block.height)

    def prune(self, certificate: Certificate) -> None:
        """Forget what nothing can need any more once the block of ``certificate`` is final here."""
        self.support.prune(certificate.epoch, certificate.view)
        self.journal.prune(certificate.epoch - KEPT_EPOCHS)
