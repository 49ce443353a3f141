"""What a validator votes with: its key, and the places where its votes are made durable, each before it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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

    def before_final(self, blocks: Sequence[Block]) -> None:
        """Take blocks that are about to count as final here: another machine may have taken over the votes.

        Raises:
            StoreError: the disk failed.
        """
        rights = self.lockout.foresee(blocks)
        if rights.is_handed_over and not self.lockout.rights.is_handed_over:
            self.journal.hand_over()
            self.lockout.rights = rights
            logger.error(
                "another machine with this key takes over its votes: this one votes no more after this epoch",
                epoch=rights.last_epoch,
                height=blocks[-1].height,
                to_do="run one of the two; to vote here again, end the other, stop this node, move votes.journal "
                "away and start it; if there is no other machine of yours, the key is known to somebody else",
            )

    def after_final(self, blocks: Sequence[Block]) -> None:
        """Take blocks that are final here, on disk: the wait of this validator may be over.

        Raises:
            StoreError: the disk failed.
        """
        if not self.lockout.is_locked:
            return
        rights = self.lockout.foresee(blocks)
        if not rights.nonce:
            self.journal.unlock(rights.first_epoch)
            self.lockout.rights = rights
            logger.warning("this validator votes again", from_epoch=rights.first_epoch, height=blocks[-1].height)

    def lock(self, nonce: bytes) -> None:
        """Wait before any further vote, because there are final blocks that this node did not see.

        Raises:
            StoreError: the disk failed.
        """
        rights = self.lockout.rights
        if rights.nonce or rights.is_handed_over:
            return
        self.journal.lock(nonce)
        self.lockout.rights = replace(rights, nonce=nonce)
        logger.warning(
            "this validator has not seen all blocks: it votes again in the epoch after the one in which an operation "
            "that it now makes is final",
            nonce=nonce.hex(),
        )

    def prune(self, certificate: Certificate) -> None:
        """Forget what nothing can need any more once the block of ``certificate`` is final here."""
        self.support.prune(certificate.epoch, certificate.view)
        self.journal.prune(certificate.epoch - KEPT_EPOCHS)
