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
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

import structlog
import trio

from chain import crypto
from chain.exceptions import LedgerError
from chain.genesis import Genesis
from chain.light.client import LightClientUpdate
from chain.state.beacon import make_hash_chain
from chain.state.state import State
from chain.store.writer import ChainStore
from chain.transition.block import build_block
from chain.transition.epochs import Epoch, get_next_epoch
from chain.transition.participation import get_recent_blocks, is_late_vote
from chain.transition.restart import is_restart
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Header
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote
from consensus.block_tree import BlockTree, ExecutedBlock
from consensus.exceptions import ForgedMessage, InvalidMessage
from consensus.mempool.pool import Mempool
from consensus.network.committee_streams import CommitteeStreams
from consensus.network.compact_blocks import COMPACT_KIND, CompactPropose, to_compact
from consensus.signature_cache import SignatureCache, execute_block
from consensus.simplex.core import Simplex, Timeouts
from consensus.simplex.equivocation import EquivocationDetector, VotePair
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
    Propose,
    Reject,
    Repropose,
    Send,
    SetTimer,
    StopTimer,
    UpdateFinality,
    encode_message,
)
from consensus.simplex.validation import FinalizedBlock, is_authentic
from consensus.voting.vote_store import VoteStore
from p2p.runtime import Runtime

logger = structlog.get_logger(__name__)

MAX_EARLY_MESSAGES = 512
MAX_EARLY_BYTES = 2 << 20
"""Messages of the next epoch kept until this node is in it, and their bytes."""
MAX_UNREQUESTED = 64
"""Blocks kept that came before anything asked for them."""
UNREQUESTED_HEIGHTS = 256
"""How far above the last final block they may be."""


class Environment(Protocol):
    """What the driver asks of the program around it. The methods return at once."""

    def on_final(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        """These blocks have just become final, and are on disk."""

    def fetch(self, block_id: bytes, peers: tuple[bytes, ...]) -> None:
        """Get a block, preferably from ``peers``, and pass it to :meth:`Driver.on_fetched`."""

    def complete(self, message: CompactPropose) -> None:
        """Put a proposal together, which is worth it, and pass it to :meth:`Driver.on_message`."""

    def request_sync(self) -> None:
        """This node may be behind: sync."""

    def on_conflict(self, first: Vote, second: Vote) -> None:
        """A validator signed two votes that exclude each other; their signatures hold."""

    def forward_work(self, leader: bytes) -> None:
        """Send ready operations to ``leader``, who seems not to have them."""


class Driver:
    """One node's part in agreement. Without ``vote_store`` it follows and executes, and never signs."""

    def __init__(
        self,
        genesis: Genesis,
        vote_store: VoteStore | None,
        store: ChainStore,
        mempool: Mempool,
        committee: CommitteeStreams,
        runtime: Runtime,
        environment: Environment,
        timeouts: Timeouts,
        block_spacing: float,
    ) -> None:
        self._genesis = genesis
        self._vote_store = vote_store
        self._store = store
        self._mempool = mempool
        self._committee = committee
        self._runtime = runtime
        self._environment = environment
        self._timeouts = timeouts
        self._block_spacing = block_spacing
        self._drift = genesis.parameters.timestamp_drift
        self._me = b"" if vote_store is None else vote_store.key.public_key
        self._signatures = SignatureCache()
        self._detector = EquivocationDetector(genesis.chain_id)
        self._tree = BlockTree(store.header, store.state)
        self._epoch = get_next_epoch(genesis, store.state)
        self._unrequested: dict[bytes, Block] = {}
        self._effects: deque[tuple[Simplex, Effect]] = deque()
        self._early: deque[tuple[Message | CompactPropose, int]] = deque()
        self._early_bytes = 0
        self._previous: Simplex | None = None
        self._timer: tuple[int, float] | None = None  # view and trio time
        self._build: Build | None = None
        self._build_since = 0.0
        self._build_after = 0.0  # not before that: what seemed to be work was none
        self._postponed: dict[bytes, Block] = {}  # to be checked once their parent is here
        self._ahead: dict[bytes, Block] = {}  # to be checked once this clock has come so far
        if vote_store is not None:
            vote_store.reconcile(store.journal_mark)
        self.simplex = self._make_instance()

    # What the engine asks.

    @property
    def head(self) -> tuple[Header, State]:
        """The last final header, and the state after its block."""
        return self._tree.header, self._tree.state

    @property
    def epoch(self) -> Epoch:
        """The epoch of the block that comes next."""
        return self._epoch

    @property
    def leader(self) -> bytes:
        """Who is to propose the next block."""
        return self.simplex.leader

    def find_block(self, block_id: bytes) -> Block | None:
        """A block that is not final yet, or None."""
        node = self._tree.get(block_id)
        if node is not None:
            return node.block
        return self.simplex.get_block(block_id) or self._unrequested.get(block_id)

    def has_new_votes(self, certificate: Certificate, validators: ValidatorSet) -> bool:
        """Whether there are votes in a certificate that this node does not know yet.

        Raises:
            InvalidCertificate: it is malformed, or not of a quorum.
        """
        certificate.signature_checks(self._genesis.chain_id, validators)
        return any(map(self._detector.is_new, certificate.votes(validators)))

    def get_wakeup(self) -> float:
        """Trio time at which :meth:`on_clock` has something to do."""
        times = [math.inf if self.simplex.has_work else self._beat_time(self._tree.header)]
        if self._timer is not None:
            times.append(self._timer[1])
        if self._build is not None:
            times.append(self._get_build_time(self._build))
        times += [self._get_time(block.header.timestamp - self._drift) for block in self._ahead.values()]
        return min(times)

    # Inputs.

    async def start(self) -> None:
        """Begin, or take up where the last run ended."""
        self._set_members()
        await self._run(self.simplex, self.simplex.start())

    async def on_message(self, message: Message | CompactPropose, size: int) -> Reject | None:
        """A message of a validator, of ``size`` bytes; a compact proposal comes from its leader.

        Returns why it was refused at once, if it was.
        """
        epoch = message.epoch
        if epoch > self.simplex.epoch:
            if epoch == self.simplex.epoch + 1:
                self._keep_early(message, size)
            self._environment.request_sync()
            return None
        if isinstance(message, CompactPropose):
            return self._take_compact(message)
        instance = self.simplex if epoch == self.simplex.epoch else self._previous
        if instance is None or instance.epoch != epoch:
            return None
        effects = instance.on_message(message)
        await self._run(instance, effects)
        return next((effect for effect in effects if isinstance(effect, Reject)), None)

    async def on_fetched(self, block: Block) -> None:
        """A block that was asked for. That it is authentic was found out where it is known who sent it."""
        await self._run(self.simplex, self.simplex.on_block(block))

    async def on_block(self, block: Block) -> None:
        """A block that was gossiped."""
        if block.height <= self._tree.header.height or self.find_block(block.id) is not None:
            await self._run(self.simplex, self.simplex.on_block(block))  # it may be what final certificates wait for
            return
        if block.height > self._tree.header.height + UNREQUESTED_HEIGHTS or not self._is_by_leader(block):
            logger.debug("block dropped", height=block.height, block=block.id.hex())
            return
        self._keep_unrequested(block)
        await self._run(self.simplex, self.simplex.on_block(block))

    async def on_block_range(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        """A verified run of final blocks from sync."""
        rest = [node for node in executed if node.block.height > self._tree.header.height]
        if not rest or rest[0].block.header.parent_id != self._tree.header.id:
            return
        await self._finalize(rest, certificate)
        for instance in (self._previous, self.simplex):  # the former too: once finished it only answers
            if instance is not None and instance.epoch == certificate.epoch:
                await self._run(instance, instance.on_message(certificate))

    async def on_snapshot(self, ends: Sequence[LightClientUpdate], state: State) -> None:
        """A verified state far ahead, staged in the store, and the epoch ends that lead to it: go on from there."""
        header, vote_store = ends[-1].header, self._vote_store
        if header.height <= self._tree.header.height:
            return
        mark = None if vote_store is None else vote_store.mark
        await self._runtime.run_sync(self._store.adopt_snapshot, ends, state, mark)
        self._tree.advance(header, state)
        self._unrequested.clear()
        self._postponed.clear()
        self._mempool.on_snapshot(header, state, trio.current_time())
        self._enter_epoch()
        self._previous = None  # nobody votes in the one before any more
        await self._run(self.simplex, ())

    async def on_clock(self) -> None:
        """Do whatever is due: timeouts, the idle beat, a block to build. Also after anything that may be work."""
        now = trio.current_time()
        # First: a view in which there is nothing left to agree about must not time out.
        has_work = self._mempool.has_ready() or self._beat_time(self._tree.header) <= now
        if has_work != self.simplex.has_work:
            await self._run(self.simplex, self.simplex.on_work(has_work))
        if self._timer is not None and now >= self._timer[1]:
            view, self._timer = self._timer[0], None
            if self._mempool.has_ready() and self.leader != self._me:
                self._environment.forward_work(self.leader)
            await self._run(self.simplex, self.simplex.on_timeout(view))
        latest = self._runtime.now() + self._drift
        for block in [block for block in self._ahead.values() if block.header.timestamp <= latest]:
            del self._ahead[block.id]
            await self._run(self.simplex, [ExecuteBlock(block)])
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
            if isinstance(effect, ExecuteBlock | Commit):  # these take their time
                self._committee.flush()
            await self._carry_out(instance, effect)
        self._committee.flush()

    def _queue(self, instance: Simplex, effects: Iterable[Effect]) -> None:
        self._effects += [(instance, effect) for effect in effects]

    async def _carry_out(self, instance: Simplex, effect: Effect) -> None:
        match effect:
            case PersistVote():
                await self._runtime.run_sync(self._persist, effect)
            case Broadcast():
                compact = to_compact(effect.message) if isinstance(effect.message, Propose) else None
                self._committee.broadcast(
                    encode_message(effect.message) if compact is None else COMPACT_KIND + compact.encode()
                )
            case Send():
                self._committee.send(effect.peer, encode_message(effect.message))
            case SetTimer():
                if instance is self.simplex:
                    self._timer = (effect.view, trio.current_time() + effect.seconds)
            case StopTimer():
                if instance is self.simplex:
                    self._timer = None
            case Build():
                if instance is self.simplex:
                    self._build, self._build_since, self._build_after = effect, trio.current_time(), 0.0
            case ExecuteBlock():
                await self._check(instance, effect.block)
            case Fetch():
                self._fetch(instance, effect)
            case Commit():
                await self._commit(effect)
            case UpdateFinality():
                await self._runtime.run_sync(self._store.strengthen, effect.certificate)
            case Conflict():
                self._report([(effect.first, effect.second)])
            case Reject():
                logger.debug("message refused", reason=effect.reason)

    def _report(self, pairs: Iterable[VotePair]) -> None:
        for first, second in pairs:
            logger.warning(
                "two votes in conflict",
                signer=crypto.format_address(first.signer),
                epoch=first.epoch,
                view=first.view,
                first=first.encode().hex(),
                second=second.encode().hex(),
            )
            self._environment.on_conflict(first, second)

    def _persist(self, effect: PersistVote) -> None:
        """Blocks for the length of an fsync or two. StoreError ends the node: it must not vote on."""
        assert self._vote_store is not None
        self._vote_store.persist(effect.vote, effect.support)

    def _fetch(self, instance: Simplex, effect: Fetch) -> None:
        block = self.find_block(effect.block_id)
        if block is None:
            height = self._store.height_of_block(effect.block_id)
            block = None if height is None else self._store.block(height)
        if block is None:
            self._environment.fetch(effect.block_id, effect.peers)
        else:
            self._queue(instance, instance.on_block(block))

    async def _check(self, instance: Simplex, block: Block) -> None:
        if self._tree.find_parent(block.header.parent_id) is None:
            # Agreement is ahead of the chain on disk, which sync is about to complete.
            self._postponed[block.id] = block
            return
        ahead = block.header.timestamp - self._runtime.now()
        if ahead > self._drift:
            # It is no worse for that, and may be an ancestor of all that follows: other clocks are not this one.
            logger.warning(
                "a block is ahead of this clock and gets no vote yet; if many are, this clock is slow: set it",
                height=block.height,
                ms=ahead,
                allowed_ms=self._drift,
            )
            self._ahead[block.id] = block
            return
        is_valid = await self._execute(block) is not None
        self._queue(instance, instance.on_executed(block.id, is_valid))

    async def _execute(self, block: Block) -> ExecutedBlock | None:
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
                execute_block, self._genesis, *parent, block, verified, self._signatures.__contains__
            )
        except LedgerError as error:
            logger.warning("a block is invalid", height=block.height, block=block.id.hex(), reason=str(error))
            return None
        self._tree.add(block, transition)
        self._mempool.note_verified(block.body.operations)
        self._report(self._detector.observe_block(block, self._epoch.find_validators))
        return self._tree.get(block.id)

    # Proposing.

    def _beat_time(self, header: Header) -> float:
        """Trio time at which the idle beat after ``header`` is due."""
        return self._get_time(header.timestamp + self._genesis.parameters.idle_beat)

    def _get_time(self, timestamp: int) -> float:
        """Trio time at which this node's clock shows ``timestamp``."""
        return trio.current_time() + (timestamp - self._runtime.now()) / 1000

    def _get_build_time(self, build: Build) -> float:
        """Trio time from which there is reason enough for a block on the parent of ``build``."""
        parent = self._tree.find_parent(build.parent_id)
        if parent is None:
            return math.inf  # sync is about to bring it
        header = parent[0]
        due = self._get_empty_time(header)
        if self._mempool.has_ready(self._tree.get_operations(build.parent_id)):
            due = min(due, min(self._get_time(header.timestamp), self._build_since) + self._block_spacing)
        return max(due, self._build_after)

    def _get_empty_time(self, header: Header) -> float:
        """Trio time from which there is reason enough for a block on ``header`` with nothing in it."""
        beat = self._beat_time(header)
        # A tip that is not final usually is about to be, so wait before a block is spent on it.
        return beat if self.simplex.is_settled else min(beat, self._build_since + self._timeouts.first / 2)

    async def _build_block(self, build: Build) -> None:
        parent = self._tree.find_parent(build.parent_id)
        assert parent is not None and self._vote_store is not None
        reveal = self._find_reveal(parent[1])
        if reveal is None:
            logger.error("this validator cannot lead: its hash onion is used up, or is not that of its key")
            return
        recent = get_recent_blocks(parent[1], self._epoch, parent[0], build.parent_certificate)
        votes = self.simplex.get_notarize_votes((block.view, block.block_id) for block in recent)
        late = [vote for vote in votes if any(is_late_vote(self._epoch, block, vote) for block in recent)]
        operations = self._mempool.draw(MAX_BLOCK_BYTES, self._tree.get_operations(build.parent_id))
        block, transition, rejected = await self._runtime.run_sync(
            partial(
                build_block,
                self._genesis,
                self._vote_store.key,
                *parent,
                operations,
                view=build.view,
                timestamp=self._runtime.now(),
                reveal=reveal,
                parent_certificate=build.parent_certificate,
                nullifications=build.nullifications,
                late_votes=late,
                on_rejected=operations.reject,
            )
        )
        for operation, reason in rejected:
            self._mempool.reject(operation.id, reason, trio.current_time())
        now = trio.current_time()
        if not block.body.operations and self._get_empty_time(parent[0]) > now:
            if build.view == self.simplex.view and self._build is None:  # it only seemed as if there were work
                self._build, self._build_after = build, now + self._block_spacing
            return
        self._tree.add(block, transition)
        await self._run(self.simplex, self.simplex.on_built(build.view, block))

    def _find_reveal(self, state: State) -> bytes | None:
        """What this validator reveals in a block on ``state``."""
        validator = state.validator_record(self._me)
        if validator is None or self._vote_store is None:
            return None
        genesis = self._genesis
        hash_chain = make_hash_chain(
            self._vote_store.key, genesis.beacon, validator.hash_chain, genesis.parameters.epoch_heights
        )
        return hash_chain.find_reveal(validator.commitment)

    # Finality.

    async def _commit(self, commit: Commit) -> None:
        """Make the blocks of a finalization final here, if all of them are at hand."""
        branch = self._tree.get_branch(commit.blocks, self._unrequested.get)
        if isinstance(branch, bytes):
            logger.debug("final blocks were missed", height=commit.blocks[-1].height)
            for block in commit.blocks[-MAX_UNREQUESTED:]:
                self._keep_unrequested(block)
            self._environment.request_sync()
            return
        nodes: list[ExecutedBlock] = []
        for block in branch:
            node = await self._execute(block)
            if node is None:
                raise RuntimeError(f"more than 2/3 of the stake made the invalid block {block.id.hex()} final")
            nodes.append(node)
        if nodes:
            await self._finalize(nodes, commit.certificate)

    async def _finalize(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        """Write final blocks to disk, move the tree and the mempool on, and enter the next epoch if it is time."""
        vote_store = self._vote_store
        if vote_store is not None:
            await self._runtime.run_sync(vote_store.on_final, [node.block for node in executed])
        mark = None if vote_store is None else vote_store.mark
        final = [(node.block, node.transition) for node in executed]
        await self._runtime.run_sync(self._store.append, final, certificate, mark)
        for node in executed:  # those that sync brought were executed elsewhere
            self._report(self._detector.observe_block(node.block, self._epoch.find_validators))
        self._report(self._detector.observe_certificate(certificate, self._epoch.find_validators(certificate.epoch)))
        header = self._store.header
        self._tree.advance(header, self._store.state)
        if vote_store is not None:
            await self._runtime.run_sync(vote_store.prune, certificate)
        self._unrequested = {key: block for key, block in self._unrequested.items() if block.height > header.height}
        for node in executed:
            transition = node.transition
            self._mempool.on_final(node.block, transition.state, transition.changes, trio.current_time())
        if self._previous is not None:  # without a timer of its own
            self._previous.renew_answers()
        self._environment.on_final(executed, certificate)
        self._ahead = {key: block for key, block in self._ahead.items() if block.height > header.height}
        postponed, self._postponed = self._postponed, {}
        if header.height >= self._epoch.last_height or any(is_restart(node.block.header) for node in executed):
            self._enter_epoch()  # a restart leaves another committee in the middle of an epoch
        else:
            self._queue(
                self.simplex, [ExecuteBlock(block) for block in postponed.values() if block.height > header.height]
            )

    def _enter_epoch(self) -> None:
        self._epoch = get_next_epoch(self._genesis, self._store.state)
        before, self.simplex = self.simplex, self._make_instance()
        if before.epoch != self._epoch.number:  # after a restart in its epoch it must not go on beside its successor
            self._previous = before
        self._timer = self._build = None
        self._ahead.clear()
        self._set_members()
        self._queue(self.simplex, self.simplex.start())
        early, self._early, self._early_bytes = self._early, deque(), 0
        for message, size in early:
            if message.epoch == self.simplex.epoch + 1:
                self._keep_early(message, size)
            elif isinstance(message, CompactPropose):
                self._take_compact(message)
            elif message.epoch == self.simplex.epoch:
                self._queue(self.simplex, self.simplex.on_message(message))

    def _make_instance(self) -> Simplex:
        """The instance of the epoch that the next block is in."""
        header, epoch, vote_store = self._store.header, self._epoch, self._vote_store
        return Simplex(
            chain_id=self._genesis.chain_id,
            epoch=epoch.number,
            validators=epoch.validators,
            beacon=epoch.beacon,
            last_height=epoch.last_height,
            finalized=FinalizedBlock(header.id, header.height, self._store.certificate(header.height)),
            key=vote_store.key if vote_store is not None and vote_store.lockout.may_vote(epoch.number) else None,
            timeouts=self._timeouts,
            previous_validators=epoch.previous_validators,
            votes=() if vote_store is None else vote_store.journal.votes(epoch.number),
            support=() if vote_store is None else vote_store.support.load(epoch.number),
            verify=self._signatures.verify,
            detector=self._detector,
        )

    def _set_members(self) -> None:
        near = (self._epoch.previous_validators or (), self._epoch.validators, self._epoch.next_validators)
        senders = dict.fromkeys(validator.public_key for validators in near for validator in validators)
        receivers = [v.public_key for v in self.simplex.validators if v.public_key != self._me]
        self._committee.set_members(senders, receivers if self._me in self.simplex.validators else [])

    def _take_compact(self, message: CompactPropose) -> Reject | None:
        try:
            if self.simplex.is_awaited(message.proposal, message.stripped_block.header):
                self._environment.complete(message)
        except InvalidMessage as error:
            return Reject(str(error), isinstance(error, ForgedMessage))
        return None

    def _keep_unrequested(self, block: Block) -> None:
        self._unrequested[block.id] = block
        if len(self._unrequested) > MAX_UNREQUESTED:
            del self._unrequested[next(iter(self._unrequested))]

    def _keep_early(self, message: Message | CompactPropose, size: int) -> None:
        if isinstance(message, Propose | Repropose | CompactPropose) and size > MAX_EARLY_BYTES // 2:
            return
        self._early.append((message, size))
        self._early_bytes += size
        while len(self._early) > MAX_EARLY_MESSAGES or self._early_bytes > MAX_EARLY_BYTES:
            self._early_bytes -= self._early.popleft()[1]

    def _is_by_leader(self, block: Block) -> bool:
        """Whether a block is whole and the leader of its view made it: only such are worth keeping unasked."""
        header, epoch = block.header, self._epoch
        if (header.chain_id, header.epoch) != (self._genesis.chain_id, epoch.number):
            return False  # who leads in a later epoch is not known yet
        if header.height > epoch.last_height or header.proposer != epoch.compute_leader(header.view):
            return False
        return is_authentic(block, self._signatures.verify)
