"""Runs the Simplex core of the current epoch: carries out its effects, executes blocks, and makes them final.

Every ``on_`` method is called by one task, the engine's loop, so that the state machine sees one thing at a time. The
loop waits for worker threads that execute blocks and write to disk. Signatures are checked in worker threads before a
message gets to the loop (:mod:`consensus.driver.message_checks`); the core then finds the verdicts in the cache. Votes
are the exception: the signature of another validator's vote is checked on the loop, and an own vote is made durable
there, before the loop does anything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import structlog
import trio

from chain import crypto
from chain.genesis import Genesis
from chain.light.client import LightClientUpdate
from chain.state.state import State
from chain.store.writer import ChainStore
from chain.transition.epochs import Epoch, get_next_epoch
from chain.transition.restart import is_restart
from chain.types.blocks import Block, Header
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, VoteKind
from consensus.agreement_times import AgreementTimes
from consensus.block_tree import BlockStatus, BlockTree, ExecutedBlock
from consensus.driver.early_messages import EarlyMessages
from consensus.driver.environment import Environment
from consensus.driver.execution import BlockExecutor
from consensus.driver.message_checks import MessageChecks
from consensus.driver.proposer import Proposer
from consensus.exceptions import ForgedMessage, InvalidMessage
from consensus.mempool.pool import Mempool
from consensus.network.committee_streams import CommitteeStreams
from consensus.network.compact_blocks import CompactPropose, to_compact
from consensus.simplex.core import Simplex
from consensus.simplex.equivocation import EquivocationDetector, VotePair
from consensus.simplex.messages import (
    COMPACT_KIND,
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
    Send,
    SetTimer,
    StopTimer,
    UpdateFinality,
    encode_message,
)
from consensus.simplex.validation import FinalizedBlock, is_authentic
from consensus.simplex.view_timer import Timeouts
from consensus.verifier import SignatureVerifier
from consensus.voting.lockout import NONCE_BYTES
from consensus.voting.vote_store import VoteStore
from p2p.runtime import Runtime

logger = structlog.get_logger(__name__)

UNREQUESTED_HEIGHTS = 256
"""Blocks that agreement has not asked for are kept up to this many heights above the last final one."""


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
        block_spacing_s: float,
        verifier: SignatureVerifier | None = None,
    ) -> None:
        self._genesis = genesis
        self._vote_store = vote_store
        self._store = store
        self._mempool = mempool
        self._committee = committee
        self._runtime = runtime
        self._environment = environment
        self._timeouts = timeouts
        self._drift = genesis.parameters.timestamp_drift_ms
        self._me = b"" if vote_store is None else vote_store.key.public_key
        self._verifier = SignatureVerifier(runtime) if verifier is None else verifier
        self.checks = MessageChecks(genesis.chain_id, self._verifier, self._find_instance, self._is_near)
        """Checks the signatures of messages and blocks before they are passed to this driver."""
        self._detector = EquivocationDetector(genesis.chain_id, verify=self._verifier.verify)
        self._tree = BlockTree(store.header, store.state)
        self._executor = BlockExecutor(genesis, self._tree, mempool, self._verifier)
        self._proposer = Proposer(
            genesis, vote_store, mempool, self._tree, runtime, self._verifier, block_spacing_s, timeouts.first_s / 2
        )
        self._epoch = get_next_epoch(genesis, store.state)
        self._effects: deque[tuple[Simplex, Effect]] = deque()
        self._early = EarlyMessages()
        self._previous: Simplex | None = None
        self._timer: tuple[int, float] | None = None  # view and trio time
        self.times = AgreementTimes()
        """How long views and quorums take."""
        if vote_store is not None:
            vote_store.reconcile(store.journal_mark)
        self.simplex = self._make_instance()

    # What the engine asks.

    @property
    def head(self) -> tuple[Header, State]:
        """The last final header, and the state after its block."""
        assert self._tree.header is not None and self._tree.state is not None
        return self._tree.header, self._tree.state

    @property
    def epoch(self) -> Epoch:
        """The epoch of the block that comes next."""
        return self._epoch

    @property
    def _view(self) -> tuple[int, int]:
        """Epoch and number of the view that this node is in."""
        return self.simplex.epoch, self.simplex.view

    @property
    def leader(self) -> bytes:
        """Who is to propose the next block."""
        return self.simplex.leader

    def find_block(self, block_id: bytes) -> Block | None:
        """A block that is not final yet, or None."""
        node = self._tree.find(block_id)
        return None if node is None else node.block

    def has_new_votes(self, certificate: Certificate, validators: ValidatorSet) -> bool:
        """Whether there are votes in a certificate that this node does not know yet.

        Raises:
            InvalidCertificate: it is malformed, or not of a quorum.
        """
        certificate.signature_checks(self._genesis.chain_id, validators)
        return self._detector.has_new_votes(certificate, validators)

    def get_wakeup(self) -> float:
        """Trio time at which :meth:`on_clock` has something to do."""
        times = [self._proposer.get_wakeup(self.simplex)]
        if not self.simplex.has_work:
            times.append(self._proposer.get_beat(*self.head))
        if self._timer is not None:
            times.append(self._timer[1])
        ahead = self._tree.with_status(BlockStatus.AHEAD_OF_CLOCK)
        times += [self._proposer.get_time(block.header.timestamp - self._drift) for block in ahead]
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
                self._early.add(message, size)
            self._environment.request_sync()
            return None
        if isinstance(message, CompactPropose):
            return self._take_compact(message)
        instance = self._find_instance(epoch)
        if instance is None:
            return None
        effects = instance.on_message(message)
        await self._run(instance, effects)
        return next((effect for effect in effects if isinstance(effect, Reject)), None)

    async def on_fetched(self, block: Block) -> None:
        """A block that was asked for. The receiver has checked that it is authentic."""
        await self._run(self.simplex, self.simplex.on_block(block))

    async def on_block(self, block: Block) -> None:
        """A block that was gossiped."""
        if block.height <= self.head[0].height or self.find_block(block.id) is not None:
            await self._run(self.simplex, self.simplex.on_block(block))  # it may be what final certificates wait for
            return
        if not self._is_near(block) or not is_authentic(block, self._verifier.verify):
            logger.debug("block dropped", height=block.height, block=block.id.hex())
            return
        self._tree.add(block, BlockStatus.UNREQUESTED)
        await self._run(self.simplex, self.simplex.on_block(block))

    async def on_block_range(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        """A verified run of final blocks from sync."""
        rest = [node for node in executed if node.block.height > self.head[0].height]
        if not rest or rest[0].block.header.parent_id != self.head[0].id:
            return
        await self._finalize(rest, certificate)
        for instance in (self._previous, self.simplex):  # the former too: once finished it only answers
            if instance is not None and instance.epoch == certificate.epoch:
                await self._run(instance, instance.on_message(certificate))

    async def on_snapshot(self, ends: Sequence[LightClientUpdate], state: State) -> None:
        """Continue from a verified state far ahead, staged in the store, with the epoch ends that lead to it."""
        header, vote_store = ends[-1].header, self._vote_store
        if header.height <= self.head[0].height:
            return
        if vote_store is not None and state.validator_record(self._me) is not None:
            # One of the skipped blocks may be the one by which another machine took over the voting.
            await self._runtime.run_sync(vote_store.lock, self._runtime.random.randbytes(NONCE_BYTES))
        mark = None if vote_store is None else vote_store.mark
        await self._runtime.run_sync(self._store.adopt_snapshot, ends, state, mark)
        self._tree.advance(header, state)
        self._tree.clear()
        self._mempool.on_snapshot(header, state, trio.current_time())
        await self._enter_epoch()
        self._previous = None  # nothing of the epoch before is voted on any more
        await self._run(self.simplex, ())

    async def on_clock(self) -> None:
        """Do what is due: timeouts, the idle beat, a block to build. Also called when there may be new work."""
        now = trio.current_time()
        # This comes first: a view in which there is nothing left to agree about must not time out.
        has_work = self._mempool.has_ready() or self._proposer.get_beat(*self.head) <= now
        if has_work != self.simplex.has_work:
            await self._run(self.simplex, self.simplex.on_work(has_work))
        if self._timer is not None and now >= self._timer[1]:
            view, self._timer = self._timer[0], None
            if self._mempool.has_ready() and self.leader != self._me:
                self._environment.forward_work(self.leader)
            await self._run(self.simplex, self.simplex.on_timeout(view))
        for block in self._tree.with_status(BlockStatus.AHEAD_OF_CLOCK):
            if block.header.timestamp <= self._runtime.now() + self._drift:
                await self._run(self.simplex, [ExecuteBlock(block)])
        built = await self._proposer.build(self.simplex, self._epoch)
        if built is not None:
            await self._run(self.simplex, self.simplex.on_built(*built))

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
        self.times.note_view(self._view, trio.current_time())

    def _queue(self, instance: Simplex, effects: Iterable[Effect]) -> None:
        self._effects += [(instance, effect) for effect in effects]

    async def _carry_out(self, instance: Simplex, effect: Effect) -> None:
        match effect:
            case PersistVote():
                if effect.vote.kind == VoteKind.NOTARIZE:
                    self.times.note_vote(effect.vote.block_id, trio.current_time())
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
                    now = trio.current_time()
                    self._timer = (effect.view, now + effect.seconds)
                    self.times.note_busy(self._view, now)
            case StopTimer():
                if instance is self.simplex:
                    self._timer = None
                    self.times.note_idle()
            case Build():
                if instance is self.simplex:
                    self._proposer.set_order(effect)
            case ExecuteBlock():
                await self._execute(instance, effect.block)
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
        """Blocks for one or two fsyncs. StoreError ends the node: it must not go on voting."""
        assert self._vote_store is not None
        self._vote_store.persist(effect.vote, effect.support)
        self._verifier.trust(effect.vote.signature_check(self._genesis.chain_id))

    def _fetch(self, instance: Simplex, effect: Fetch) -> None:
        block = self.find_block(effect.block_id)
        if block is None:
            height = self._store.height_of_block(effect.block_id)
            block = None if height is None else self._store.block(height)
        if block is None:
            self._environment.fetch(effect.block_id, effect.peers)
        else:
            self._queue(instance, instance.on_block(block))

    async def _execute(self, instance: Simplex, block: Block) -> None:
        """Execute a block that the core ordered, or record in the tree what it waits for."""
        node = self._tree.add(block)
        if self._tree.find_parent(block.header.parent_id) is None:
            node.status = BlockStatus.WAITING_FOR_PARENT  # agreement is ahead of the chain, which sync completes
            return
        ahead = block.header.timestamp - self._runtime.now()
        if ahead > self._drift:
            logger.warning(
                "a block is ahead of this clock and gets no vote yet; if many are, this clock is slow: set it",
                height=block.height,
                ms=ahead,
                allowed_ms=self._drift,
            )
            node.status = BlockStatus.AHEAD_OF_CLOCK  # not invalid: other clocks differ from this one
            return
        executed = await self._executor.execute(block)
        if executed is not None:
            self._report(self._detector.observe_block(block, self._epoch.find_validators))
        self._queue(instance, instance.on_executed(block.id, executed is not None))

    # Finality.

    async def _commit(self, commit: Commit) -> None:
        """Make the blocks of a finalization final here, if all of them are at hand."""
        for block in commit.blocks:
            self.times.note_final(block.id, trio.current_time())
        branch = self._tree.get_branch(commit.blocks)
        if branch is None:
            logger.debug("final blocks were missed", height=commit.blocks[-1].height)
            self._tree.release(commit.blocks)
            self._environment.request_sync()
            return
        nodes: list[ExecutedBlock] = []
        for block in branch:
            executed = await self._executor.execute(block)
            if executed is None:
                raise RuntimeError(f"more than 2/3 of the stake made the invalid block {block.id.hex()} final")
            nodes.append(executed)
        if nodes:
            await self._finalize(nodes, commit.certificate)

    async def _finalize(self, executed: list[ExecutedBlock], certificate: Certificate) -> None:
        """Write final blocks to disk, advance the tree and the mempool, and enter the next epoch if it begins."""
        await self._runtime.run_sync(self._write_final, executed, certificate)
        for node in executed:  # those that sync brought were executed elsewhere
            self._report(self._detector.observe_block(node.block, self._epoch.find_validators))
        self._report(self._detector.observe_certificate(certificate, self._epoch.find_validators(certificate.epoch)))
        header = self._store.header
        self._tree.advance(header, self._store.state)
        for node in executed:
            transition = node.transition
            self._mempool.on_final(node.block, transition.state, transition.changes, trio.current_time())
        if self._previous is not None:  # without a timer of its own
            self._previous.renew_answers()
        self._environment.on_final(executed, certificate)
        if header.height >= self._epoch.last_height or any(is_restart(node.block.header) for node in executed):
            await self._enter_epoch()  # a restart leaves another committee in the middle of an epoch
        else:
            waiting = self._tree.resume(BlockStatus.WAITING_FOR_PARENT)
            self._queue(self.simplex, [ExecuteBlock(block) for block in waiting])

    def _write_final(self, executed: Sequence[ExecutedBlock], certificate: Certificate) -> None:
        """Blocks for as long as the disk takes. StoreError ends the node."""
        vote_store = self._vote_store
        blocks = [node.block for node in executed]
        if vote_store is not None:
            vote_store.before_final(blocks)
        mark = None if vote_store is None else vote_store.mark
        self._store.append([(node.block, node.transition) for node in executed], certificate, mark)
        if vote_store is not None:
            vote_store.after_final(blocks)
            vote_store.prune(certificate)

    async def _enter_epoch(self) -> None:
        self._epoch = get_next_epoch(self._genesis, self._store.state)
        self._tree.forget()
        before, self.simplex = self.simplex, self._make_instance()
        if before.epoch != self._epoch.number:  # after a restart in its epoch it must not go on beside its successor
            self._previous = before
        self._timer = None
        self._proposer.set_order(None)
        self._set_members()
        self._queue(self.simplex, self.simplex.start())
        early = self._early.take()
        await self.checks.verify(*(message for message, _ in early))
        for message, size in early:
            if message.epoch == self.simplex.epoch + 1:
                self._early.add(message, size)
            elif isinstance(message, CompactPropose):
                self._take_compact(message)
            elif message.epoch == self.simplex.epoch:
                self._queue(self.simplex, self.simplex.on_message(message))

    def _make_instance(self) -> Simplex:
        """The instance of the epoch that the next block is in."""
        header, epoch, vote_store = self._store.header, self._epoch, self._vote_store
        return Simplex(
            chain_id=self._genesis.chain_id,
            epoch=epoch,
            finalized=FinalizedBlock(header.id, header.height, self._store.certificate(header.height)),
            key=vote_store.key if vote_store is not None and vote_store.lockout.may_vote(epoch.number) else None,
            timeouts=self._timeouts,
            votes=() if vote_store is None else vote_store.journal.votes(epoch.number),
            support=() if vote_store is None else vote_store.support.load(epoch.number),
            verify=self._verifier.verify,
            detector=self._detector,
            tree=self._tree,
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

    def _find_instance(self, epoch: int) -> Simplex | None:
        """The instance of an epoch, if it is the current one or the one before."""
        instance = self.simplex if epoch == self.simplex.epoch else self._previous
        return instance if instance is not None and instance.epoch == epoch else None

    def _is_near(self, block: Block) -> bool:
        """Whether a block is not far ahead and names the leader of its view. Others are kept only if they were asked
        for."""
        header, epoch = block.header, self._epoch
        if header.height > self.head[0].height + UNREQUESTED_HEIGHTS:
            return False
        if (header.chain_id, header.epoch) != (self._genesis.chain_id, epoch.number):
            return False  # who leads in a later epoch is not known yet
        return header.height <= epoch.last_height and header.proposer == epoch.compute_leader(header.view)
