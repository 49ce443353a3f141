"""The side of sync that answers: final blocks, ends of epochs, and states at the last of them.

Nothing is prepared for it. A state at the end of an epoch shares its tree with those after it, so keeping one costs
only what changed since; one that a peer is fetching is kept a little longer, so that it can finish. Chunks are made and
encoded in a thread, at a bounded rate: a stranger can ask for ever new ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import trio

from chain.codec import Record
from chain.collections import BoundedDict
from chain.exceptions import CodecError
from chain.merkle.snapshot import MAX_PIECE_BYTES, make_chunk
from chain.merkle.sparse_tree import SparseMerkleTree
from chain.state.state import State
from chain.store.writer import ChainStore
from chain.types.blocks import MAX_BLOCK_BYTES, Block
from chain.types.operations import SignedOperation
from consensus.sync.messages import (
    SYNC_BATCH_BYTES,
    SYNC_FRAME_TIMEOUT_S,
    BlockItem,
    BlockResponse,
    BlocksResponse,
    ChainStatus,
    ChunkResponse,
    EpochEndItem,
    EpochEndsResponse,
    GetBlock,
    GetBlocks,
    GetChunk,
    GetEnds,
    GetHeader,
    GetOperations,
    GetStatus,
    GetValue,
    HeaderResponse,
    OperationsResponse,
    Pruned,
    Request,
    ValuePiece,
)
from p2p.limits.rate_limit import Limiter, Rate
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams.exchange import Exchange

MAX_SYNC_EXCHANGES = 8
"""Requests of one peer served at the same time."""
STATE_LEASE_S = 60.0
"""Seconds for which a state that was asked for stays at hand, however many epochs end meanwhile."""
MAX_LEASED_STATES = 3
"""States that stay at hand at a time."""
MAX_CACHED_CHUNKS = 16
"""Chunks kept ready, those asked for last."""
MAX_CHUNK_REQUESTS = 256
"""Peers for which a chunk is being made, one for each; the others are told that it is not at hand."""
CHUNK_RATE = Rate(items=5, size=math.inf, burst=20.0)
"""Chunks that are made for one peer, and for all together (twice that with all shares): one takes some 30 ms."""
CHUNK_WAIT_S = 0.1
"""Seconds between looks whether the rate allows another chunk."""


class SyncServer:
    """Answers requests from the final chain and from what the finders know beside it."""

    def __init__(
        self,
        store: ChainStore,
        find_block: Callable[[bytes], Block | None],
        find_operation: Callable[[bytes], SignedOperation | None],
        runtime: Runtime,
    ) -> None:
        self._store = store
        self._find_block = find_block
        self._find_operation = find_operation
        self._runtime = runtime
        self._leases: BoundedDict[int, tuple[State, float]] = BoundedDict(MAX_LEASED_STATES)
        self._rewinding = trio.Lock()
        self._making = trio.Lock()
        self._asking: set[bytes] = set()
        self._chunk_limiter = Limiter(CHUNK_RATE, CHUNK_RATE)
        self._chunks: BoundedDict[GetChunk, bytes] = BoundedDict(MAX_CACHED_CHUNKS)

    async def handle(self, exchange: Exchange) -> None:
        """Serve one exchange of the protocol. Malformed requests are refused by aborting it."""
        raw = await exchange.receive()
        if raw is None:
            return
        try:
            question = Request.decode(raw).question
        except CodecError as error:
            await exchange.abort(f"malformed request: {error}")
            return
        match question:
            case GetStatus():
                store = self._store
                await exchange.send(ChainStatus(store.height, store.header.id, store.base.height).encode())
            case GetBlocks():
                await self._send_blocks(exchange, question)
            case GetBlock():
                await exchange.send(BlockResponse(self._get_block(question.block_id)).encode())
            case GetOperations():
                await exchange.send(self._get_operations(question.ids).encode())
            case GetHeader():
                header = self._store.find_header(question.height) if question.height else None
                await exchange.send(HeaderResponse(header).encode())
            case GetEnds():
                await self._send_ends(exchange, question.from_epoch)
            case GetChunk():
                await exchange.send(await self._find_chunk(exchange.peer, question))
            case GetValue():
                await self._send_value(exchange, question)

    async def _send(self, exchange: Exchange, record: Record) -> int:
        """Send one frame of a longer answer; a reader that stalls holds no server."""
        raw = record.encode()
        with trio.move_on_after(SYNC_FRAME_TIMEOUT_S) as scope:
            await exchange.send(raw)
        if scope.cancelled_caught:
            raise NetworkError("the reader stalls")
        return len(raw)

    async def _send_blocks(self, exchange: Exchange, question: GetBlocks) -> None:
        height, sent, is_certified = max(1, question.from_height), 0, True
        while sent < min(question.max_bytes, SYNC_BATCH_BYTES) or not is_certified:
            if height <= self._store.base.height:
                await self._send(exchange, BlocksResponse(Pruned(self._store.base.height + 1)))
                return
            block, certificate = self._store.raw_block(height), self._store.raw_certificate(height)
            if block is None:
                return  # the last final block has a certificate, so the answer ended with one
            await self._send(exchange, BlocksResponse(BlockItem(block, certificate)))
            height, sent, is_certified = height + 1, sent + len(block), certificate is not None

    async def _send_ends(self, exchange: Exchange, epoch: int) -> None:
        sent = 0
        while sent < SYNC_BATCH_BYTES:
            end = self._store.light_client_update(epoch)
            if end is None:
                if not sent and epoch < self._store.header.epoch:
                    await self._send(exchange, EpochEndsResponse(Pruned(self._store.first_update_epoch)))
                return
            sent += await self._send(exchange, EpochEndsResponse(EpochEndItem(end)))
            epoch += 1

    async def _find_chunk(self, peer: bytes, question: GetChunk) -> bytes:
        """The answer to a peer, which may take one turn at a time: a node asks for one chunk after the other.

        Waits while more were asked for than the rate allows; chunks that are ready count for nothing.
        """
        if question not in self._chunks and (peer in self._asking or len(self._asking) >= MAX_CHUNK_REQUESTS):
            return ChunkResponse(None).encode()
        self._asking.add(peer)
        try:
            while question not in self._chunks and not self._chunk_limiter.admit(peer, 0, trio.current_time()):
                await trio.sleep(CHUNK_WAIT_S)
            return await self._make_chunk(question)
        finally:
            self._asking.discard(peer)

    async def _make_chunk(self, question: GetChunk) -> bytes:
        """The answer; made one at a time and kept for a while, so that many who ask cost little more than one."""
        async with self._making:
            raw = self._chunks.pop(question, None)
            if raw is None:
                state = await self._find_state(question.height)
                if state is None:
                    return ChunkResponse(None).encode()
                raw = await self._runtime.run_sync(_encode_chunk, state.tree, question.after)
            self._chunks[question] = raw
            return raw

    async def _send_value(self, exchange: Exchange, question: GetValue) -> None:
        state = await self._find_state(question.height)
        value = (None if state is None else state.get_encoded(question.key)) or b""
        for start in range(0, len(value), MAX_PIECE_BYTES):
            await self._send(exchange, ValuePiece(value[start : start + MAX_PIECE_BYTES]))

    async def _find_state(self, height: int) -> State | None:
        now = trio.current_time()
        oldest = self._store.height - 8 * self._store.genesis.parameters.epoch_heights
        for key in [key for key, lease in self._leases.items() if lease[1] <= now or key < oldest]:
            del self._leases[key]
        if height in self._leases:
            state: State | None = self._leases.pop(height)[0]
        else:
            async with self._rewinding:  # one at a time: after a restart the first takes a moment
                state = await self._runtime.run_sync(self._store.find_epoch_end_state, height)
        if state is not None:
            self._leases[height] = state, now + STATE_LEASE_S
        return state

    def _get_block(self, block_id: bytes) -> bytes | None:
        block = self._find_block(block_id)
        if block is not None:
            return block.encoded
        height = self._store.height_of_block(block_id)
        return None if height is None else self._store.raw_block(height)

    def _get_operations(self, ids: Iterable[bytes]) -> OperationsResponse:
        found: list[bytes] = []
        room = MAX_BLOCK_BYTES
        for operation_id in ids:
            operation = self._find_operation(operation_id)
            if operation is not None and len(operation.encoded) <= room:
                found.append(operation.encoded)
                room -= len(operation.encoded)
        return OperationsResponse(tuple(found))


def _encode_chunk(tree: SparseMerkleTree, after: bytes | None) -> bytes:
    return ChunkResponse(make_chunk(tree, after)).encode()
