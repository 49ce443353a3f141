"""Proposals of large blocks, with the operations by id: the receivers have most of them from gossip already.

Small blocks are sent whole, since a round trip for missing operations would cost more than the bytes. A block that is
reconstructed wrongly cannot pass for the right one: the header commits to every byte of the body. Since a few bytes can
stand for a large block, a block is reconstructed only if it comes from the leader of a view that waits for a proposal,
and only up to the largest size of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from chain.codec import Bounds, Hash, Record
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Proposal
from chain.types.operations import SignedOperation
from consensus.exceptions import InvalidMessage
from consensus.simplex.messages import Propose

MAX_WHOLE_BYTES = 64 * 1024
"""Blocks up to this many bytes are sent whole."""
MAX_IDS = 8192
"""Operations of a block that is sent by ids; one with more is sent whole."""


@dataclass(frozen=True, slots=True)
class CompactPropose(Record):
    """A :class:`~consensus.simplex.messages.Propose` whose block has its operations taken out, and their ids in
    order."""

    proposal: Proposal
    stripped_block: Block
    ids: Annotated[tuple[Hash, ...], Bounds(1, MAX_IDS)]

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("no operation is twice in a block")

    @property
    def epoch(self) -> int:
        """The epoch that it is for."""
        return self.proposal.epoch


def to_compact(message: Propose) -> CompactPropose | None:
    """The compact form of a proposal, or None if it should be sent whole."""
    block = message.block
    operations = block.body.operations
    if len(block.encoded) <= MAX_WHOLE_BYTES or not 0 < len(operations) <= MAX_IDS:
        return None
    stripped_block = replace(block, body=replace(block.body, operations=()))
    return CompactPropose(message.proposal, stripped_block, tuple(operation.id for operation in operations))


def reconstruct(message: CompactPropose, operations: Mapping[bytes, SignedOperation]) -> Propose | None:
    """The proposal with its operations put back; None if one is missing or differs (as in its signature).

    Raises:
        InvalidMessage: it would be too large.
    """
    if any(operation_id not in operations for operation_id in message.ids):
        return None
    size = len(message.stripped_block.encoded) + sum(
        len(operations[operation_id].encoded) for operation_id in message.ids
    )
    if size > MAX_BLOCK_BYTES:
        raise InvalidMessage("body", f"{size} bytes, more than {MAX_BLOCK_BYTES}")
    body = replace(
        message.stripped_block.body, operations=tuple(operations[operation_id] for operation_id in message.ids)
    )
    if body.root != message.stripped_block.header.body_root:
        return None
    return Propose(message.proposal, replace(message.stripped_block, body=body))
