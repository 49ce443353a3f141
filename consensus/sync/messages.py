"""What two nodes say to each other on the sync protocol ``/wwwserve/sync/1``, one exchange per request.

=================  ====================================================================================================
request            response
=================  ====================================================================================================
``GetStatus``      one ``ChainStatus``
``GetBlocks``      final blocks in order of height, one ``BlocksResponse`` with a ``BlockItem`` each; ends after
                   ``max_bytes`` at a block that carries its own finality certificate. ``Pruned`` if the first is not
                   kept any more
``GetBlock``       one ``BlockResponse`` with the block, or with None: final or not yet
``GetOperations``  one ``OperationsResponse`` with those pending here
``GetHeader``      one ``HeaderResponse`` with the final header of that height, or with None
``GetEnds``        the ends of epochs in order, one ``EpochEndsResponse`` with an ``EpochEndItem`` each, until there are
                   no more or ``SYNC_BATCH_BYTES`` were sent. ``Pruned`` with the first epoch whose end is here, if
                   that comes after the one asked for
``GetChunk``       one ``ChunkResponse`` with the next chunk of the state after the last block of an epoch, or with None
                   if that state is not at hand: nodes have it for the last two epochs
``GetValue``       a large value of such a state, in pieces of ``chain.merkle.snapshot.MAX_PIECE_BYTES`` bytes; nothing
                   if it is not here
=================  ====================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Hash, Natural, Record
from chain.light.client import LightClientUpdate
from chain.merkle.snapshot import MAX_PIECE_BYTES, Chunk, Key
from chain.types.blocks import MAX_BLOCK_BYTES, Header
from chain.types.operations import MAX_CAPTURE_BYTES
from consensus.network.compact_blocks import MAX_IDS
from p2p.streams.frames import MAX_FRAME_BYTES

SYNC_PROTOCOL = "/wwwserve/sync/1"
"""Name of the protocol; its number grows when a message changes."""
SYNC_BATCH_BYTES = 4 << 20
"""Bytes of blocks, or of epoch ends, asked for at a time."""
SYNC_FRAME_TIMEOUT_S = 10.0
"""Seconds that a peer may take for its next frame."""


@dataclass(frozen=True, slots=True)
class GetStatus(Record):
    """Where are you?"""

    TAG = 1


@dataclass(frozen=True, slots=True)
class GetBlocks(Record):
    """Final blocks from a height on."""

    TAG = 2
    from_height: Natural
    max_bytes: Natural


@dataclass(frozen=True, slots=True)
class GetBlock(Record):
    """One block by its id."""

    TAG = 3
    block_id: Hash


@dataclass(frozen=True, slots=True)
class GetOperations(Record):
    """Pending operations by their ids."""

    TAG = 4
    ids: Annotated[tuple[Hash, ...], Bounds(1, MAX_IDS)]


@dataclass(frozen=True, slots=True)
class GetHeader(Record):
    """One final header by its height."""

    TAG = 5
    height: Natural


@dataclass(frozen=True, slots=True)
class GetEnds(Record):
    """The ends of epochs from one on."""

    TAG = 6
    from_epoch: Natural


@dataclass(frozen=True, slots=True)
class GetChunk(Record):
    """A part of the state after the block at ``height``, from beyond the path ``after`` on (None: from the first)."""

    TAG = 7
    height: Natural
    after: Hash | None


@dataclass(frozen=True, slots=True)
class GetValue(Record):
    """A large value of the state after the block at ``height``."""

    TAG = 8
    height: Natural
    key: Key


Question = GetStatus | GetBlocks | GetBlock | GetOperations | GetHeader | GetEnds | GetChunk | GetValue


@dataclass(frozen=True, slots=True)
class Request(Record):
    """Any of them."""

    question: GetStatus | GetBlocks | GetBlock | GetOperations | GetHeader | GetEnds | GetChunk | GetValue


@dataclass(frozen=True, slots=True)
class ChainStatus(Record):
    """The last final block, and the height after which this node has blocks."""

    height: Natural
    block_id: Hash
    base: Natural


RawBlock = Annotated[bytes, Bounds(1, MAX_BLOCK_BYTES)]


@dataclass(frozen=True, slots=True)
class BlockItem(Record):
    """One encoded block, with its own finality certificate where the sender has one."""

    TAG = 1
    block: RawBlock
    certificate: Annotated[bytes, Bounds(1, MAX_FRAME_BYTES - MAX_BLOCK_BYTES - 64)] | None


@dataclass(frozen=True, slots=True)
class Pruned(Record):
    """The blocks or epoch ends asked for are not kept here. ``first`` is the first height or epoch that is kept."""

    TAG = 2
    first: Natural


@dataclass(frozen=True, slots=True)
class BlocksResponse(Record):
    """A block, or that it is not kept."""

    content: BlockItem | Pruned


@dataclass(frozen=True, slots=True)
class EpochEndItem(Record):
    """The end of an epoch."""

    TAG = 1
    end: LightClientUpdate


@dataclass(frozen=True, slots=True)
class EpochEndsResponse(Record):
    """The end of an epoch, or that it is not kept."""

    content: EpochEndItem | Pruned


@dataclass(frozen=True, slots=True)
class BlockResponse(Record):
    """An encoded block, or None."""

    block: RawBlock | None


@dataclass(frozen=True, slots=True)
class OperationsResponse(Record):
    """Encoded operations, in the order asked for; those unknown, or beyond the size of a frame, are left out."""

    operations: tuple[Annotated[bytes, Bounds(1, MAX_CAPTURE_BYTES)], ...]


@dataclass(frozen=True, slots=True)
class HeaderResponse(Record):
    """A header, or None."""

    header: Header | None


@dataclass(frozen=True, slots=True)
class ChunkResponse(Record):
    """A part of a state, or None."""

    chunk: Chunk | None


@dataclass(frozen=True, slots=True)
class ValuePiece(Record):
    """A part of a large value."""

    data: Annotated[bytes, Bounds(1, MAX_PIECE_BYTES)]
