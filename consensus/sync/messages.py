"""What two nodes say to each other on the sync protocol ``/wwwserve/sync/1``, one exchange per request.

=================  ====================================================================================================
request            answer
=================  ====================================================================================================
``GetTip``         one ``Tip``
``GetBlocks``      final blocks in order of height, one ``Answer`` with a ``Part`` each; ends after ``max_bytes`` at a
                   block that carries its own finality certificate. ``Pruned`` if the first is not kept any more
``GetBlock``       one ``Found`` with the block, or with None: final or not yet
``GetOperations``  one ``FoundOperations`` with those pending here
``GetHeader``      one ``FoundHeader`` with the final header of that height, or with None
``GetEnds``        the ends of epochs in order, one ``EndAnswer`` with an ``EpochEnd`` each, until there are no more or
                   ``BATCH`` bytes were sent. ``Pruned`` if the first was over before this node's snapshot
``GetChunk``       one ``FoundChunk`` with the next chunk of the state after the last block of an epoch, or with None if
                   that state is not at hand: nodes have it for the last two epochs
``GetValue``       a large value of such a state, in pieces of ``chain.merkle.snapshot.PIECE`` bytes; nothing if it is
not here
=================  ====================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Hash, Natural, Record
from chain.light.client import EpochEnd
from chain.merkle.snapshot import PIECE, Chunk, Key
from chain.types.blocks import MAX_BLOCK, Header
from chain.types.operations import MAX_CAPTURE
from consensus.network.compact_blocks import MAX_IDS
from p2p.streams.frames import MAX_FRAME

PROTOCOL = "/wwwserve/sync/1"
BATCH = 4 << 20
"""Bytes of blocks, or of epoch ends, asked for at a time."""
TIMEOUT = 10.0
"""Seconds that a peer may take for its next frame."""


@dataclass(frozen=True, slots=True)
class GetTip(Record):
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


Question = GetTip | GetBlocks | GetBlock | GetOperations | GetHeader | GetEnds | GetChunk | GetValue


@dataclass(frozen=True, slots=True)
class Request(Record):
    """Any of them."""

    question: GetTip | GetBlocks | GetBlock | GetOperations | GetHeader | GetEnds | GetChunk | GetValue


@dataclass(frozen=True, slots=True)
class Tip(Record):
    """The last final block, and the height after which this node has blocks."""

    height: Natural
    block_id: Hash
    base: Natural


RawBlock = Annotated[bytes, Bounds(1, MAX_BLOCK)]


@dataclass(frozen=True, slots=True)
class Part(Record):
    """One encoded block, with its own finality certificate where the sender has one."""

    TAG = 1
    block: RawBlock
    certificate: Annotated[bytes, Bounds(1, MAX_FRAME - MAX_BLOCK - 64)] | None


@dataclass(frozen=True, slots=True)
class Pruned(Record):
    """What was asked for is not kept here, only what comes from this height (or, asked for ends, epoch) on."""

    TAG = 2
    first: Natural


@dataclass(frozen=True, slots=True)
class Answer(Record):
    """A block, or that it is not kept."""

    content: Part | Pruned


@dataclass(frozen=True, slots=True)
class End(Record):
    """The end of an epoch."""

    TAG = 1
    end: EpochEnd


@dataclass(frozen=True, slots=True)
class EndAnswer(Record):
    """The end of an epoch, or that it is not kept."""

    content: End | Pruned


@dataclass(frozen=True, slots=True)
class Found(Record):
    """An encoded block, or None."""

    block: RawBlock | None


@dataclass(frozen=True, slots=True)
class FoundOperations(Record):
    """Encoded operations, in the order asked for; those unknown, or beyond the size of a frame, are left out."""

    operations: tuple[Annotated[bytes, Bounds(1, MAX_CAPTURE)], ...]


@dataclass(frozen=True, slots=True)
class FoundHeader(Record):
    """A header, or None."""

    header: Header | None


@dataclass(frozen=True, slots=True)
class FoundChunk(Record):
    """A part of a state, or None."""

    chunk: Chunk | None


@dataclass(frozen=True, slots=True)
class Piece(Record):
    """A part of a large value."""

    data: Annotated[bytes, Bounds(1, PIECE)]
