"""The trio side of agreement: one node's ledger, kept up to date and open to its own program.

Three sources feed one loop, which owns all state of agreement (:mod:`consensus.agreement`): direct messages of the
committee (:mod:`consensus.links`), gossip (:mod:`consensus.dissemination`) and block sync (:mod:`consensus.sync`).
What they bring is untrusted: decoding is bounded and strict, and whatever is wrong is dropped with a debug line. Only
a failing disk, or proof that agreement itself is broken, ends the engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from chain import crypto
from chain.blocks import MAX_BLOCK, Block, Header
from chain.blockstore import BlockStore
from chain.codec import MAX_RECORD
from chain.crypto import verify_all
from chain.epochs import get_validators
from chain.exceptions import CodecError, InvalidOperation, InvalidSignature, LedgerError
from chain.genesis import Genesis
from chain.operations import NoncedOperation, SignedOperation
from chain.state import State
from chain.votes import Certificate, VoteKind
from consensus.agreement import Agreement, Outlet, Voting
from consensus.compact import COMPACT, CompactPropose, expand
from consensus.dissemination import Batch, Batcher, Seen, get_topic
from consensus.links import Links
from consensus.mempool import AlreadyKnown, Mempool
from consensus.messages import Message, Propose, decode_message
from consensus.simplex import Timeouts
from consensus.sync import HINT_DELAY, MAX_EXCHANGES, PROTOCOL, SyncClient, SyncServer
from consensus.tree import Executed
from p2p.broadcast import Broadcast
from p2p.network import GossipMessage, Network
from p2p.runtime import Runtime
from p2p.streams import Streams

logger = structlog.get_logger(__name__)

INBOX = 256
"""Events that may wait for the loop; whoever brings more waits too."""
SUBSCRIPTION = 256
"""Final blocks that a subscriber may fall behind before it loses the oldest."""
FORWARDED = b"\x00"
"""First byte of a message that carries a batch of operations to a leader (others: consensus.messages)."""
FORWARD_BYTES = 64 * 1024
TICK, IDLE_TICK = 0.25, 1.0
REPEAT = 2.0
"""Seconds after which an own operation that is not final yet is gossiped again."""
BREATH = 64
"""Operations of a batch that are looked at before other tasks get a turn."""
MAX_FETCHES = 16
MAX_SEEN = 65_536
DEFAULT_TIMEOUTS = Timeouts()

Event = tuple[Callable[..., Awaitable[None]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node chooses for itself. Seconds."""

    block_spacing: float = 0.25
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    gossip_delay: float = 0.1


@dataclass(frozen=True, slots=True)
class Final:
    """A block that became final; ``failures`` has, per operation, why it failed (its fee is paid) or None."""

    block: Block
    failures: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Where a node stands. ``final_age`` is seconds since the last block became final here."""

    height: int
    epoch: int
    view: int
    is_validator: bool
    mempool_operations: int
    mempool_bytes: int
    peers: int
    is_syncing: bool
    final_age: float


class Engine(Outlet):
    """Keeps one node's ledger. ``voting`` makes it a validator if its key is one of the committee's."""

    def __init__(
        self,
        genesis: Genesis,
        voting: Voting | None,
        network: Network,
        streams: Streams,
        runtime: Runtime,
        store: BlockStore,
        settings: Settings | None = None,
    ) -> None:
        self.genesis = genesis
        self.settings = settings or Settings()
        self.last_final_at = 0.0
        """Trio time at which a block last became final here (or the engine started)."""
        self._network = network
        self._runtime = runtime
        self._store = store
        self._me = voting.key.public_key if voting is not None else b""
        self._mempool = Mempool(genesis, store.header, store.state)
        self._links = Links(streams, self._on_link)
        self._agreement = Agreement(
            genesis, voting, store, self._mempool, self._links, runtime, self,
            self.settings.timeouts, self.settings.block_spacing,
        )  # fmt: skip
        self._sync = SyncClient(
            genesis, streams, runtime, lambda: self._agreement.final, self._on_segment,
            genesis.parameters.idle_beat / 1000,
        )  # fmt: skip
        self._server = SyncServer(store, self._agreement.find_block, self._mempool.get)
        self._streams = streams
        self._gossip = {
            name: Batcher(network, get_topic(genesis.chain_id, name), self.settings.gossip_delay)
            for name in ("ops", "blocks", "certs")
        }
        self._send, self._receive = trio.open_memory_channel[Event](INBOX)
        self._nursery: trio.Nursery | None = None
        self._final: Broadcast[Final] = Broadcast(SUBSCRIPTION)
        self._waiting: dict[bytes, list[trio.Event]] = {}
        self._own: dict[bytes, float] = {}  # own operations that are not final, and when they were last gossiped
        self._bad_operations = Seen(MAX_SEEN)
        self._certificates = Seen(MAX_SEEN)
        self._fetching: set[bytes] = set()
        self._certificate: tuple[float, Certificate] | None = None  # to be gossiped then, unless another does

    # What the rest of the node asks.

    @property
    def header(self) -> Header:
        """The last final header."""
        return self._agreement.final[0]

    @property
    def state(self) -> State:
        """The state after the last final block."""
        return self._agreement.final[1]

    def chain_time(self) -> int:
        """Chain time of the last final block in ms. The next block's is later, by at most the idle beat."""
        return self.header.chain_time

    async def submit(self, operation: SignedOperation) -> None:
        """Check an operation and send it on its way into a block. Submitting it once more is harmless.

        Raises:
            InvalidOperation: it cannot be included on the last final state; the text says why. An operation with a
                nonce may be ahead of its account's by others still to come.
        """
        try:
            self._mempool.check(operation)
            if not await self._runtime.run_sync(verify_all, [operation.claim(self.genesis.chain_id)]):
                raise InvalidSignature(f"not signed by {crypto.format_address(operation.signer)}")
            self._mempool.add(operation, trio.current_time())
        except AlreadyKnown:
            return
        except CodecError as error:
            raise InvalidOperation(str(error)) from error
        except InvalidOperation:
            if self._store.find_operation(operation.id) is None:
                raise
            return
        reason = self._mempool.get_reason(operation.id)
        if reason is not None and not isinstance(operation.operation, NoncedOperation):
            self._mempool.remove(operation.id)
            raise InvalidOperation(reason)
        self._own[operation.id] = trio.current_time()
        self._gossip["ops"].put(operation.encoded)
        # Gossip takes a moment; the leader may have it sooner. Does nothing unless this node is a validator.
        self._links.send(self._agreement.leader, FORWARDED + Batch((operation.encoded,)).encode())
        self._links.flush()
        self._nudge()

    async def wait_final(self, operation_id: bytes, timeout: float) -> tuple[int, str | None]:
        """Wait until an operation is final. Returns its height, and why it failed (its fee is paid) or None.

        Raises:
            trio.TooSlowError: it is not final after ``timeout`` seconds. It may become so later.
        """
        await trio.lowlevel.checkpoint()
        if self._store.find_operation(operation_id) is None:
            event = trio.Event()
            events = self._waiting.setdefault(operation_id, [])
            events.append(event)
            try:
                with trio.fail_after(timeout):
                    await event.wait()
            finally:
                events.remove(event)
                if not events:
                    self._waiting.pop(operation_id, None)
        location = self._store.find_operation(operation_id)
        assert location is not None
        height, index = location
        failures = self._store.failures(height)
        return height, failures[index] if failures else None

    def subscribe_final(self) -> trio.MemoryReceiveChannel[Final]:
        """Every block that becomes final from now on. A reader that falls far behind loses the oldest."""
        return self._final.subscribe()

    def status(self) -> Status:
        """Where this node stands."""
        simplex = self._agreement.simplex
        return Status(
            height=self.header.height,
            epoch=simplex.epoch,
            view=simplex.view,
            is_validator=self._me in simplex.validators,
            mempool_operations=len(self._mempool),
            mempool_bytes=self._mempool.size,
            peers=len(self._network.peers()),
            is_syncing=self._sync.is_behind,
            final_age=trio.current_time() - self.last_final_at,
        )

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled.

        Raises:
            StoreError: the disk failed; a validator must not go on voting.
        """
        self.last_final_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._links.run)
            self._streams.handle(PROTOCOL, self._server.handle, MAX_EXCHANGES)
            for name, take in (("ops", self._on_ops), ("blocks", self._on_blocks), ("certs", self._on_certs)):
                channel = self._network.subscribe(get_topic(self.genesis.chain_id, name))
                nursery.start_soon(self._listen, channel, take)
                nursery.start_soon(self._gossip[name].run)
            nursery.start_soon(self._tick)
            await self._agreement.start()
            nursery.start_soon(self._loop)
            nursery.start_soon(self._sync.run)
            task_status.started()

    # The loop.

    async def _loop(self) -> None:
        while True:
            event = None
            with trio.move_on_at(self._agreement.get_wakeup()):
                event = await self._receive.receive()
            if event is not None:
                method, arguments = event
                await method(*arguments)
            await self._agreement.on_clock()

    async def _post(self, method: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        await self._send.send((method, arguments))

    def _nudge(self) -> None:
        """Let the loop look at the mempool. If its inbox is full it is about to look anyway."""
        with suppress(trio.WouldBlock):
            self._send.send_nowait((trio.lowlevel.checkpoint, ()))

    async def _tick(self) -> None:
        """Once in a while: what waited too long, own operations that gossip may have lost, a certificate to share."""
        while True:
            await trio.sleep(TICK if self._own or self._certificate else IDLE_TICK)
            now = trio.current_time()
            self._mempool.expire(now)
            for operation_id, since in list(self._own.items()):
                operation = self._mempool.get(operation_id)
                if operation is None:
                    del self._own[operation_id]
                elif now - since >= REPEAT:
                    self._own[operation_id] = now
                    self._gossip["ops"].put(operation.encoded)
            if self._certificate is not None and now >= self._certificate[0]:
                self._gossip["certs"].put(self._certificate[1].encode())
                self._certificate = None

    # What agreement asks (see Outlet).

    def on_final(self, executed: list[Executed], certificate: Certificate) -> None:
        now = self.last_final_at = trio.current_time()
        for node in executed:
            for operation in node.block.body.operations:
                self._own.pop(operation.id, None)
                for event in self._waiting.get(operation.id, ()):
                    event.set()
            if node.block.header.proposer == self._me:
                self._gossip["blocks"].put(node.block.id + node.block.encoded)
            self._final.publish(Final(node.block, node.transition.failures))
        # The proposer shares the certificate at once, the others only if they hear of none for a while.
        if executed[-1].block.header.proposer == self._me:
            self._gossip["certs"].put(certificate.encode())
            self._certificate = None
        elif self._me in self._agreement.simplex.validators:
            due = now + 0.2 + 0.3 * self._runtime.random.random()
            if self._certificate is not None:
                due = min(due, self._certificate[0])
            self._certificate = (due, certificate)

    def fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        if self._nursery is not None and block_id not in self._fetching and len(self._fetching) < MAX_FETCHES:
            self._fetching.add(block_id)
            self._nursery.start_soon(self._fetch, block_id, peers)

    def hint(self) -> None:
        self._sync.hint()

    def forward_work(self, leader: bytes) -> None:
        operations = self._mempool.select(FORWARD_BYTES)
        if operations:
            self._links.send(leader, FORWARDED + Batch(tuple(o.encoded for o in operations)).encode())
            self._links.flush()

    async def _fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        try:
            await trio.sleep(HINT_DELAY / 3)  # it may be on its way
            block = self._agreement.find_block(block_id) or await self._sync.fetch_block(block_id, peers)
        finally:
            self._fetching.discard(block_id)
        if block is None:
            self._sync.hint()
        else:
            await self._post(self._agreement.on_block, block)

    # What others send.

    async def _on_segment(self, executed: list[Executed], certificate: Certificate) -> None:
        done = trio.Event()

        async def take() -> None:
            await self._agreement.on_segment(executed, certificate)
            done.set()

        await self._post(take)
        await done.wait()

    async def _on_link(self, peer: bytes, payload: bytes) -> None:
        if payload[:1] == FORWARDED:
            await self._take_operations(peer, payload[1:])
            return
        try:
            if payload[:1] == COMPACT:
                message: Message | None = await self._expand(peer, CompactPropose.decode(payload[1:]))
            else:
                message = decode_message(payload)
        except CodecError as error:
            logger.debug("malformed message", peer=crypto.format_address(peer), reason=str(error))
            return
        if message is not None:
            await self._post(self._agreement.on_message, message, len(payload))

    async def _expand(self, leader: bytes, compact: CompactPropose) -> Message | None:
        """Complete a compact proposal: from the mempool, else from its sender, else as a whole block."""
        known = {key: operation for key in compact.ids if (operation := self._mempool.get(key)) is not None}
        missing = [key for key in compact.ids if key not in known]
        if missing:
            known.update(await self._sync.fetch_operations(leader, missing))
        message = expand(compact, known)
        if message is not None:
            return message
        block = await self._sync.fetch_block(compact.proposal.block_id, (leader,))
        return None if block is None else Propose(compact.proposal, block)

    async def _listen(
        self, channel: trio.MemoryReceiveChannel[GossipMessage], take: Callable[[GossipMessage], Awaitable[None]]
    ) -> None:
        async for message in channel:
            if message.sender == self._me:
                continue
            try:
                await take(message)
            except LedgerError as error:
                logger.debug(
                    "gossip dropped", topic=message.topic, peer=crypto.format_address(message.sender), reason=str(error)
                )

    async def _on_ops(self, message: GossipMessage) -> None:
        await self._take_operations(message.sender, message.payload)

    async def _take_operations(self, peer: bytes, payload: bytes) -> None:
        """Admit the operations of a batch that are new, acceptable and signed."""
        name = crypto.format_address(peer)
        fresh: list[SignedOperation] = []
        try:
            for number, raw in enumerate(Batch.decode(payload).items, start=1):
                if number % BREATH == 0:
                    await trio.lowlevel.checkpoint()
                if raw not in self._bad_operations:
                    operation = SignedOperation.decode(raw)
                    try:
                        self._mempool.check(operation)
                        fresh.append(operation)
                    except AlreadyKnown:
                        continue
                    except InvalidOperation as error:
                        logger.debug("operation refused", peer=name, reason=str(error))
        except CodecError as error:  # no honest node passes such on, so the rest is not worth a look
            logger.debug("malformed batch", peer=name, reason=str(error))
        if not fresh:
            return
        verdicts = await self._runtime.run_sync(self._verify_each, fresh)
        for number, (operation, is_signed) in enumerate(zip(fresh, verdicts, strict=True), start=1):
            if number % BREATH == 0:
                await trio.lowlevel.checkpoint()
            try:
                if not is_signed:
                    self._bad_operations.add(operation.encoded)
                    raise InvalidSignature("the signature does not hold")
                self._mempool.add(operation, trio.current_time())
            except InvalidOperation as error:
                logger.debug("operation refused", peer=name, reason=str(error))
        self._nudge()

    def _verify_each(self, operations: list[SignedOperation]) -> list[bool]:
        return [verify_all([operation.claim(self.genesis.chain_id)]) for operation in operations]

    async def _on_blocks(self, message: GossipMessage) -> None:
        for item in Batch.decode(message.payload, MAX_RECORD).items:
            block_id, raw = item[:32], item[32:]
            if len(raw) > MAX_BLOCK or self._agreement.find_block(block_id) is not None:
                continue
            if self._store.height_of_block(block_id) is None:
                block = Block.decode(raw)
                if block.id == block_id:
                    await self._post(self._agreement.on_block, block)

    async def _on_certs(self, message: GossipMessage) -> None:
        for raw in Batch.decode(message.payload).items:
            if not self._certificates.add(raw):
                continue
            certificate = Certificate.decode(raw)
            if certificate.kind != VoteKind.FINALIZE:
                continue
            if self._store.height_of_block(certificate.block_id) is not None and not self._is_to_share(certificate):
                continue
            # Anybody may gossip, and what is believed here silences this node or makes it sync.
            validators = get_validators(self.genesis, certificate.epoch)
            await self._runtime.run_sync(certificate.verify, self.genesis.chain_id, validators)
            if self._is_to_share(certificate):
                self._certificate = None  # somebody was faster
            if self._store.height_of_block(certificate.block_id) is None:
                await self._post(self._agreement.on_message, certificate, len(raw))

    def _is_to_share(self, certificate: Certificate) -> bool:
        """Whether this node is about to gossip the finality of the same block."""
        return self._certificate is not None and certificate.block_id == self._certificate[1].block_id
