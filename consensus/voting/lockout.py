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

The nonce and later f+1 stand at the start of the journal (:class:`consensus.voting.journal.JournalStart`), so that
neither a crash nor another loss of the chain makes the validator forget that it is locked out. The nonce is durable
before the operation is sent. f+1 is durable before the block counts as final here; a crash in between leaves f+1 right.

If more than a third of the stake has to wait at once, no block becomes final any more, and none of them is ever done: a
chain with a single validator is lost with its journal.
"""

from __future__ import annotations

from chain.types.blocks import Block
from chain.types.operations import Transfer


class VotingLockout:
    """Whether one validator may vote, and what it must do before.

    Args:
        public_key: the validator.
        first_epoch: the first epoch in which it may vote.
        nonce: what must become final first; empty if nothing must.
    """

    def __init__(self, public_key: bytes, first_epoch: int, nonce: bytes) -> None:
        self.public_key = public_key
        self.first_epoch = first_epoch
        self.nonce = nonce

    @property
    def is_locked(self) -> bool:
        """Whether an operation with the memo must become final before there is any voting."""
        return self.nonce != b""

    def may_vote(self, epoch: int) -> bool:
        """Whether any vote may be signed in an epoch."""
        return not self.is_locked and epoch >= self.first_epoch

    def make_unlock_operation(self, account_nonce: int) -> Transfer:
        """The operation that must become final while :attr:`is_locked`."""
        return Transfer(account_nonce, self.public_key, 0, self.nonce)

    def on_final(self, block: Block) -> bool:
        """Take a final block. Returns whether it ends the lock-out: then ``first_epoch`` is to be made durable."""
        if not self.is_locked or not any(
            signed.signer == self.public_key
            and isinstance(signed.operation, Transfer)
            and signed.operation.memo == self.nonce
            for signed in block.body.operations
        ):
            return False
        self.first_epoch, self.nonce = max(self.first_epoch, block.header.epoch + 1), b""
        return True
