"""How a node that is far behind gets the state itself, in place of the blocks that led to it.

From a header that it trusts, the node checks the ends of epochs up to a recent one (:mod:`chain.light.client`); then it
fetches the state after that block chunk by chunk (:mod:`chain.merkle.snapshot`), from any peers that have it, in turn.
Every chunk is checked when it comes, and then made durable. So a lying peer costs one chunk, and a restart costs
nothing. When the state is complete, the chain on disk is replaced in one step, and the blocks after it come by ordinary
sync.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from chain.exceptions import CheckpointError, InvalidSnapshot, LedgerError, StoreError
from chain.genesis import Genesis
from chain.light.client import Checkpoint, LightClient, LightClientUpdate
from chain.merkle.snapshot import MAX_VALUE_BYTES, Entry, LargeEntry, add_chunk, check_value
from chain.state.state import State
from chain.store.writer import ChainStore
from chain.transition.epochs import get_epoch
from chain.types.blocks import Header
from consensus.exceptions import InvalidResponse
from consensus.sync.messages import (
    SYNC_BATCH_BYTES,
    SYNC_FRAME_TIMEOUT_S,
    SYNC_PROTOCOL,
    ChainStatus,
    ChunkResponse,
    EpochEndsResponse,
    GetChunk,
    GetEnds,
    GetHeader,
    GetValue,
    HeaderResponse,
    Pruned,
    Request,
    ValuePiece,
)
from consensus.sync.peers import AVOID_LIAR_S, AVOID_SILENT_S, SyncPeers
from p2p.network import NetworkError
from p2p.runtime import Runtime

logger = structlog.get_logger(__name__)

EPOCH_ENDS_TIMEOUT_S = 30.0
"""Seconds that a peer may take in all for a batch of epoch ends."""
MIN_VALUE_BYTES_PER_S = 100_000
"""Bytes per second at which a large value must come, after ``EPOCH_ENDS_TIMEOUT_S``."""

Adopt = Callable[[Sequence[LightClientUpdate], State], Awaitable[None]]
"""Takes a verified state, staged in the store, and the epoch ends that lead to it; returns when the node goes on."""


class _Unavailable(Exception):
    """The peer does not have it. That is no lie."""


class SnapshotSync:
    """Brings the store of a node to the state at the end of a recent epoch."""

    def __init__(
        self,
        genesis: Genesis,
        peers: SyncPeers,
        runtime: Runtime,
        store: ChainStore,
        checkpoint: Checkpoint | None,
        adopt: Adopt,
    ) -> None:
        self._genesis = genesis
        self._peers = peers
        self._runtime = runtime
        self._store = store
        self._checkpoint = checkpoint
        self._adopt = adopt
        self.is_fetching = False
        """Whether a state is on its way here, which the validators of its chain vouch for."""

    async def run(self, peer: bytes, status: ChainStatus) -> bool:
        """Follow the epoch ends of ``peer``, which claims ``status``, and adopt the state at the last.

        Returns whether that succeeded. The chunks that came are kept for the next attempt.

        Raises:
            CheckpointError: the last block that this node trusts is too old.
            StoreError: the disk failed.
        """
        light = await self.follow(peer, status)
        ends = [] if light is None else light.updates
        if not ends or ends[-1].header.height <= self._store.height:
            return False
        staged = self._store.snapshot_import.header
        # One that was begun goes first, as long as a peer still has it.
        lengths = {len(ends)} | {n for n, end in enumerate(ends, start=1) if end.header == staged}
        for length in sorted(lengths):
            header = ends[length - 1].header
            if header.height <= self._store.height:
                continue
            self.is_fetching = True
            try:
                is_complete = await self._fetch_state(header)
            finally:
                self.is_fetching = False
            if is_complete:
                state = await self._runtime.run_sync(self._store.snapshot_import.load)
                await self._adopt(ends[:length], state)
                logger.info("sync: state adopted", height=header.height, block=header.id.hex())
                return True
        return False

    async def follow(self, peer: bytes, status: ChainStatus) -> LightClient | None:
        """The epoch ends of ``peer`` from what this node trusts on, verified; None if it lies or does not have them.

        Raises:
            CheckpointError: the last block that this node trusts is too old.
        """
        try:
            trusted = await self._find_trusted(peer)
            light = LightClient(self._store.genesis, trusted, self._checkpoint)  # with the restarts accepted so far
            while await self._fetch_ends(peer, light):
                pass
            reserved = get_epoch(self._genesis.parameters, status.height)
            if light.next_epoch < reserved:
                raise InvalidResponse(f"no end of epoch {light.next_epoch}, where height {status.height} is claimed")
        except CheckpointError:
            raise
        except LedgerError as error:
            self._peers.avoid(peer, AVOID_LIAR_S, str(error))
        except (NetworkError, trio.TooSlowError, _Unavailable) as error:
            self._peers.avoid(peer, AVOID_SILENT_S, str(error) or "too slow")
        else:
            return light
        return None

    async def _find_trusted(self, peer: bytes) -> Header:
        """The header of the checkpoint if it is above the own chain, otherwise the own last final header."""
        checkpoint = self._checkpoint
        if checkpoint is None or checkpoint.height <= self._store.height:
            return self._store.header
        raw = await self._peers.streams.request(
            peer, SYNC_PROTOCOL, Request(GetHeader(checkpoint.height)).encode(), SYNC_FRAME_TIMEOUT_S
        )
        header = HeaderResponse.decode(raw).header
        if header is None:
            raise _Unavailable(f"the peer has no header of the checkpoint {checkpoint}")
        if header.id != checkpoint.block_id:
            raise InvalidResponse(f"a header that contradicts the checkpoint {checkpoint}")
        if header.height != checkpoint.height or header.chain_id != self._genesis.chain_id:
            raise CheckpointError(
                f"the checkpoint {checkpoint} is not a block of that height on chain {self._genesis.name!r} "
                f"({self._genesis.chain_id.hex()[:8]}): correct 'checkpoint' in config.yaml"
            )
        return header

    async def _fetch_ends(self, peer: bytes, light: LightClient) -> bool:
        """Take a batch of epoch ends. Returns whether there may be more."""
        size, first = 0, light.next_epoch if light.updates else light.trusted.epoch
        with trio.fail_after(EPOCH_ENDS_TIMEOUT_S):
            async with self._peers.streams.open(peer, SYNC_PROTOCOL) as exchange:
                await exchange.send(Request(GetEnds(first)).encode(), end=True)
                while size < SYNC_BATCH_BYTES:
                    with trio.fail_after(SYNC_FRAME_TIMEOUT_S):
                        raw = await exchange.receive()
                    if raw is None:
                        return False
                    content = EpochEndsResponse.decode(raw).content
                    if isinstance(content, Pruned):
                        raise _Unavailable(f"the peer knows the chain only from epoch {content.first} on")
                    await self._runtime.run_sync(light.add, content.end)
                    size += len(raw)
        return True

    async def _fetch_state(self, header: Header) -> bool:
        """Fetch the missing chunks of the state after ``header``; False if no peer has the rest at this moment."""
        snapshot_import = self._store.snapshot_import
        if snapshot_import.header != header:
            await self._runtime.run_sync(snapshot_import.begin, header)
        without: set[bytes] = set()
        while not snapshot_import.is_complete:
            peer = self._peers.pick(without)
            if peer is None:
                logger.info("sync: no peer has the rest of a snapshot", height=header.height)
                return False
            try:
                await self._fetch_chunk(peer, header)
            except StoreError:
                raise
            except LedgerError as error:
                self._peers.avoid(peer, AVOID_LIAR_S, str(error))
            except _Unavailable:
                without.add(peer)
            except (NetworkError, trio.TooSlowError) as error:
                self._peers.avoid(peer, AVOID_SILENT_S, str(error) or "too slow")
        return True

    async def _fetch_chunk(self, peer: bytes, header: Header) -> None:
        snapshot_import = self._store.snapshot_import
        frontier = snapshot_import.frontier
        raw = await self._peers.ask(peer, GetChunk(header.height, None if frontier is None else frontier.path))
        if raw is None:
            return  # and the peer is avoided
        chunk = ChunkResponse.decode(raw).chunk
        if chunk is None:
            raise _Unavailable
        advanced = await self._runtime.run_sync(add_chunk, frontier, chunk, header.state_root)
        for entry in chunk.entries:
            if isinstance(entry, LargeEntry):  # one at a time, so that only one is in memory
                value = await self._fetch_value(peer, header, entry)
                await self._runtime.run_sync(snapshot_import.put, {entry.key: value})
        entries = {entry.key: entry.value for entry in chunk.entries if isinstance(entry, Entry)}
        await self._runtime.run_sync(snapshot_import.add, entries, advanced, chunk.is_last)

    async def _fetch_value(self, peer: bytes, header: Header, entry: LargeEntry) -> bytes:
        value = bytearray()
        started = trio.current_time()
        async with self._peers.streams.open(peer, SYNC_PROTOCOL) as exchange:
            await exchange.send(Request(GetValue(header.height, entry.key)).encode(), end=True)
            while True:
                left = started + EPOCH_ENDS_TIMEOUT_S + len(value) / MIN_VALUE_BYTES_PER_S - trio.current_time()
                with trio.fail_after(min(SYNC_FRAME_TIMEOUT_S, max(0.0, left))):
                    raw = await exchange.receive()
                if raw is None:
                    break
                value += ValuePiece.decode(raw).data
                if len(value) > MAX_VALUE_BYTES:
                    raise InvalidSnapshot(f"a value of more than {MAX_VALUE_BYTES} bytes")
        if not value:
            raise _Unavailable
        check_value(entry, bytes(value))
        return bytes(value)
