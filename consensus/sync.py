"""Block sync: how a node that joined late or was away gets what gossip did not bring it, and serves others.

Protocol ``/wwwserve/sync/1``, one exchange per request:

=================  ====================================================================================================
request            answer
=================  ====================================================================================================
``GetTip``         one ``Tip``
``GetBlocks``      final blocks in order of height, one ``Part`` each; ends after ``max_bytes`` at a block that carries
                   its own finality certificate
``GetBlock``       one ``Found`` with the block, or with None: final or not yet
``GetOperations``  one ``FoundOperations`` with those pending here
=================  ====================================================================================================

Gossip is a hint, sync is the truth. Nothing is believed: a run of blocks up to a certificate (a *segment*) is taken as
a whole after every block was executed and every signature checked, or not at all. A peer that lies costs the time of
one segment and is left alone for a while.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import structlog
import trio

from chain import crypto
from chain.blocks import MAX_BLOCK, Block, Header
from chain.blockstore import BlockStore
from chain.codec import Bounds, Hash, Natural, Record
from chain.exceptions import CodecError, InvalidBlock, LedgerError
from chain.genesis import Genesis
from chain.operations import MAX_CAPTURE, SignedOperation
from chain.state import State
from chain.transition import check_header, state_transition, verify_finality
from chain.votes import Certificate
from consensus.compact import MAX_IDS
from consensus.tree import Executed
from p2p.frames import MAX_FRAME
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams import Exchange, Streams

logger = structlog.get_logger(__name__)

PROTOCOL = "/wwwserve/sync/1"
BATCH = 4 << 20
"""Bytes of blocks asked for at a time."""
MAX_SEGMENT = 64 << 20
"""Bytes of blocks taken on trust of their leaders' signatures alone before a certificate must come."""
TIMEOUT = 10.0
"""Seconds that a peer may take for its next frame."""
BATCH_TIMEOUT = 30.0
"""Seconds that a peer may keep this node waiting in all while it sends a batch, or one peer could hold it for ever."""
AVOID_SILENT, AVOID_LIAR = 10.0, 300.0
"""Seconds for which a peer is not asked again."""
MAX_EXCHANGES = 8
"""Requests of one peer served at the same time."""
ASKED_PEERS = 3
"""Peers whose tip is looked at before this node believes that it is up to date."""
HINT_DELAY = 0.3
"""Seconds that gossip gets to bring what a hint speaks of before it is pulled."""


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
class Request(Record):
    """Any of the four."""

    question: GetTip | GetBlocks | GetBlock | GetOperations


@dataclass(frozen=True, slots=True)
class Tip(Record):
    """The last final block."""

    height: Natural
    block_id: Hash


RawBlock = Annotated[bytes, Bounds(1, MAX_BLOCK)]


@dataclass(frozen=True, slots=True)
class Part(Record):
    """One encoded block, with its own finality certificate where the sender has one."""

    block: RawBlock
    certificate: Annotated[bytes, Bounds(1, MAX_FRAME - MAX_BLOCK - 64)] | None


@dataclass(frozen=True, slots=True)
class Found(Record):
    """An encoded block, or None."""

    block: RawBlock | None


@dataclass(frozen=True, slots=True)
class FoundOperations(Record):
    """Encoded operations, in the order asked for; those unknown, or beyond the size of a frame, are left out."""

    operations: tuple[Annotated[bytes, Bounds(1, MAX_CAPTURE)], ...]


# Checking what a peer sends: pure.


class Segment:
    """Collects blocks on top of ``parent`` until a certificate makes the last of them final."""

    def __init__(self, genesis: Genesis, parent: Header) -> None:
        self._genesis = genesis
        self._size = 0
        self.parent = parent
        self.blocks: list[Block] = []

    def add(self, raw: bytes) -> Certificate | None:
        """Take a ``Part``. Returns the certificate once there is one; then :func:`verify_segment` has the word.

        Each block must follow the one before and carry its leader's signature, which bounds what a liar can make this
        node keep.

        Raises:
            LedgerError: not a part that can come next.
        """
        part = Part.decode(raw)
        block = Block.decode(part.block)
        head = self.blocks[-1].header if self.blocks else self.parent
        check_header(self._genesis, head, block.header)
        if not crypto.verify_all([block.claim()]):
            raise InvalidBlock("signature", "is not the proposer's")
        self._size += len(raw)
        if self._size > MAX_SEGMENT:
            raise InvalidBlock("certificate", f"none within {MAX_SEGMENT} bytes")
        self.blocks.append(block)
        return None if part.certificate is None else Certificate.decode(part.certificate)


def verify_segment(
    genesis: Genesis, parent: Header, state: State, blocks: Sequence[Block], certificate: Certificate
) -> list[Executed]:
    """Execute ``blocks`` on ``parent`` and check that ``certificate`` makes the last of them final.

    Raises:
        InvalidBlock: any rule is broken; then nothing of the segment counts.
    """
    verify_finality(genesis, blocks[-1].header, certificate)  # first: cheap, and worthless blocks rarely have one
    executed: list[Executed] = []
    for block in blocks:
        transition = state_transition(genesis, parent, state, block)
        executed.append(Executed(block, transition))
        parent, state = block.header, transition.state
    return executed


# Serving others.


class SyncServer:
    """Answers requests from the final chain and from what the finders know beside it."""

    def __init__(
        self,
        store: BlockStore,
        find_block: Callable[[bytes], Block | None],
        find_operation: Callable[[bytes], SignedOperation | None],
    ) -> None:
        self._store = store
        self._find_block = find_block
        self._find_operation = find_operation

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
            case GetTip():
                await exchange.send(Tip(self._store.height, self._store.header.id).encode())
            case GetBlocks():
                await self._send_blocks(exchange, question)
            case GetBlock():
                await exchange.send(Found(self._get_block(question.block_id)).encode())
            case GetOperations():
                await exchange.send(self._get_operations(question.ids).encode())

    async def _send_blocks(self, exchange: Exchange, question: GetBlocks) -> None:
        height, sent, is_certified = max(1, question.from_height), 0, True
        while sent < min(question.max_bytes, BATCH) or not is_certified:
            block, certificate = self._store.raw_block(height), self._store.raw_certificate(height)
            if block is None:
                return  # the last final block has a certificate, so the answer ended with one
            with trio.move_on_after(TIMEOUT) as scope:  # a reader that stalls holds no server
                await exchange.send(Part(block, certificate).encode())
            if scope.cancelled_caught:
                raise NetworkError("the reader stalls")
            height, sent, is_certified = height + 1, sent + len(block), certificate is not None

    def _get_block(self, block_id: bytes) -> bytes | None:
        block = self._find_block(block_id)
        if block is not None:
            return block.encoded
        height = self._store.height_of_block(block_id)
        return None if height is None else self._store.raw_block(height)

    def _get_operations(self, ids: Iterable[bytes]) -> FoundOperations:
        found: list[bytes] = []
        room = MAX_BLOCK
        for operation_id in ids:
            operation = self._find_operation(operation_id)
            if operation is not None and len(operation.encoded) <= room:
                found.append(operation.encoded)
                room -= len(operation.encoded)
        return FoundOperations(tuple(found))


# Asking others.

Deliver = Callable[[list[Executed], Certificate], Awaitable[None]]
"""Takes a verified segment; returns when it is part of the final chain."""


class SyncClient:
    """Keeps this node up to date: pulls final blocks from random peers whenever one may be ahead.

    ``get_final`` returns the last final header and state, ``deliver`` takes verified segments on top of it.
    """

    def __init__(
        self,
        genesis: Genesis,
        streams: Streams,
        runtime: Runtime,
        get_final: Callable[[], tuple[Header, State]],
        deliver: Deliver,
        poll_interval: float,
    ) -> None:
        self._genesis = genesis
        self._streams = streams
        self._runtime = runtime
        self._get_final = get_final
        self._deliver = deliver
        self._poll_interval = poll_interval
        self._avoided: dict[bytes, float] = {}
        self._hinted = trio.Event()
        self.target = 0
        """Highest final height that a peer has claimed."""

    @property
    def is_behind(self) -> bool:
        """Whether a peer claimed a higher final block than this node's, and did not yet prove to lie."""
        return self.target > self._get_final()[0].height

    def hint(self) -> None:
        """Something suggests that this node is behind. Cheap, may be called at any rate."""
        self._hinted.set()

    async def run(self) -> None:
        """Look around at every hint, at every new peer, and now and then, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_peers, self._streams.network.peer_changes())
            while True:
                if not await self._look_around():
                    self.target = 0
                    await self._wait()
                self._hinted = trio.Event()

    async def fetch_block(self, block_id: bytes, peers: Iterable[bytes]) -> Block | None:
        """The block of that id from one of ``peers``, or of any others; None if nobody has it."""
        connected = self._streams.network.peers()
        named = [peer for peer in peers if peer in connected]
        for peer in [*named, *self._shuffle(connected.difference(named))][:ASKED_PEERS]:
            raw = await self._ask(peer, GetBlock(block_id))
            if raw is None:
                continue
            try:
                found = Found.decode(raw).block
                block = None if found is None else Block.decode(found)
                if block is not None and block.id != block_id:
                    raise InvalidBlock("id", "another block was asked for")
                if block is not None and block.body.compute_root() != block.header.body_root:
                    raise InvalidBlock("body_root", "does not commit to the body")
            except LedgerError as error:
                self._avoid(peer, AVOID_LIAR, str(error))
                continue
            if block is not None:
                return block
        return None

    async def fetch_operations(self, peer: bytes, ids: Sequence[bytes]) -> dict[bytes, SignedOperation]:
        """Pending operations of ``peer`` by id: those of ``ids`` that it has and that are well formed, unverified."""
        raw = await self._ask(peer, GetOperations(tuple(ids)))
        if raw is None:
            return {}
        try:
            found = [SignedOperation.decode(item) for item in FoundOperations.decode(raw).operations]
        except CodecError as error:
            self._avoid(peer, AVOID_LIAR, str(error))
            return {}
        return {operation.id: operation for operation in found}

    async def _wait(self) -> None:
        """Until there is a hint, or no final block came for a poll interval."""
        height = -1
        while height != self._get_final()[0].height:
            height = self._get_final()[0].height
            with trio.move_on_after(self._poll_interval):
                await self._hinted.wait()
                await trio.sleep(HINT_DELAY)
                return

    async def _watch_peers(self, changes: trio.MemoryReceiveChannel[tuple[bytes, bool]]) -> None:
        async for _, is_connected in changes:
            if is_connected:
                self.hint()

    async def _look_around(self) -> bool:
        """Ask a few random peers for their tips and pull from the first that is ahead. Returns whether that helped."""
        connected = self._streams.network.peers()
        now = trio.current_time()
        self._avoided = {peer: until for peer, until in self._avoided.items() if until > now}
        for peer in self._shuffle(connected.difference(self._avoided))[:ASKED_PEERS]:
            raw = await self._ask(peer, GetTip())
            if raw is None:
                continue
            try:
                tip = Tip.decode(raw)
            except CodecError as error:
                self._avoid(peer, AVOID_LIAR, str(error))
                continue
            height = self._get_final()[0].height
            if tip.height > height:
                self.target = tip.height
                await self._pull(peer)
                if self._get_final()[0].height > height:
                    return True
        return False

    async def _pull(self, peer: bytes) -> None:
        """Take segments from ``peer`` until its answer ends or something is wrong with it."""
        header, state = self._get_final()
        segment = Segment(self._genesis, header)
        patience = BATCH_TIMEOUT
        try:
            async with self._streams.open(peer, PROTOCOL) as exchange:
                await exchange.send(Request(GetBlocks(header.height + 1, BATCH)).encode(), end=True)
                while True:
                    asked_at = trio.current_time()
                    with trio.fail_after(min(TIMEOUT, max(0.0, patience))):
                        raw = await exchange.receive()
                    patience -= trio.current_time() - asked_at
                    if raw is None:
                        break
                    certificate = segment.add(raw)
                    if certificate is None:
                        continue
                    executed = await self._runtime.run_sync(
                        verify_segment, self._genesis, header, state, segment.blocks, certificate
                    )
                    await self._deliver(executed, certificate)
                    header, state = executed[-1].block.header, executed[-1].transition.state
                    segment = Segment(self._genesis, header)
                if segment.blocks:
                    raise InvalidBlock("certificate", "the answer ended without one")
        except LedgerError as error:
            self._avoid(peer, AVOID_LIAR, str(error))
        except (NetworkError, trio.TooSlowError) as error:
            self._avoid(peer, AVOID_SILENT, str(error) or "too slow")

    async def _ask(self, peer: bytes, question: GetTip | GetBlock | GetOperations) -> bytes | None:
        try:
            return await self._streams.request(peer, PROTOCOL, Request(question).encode(), TIMEOUT)
        except NetworkError as error:
            self._avoid(peer, AVOID_SILENT, str(error))
            return None

    def _avoid(self, peer: bytes, seconds: float, reason: str) -> None:
        self._avoided[peer] = trio.current_time() + seconds
        logger.debug("sync: peer avoided", peer=crypto.format_address(peer), seconds=seconds, reason=reason)

    def _shuffle(self, peers: Iterable[bytes]) -> list[bytes]:
        """``peers`` in random order, the same for the same seed."""
        ordered = sorted(peers)
        self._runtime.random.shuffle(ordered)
        return ordered
