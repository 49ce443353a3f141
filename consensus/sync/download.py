"""Fetching a whole chain from a running node, for an audit elsewhere. Nothing that comes is believed.

Not even its length: the ends of epochs come first, each proved final by the validators that the one before names, and
then the blocks in between, which must lead from one to the next. Beyond the last of them there is at most one epoch
more. So a node cannot make another store more than the certified chain and one epoch.
"""

from __future__ import annotations

from pathlib import Path

import trio

from chain.audit.export import ExportWriter
from chain.exceptions import CodecError, InvalidBlock, StoreError
from chain.genesis import Genesis
from chain.light.client import LightClient
from chain.types.blocks import Block
from consensus.exceptions import InvalidResponse
from consensus.sync.messages import (
    SYNC_BATCH_BYTES,
    SYNC_PROTOCOL,
    BlocksResponse,
    EpochEndsResponse,
    GetBlocks,
    GetEnds,
    Pruned,
    Request,
)
from p2p.network import NetworkError, RunnableNetwork
from p2p.streams.exchanges import Streams

DOWNLOAD_FRAME_TIMEOUT_S = 20.0
"""Seconds that the node may take for its next frame."""


async def download_chain(network: RunnableNetwork, genesis: Genesis, peer: bytes, address: str, path: Path) -> None:
    """Write the chain of ``peer`` at ``address`` to an export file at ``path``.

    Raises:
        NetworkError: it cannot be reached or stops answering.
        StoreError: it answers nonsense, or does not keep all blocks.
    """
    streams = Streams(network)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        await nursery.start(streams.run)
        try:
            with trio.fail_after(DOWNLOAD_FRAME_TIMEOUT_S):
                await network.connect(peer, [address])
            fetch = _Download(streams, genesis, peer)
            await fetch.fetch_ends()
            with ExportWriter(path, genesis) as writer:
                await fetch.fetch_blocks(writer)
        except CodecError as error:
            raise StoreError(f"the node sent something malformed: {error}") from error
        except (InvalidBlock, InvalidResponse) as error:
            raise StoreError(f"the node sent something that proves nothing: {error}") from error
        except trio.TooSlowError:
            raise NetworkError("the node does not answer in time") from None
        finally:
            nursery.cancel_scope.cancel()


class _Download:
    """One chain on its way here: the ids of the last blocks of its epochs, and how far its blocks came."""

    def __init__(self, streams: Streams, genesis: Genesis, peer: bytes) -> None:
        self._streams = streams
        self._genesis = genesis
        self._peer = peer
        self._light = LightClient(genesis, genesis.header, is_audit=True)
        self._ends: list[bytes] = []
        self._height = 0
        self._block_id = genesis.header.id

    async def fetch_ends(self) -> None:
        """Fetch and check the end of every epoch that is over and not here yet."""
        light = self._light
        while True:
            async with self._streams.open(self._peer, SYNC_PROTOCOL) as exchange:
                await exchange.send(Request(GetEnds(light.next_epoch)).encode(), end=True)
                while True:
                    with trio.fail_after(DOWNLOAD_FRAME_TIMEOUT_S):
                        raw = await exchange.receive()
                    if raw is None:
                        break
                    content = EpochEndsResponse.decode(raw).content
                    if isinstance(content, Pruned):
                        raise _describe_pruned(f"the ends of epochs only from epoch {content.first} on")
                    light.add(content.end)
            if not light.updates:
                return
            self._ends += [end.header.id for end in light.updates]
            light.updates.clear()

    async def fetch_blocks(self, writer: ExportWriter) -> None:
        """Fetch the blocks up to the last of those ends, and what there is of the next epoch."""
        epoch_heights = self._genesis.parameters.epoch_heights
        last = (len(self._ends) + 1) * epoch_heights
        while self._height < last:
            before = self._height
            async with self._streams.open(self._peer, SYNC_PROTOCOL) as exchange:
                await exchange.send(Request(GetBlocks(before + 1, SYNC_BATCH_BYTES)).encode(), end=True)
                while self._height < last:
                    with trio.fail_after(DOWNLOAD_FRAME_TIMEOUT_S):
                        raw = await exchange.receive()
                    if raw is None:
                        break
                    item = BlocksResponse.decode(raw).content
                    if isinstance(item, Pruned):
                        raise _describe_pruned(f"blocks only from {item.first} on")
                    self._check(Block.decode(item.block))
                    writer.add(item.block, item.certificate)
                else:
                    await exchange.abort("enough")
            if self._height == before:
                break
            if self._height == last:  # the chain went on meanwhile: another epoch may be over
                await self.fetch_ends()
                last = (len(self._ends) + 1) * epoch_heights
        if self._height < len(self._ends) * epoch_heights:
            raise StoreError(f"the node proves {len(self._ends)} epochs, but sent no block after {self._height}")

    def _check(self, block: Block) -> None:
        """That a block is the next one, and where an epoch ends the one that was proved final."""
        if block.header.chain_id != self._genesis.chain_id:
            theirs, ours = block.header.chain_id.hex()[:8], self._genesis.chain_id.hex()[:8]
            raise StoreError(f"the node keeps another chain ({theirs}) than that of the genesis file ({ours})")
        if block.height != self._height + 1 or block.header.parent_id != self._block_id:
            raise InvalidResponse(f"the block sent after block {self._height} does not follow it")
        self._height, self._block_id = block.height, block.id
        epoch, rest = divmod(block.height, self._genesis.parameters.epoch_heights)
        if not rest and epoch <= len(self._ends) and self._ends[epoch - 1] != block.id:
            raise InvalidResponse(f"block {block.height} is not the one that was proved final")


def _describe_pruned(kept: str) -> StoreError:
    return StoreError(f"the node keeps {kept}: ask one that keeps the whole chain, or verify this one's data directory")
