"""When a validator that may have lost its own votes may vote again. Pure: no I/O, no clock.

A validator that forgot a vote may sign the opposite of it. It may have forgotten some if its journal was lost or
damaged, if the ledger was lost that knew how long the journal must be, or if its key came from elsewhere. Its own copy
of the chain is no help against that: it may be old, and so may be whatever others send it, finality certificates
included.

So it asks for proof that the chain it sees is not older than its loss. It submits an operation that could not exist
before: a transfer of nothing to itself, whose memo is a nonce of 32 fresh random bytes. Say that a block of epoch f
with that operation is final.

    It voted in an epoch e only while it held the finality of the last block of e-1. If e were after f, that block would
    be final and not below the one with the nonce, so that the nonce would have been on the chain before it existed.
    Hence whatever it forgot is of epochs up to f, and from f+1 on it votes as ever.

The same operation hands voting over. A validator that finds one in a final block that it did not make knows that its
key votes on another machine, or will: it votes to the end of the epoch f of that block, and then no more.

    To vote in f+1 it must hold the finality of all blocks of f, that one among them. So it knows of the operation
    before it could vote in an epoch in which the other machine may.

Whoever holds the last such operation on the chain has the votes from the epoch after it on: two machines with one key
never vote in the same epoch, however their clocks run and whatever network is between them. A machine that has not seen
all blocks (because it began again at a snapshot, or followed without voting) makes such an operation before it votes.

The nonce and later f+1 stand at the start of the journal (:class:`consensus.voting.journal.JournalStart`), so that
neither a crash nor another loss of the chain makes the validator forget that it is locked out. The nonce is durable
before the operation is sent, and struck off after the block is final on disk: after a crash in between the operation is
made once more. That another machine votes is durable before the block is final on disk.

If more than a third of the stake has to wait at once, no block becomes final any more, and none of them is ever done: a
chain with a single validator is lost with its journal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chain.codec import MAX_INT
from chain.types.blocks import Block
from chain.types.operations import Transfer

NONCE_BYTES = 32
"""Length of the nonce in the memo of the operation."""
HANDED_OVER = MAX_INT
"""First epoch of a journal whose key votes on another machine: none ever comes to it."""


@dataclass(frozen=True, slots=True)
class VotingRights:
    """The epochs in which a validator may vote: from ``first_epoch`` to ``last_epoch``, once there is no ``nonce``."""

    first_epoch: int
    last_epoch: int
    nonce: bytes

    @property
    def is_handed_over(self) -> bool:
        """Whether another machine with this key votes, or will."""
        return self.first_epoch == HANDED_OVER or self.last_epoch < HANDED_OVER


class VotingLockout:
    """Whether one validator may vote, and what it must do before.

    Args:
        public_key: the validator.
        first_epoch: the first epoch in which it may vote.
        nonce: what must become final first; empty if nothing must.
    """

    def __init__(self, public_key: bytes, first_epoch: int, nonce: bytes) -> None:
        self.public_key = public_key
        self.rights = VotingRights(first_epoch, HANDED_OVER, nonce)

    @property
    def nonce(self) -> bytes:
        """The memo of the operation that must become final, empty if none must."""
        return self.rights.nonce

    @property
    def first_epoch(self) -> int:
        """The first epoch in which it may vote."""
        return self.rights.first_epoch

    @property
    def is_locked(self) -> bool:
        """Whether an operation with the memo must become final before there is any voting."""
        return self.rights.nonce != b""

    def may_vote(self, epoch: int) -> bool:
        """Whether any vote may be signed in an epoch."""
        return not self.is_locked and self.rights.first_epoch <= epoch <= self.rights.last_epoch

    def make_unlock_operation(self, account_nonce: int) -> Transfer:
        """The operation that must become final while :attr:`is_locked`."""
        return Transfer(account_nonce, self.public_key, 0, self.nonce)

    def foresee(self, blocks: Iterable[Block]) -> VotingRights:
        """The rights once ``blocks``, which follow the last final one, are final."""
        rights, own = self.rights, self.rights.nonce
        for epoch, memo in self._find_claims(blocks):
            if rights.nonce:
                if memo == own:
                    rights = VotingRights(max(rights.first_epoch, epoch + 1), HANDED_OVER, b"")
            elif memo != own and not rights.is_handed_over:
                rights = VotingRights(rights.first_epoch, epoch, b"")
        return rights

    def _find_claims(self, blocks: Iterable[Block]) -> Iterator[tuple[int, bytes]]:
        """Epoch and memo of each operation of this key that claims its votes for a machine."""
        for block in blocks:
            for signed in block.body.operations:
                operation = signed.operation
                if (
                    signed.signer == self.public_key
                    and isinstance(operation, Transfer)
                    and (operation.recipient, operation.amount) == (self.public_key, 0)
                    and len(operation.memo) == NONCE_BYTES
                ):
                    yield block.header.epoch, operation.memo
