"""Runs the Simplex core of the current epoch: carries out its effects, executes blocks, and makes them final.

Every method is called by one task, the engine's loop, so that the state machine sees one thing at a time. What takes
long and needs nobody else (signatures, execution, fsync) runs in a worker thread meanwhile.

Pace. A block is proposed when there is something in it, at most every ``block_spacing`` seconds; when the chain's last
block is an idle beat old; or when the block before would otherwise not become final. View timers run for the same
reasons, so that an idle network makes one block per beat and is quiet in between.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from chain import crypto
from chain.blocks import MAX_BLOCK, Block, Header
from chain.blockstore import BlockStore
from chain.epochs import get_beacon, get_epoch, get_last_height, get_validators
from chain.exceptions import LedgerError
from chain.genesis import Genesis
from chain.state import State
from chain.transition import build_block
from chain.votes import Certificate
from consensus.claims import KnownClaims, execute_block
from consensus.compact import COMPACT, compress
from consensus.evidence import EvidenceStore
from consensus.journal import Journal
from consensus.links import Links
from consensus.mempool import Mempool
from consensus.messages import (
    Broadcast,
    Build,
    Check,
    Commit,
    Conflict,
    Effect,
    Fetch,
    Message,
    PersistVote,
    Propose,
    Reject,
    Repropose,
    Send,
    SetTimer,
    StopTimer,
    encode_message,
)
from consensus.messages import get_epoch as get_message_epoch
from consensus.proposals import FinalBlock
from consensus.simplex import Simplex, Timeouts
from consensus.tree import BlockTree, Executed
from p2p.runtime import Runtime

logger = structlog.get_logger(__name__)

MAX_EARLY = 512
MAX_EARLY_BYTES = 2 << 20
"""Messages of the next epoch kept until this node is in it, and their bytes."""
MAX_SPARE = 64
"""Blocks kept that came before anything asked for them."""
SPARE_HEIGHTS = 256
"""How far above the last final block they may be."""


@dataclass(frozen=True, slots=True)
class Voting:
    """What a validator needs to vote: its key, and where votes are made durable."""

    key: crypto.KeyPair
    journal: Journal
    evidence: EvidenceStore


class Outlet:
    """What agreement asks of the engine. The methods return at once."""

    def on_final(self, executed: list[Executed], certificate: Certificate) -> None:
        """These blocks have just become final, and are on disk."""
        raise NotImplementedError

    def fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        """Get a block, preferably from ``peers``, and pass it to :meth:`Agreement.on_block`."""
        raise NotImplementedError

    def hint(self) -> None:
        """This node may be behind: sync."""
        raise NotImplementedError

    def forward_work(self, leader: bytes) -> None:
        """Send ready operations to ``leader``, who seems not to have them."""
        raise NotImplementedError


class Agreement:
    """One node's part in agreement. Without ``voting`` it follows and executes, and never signs."""

    def __init__(
        self,
        genesis: Genesis,
        voting: Voting | None,
        store: BlockStore,
        mempool: Mempool,
        links: Links,
        runtime: Runtime,
        outlet: Outlet,
        timeouts: Timeouts,
        block_spacing: float,
    ) -> None:
        self._genesis = genesis
        self._voting = voting
        self._store = store
        self._mempool = mempool
        self._links = links
        self._runtime = runtime
        self._outlet = outlet
        self._timeouts = timeouts
        self._block_spacing = block_spacing
        self._me = b"" if voting is None else voting.key.public_key
        self._claims = KnownClaims()
        self._tree = BlockTree(store.header, store.state)
        self._spare: dict[bytes, Block] = {}
        self._effects: deque[tuple[Simplex, Effect]] = deque()
        self._early: deque[tuple[Message, int]] = deque()
        self._early_bytes = 0
        self._previous: Simplex | None = None
        self._timer: tuple[int, float] | None = None  # view and trio time
        self._build: Build | None = None
        self._build_since = 0.0
        self._postponed: dict[bytes, Block] = {}  # to be checked once their parent is here
        if voting is not None and (mark := store.journal_mark) is not None:
            voting.journal.check_reaches(*mark)
        self.simplex = self._make_instance()

    # What the engine asks.

    @property
    def final(self) -> tuple[Header, State]:
        """The last final header, and the state after its block."""
        return self._tree.header, self._tree.state

    @property
    def leader(self) -> bytes:
        """Who is to propose the next block."""
        return self.simplex.leader

    def find_block(self, block_id: bytes) -> Block | None:
        """A block that is not final yet, or None."""
        node = self._tree.get(block_id)
        if node is not None:
            return node.block
        return self.simplex.get_block(block_id) or self._spare.get(block_id)

    def get_wakeup(self) -> float:
        """Trio time at which :meth:`on_clock` has something to do."""
        times = [math.inf if self.simplex.has_work else self._beat_time(self._tree.header)]
        if self._timer is not None:
            times.append(self._timer[1])
        if self._build is not None:
            times.append(self._get_build_time(self._build))
        return min(times)

    # Inputs.

    async def start(self) -> None:
        """Begin, or take up where the last run ended."""
        self._set_members()
        await self._run(self.simplex, self.simplex.start())

    async def on_message(self, message: Message, size: int) -> None:
        """A message of a validator, of ``size`` bytes."""
        epoch = get_message_epoch(message)
        if epoch == self.simplex.epoch:
            await self._run(self.simplex, self.simplex.on_message(message))
        elif self._previous is not None and epoch == self._previous.epoch:
            await self._run(self._previous, self._previous.on_message(message))
        elif epoch > self.simplex.epoch:
            if epoch == self.simplex.epoch + 1:
                self._keep_early(message, size)
            self._outlet.hint()

    async def on_block(self, block: Block) -> None:
        """A block that was fetched or gossiped."""
        if block.height <= self._tree.header.height or self.find_block(block.id) is not None:
            await self._run(self.simplex, self.simplex.on_block(block))  # it may be what final certificates wait for
            return
        if block.height > self._tree.header.height + SPARE_HEIGHTS or not self._is_by_leader(block):
            logger.debug("block dropped", height=block.height, block=block.id.hex())
            return
        self._spare[block.id] = block
        if len(self._spare) > MAX_SPARE:
            del self._spare[next(iter(self._spare))]
        await self._run(self.simplex, self.simplex.on_block(block))

    async def on_segment(self, executed: list[Executed], certificate: Certificate) -> None:
        """A verified run of final blocks from sync."""
        rest = [node for node in executed if node.block.height > self._tree.header.height]
        if not rest or rest[0].block.header.parent_id != self._tree.header.id:
            return
        await self._finalize(rest, certificate)
        for instance in (self._previous, self.simplex):  # the former too: once finished it only answers
            if instance is not None and instance.epoch == certificate.epoch:
                await self._run(instance, instance.on_message(certificate))

    async def on_clock(self) -> None:
        """Do whatever is due: timeouts, the idle beat, a block to build. Also after anything that may be work."""
        now = trio.current_time()
        if self._timer is not None and now >= self._timer[1]:
            view, self._timer = self._timer[0], None
            if self._mempool.has_ready() and self.leader != self._me:
                self._outlet.forward_work(self.leader)
            await self._run(self.simplex, self.simplex.on_timeout(view))
        has_work = self._mempool.has_ready() or self._beat_time(self._tree.header) <= now
        if has_work != self.simplex.has_work:
            await self._run(self.simplex, self.simplex.on_work(has_work))
        build = self._build
        if build is not None and build.view != self.simplex.view:
            self._build = None
        elif build is not None and self._get_build_time(build) <= now:
            self._build = None
            await self._build_block(build)

    # Effects.

    async def _run(self, instance: Simplex, effects: Iterable[Effect]) -> None:
        """Carry out effects in order; those that they lead to come after them."""
        self._effects += [(instance, effect) for effect in effects]
        while self._effects:
            instance, effect = self._effects.popleft()
            if isinstance(effect, Check | Commit):  # these take their time
                self._links.flush()
            await self._carry_out(instance, effect)
        self._links.flush()

    def _queue(self, instance: Simplex, effects: Iterable[Effect]) -> None:
        self._effects += [(instance, effect) for effect in effects]

    async def _carry_out(self, instance: Simplex, effect: Effect) -> None:
        match effect:
            case PersistVote():
                await self._runtime.run_sync(self._persist, effect)
            case Broadcast():
                compact = compress(effect.message) if isinstance(effect.message, Propose) else None
                self._links.broadcast(encode_message(effect.message) if compact is None else COMPACT + compact.encode())
            case Send():
                self._links.send(effect.peer, encode_message(effect.message))
            case SetTimer():
                if instance is self.simplex:
                    self._timer = (effect.view, trio.current_time() + effect.seconds)
            case StopTimer():
                if instance is self.simplex:
                    self._timer = None
            case Build():
                if instance is self.simplex:
                    self._build, self._build_since = effect, trio.current_time()
            case Check():
                await self._check(instance, effect.block)
            case Fetch():
                self._fetch(instance, effect)
            case Commit():
                await self._commit(effect)
            case Conflict():
                logger.warning(
                    "two votes in conflict",
                    signer=crypto.format_address(effect.first.signer),
                    epoch=effect.first.epoch,
                    view=effect.first.view,
                    first=effect.first.encode().hex(),
                    second=effect.second.encode().hex(),
                )
            case Reject():
                logger.debug("message refused", reason=effect.reason)

    def _persist(self, effect: PersistVote) -> None:
        """Blocks for the length of an fsync or two. StoreError ends the node: it must not vote on."""
        assert self._voting is not None
        self._voting.evidence.put(effect.vote, effect.evidence)
        self._voting.journal.append(effect.vote)

    def _fetch(self, instance: Simplex, effect: Fetch) -> None:
        block = self.find_block(effect.block_id)
        if block is None:
            height = self._store.height_of_block(effect.block_id)
            block = None if height is None else self._store.block(height)
        if block is None:
            self._outlet.fetch(effect.block_id, effect.peers)
        else:
            self._queue(instance, instance.on_block(block))

    async def _check(self, instance: Simplex, block: Block) -> None:
        if self._tree.find_parent(block.header.parent_id) is None:
            # Agreement is ahead of the chain on disk, which sync is about to complete.
            self._postponed[block.id] = block
            return
        ahead = block.header.timestamp - self._runtime.now()
        if ahead > self._genesis.parameters.timestamp_drift:
            logger.warning("a block is ahead of this clock", height=block.height, ms=ahead)
            is_valid = False
        else:
            is_valid = await self._execute(block) is not None
        self._queue(instance, instance.on_checked(block.id, is_valid))

    async def _execute(self, block: Block) -> Executed | None:
        """Execute a block whose parent is in the tree; None if it is invalid."""
        node = self._tree.get(block.id)
        if node is not None:
            return node
        parent = self._tree.find_parent(block.header.parent_id)
        assert parent is not None
        verified = frozenset(
            operation.id for operation in block.body.operations if self._mempool.is_verified(operation)
        )
        try:
            transition = await self._runtime.run_sync(
                execute_block, self._genesis, *parent, block, verified, self._claims.__contains__
            )
        except LedgerError as error:
            logger.warning("a block is invalid", height=block.height, block=block.id.hex(), reason=str(error))
            return None
        self._tree.add(block, transition)
        return self._tree.get(block.id)

    # Proposing.

    def _beat_time(self, header: Header) -> float:
        """Trio time at which the idle beat after ``header`` is due."""
        due = header.timestamp + self._genesis.parameters.idle_beat
        return trio.current_time() + (due - self._runtime.now()) / 1000

    def _get_build_time(self, build: Build) -> float:
        """Trio time from which there is reason enough for a block on the parent of ``build``."""
        parent = self._tree.find_parent(build.parent_id)
        if parent is None:
            return math.inf  # sync is about to bring it
        header = parent[0]
        reasons = [self._beat_time(header)]
        if not self.simplex.is_settled:  # usually it is about to be, so wait before a block is spent on it
            reasons.append(self._build_since + self._timeouts.first / 2)
        if self._mempool.has_ready(self._tree.get_operations(build.parent_id)):
            parent_time = trio.current_time() + (header.timestamp - self._runtime.now()) / 1000
            reasons.append(min(parent_time, self._build_since) + self._block_spacing)
        return min(reasons)

    async def _build_block(self, build: Build) -> None:
        parent = self._tree.find_parent(build.parent_id)
        assert parent is not None and self._voting is not None
        operations = self._mempool.select(MAX_BLOCK, self._tree.get_operations(build.parent_id))
        block, transition, rejected = await self._runtime.run_sync(
            partial(
                build_block,
                self._genesis,
                self._voting.key,
                *parent,
                operations,
                view=build.view,
                timestamp=self._runtime.now(),
                parent_certificate=build.parent_certificate,
                nullifications=build.nullifications,
            )
        )
        for operation, reason in rejected:
            self._mempool.reject(operation.id, reason, trio.current_time())
        self._tree.add(block, transition)
        await self._run(self.simplex, self.simplex.on_built(build.view, block))

    # Finality.

    async def _commit(self, commit: Commit) -> None:
        """Make the blocks of a finalization final here, if all of them are at hand."""
        branch = self._tree.get_branch(commit.blocks, self._spare.get)
        if isinstance(branch, bytes):
            logger.debug("final blocks were missed", height=commit.blocks[-1].height)
            self._spare.update((block.id, block) for block in commit.blocks)
            self._outlet.hint()
            return
        nodes: list[Executed] = []
        for block in branch:
            node = await self._execute(block)
            if node is None:
                raise RuntimeError(f"more than 2/3 of the stake made the invalid block {block.id.hex()} final")
            nodes.append(node)
        if nodes:
            await self._finalize(nodes, commit.certificate)

    async def _finalize(self, executed: list[Executed], certificate: Certificate) -> None:
        """Write final blocks to disk, move the tree and the mempool on, and enter the next epoch if it is time."""
        voting = self._voting
        mark = None if voting is None else (voting.journal.length, voting.journal.head_hash)
        pairs = [(node.block, node.transition) for node in executed]
        await self._runtime.run_sync(self._store.append, pairs, certificate, mark)
        header = self._store.header
        self._tree.advance(header, self._store.state)
        if voting is not None:
            await self._runtime.run_sync(voting.evidence.prune, certificate.epoch, certificate.view)
        self._spare = {key: block for key, block in self._spare.items() if block.height > header.height}
        for node in executed:
            transition = node.transition
            self._mempool.on_final(node.block, transition.state, transition.changes, trio.current_time())
        self._outlet.on_final(executed, certificate)
        postponed, self._postponed = self._postponed, {}
        if get_epoch(self._genesis.parameters, header.height + 1) != self.simplex.epoch:
            self._enter_epoch()
        else:
            self._queue(self.simplex, [Check(block) for block in postponed.values() if block.height > header.height])

    def _enter_epoch(self) -> None:
        self._previous, self.simplex = self.simplex, self._make_instance()
        self._timer = self._build = None
        self._set_members()
        self._queue(self.simplex, self.simplex.start())
        early, self._early, self._early_bytes = self._early, deque(), 0
        for message, size in early:
            if get_message_epoch(message) == self.simplex.epoch:
                self._queue(self.simplex, self.simplex.on_message(message))
            elif get_message_epoch(message) == self.simplex.epoch + 1:
                self._keep_early(message, size)

    def _make_instance(self) -> Simplex:
        """The instance of the epoch that the next block is in."""
        header = self._store.header
        epoch = get_epoch(self._genesis.parameters, header.height + 1)
        voting = self._voting
        return Simplex(
            chain_id=self._genesis.chain_id,
            epoch=epoch,
            validators=get_validators(self._genesis, epoch),
            beacon=get_beacon(self._genesis, epoch),
            last_height=get_last_height(self._genesis.parameters, epoch),
            final=FinalBlock(header.id, header.height, self._store.certificate(header.height)),
            key=None if voting is None else voting.key,
            timeouts=self._timeouts,
            previous_validators=get_validators(self._genesis, epoch - 1) if epoch else None,
            votes=() if voting is None else voting.journal.votes(epoch),
            evidence=() if voting is None else voting.evidence.load(epoch),
            verify=self._claims.verify,
        )

    def _set_members(self) -> None:
        epoch = self.simplex.epoch
        near = [get_validators(self._genesis, other) for other in (max(0, epoch - 1), epoch, epoch + 1)]
        senders = dict.fromkeys(validator.public_key for validators in near for validator in validators)
        receivers = [v.public_key for v in self.simplex.validators if v.public_key != self._me]
        self._links.set_members(senders, receivers if self._me in self.simplex.validators else [])

    def _keep_early(self, message: Message, size: int) -> None:
        if isinstance(message, Propose | Repropose) and size > MAX_EARLY_BYTES // 2:
            return
        self._early.append((message, size))
        self._early_bytes += size
        while len(self._early) > MAX_EARLY or self._early_bytes > MAX_EARLY_BYTES:
            self._early_bytes -= self._early.popleft()[1]

    def _is_by_leader(self, block: Block) -> bool:
        """Whether a block is whole and the leader of its view made it: only such are worth keeping unasked."""
        header, parameters = block.header, self._genesis.parameters
        if header.chain_id != self._genesis.chain_id or header.epoch != get_epoch(parameters, header.height):
            return False
        validators = get_validators(self._genesis, header.epoch)
        if header.proposer != validators.compute_leader(get_beacon(self._genesis, header.epoch), header.view):
            return False
        return block.body.compute_root() == header.body_root and self._claims.verify([block.claim()])
