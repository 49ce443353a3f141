"""One node's ledger: the parts of consensus put together, and what the rest of the node asks of them.

Three sources feed one event loop, which owns all state of agreement (:mod:`consensus.driver`): messages of the
committee and gossip (:mod:`consensus.receiver`), and block sync (:mod:`consensus.sync.client`). Only a failing disk, or
proof that agreement itself is broken, ends the engine.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from chain import crypto
from chain.exceptions import CodecError, InvalidOperation, InvalidSignature
from chain.genesis import Genesis
from chain.light.client import Checkpoint, LightClientUpdate
from chain.state.state import State
from chain.store.writer import ChainStore
from chain.transition.checks.events import CheckEvent
from chain.transition.duels.events import DuelEvent
from chain.transition.validators.jailing import Standing, get_standing
from chain.transition.validators.registration import has_valid_proof_of_work
from chain.types.blocks import Block, Header
from chain.types.operations import NoncedOperation, Register, SignedOperation
from chain.types.votes import Certificate, Vote
from consensus.agreement_times import AgreementTimes
from consensus.alarm import Alarm
from consensus.block_tree import ExecutedBlock
from consensus.driver.driver import Driver
from consensus.mempool.pool import AlreadyKnown, Mempool
from consensus.network.committee_streams import CommitteeStreams
from consensus.network.compact_blocks import CompactPropose
from consensus.network.fair_queue import FairQueue
from consensus.network.forwarding import MAX_FORWARD_BYTES, Forwarder
from consensus.network.gossip import OPERATIONS_INTERVAL_S, GossipPublisher, get_topic
from consensus.network.ingress import OperationIngress
from consensus.pace import Pace
from consensus.rebroadcast import Rebroadcaster
from consensus.receiver import Receiver
from consensus.simplex.view_timer import Timeouts
from consensus.stall import compute_stall
from consensus.sync.client import SYNC_DELAY_S, SyncClient
from consensus.sync.messages import SYNC_PROTOCOL
from consensus.sync.server import MAX_SYNC_EXCHANGES, SyncServer
from consensus.unlock import unlock_voting
from consensus.verifier import SignatureVerifier
from consensus.voting.lockout import VotingRights
from consensus.voting.vote_store import VoteStore
from p2p.fanout import Fanout
from p2p.network import Network
from p2p.runtime import Runtime
from p2p.streams.exchanges import Streams

logger = structlog.get_logger(__name__)

QUEUE_EVENTS = 64
"""Events of one source that may wait for the loop; beyond, the source waits."""
QUEUE_BYTES = 1 << 20
"""Bytes of one source's events that may wait for the loop; beyond, the source waits."""
SUBSCRIPTION_BLOCKS = 256
"""Final blocks that a subscriber may fall behind before it loses the oldest."""
MAX_FETCHES = 16
"""Blocks that agreement needs, fetched at the same time."""
DEFAULT_TIMEOUTS = Timeouts()
"""Timeouts of a view unless the configuration has others."""

Event = tuple[Callable[..., Awaitable[Any]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node chooses for itself. Seconds; ``checkpoint`` is a block that its owner trusts."""

    block_spacing_s: float = 0.25
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    gossip_delay_s: float = 0.1
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class FinalizedEvent:
    """A block that became final; ``failures`` has, per operation, why it failed (its fee is paid) or None.

    ``duel_events`` and ``check_events`` are what it did about duels and about checks of the model.
    """

    block: Block
    failures: tuple[str | None, ...]
    duel_events: tuple[DuelEvent, ...] = ()
    check_events: tuple[CheckEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """Where a node stands. ``final_age`` is seconds since the last block became final here.

    ``standing`` is that of a validator in its present span, None for any other node.
    """

    height: int
    epoch: int
    view: int
    is_validator: bool
    mempool_operations: int
    mempool_bytes: int
    peers: int
    is_syncing: bool
    final_age: float
    standing: Standing | None


class Engine:
    """Keeps one node's ledger. ``vote_store`` makes it a validator if its key is one of the committee's.

    ``find_addresses`` returns the addresses of a member of the committee that is not connected.
    """

    def __init__(
        self,
        genesis: Genesis,
        vote_store: VoteStore | None,
        network: Network,
        streams: Streams,
        runtime: Runtime,
        store: ChainStore,
        settings: Settings | None = None,
        find_addresses: Callable[[bytes], Sequence[str]] = lambda peer: (),
    ) -> None:
        self.genesis = genesis
        self.settings = settings or Settings()
        self.last_final_at = math.inf
        """Trio time at which a block last became final here (or the engine started; infinite before that)."""
        self._started_at = 0.0
        self._network = network
        self._runtime = runtime
        self._store = store
        self._vote_store = vote_store
        self._me = vote_store.key.public_key if vote_store is not None else b""
        self.pace = Pace(store.header, self._me)
        """The pace of the blocks that became final here."""
        self._mempool = Mempool(genesis, store.header, store.state)
        self._committee = CommitteeStreams(
            streams, lambda peer, raw: self._receiver.on_committee_message(peer, raw), find_addresses
        )
        verifier = SignatureVerifier(runtime)
        self._ingress = OperationIngress(
            genesis, self._mempool, runtime, lambda: self.state, self._wake,
            lambda sender: self._receiver.punish(sender), verifier,
        )  # fmt: skip
        self._driver = Driver(
            genesis, vote_store, store, self._mempool, self._committee, runtime, self,
            self.settings.timeouts, self.settings.block_spacing_s, verifier,
        )  # fmt: skip
        self._sync = SyncClient(
            genesis, streams, runtime, store, lambda: self._driver.head, self._on_block_range, self._on_snapshot,
            genesis.parameters.idle_beat_ms / 1000, self.settings.checkpoint, verifier, self._mempool.is_verified,
        )  # fmt: skip
        self._server = SyncServer(store, self._driver.find_block, self._mempool.get, runtime)
        self._streams = streams
        self._gossip = {
            name: GossipPublisher(network, get_topic(genesis.chain_id, name), self.settings.gossip_delay_s, interval)
            for name, interval in (("ops", OPERATIONS_INTERVAL_S), ("blocks", 0.0), ("certs", 0.0))
        }
        self._forwarder = Forwarder(self._committee, lambda: self._driver.leader)
        self._rebroadcaster = Rebroadcaster(self._me, self._mempool, self._gossip, runtime)
        self._receiver = Receiver(
            genesis.chain_id, self._me, network, store, self._mempool, self._ingress, self._driver, self._sync,
            self._rebroadcaster, self._committee.is_member, self._post,
        )  # fmt: skip
        self._events: FairQueue[Event] = FairQueue(QUEUE_EVENTS, QUEUE_BYTES)
        self._alarm = Alarm(self._wake)
        self._nursery: trio.Nursery | None = None
        self._final: Fanout[FinalizedEvent] = Fanout(SUBSCRIPTION_BLOCKS)
        self._conflicts: Fanout[tuple[Vote, Vote]] = Fanout(SUBSCRIPTION_BLOCKS)
        self._waiting: dict[bytes, list[trio.Event]] = {}
        self._fetching: set[bytes] = set()

    # What the rest of the node asks.

    @property
    def header(self) -> Header:
        """The last final header."""
        return self._driver.head[0]

    @property
    def state(self) -> State:
        """The state after the last final block."""
        return self._driver.head[1]

    @property
    def chain(self) -> ChainStore:
        """The final chain on disk; others only read it, through its views."""
        return self._store

    @property
    def uptime(self) -> float:
        """Seconds since it was started."""
        return trio.current_time() - self._started_at

    def chain_time(self) -> int:
        """Chain time of the last final block in ms. The next block's is later, by at most the idle beat."""
        return self.header.chain_time

    def trust(self, operation: SignedOperation) -> None:
        """Count the signature of an operation as checked: this node has just made it."""
        self._mempool.note_verified([operation])

    async def submit(self, operation: SignedOperation) -> None:
        """Check an operation and send it on its way into a block. Submitting it once more is harmless.

        Raises:
            InvalidOperation: it cannot be included on the last final state; the text says why. An operation may have a
                nonce above the next one of its account: others may still come.
        """
        try:
            self._mempool.check(operation)
            await trio.lowlevel.checkpoint()
            if not await self._ingress.is_signed(operation):
                raise InvalidSignature(f"not signed by {crypto.format_address(operation.signer)}")
            is_proven: bool | None = None
            if isinstance(operation.operation, Register):  # slow: some 20 ms
                is_proven = await self._runtime.run_sync(has_valid_proof_of_work, self.genesis, self.state, operation)
                if is_proven is False:
                    raise InvalidOperation("the proof of work does not hold")
            self._mempool.add(operation, trio.current_time(), is_proven=is_proven is True)
        except AlreadyKnown:
            # Its sender may have sent it to this node alone.
            if operation.id in self._mempool:
                self._rebroadcaster.add(operation, is_shared=True)
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
        is_shared = self._shares_itself(operation.signer)
        self._rebroadcaster.add(operation, is_shared=is_shared)
        if not is_shared:
            self._forwarder.put(operation.encoded)
        self._wake()

    def _shares_itself(self, signer: bytes) -> bool:
        """Whether the node of an account is connected, and forwards its operations itself as this node would."""
        return self._committee.is_member(signer) and signer in self._network.peers()

    @property
    def silence(self) -> float:
        """Seconds since a block last became final here (or the engine started)."""
        return max(0.0, trio.current_time() - self.last_final_at)

    @property
    def is_stalled(self) -> bool:
        """Whether no block has become final here for so long that none is expected soon: then nothing is paid."""
        return self.silence > compute_stall(self.genesis.parameters.idle_beat_ms / 1000)

    def is_overdue(self, operation_id: bytes, patience: float) -> bool:
        """Whether an operation could go into a block, but none has become final here for ``patience`` seconds."""
        return self.silence > patience and self._mempool.is_ready(operation_id)

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
        """The end of the last epoch: a checkpoint for a new node whose owner trusts this one; None in the first
        epoch."""
        height = self.header.height - self.header.height % self.genesis.parameters.epoch_heights
        header = self._store.find_header(height) if height else None
        return None if header is None else Checkpoint(height, header.id)

    @property
    def agreement_times(self) -> AgreementTimes:
        """How long views and quorums take here."""
        return self._driver.times

    @property
    def epoch(self) -> int:
        """The epoch of the block that comes next."""
        return self._driver.epoch.number

    @property
    def voting_rights(self) -> VotingRights | None:
        """In which epochs this node may vote, if it is a validator; None if it keeps no votes."""
        return None if self._vote_store is None else self._vote_store.lockout.rights

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
            final_age=self.silence,
            standing=get_standing(self.state, self._me),
        )

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled.

        Raises:
            StoreError: the disk failed; a validator must not go on voting.
        """
        self._started_at = trio.current_time()
        self.last_final_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._committee.run)
            self._streams.handle(SYNC_PROTOCOL, self._server.handle, MAX_SYNC_EXCHANGES)
            topics = {name: get_topic(self.genesis.chain_id, name) for name in self._gossip}
            channels = {name: self._network.subscribe(topic) for name, topic in topics.items()}
            nursery.start_soon(self._receiver.run, channels)
            for publisher in self._gossip.values():
                nursery.start_soon(publisher.run)
            nursery.start_soon(self._ingress.run)
            nursery.start_soon(self._forwarder.run)
            nursery.start_soon(self._rebroadcaster.run)
            await self._driver.start()
            nursery.start_soon(self._alarm.run)
            nursery.start_soon(self._loop)
            nursery.start_soon(self._sync.run)
            self._ask_for_votes()
            task_status.started()

    # The loop.

    async def _loop(self) -> None:
        while True:
            self._alarm.set(self._driver.get_wakeup())
            method, arguments = await self._events.get()
            await method(*arguments)
            await self._driver.on_clock()

    async def _post(self, source: bytes, method: Callable[..., Awaitable[Any]], *arguments: Any, size: int = 0) -> None:
        """Let the loop call ``method``. Sources take turns; if this one has queued too much, only its own call
        waits."""
        await self._events.put(source, (method, arguments), size)

    def _wake(self) -> None:
        """Let the loop look at the mempool and the clock. If its inbox is full, it does so soon anyway."""
        self._events.put_nowait(b"wake", (_do_nothing, ()))

    # What agreement asks (see Environment).

    def on_final(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        self.last_final_at = trio.current_time()
        for node in executed:
            self.pace.note(node.block, self._driver.epoch)
            for operation in node.block.body.operations:
                for event in self._waiting.get(operation.id, ()):
                    event.set()
            transition = node.transition
            duels, checks = transition.duel_events, transition.check_events
            self._final.publish(FinalizedEvent(node.block, transition.failures, duels, checks))
        self._rebroadcaster.on_final(executed, certificate, self._me in self._driver.simplex.validators)

    def fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        if self._nursery is not None and block_id not in self._fetching and len(self._fetching) < MAX_FETCHES:
            self._fetching.add(block_id)
            self._nursery.start_soon(self._fetch, block_id, peers)

    def complete(self, message: CompactPropose) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._receiver.complete, message)

    def request_sync(self) -> None:
        self._sync.request_sync()

    def on_conflict(self, first: Vote, second: Vote) -> None:
        self._conflicts.publish((first, second))

    def forward_work(self, leader: bytes) -> None:
        operations = self._mempool.select(MAX_FORWARD_BYTES)
        if operations:
            self._forwarder.send(leader, [operation.encoded for operation in operations])

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

    # What sync brings.

    async def _on_block_range(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        await self._post_and_wait(self._driver.on_block_range, executed, certificate)

    async def _on_snapshot(self, ends: Sequence[LightClientUpdate], state: State) -> None:
        was_locked = self._vote_store is not None and self._vote_store.lockout.is_locked
        await self._post_and_wait(self._driver.on_snapshot, ends, state)
        if not was_locked:
            self._ask_for_votes()
        self.last_final_at = trio.current_time()
        self.pace.go_on_from(self.header)

    def _ask_for_votes(self) -> None:
        """If this validator must wait before it votes, ask for the operation that ends the wait."""
        if self._vote_store is not None and self._vote_store.lockout.is_locked and self._nursery is not None:
            self._nursery.start_soon(
                unlock_voting, self.genesis, self._vote_store, self._mempool, lambda: self.state, self.submit
            )

    async def _post_and_wait(self, method: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        done = trio.Event()

        async def take() -> None:
            await method(*arguments)
            done.set()

        await self._post(b"sync", take)
        await done.wait()


async def _do_nothing() -> None:
    """An event that only wakes the loop."""
