"""The trio side of agreement: one node's ledger, kept up to date and open to its own program.

Three sources feed one loop, which owns all state of agreement (:mod:`consensus.driver`): direct messages of the
committee (:mod:`consensus.network.committee_streams`), gossip (:mod:`consensus.network.gossip`) and block sync
(:mod:`consensus.sync.client`). What they bring is untrusted: decoding is bounded and strict, and whatever is wrong is
dropped with a debug line. Only a failing disk, or proof that agreement itself is broken, ends the engine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from chain import crypto
from chain.codec import MAX_RECORD_BYTES
from chain.crypto import verify_all
from chain.exceptions import CannotPay, CodecError, InvalidOperation, InvalidSignature, LedgerError
from chain.genesis import Genesis
from chain.light.client import Checkpoint, LightClientUpdate
from chain.state.state import State
from chain.store.writer import ChainStore
from chain.transition.fees import compute_fee
from chain.transition.registration import has_valid_proof_of_work
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Header
from chain.types.operations import NoncedOperation, SignedOperation, sign_operation
from chain.types.votes import Certificate, Vote, VoteKind
from consensus.block_tree import ExecutedBlock
from consensus.driver import Driver
from consensus.exceptions import InvalidMessage
from consensus.mempool.pool import AlreadyKnown, Mempool
from consensus.network.committee_streams import CommitteeStreams
from consensus.network.compact_blocks import COMPACT_KIND, CompactPropose, reconstruct
from consensus.network.fair_queue import FairQueue
from consensus.network.gossip import TOPIC_LIMITS, Batch, GossipPublisher, SeenCache, TopicRateLimiter, get_topic
from consensus.network.ingress import OperationIngress
from consensus.simplex.core import Timeouts
from consensus.simplex.messages import Message, Propose, decode_message
from consensus.sync.client import SYNC_DELAY_S, SyncClient
from consensus.sync.messages import SYNC_PROTOCOL
from consensus.sync.server import MAX_EXCHANGES, SyncServer
from consensus.voting.vote_store import VoteStore
from p2p.fanout import Fanout
from p2p.network import GossipMessage, Misbehaviour, Network
from p2p.rate_limit import Limiter, Rate
from p2p.runtime import Runtime
from p2p.streams.exchanges import Streams

logger = structlog.get_logger(__name__)

QUEUE_EVENTS = 64
QUEUE_BYTES = 1 << 20
"""Events of one source that may wait for the loop, and their bytes; whoever brings more waits too."""
SUBSCRIPTION_BLOCKS = 256
"""Final blocks that a subscriber may fall behind before it loses the oldest."""
FORWARDED_KIND = b"\x00"
"""First byte of a message that carries a batch of operations to a leader (others: consensus.simplex.messages)."""
FORWARD_BYTES = 64 * 1024
MEMBER_RATE = Rate(500, 4 << 20, 4.0)
"""Messages and bytes a second that are taken from one member's links; what is beyond waits there. Many times what an
honest one sends."""
MAX_FORWARDED_BATCHES = 64
"""Batches that members forwarded which may wait to be looked at; beyond, they are dropped: gossip brings them too."""
PERIOD_S, IDLE_PERIOD_S = 0.25, 1.0
REGOSSIP_S = 2.0
"""Seconds after which an own operation that is not final yet is gossiped again."""
MAX_FETCHES = 16
MAX_SEEN_CERTIFICATES = 65_536
DEFAULT_TIMEOUTS = Timeouts()

Event = tuple[Callable[..., Awaitable[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node chooses for itself. Seconds; ``checkpoint`` is a block that its owner trusts."""

    block_spacing: float = 0.25
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    gossip_delay: float = 0.1
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class FinalizedEvent:
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


class Engine:
    """Keeps one node's ledger. ``vote_store`` makes it a validator if its key is one of the committee's."""

    def __init__(
        self,
        genesis: Genesis,
        vote_store: VoteStore | None,
        network: Network,
        streams: Streams,
        runtime: Runtime,
        store: ChainStore,
        settings: Settings | None = None,
    ) -> None:
        self.genesis = genesis
        self.settings = settings or Settings()
        self.last_final_at = 0.0
        """Trio time at which a block last became final here (or the engine started)."""
        self._network = network
        self._runtime = runtime
        self._store = store
        self._vote_store = vote_store
        self._me = vote_store.key.public_key if vote_store is not None else b""
        self._mempool = Mempool(genesis, store.header, store.state)
        self._committee = CommitteeStreams(streams, self._on_committee_message)
        self._ingress = OperationIngress(
            genesis, self._mempool, runtime, lambda: self.state, self._wake,
            lambda sender: self._rate_limits["ops"].punish(sender, trio.current_time()),
        )  # fmt: skip
        self._driver = Driver(
            genesis, vote_store, store, self._mempool, self._committee, runtime, self,
            self.settings.timeouts, self.settings.block_spacing,
        )  # fmt: skip
        self._sync = SyncClient(
            genesis, streams, runtime, store, lambda: self._driver.head, self._on_block_range, self._on_snapshot,
            genesis.parameters.idle_beat / 1000, self.settings.checkpoint,
        )  # fmt: skip
        self._server = SyncServer(store, self._driver.find_block, self._mempool.get, runtime)
        self._streams = streams
        self._gossip = {
            name: GossipPublisher(network, get_topic(genesis.chain_id, name), self.settings.gossip_delay)
            for name in ("ops", "blocks", "certs")
        }
        self._committee_rates = Limiter(MEMBER_RATE)
        self._rate_limits = {
            name: TopicRateLimiter(limits, self._committee.is_member) for name, limits in TOPIC_LIMITS.items()
        }
        self._events: FairQueue[Event] = FairQueue(QUEUE_EVENTS, QUEUE_BYTES)
        self._forwarded, self._forwards = trio.open_memory_channel[GossipMessage](MAX_FORWARDED_BATCHES)
        self._nursery: trio.Nursery | None = None
        self._final: Fanout[FinalizedEvent] = Fanout(SUBSCRIPTION_BLOCKS)
        self._conflicts: Fanout[tuple[Vote, Vote]] = Fanout(SUBSCRIPTION_BLOCKS)
        self._waiting: dict[bytes, list[trio.Event]] = {}
        self._own: dict[bytes, float] = {}  # own operations that are not final, and when they were last gossiped
        self._certificates = SeenCache(MAX_SEEN_CERTIFICATES)
        self._fetching: set[bytes] = set()
        self._completing: set[tuple[int, int]] = set()  # epoch and view of compact proposals, one at a time of each
        self._certificate: tuple[float, Certificate] | None = None  # to be gossiped then, unless another does

    # What the rest of the node asks.

    @property
    def header(self) -> Header:
        """The last final header."""
        return self._driver.head[0]

    @property
    def state(self) -> State:
        """The state after the last final block."""
        return self._driver.head[1]

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
            if not self._mempool.is_verified(operation):
                if not await self._runtime.run_sync(verify_all, [operation.signature_check(self.genesis.chain_id)]):
                    raise InvalidSignature(f"not signed by {crypto.format_address(operation.signer)}")
                await self._runtime.run_sync(
                    has_valid_proof_of_work, self.genesis, self.state, operation
                )  # slow the first time
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
        self._committee.send(self._driver.leader, FORWARDED_KIND + Batch((operation.encoded,)).encode(), is_hint=True)
        self._committee.flush()
        self._wake()

    def is_overdue(self, operation_id: bytes, patience: float) -> bool:
        """Whether an operation could go into a block, but none has become final here for ``patience`` seconds."""
        return trio.current_time() - self.last_final_at > patience and self._mempool.is_ready(operation_id)

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

    def is_pending(self, operation_id: bytes) -> bool:
        """Whether an operation waits here for a block."""
        return operation_id in self._mempool

    def is_final(self, operation_id: bytes) -> bool:
        """Whether an operation is in a final block here."""
        return self._store.find_operation(operation_id) is not None

    def subscribe_final(self) -> trio.MemoryReceiveChannel[FinalizedEvent]:
        """Every block that becomes final from now on. A reader that falls far behind loses the oldest."""
        return self._final.subscribe()

    def subscribe_conflicts(self) -> trio.MemoryReceiveChannel[tuple[Vote, Vote]]:
        """Every pair of votes that no honest validator signs both, as they are found."""
        return self._conflicts.subscribe()

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The end of the last epoch: what somebody who trusts this node may give a new one; None in the first epoch."""
        height = self.header.height - self.header.height % self.genesis.parameters.epoch_heights
        header = self._store.find_header(height) if height else None
        return None if header is None else Checkpoint(height, header.id)

    @property
    def epoch(self) -> int:
        """The epoch of the block that comes next."""
        return self._driver.epoch.number

    @property
    def is_behind(self) -> bool:
        """Whether a peer claims a later final block than this node's."""
        return self._sync.is_behind

    def status(self) -> Status:
        """Where this node stands."""
        simplex = self._driver.simplex
        return Status(
            height=self.header.height,
            epoch=simplex.epoch,
            view=simplex.view,
            is_validator=self._me in simplex.validators,
            mempool_operations=len(self._mempool),
            mempool_bytes=self._mempool.size,
            peers=len(self._network.peers()),
            is_syncing=self.is_behind,
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
            await nursery.start(self._committee.run)
            self._streams.handle(SYNC_PROTOCOL, self._server.handle, MAX_EXCHANGES)
            for name, take in (("ops", self._on_ops), ("blocks", self._on_blocks), ("certs", self._on_certs)):
                channel = self._network.subscribe(get_topic(self.genesis.chain_id, name))
                nursery.start_soon(self._listen, channel, take, self._rate_limits[name])
                nursery.start_soon(self._gossip[name].run)
            nursery.start_soon(self._listen, self._forwards, self._on_ops, None)
            nursery.start_soon(self._ingress.run)
            nursery.start_soon(self._run_periodic)
            await self._driver.start()
            nursery.start_soon(self._loop)
            nursery.start_soon(self._sync.run)
            if self._vote_store is not None:
                nursery.start_soon(self._unlock_voting, self._vote_store)
            task_status.started()

    # The loop.

    async def _loop(self) -> None:
        while True:
            event = None
            with trio.move_on_at(self._driver.get_wakeup()):
                event = await self._events.get()
            if event is not None:
                method, arguments = event
                await method(*arguments)
            await self._driver.on_clock()

    async def _post(self, source: bytes, method: Callable[..., Awaitable[Any]], *arguments: Any, size: int = 0) -> None:
        """Let the loop call ``method``. Sources take turns; only this one waits if it has brought too much."""
        await self._events.put(source, (method, arguments), size)

    def _wake(self) -> None:
        """Let the loop look at the mempool. If its inbox is full it is about to look anyway."""
        self._events.put_nowait(b"wake", (trio.lowlevel.checkpoint, ()))

    async def _run_periodic(self) -> None:
        """Once in a while: what waited too long, own operations that gossip may have lost, a certificate to share."""
        while True:
            await trio.sleep(PERIOD_S if self._own or self._certificate else IDLE_PERIOD_S)
            now = trio.current_time()
            self._mempool.expire(now)
            for operation_id, since in list(self._own.items()):
                operation = self._mempool.get(operation_id)
                if operation is None:
                    del self._own[operation_id]
                elif now - since >= REGOSSIP_S:
                    self._own[operation_id] = now
                    self._gossip["ops"].put(operation.encoded)
            if self._certificate is not None and now >= self._certificate[0]:
                self._gossip["certs"].put(self._certificate[1].encode())
                self._certificate = None

    async def _unlock_voting(self, vote_store: VoteStore) -> None:
        """Have an operation become final without which this validator may not vote: see
        :mod:`consensus.voting.lockout`."""
        pending, complaint = b"", ""
        while vote_store.lockout.is_locked:
            if self.state.validator_record(self._me) is not None and pending not in self._mempool:
                operation = vote_store.lockout.make_unlock_operation(self.state.account(self._me).nonce)
                signed = sign_operation(vote_store.key, self.genesis.chain_id, operation)
                try:
                    await self.submit(signed)
                    pending = signed.id
                except InvalidOperation as error:  # most likely the nonce: this node may be behind, or be paying
                    if str(error) != complaint:
                        complaint = str(error)
                        if isinstance(error, CannotPay):  # whoever bonded everything waits for ever
                            advice = "send this account enough to pay the fee, or it never votes again"
                        else:
                            advice = "nothing: it asks again"
                        logger.warning(
                            "cannot yet ask for the operation that ends the wait",
                            reason=complaint, account=crypto.format_address(self._me), to_do=advice,
                            fee=compute_fee(self.genesis, signed),
                        )  # fmt: skip
            await trio.sleep(REGOSSIP_S)

    # What agreement asks (see Environment).

    def on_final(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        now = self.last_final_at = trio.current_time()
        for node in executed:
            for operation in node.block.body.operations:
                self._own.pop(operation.id, None)
                for event in self._waiting.get(operation.id, ()):
                    event.set()
            if node.block.header.proposer == self._me:
                self._gossip["blocks"].put(node.block.id + node.block.encoded)
            self._final.publish(FinalizedEvent(node.block, node.transition.failures))
        # The proposer shares the certificate at once, the others only if they hear of none for a while.
        if executed[-1].block.header.proposer == self._me:
            self._gossip["certs"].put(certificate.encode())
            self._certificate = None
        elif self._me in self._driver.simplex.validators:
            due = now + 0.2 + 0.3 * self._runtime.random.random()
            if self._certificate is not None:
                due = min(due, self._certificate[0])
            self._certificate = (due, certificate)

    def fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        if self._nursery is not None and block_id not in self._fetching and len(self._fetching) < MAX_FETCHES:
            self._fetching.add(block_id)
            self._nursery.start_soon(self._fetch, block_id, peers)

    def complete(self, message: CompactPropose) -> None:
        place = message.epoch, message.proposal.view
        if self._nursery is not None and place not in self._completing:
            self._completing.add(place)
            self._nursery.start_soon(self._complete, message)

    def request_sync(self) -> None:
        self._sync.request_sync()

    def on_conflict(self, first: Vote, second: Vote) -> None:
        self._conflicts.publish((first, second))

    def forward_work(self, leader: bytes) -> None:
        operations = self._mempool.select(FORWARD_BYTES)
        if operations:
            self._committee.send(
                leader, FORWARDED_KIND + Batch(tuple(o.encoded for o in operations)).encode(), is_hint=True
            )
            self._committee.flush()

    async def _fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        try:
            await trio.sleep(SYNC_DELAY_S / 3)  # it may be on its way
            block = self._driver.find_block(block_id) or await self._sync.fetch_block(block_id, peers)
        finally:
            self._fetching.discard(block_id)
        if block is None:
            self._sync.request_sync()
        else:
            await self._post(b"fetch", self._driver.on_fetched, block, size=len(block.encoded))

    # What others send.

    async def _on_block_range(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        await self._post_and_wait(self._driver.on_block_range, executed, certificate)

    async def _on_snapshot(self, ends: Sequence[LightClientUpdate], state: State) -> None:
        await self._post_and_wait(self._driver.on_snapshot, ends, state)
        self.last_final_at = trio.current_time()

    async def _post_and_wait(self, method: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        done = trio.Event()

        async def take() -> None:
            await method(*arguments)
            done.set()

        await self._post(b"sync", take)
        await done.wait()

    async def _on_committee_message(self, peer: bytes, payload: bytes) -> None:
        if payload[:1] == FORWARDED_KIND:  # looked at elsewhere: votes do not wait for it
            if self._rate_limits["ops"].admit(peer, peer, len(payload), trio.current_time()):
                with suppress(trio.WouldBlock):
                    self._forwarded.send_nowait(GossipMessage("forwarded", peer, payload[1:]))
            return
        while not self._committee_rates.admit(peer, len(payload), trio.current_time()):
            await trio.sleep(PERIOD_S)
        try:
            is_compact = payload[:1] == COMPACT_KIND
            message = CompactPropose.decode(payload[1:]) if is_compact else decode_message(payload)
        except CodecError as error:
            logger.debug("malformed message", peer=crypto.format_address(peer), reason=str(error))
            self._network.report_misbehaviour(peer, Misbehaviour.GARBAGE)
            return
        if isinstance(message, CompactPropose) and message.proposal.leader != peer:
            return  # the ids are not signed, so that only the leader itself may say them
        await self._post(peer, self._take_message, peer, message, len(payload), size=len(payload))

    async def _take_message(self, peer: bytes, message: Message | CompactPropose, size: int) -> None:
        refused = await self._driver.on_message(message, size)
        if refused is not None:
            logger.debug("message refused", peer=crypto.format_address(peer), reason=refused.reason)
            if refused.is_forged:
                self._network.report_misbehaviour(peer, Misbehaviour.FORGERY)

    async def _complete(self, compact: CompactPropose) -> None:
        """Complete a compact proposal: from the mempool, else from its leader, else as a whole block."""
        leader, place = compact.proposal.leader, (compact.epoch, compact.proposal.view)
        try:
            known = {key: operation for key in compact.ids if (operation := self._mempool.get(key)) is not None}
            missing = [key for key in compact.ids if key not in known]
            if missing:
                known.update(await self._sync.fetch_operations(leader, missing))
            message = reconstruct(compact, known)
            if message is None:
                block = await self._sync.fetch_block(compact.proposal.block_id, (leader,))
                message = None if block is None else Propose(compact.proposal, block)
        except InvalidMessage as error:
            logger.debug("message refused", peer=crypto.format_address(leader), reason=str(error))
            return
        finally:
            self._completing.discard(place)
        if message is not None:
            size = len(message.block.encoded)
            await self._post(leader, self._driver.on_message, message, size, size=size)

    async def _listen(
        self,
        channel: trio.MemoryReceiveChannel[GossipMessage],
        take: Callable[[GossipMessage], Awaitable[None]],
        gate: TopicRateLimiter | None,
    ) -> None:
        async for message in channel:
            sender, now = message.sender, trio.current_time()
            if sender == self._me or (gate and not gate.admit(sender, message.neighbour, len(message.payload), now)):
                continue
            try:
                await take(message)
            except LedgerError as error:  # no honest node sends such
                (gate or self._rate_limits["ops"]).punish(sender, trio.current_time())
                logger.debug(
                    "gossip dropped", topic=message.topic, peer=crypto.format_address(message.sender), reason=str(error)
                )

    async def _on_ops(self, message: GossipMessage) -> None:
        await self._ingress.take(message.sender, message.neighbour, message.payload)

    async def _on_blocks(self, message: GossipMessage) -> None:
        for item in Batch.decode(message.payload, MAX_RECORD_BYTES).items:
            block_id, raw = item[:32], item[32:]
            if len(raw) > MAX_BLOCK_BYTES or self._driver.find_block(block_id) is not None:
                continue
            if self._store.height_of_block(block_id) is None:
                block = Block.decode(raw)
                if block.id == block_id:
                    await self._post(b"blocks", self._driver.on_block, block, size=len(raw))

    async def _on_certs(self, message: GossipMessage) -> None:
        for raw in Batch.decode(message.payload).items:
            if not self._certificates.add(raw):
                continue
            certificate = Certificate.decode(raw)
            if certificate.kind != VoteKind.FINALIZE:
                continue
            is_known = self._store.height_of_block(certificate.block_id) is not None
            # Anybody may gossip, and what is believed here silences this node or makes it sync.
            validators = self._driver.epoch.find_validators(certificate.epoch)
            if validators is None:  # of an epoch far ahead, if of any: sync will tell
                if not is_known:
                    self._sync.request_sync()
                continue
            # Of a block that is final already it may still show who contradicted itself.
            is_of_use = not is_known or self._driver.has_new_votes(certificate, validators)
            if not is_of_use and not self._is_to_share(certificate):
                continue
            await self._runtime.run_sync(certificate.verify, self.genesis.chain_id, validators)
            if self._is_to_share(certificate):
                self._certificate = None  # somebody was faster
            if is_of_use:
                await self._post(b"certs", self._driver.on_message, certificate, len(raw), size=len(raw))

    def _is_to_share(self, certificate: Certificate) -> bool:
        """Whether this node is about to gossip the finality of the same block."""
        return self._certificate is not None and certificate.block_id == self._certificate[1].block_id
