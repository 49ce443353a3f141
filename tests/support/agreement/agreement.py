"""Validators that agree in simulated time: an event queue, a network that loses and delays, nodes that crash.

One seed gives one run. The nodes run the real core and the real journal; the ledger is a chain of empty blocks. What a
node's engine does here is the smallest that the core's effects ask for.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from chain import crypto
from chain.crypto import KeyPair, hash_bytes
from chain.types.blocks import Block
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote
from consensus.simplex.core import Simplex
from consensus.simplex.equivocation import EquivocationDetector
from consensus.simplex.messages import (
    Broadcast,
    Build,
    Commit,
    Conflict,
    Effect,
    ExecuteBlock,
    Fetch,
    Message,
    PersistVote,
    Reject,
    Send,
    SetTimer,
    StopTimer,
    UpdateFinality,
)
from consensus.simplex.validation import FinalizedBlock, is_authentic
from consensus.simplex.view_timer import Timeouts
from consensus.sync.client import ASKED_PEERS
from consensus.sync.messages import SYNC_FRAME_TIMEOUT_S
from consensus.sync.peers import AVOID_LIAR_S, AVOID_SILENT_S
from consensus.voting.journal import Journal
from tests.support.agreement.agreement_ledger import Disk, FakeLedger
from tests.support.agreement.checkers import AgreementChecker, VoteChecker

SPACING = 0.1
"""Seconds a leader waits before it builds."""

MAX_SYNCED = 64
"""Blocks in one answer to a node that syncs."""

MAX_HELD = 64
"""Messages of the next epoch that a node holds back."""


@dataclass
class Network:
    """Decides the fate of each message by sender, receiver and time; change its fields while it runs."""

    delay: tuple[float, float] = (0.005, 0.05)
    loss: float = 0.0
    duplication: float = 0.0
    groups: Sequence[Iterable[int]] = ()
    """Who can talk to whom while there are groups; a node may be in several or in none."""
    passes: Callable[[int, int, Message], bool] = lambda sender, receiver, message: True
    """Whether a message of agreement may pass; the engine's own (blocks fetched, sync) always may."""

    def route(self, rng: random.Random, sender: int, receiver: int) -> list[float]:
        """Delays of the copies that arrive."""
        if self.groups and not any(sender in group and receiver in group for group in self.groups):
            return []
        copies = 0 if rng.random() < self.loss else 1 + (rng.random() < self.duplication)
        return [rng.uniform(*self.delay) for _ in range(copies)]


class Crash(Exception):
    """The node died in the middle of what it was doing."""


class Runaway(AssertionError):
    """There is no end to what happens."""


class Simulation:
    """Nodes, time and the network between them.

    Args:
        keys: one node for each; a key may stand twice (Twins).
        committee: the validators of each epoch.
        honest: positions of the nodes that the checkers watch; all by default.
        make: makes a node's core, so that a test can put another in its place.
    """

    max_events = 300_000
    """What happens in one simulation at most; one that needs more goes round in circles."""

    def __init__(
        self,
        seed: int,
        keys: Sequence[KeyPair],
        committee: Callable[[int], ValidatorSet],
        *,
        epoch_heights: int = 1000,
        honest: Iterable[int] | None = None,
        network: Network | None = None,
        cores: dict[int, type[Simplex]] | None = None,
    ) -> None:
        self.seed, self.rng = seed, random.Random(seed)
        self.ledger = FakeLedger(seed, committee, epoch_heights)
        self.network = network or Network()
        self.now = 0.0
        self.target = 1 << 60
        self.crash_rate = 0.0
        self.judge: Callable[[Block], bool] = lambda block: True
        self.agreement, self.votes = AgreementChecker(), VoteChecker()
        self.conflicts: list[Conflict] = []
        self.rejects: list[str] = []
        self.lies = 0
        """Fetched blocks that were not what was asked for."""
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._done = 0
        self._verified: dict[crypto.SignatureCheck, bool] = {}
        watched = set(range(len(keys)) if honest is None else honest)
        self.nodes = [
            Node(self, number, key, number in watched, (cores or {}).get(number, Simplex))
            for number, key in enumerate(keys)
        ]

    @property
    def violations(self) -> list[str]:
        return self.agreement.violations + self.votes.violations

    @property
    def heights(self) -> list[int]:
        """Final height of each node."""
        return [node.disk.final.height for node in self.nodes]

    def is_done(self) -> bool:
        """Whether every watched node has reached the target."""
        return all(node.disk.final.height >= self.target for node in self.nodes if node.watched)

    def compute_trace_hash(self) -> str:
        """Commitment to every final block of every node, with the certificates they were committed by."""
        parts = [node.disk.finals[height].encode() for node in self.nodes for height in sorted(node.disk.finals)]
        return hash_bytes("trace", str(self._count).encode(), *parts).hex()

    def verify(self, claims: Iterable[crypto.SignatureCheck]) -> bool:
        """Real verification, once for each signature in the whole simulation."""
        for claim in claims:
            if claim not in self._verified:
                self._verified[claim] = crypto.verify_all([claim])
            if not self._verified[claim]:
                return False
        return True

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, action))

    def transmit(self, sender: int, receiver: int, deliver: Callable[[], None]) -> None:
        for delay in self.network.route(self.rng, sender, receiver):
            self.at(delay, deliver)

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Run for simulated ``seconds`` or until a condition holds; returns whether it does.

        Raises:
            Runaway: after more than ``max_events``.
        """
        end = self.now + seconds
        while self._events and self._events[0][0] <= end and not until():
            self._done += 1
            if self._done > self.max_events:
                raise Runaway(f"seed {self.seed}: {self._done} events in {self.now:.1f} s, heights {self.heights}")
            self.now, _, action = heapq.heappop(self._events)
            action()
        if not until():
            self.now = max(self.now, end)
        return until()


@dataclass
class _Pending:
    """A finalization whose branch is being synced, newest block first."""

    certificate: Certificate
    branch: list[Block] = field(default_factory=list)


class Node:
    """One validator: a core, a disk, and the least engine between them and the network."""

    def __init__(self, simulation: Simulation, number: int, key: KeyPair, watched: bool, core: type[Simplex]) -> None:
        self.simulation, self.number, self.key, self.watched = simulation, number, key, watched
        self.name = f"node {number}"
        self.disk = Disk(simulation.ledger.genesis)
        self.make = core
        self.core: Simplex | None = None
        self._life = 0  # orders of an earlier life lapse

    @property
    def is_up(self) -> bool:
        return self.core is not None

    def start(self) -> None:
        """Begin, or begin again, with what the disk holds."""
        self._life += 1
        self._timer = 0
        self._building: Build | None = None
        self._pending: list[_Pending] = []
        self._held: list[tuple[int, Message]] = []
        self._asked_at = -1.0
        self._finished: dict[int, Simplex] = {}
        self._detector = EquivocationDetector(self.simulation.ledger.chain_id)
        self._fetching: set[bytes] = set()
        self._avoided = [0.0] * len(self.simulation.nodes)  # until when, by node
        self._journal = Journal(self.disk.journal, self.simulation.ledger.chain_id, self.key.public_key)
        self._begin()

    def crash(self) -> None:
        """Lose everything that is not durable."""
        self.core = None
        self._life += 1
        self.disk.journal.crash(self.simulation.rng.choice((0, 0, 1, 100, 255)))

    def restart_in(self, seconds: float) -> None:
        """Start again later."""
        self.simulation.at(seconds, lambda: None if self.is_up else self.start())

    def receive(self, sender: int, message: Message) -> None:
        if self.core is None:
            return
        epoch = message.epoch
        if epoch == self.core.epoch:
            self.run(self.core.on_message(message))
        elif epoch < self.core.epoch:
            self.run(self._get_finished(epoch).on_message(message))
        else:  # the next epoch has begun elsewhere: hold the message back, ask its sender how ours ended
            self._held = [*self._held[-MAX_HELD + 1 :], (sender, message)]
            if self.simulation.now >= self._asked_at + 1:
                self._asked_at, ours = self.simulation.now, self.core.epoch
                self._send(sender, lambda: self.simulation.nodes[sender].tell_end(self.number, ours))

    def tell_end(self, peer: int, epoch: int) -> None:
        """Send the finalization of an epoch's last block to who missed it."""
        certificate = self.disk.finals.get(self.simulation.ledger.get_last_height(epoch))
        if certificate is not None and self.is_up:
            self._send(peer, lambda: self.simulation.nodes[peer].receive(self.number, certificate))

    def run(self, effects: list[Effect]) -> None:
        """Carry out effects in their order; may die at any of them."""

        def carry_out() -> None:
            for effect in effects:
                self._carry_out(effect)

        self.run_action(carry_out)

    def run_action(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Crash:
            self.crash()
            self.restart_in(self.simulation.rng.uniform(0.1, 5.0))

    def _carry_out(self, effect: Effect) -> None:
        simulation = self.simulation
        self._maybe_crash()
        match effect:
            case PersistVote(vote, support):
                if support is not None:
                    self.disk.support.append((vote.epoch, support))
                self._maybe_crash()
                self._journal.append(vote)
                simulation.votes.on_durable(vote)
            case Broadcast(message):
                if self.watched and isinstance(message, Vote):
                    simulation.votes.on_sent(message)
                for peer in range(len(simulation.nodes)):
                    if peer != self.number:
                        self._deliver(peer, message)
            case Send(key, message):
                for peer, node in enumerate(simulation.nodes):
                    if node.key.public_key == key and peer != self.number:
                        self._deliver(peer, message)
            case SetTimer(view, seconds):
                self._timer += 1
                timer, life, epoch = self._timer, self._life, self._get_core().epoch
                simulation.at(seconds, lambda: self._ring(life, timer, epoch, view))
            case StopTimer():
                self._timer += 1
            case Build():
                self._building = effect
                self._later(SPACING, self._build)
            case ExecuteBlock(block):
                is_valid = simulation.judge(block)
                if is_valid:
                    self._see_block(block)
                verdict = partial(self._run_core, block.header.epoch, lambda core: core.on_executed(block.id, is_valid))
                self._later(simulation.rng.uniform(0.0, 0.01), verdict)
            case Fetch(block_id, peers):
                self._fetch(block_id, peers)
            case Commit(certificate, blocks):
                self._commit(certificate, list(blocks))
            case UpdateFinality(certificate):
                self.disk.strengthen(certificate)
            case Conflict():
                self._report([effect])
            case Reject(reason):
                simulation.rejects.append(f"{self.name}: {reason}")

    def _see_block(self, block: Block) -> None:
        self._report(Conflict(*pair) for pair in self._detector.observe_block(block, self.simulation.ledger.committee))

    def _report(self, conflicts: Iterable[Conflict]) -> None:
        if self.watched:  # what liars say of others is worth nothing
            self.simulation.conflicts += conflicts

    def _maybe_crash(self) -> None:
        if self.simulation.crash_rate and self.simulation.rng.random() < self.simulation.crash_rate:
            raise Crash

    def _get_core(self) -> Simplex:
        assert self.core is not None
        return self.core

    def _make_core(self, epoch: int, final_height: int) -> Simplex:
        ledger, disk = self.simulation.ledger, self.disk
        final = disk.final if final_height == disk.final.height else None
        if final is None:
            block = disk.chain[final_height - 1]
            assert block.height == final_height
            final = FinalizedBlock(block.id, block.height, disk.finals[final_height])
        return self.make(
            chain_id=ledger.chain_id,
            epoch=ledger.make_epoch(epoch),
            finalized=final,
            key=self.key,
            timeouts=Timeouts(),
            votes=self._journal.votes(epoch),
            support=[item for of, item in disk.support if of == epoch],
            verify=self.simulation.verify,
            detector=self._detector,
        )

    def _begin(self) -> None:
        """Make the instance of the epoch that the next block belongs to."""
        height = self.disk.final.height
        self.core = core = self._make_core(self.simulation.ledger.get_epoch(height + 1), height)
        self._timer += 1
        self._building = None
        life = self._life
        self.run(core.start())
        if self._life == life and self.core is core:
            self.run(core.on_work(height < self.simulation.target))

    def _get_finished(self, epoch: int) -> Simplex:
        if epoch not in self._finished:
            self._finished[epoch] = self._make_core(epoch, self.simulation.ledger.get_last_height(epoch))
        return self._finished[epoch]

    def _run_core(self, epoch: int, call: Callable[[Simplex], list[Effect]]) -> None:
        if self.core is not None and self.core.epoch == epoch:
            self.run(call(self.core))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        life = self._life
        self.simulation.at(seconds, lambda: action() if self._life == life else None)

    def _ring(self, life: int, timer: int, epoch: int, view: int) -> None:
        if (self._life, self._timer) == (life, timer):
            self._run_core(epoch, lambda core: core.on_timeout(view))

    def _send(self, peer: int, action: Callable[[], None]) -> None:
        self.simulation.transmit(self.number, peer, action)

    def _deliver(self, peer: int, message: Message) -> None:
        node = self.simulation.nodes[peer]
        if not self.simulation.network.passes(self.number, peer, message):
            return
        self._send(peer, lambda: node.receive(self.number, message))

    def _build(self) -> None:
        order, core = self._building, self._get_core()
        if order is None or (not core.has_work and core.is_settled):
            return
        self._building = None
        parent = core.get_block(order.parent_id) or self.disk.find(order.parent_id)
        height = (
            core.finalized.height if order.parent_id == core.finalized.block_id else parent.height if parent else 0
        ) + 1
        timestamp = int(self.simulation.now * 1000) * 100 + self.number
        block = self.simulation.ledger.build(self.key, core.epoch, height, order, timestamp)
        self.run(core.on_built(order.view, block))

    def find_block(self, block_id: bytes) -> Block | None:
        """A block that this node can pass on, as its core (an adversary's may lie) hands it out."""
        held = self.core.get_block(block_id) if self.core is not None else None
        block = held or self.disk.find(block_id)
        hand_out: Callable[[Block], Block | None] | None = getattr(self.core, "hand_out", None)
        return block if block is None or hand_out is None else hand_out(block)

    def _fetch(self, block_id: bytes, peers: Iterable[bytes]) -> None:
        """Ask a few as the engine does: one after the other, those who should have it first, no known liars.

        An observer's core leaves asking again to us.
        """
        core, now = self._get_core(), self.simulation.now
        if block_id in self._fetching:
            return
        self._fetching.add(block_id)
        nodes = [node for node in self.simulation.nodes if node is not self and self._avoided[node.number] <= now]
        self.simulation.rng.shuffle(nodes)
        nodes.sort(key=lambda node: node.key.public_key not in peers)
        self._ask(core, block_id, nodes[:ASKED_PEERS], peers)

    def _ask(self, core: Simplex, block_id: bytes, nodes: list[Node], peers: Iterable[bytes]) -> None:
        if core is not self.core or not core._blocks.is_requested(block_id) or not nodes:
            self._fetching.discard(block_id)
            if self.key.public_key not in core.validators:
                self._later(1.0, lambda: self._fetch_again(core, block_id, peers))
            return
        peer, *others = nodes
        is_over = False

        def conclude(block: Block | None, avoided_for: float) -> None:
            nonlocal is_over
            if is_over:
                return
            is_over = True
            if block is not None and not (block.id == block_id and is_authentic(block, self.simulation.verify)):
                block, avoided_for = None, AVOID_LIAR_S
                self.simulation.lies += 1
            self._avoided[peer.number] = self.simulation.now + avoided_for
            if block is None:
                self._ask(core, block_id, others, peers)
            else:
                found = block
                self._fetching.discard(block_id)
                self._run_core(core.epoch, lambda core: core.on_block(found))

        def answer() -> None:
            if peer.is_up:
                block, life = peer.find_block(block_id), self._life
                peer._send(self.number, lambda: conclude(block, 0.0) if self._life == life else None)

        self._send(peer.number, answer)
        self._later(SYNC_FRAME_TIMEOUT_S, lambda: conclude(None, AVOID_SILENT_S))

    def _fetch_again(self, core: Simplex, block_id: bytes, peers: Iterable[bytes]) -> None:
        if core is self.core and core._blocks.is_requested(block_id):
            self._fetch(block_id, peers)

    def _commit(self, certificate: Certificate, blocks: list[Block]) -> None:
        self._pending.append(_Pending(certificate, blocks[::-1]))
        if len(self._pending) == 1:
            self._sync()

    def _sync(self) -> None:
        """Make pending branches final as far as they reach our chain; ask for what is missing below the next."""
        while self._pending:
            pending = self._pending[0]
            lowest = pending.branch[-1]
            if lowest.header.parent_id == self.disk.final.block_id:
                self._maybe_crash()
                self.disk.extend(pending.branch[::-1], pending.certificate)
            elif lowest.height > self.disk.final.height + 1:
                for node in self.simulation.nodes:
                    if node is not self:
                        self._send(node.number, partial(self._answer_sync, node, lowest.header.parent_id))
                self._later(1.0, partial(self._retry_sync, pending, lowest))
                return
            del self._pending[0]  # on our chain now, or a final branch beside it, which the checker tells apart
            for block in pending.branch:
                self._see_block(block)
                if self.watched:
                    self.simulation.agreement.on_final(self.name, block)
        # One call at a time: what follows waits until the effects of this one are done.
        if self._get_core().is_finished:
            self._later(0.0, self._hand_over)
        elif self.disk.final.height >= self.simulation.target:
            self._later(0.0, partial(self._run_core, self._get_core().epoch, lambda core: core.on_work(False)))

    def _hand_over(self) -> None:
        core = self._get_core()
        if not core.is_finished or self.disk.final.block_id != core.finalized.block_id:
            return
        self._finished[core.epoch] = core
        self._begin()
        held, self._held = self._held, []
        for sender, message in held:
            self.receive(sender, message)

    def _retry_sync(self, pending: _Pending, lowest: Block) -> None:
        if self._pending and self._pending[0] is pending and pending.branch[-1] is lowest:
            self.run_action(self._sync)

    def _answer_sync(self, peer: Node, block_id: bytes) -> None:
        """What ``peer`` sends back: the block asked for and a few before it, newest first."""
        blocks: list[Block] = []
        while len(blocks) < MAX_SYNCED and (block := peer.find_block(block_id)) is not None:
            blocks.append(block)
            block_id = block.header.parent_id
        if blocks:
            peer._send(self.number, lambda: self._take_synced(blocks))

    def _take_synced(self, blocks: list[Block]) -> None:
        if not self._pending or not self.is_up:
            return
        branch = self._pending[0].branch
        before = len(branch)
        for block in blocks:
            is_next = branch[-1].header.parent_id == block.id != self.disk.final.block_id
            if is_next and is_authentic(block, self.simulation.verify):
                branch.append(block)
        if len(branch) > before:
            self.run_action(self._sync)
