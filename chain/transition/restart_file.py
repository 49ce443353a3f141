"""The file by which validators agree on a restart: the block, and their votes that make it final.

One of them proposes, the others sign, everybody applies the same file. A signature is a vote to finalize the block. Two
different restarts on the same block have the same view, so that signing both is slashable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from chain import crypto
from chain.codec import Bounds, Record
from chain.exceptions import CodecError, InvalidBlock, InvalidCertificate, RestartError
from chain.genesis import Genesis
from chain.state.state import State
from chain.transition.block import compute_chain_time, execute, state_transition
from chain.transition.epochs import Epoch
from chain.transition.restart import check_restart, get_block_epoch, get_restart_view, is_restart
from chain.types.blocks import NO_REVEAL, VERSION, Block, Body, Header, sign_block
from chain.types.validators import MAX_COMMITTEE
from chain.types.votes import Certificate, Vote, VoteKind, make_certificate, sign_vote


@dataclass(frozen=True)
class RestartFile(Record):
    """A restart block and votes to finalize it, one of each signer."""

    block: Block
    votes: Annotated[tuple[Vote, ...], Bounds(0, MAX_COMMITTEE)]

    @classmethod
    def read(cls, raw: bytes) -> RestartFile:
        """The content of a file.

        Raises:
            RestartError: it is not a restart file.
        """
        try:
            file = cls.decode(raw)
        except CodecError as error:
            raise RestartError(f"not a restart file: {error}") from error
        if not is_restart(file.block.header):
            raise RestartError("the block in it is no restart block")
        return file

    def make_vote(self, key: crypto.KeyPair) -> Vote:
        """The vote of ``key`` for this restart."""
        header = self.block.header
        return sign_vote(key, header.chain_id, VoteKind.FINALIZE, header.epoch, header.view, header.id)

    def add(self, vote: Vote) -> RestartFile:
        """The file with one more vote."""
        others = [other for other in self.votes if other.signer != vote.signer]
        return replace(self, votes=(*others, vote))

    def check(self, genesis: Genesis, parent: Header, state: State) -> Epoch:
        """Check everything but the quorum, on the last final block. Returns the epoch with the committee that is left.

        Raises:
            RestartError: it does not fit, or a vote in it does not count.
        """
        header = self.block.header
        if header.parent_id != parent.id:
            raise RestartError(
                f"it goes on from block {header.height - 1} ({header.parent_id.hex()[:16]}), but the last final block "
                f"here is {parent.height} ({parent.id.hex()[:16]}); all must go on from the latest that any of them has"
            )
        accepted = accept(genesis, self.block.id)
        epoch = get_block_epoch(genesis, state, self.block.body)
        try:
            check_restart(accepted, state, self.block)
            # All of it is checked: a file may come from anyone, and signing a block of another view, for example, could
            # contradict a vote.
            state_transition(accepted, parent, state, self.block)
        except InvalidBlock as error:
            raise RestartError(str(error)) from error
        said = (VoteKind.FINALIZE, header.epoch, header.view, header.id)
        for vote in self.votes:
            if (vote.kind, vote.epoch, vote.view, vote.block_id) != said or not vote.is_valid(genesis.chain_id):
                raise RestartError(f"the vote of {crypto.format_address(vote.signer)} is not for this restart")
            if vote.signer not in epoch.validators:
                raise RestartError(f"{crypto.format_address(vote.signer)} is none of the validators that remain")
        if len({vote.signer for vote in self.votes}) != len(self.votes):  # no certificate may name one twice
            raise RestartError("it has two votes of one validator")
        return epoch

    def find_certificate(self, epoch: Epoch) -> Certificate | None:
        """The finality of the block, once more than 2/3 of the stake that remains has signed; else None.

        Raises:
            RestartError: its votes make no valid certificate, though :meth:`check` has accepted them.
        """
        if not epoch.validators.is_quorum(vote.signer for vote in self.votes):
            return None
        certificate = make_certificate(self.votes, epoch.validators)
        try:
            certificate.verify(self.block.header.chain_id, epoch.validators)
        except InvalidCertificate as error:
            raise RestartError(str(error)) from error
        return certificate


def accept(genesis: Genesis, block_id: bytes) -> Genesis:
    """The genesis with a restart accepted."""
    return genesis if block_id in genesis.restarts else replace(genesis, restarts=(*genesis.restarts, block_id))


def build_restart(
    genesis: Genesis, key: crypto.KeyPair, parent: Header, state: State, removed: Sequence[bytes], timestamp: int
) -> RestartFile:
    """Propose to go on from ``parent``, the last final block, without the validators ``removed``.

    Raises:
        RestartError: they are not validators, or ``key`` is none of those that remain.
    """
    timestamp = max(timestamp, parent.timestamp + 1)
    body = Body((), None, (), (), tuple(sorted(set(removed))))
    epoch = get_block_epoch(genesis, state, body)
    if key.public_key not in epoch.validators:
        raise RestartError("only a validator that remains proposes a restart")
    header = Header(
        version=VERSION,
        chain_id=genesis.chain_id,
        epoch=epoch.number,
        height=parent.height + 1,
        view=get_restart_view(parent, epoch.number),
        parent_id=parent.id,
        timestamp=timestamp,
        chain_time=compute_chain_time(genesis, parent, timestamp),
        proposer=key.public_key,
        body_root=body.root,
        state_root=bytes(32),
        history_root=bytes(32),
        validators_hash=epoch.validators.hash,
        next_validators_hash=epoch.next_validators.hash,
        beacon_reveal=NO_REVEAL,
    )
    after = execute(genesis, epoch, parent, state, header, body).state
    block = sign_block(key, replace(header, state_root=after.root, history_root=after.history.root), body)
    file = RestartFile(block, ())
    file.check(genesis, parent, state)
    return file
