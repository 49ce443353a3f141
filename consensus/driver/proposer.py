"""When a validator that leads a view builds a block, and how.

A block is proposed when there is something in it, at most every ``block_spacing_s``; when the chain's last block is a
beat old; or when the block before would otherwise not become final. So an idle network makes one block per idle beat
and is quiet in between. While a change of who serves waits to come into force, the beat is shorter; otherwise a
newcomer would wait minutes for its first request.
"""

from __future__ import annotations

import math
from functools import partial

import structlog
import trio

from chain.genesis import Genesis
from chain.state.beacon import make_hash_chain
from chain.state.state import State
from chain.transition.block import build_block
from chain.transition.epochs import Epoch
from chain.transition.rounds import is_change_pending
from chain.transition.validators.participation import get_recent_blocks, is_late_vote
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Header
from consensus.block_tree import BlockTree
from consensus.mempool.pool import Mempool
from consensus.simplex.core import Simplex
from consensus.simplex.messages import Build
from consensus.verifier import SignatureVerifier
from consensus.voting.vote_store import VoteStore
from p2p.runtime import Runtime

logger = structlog.get_logger(__name__)

CHANGE_BEAT_MS = 1_000
"""Longest time from one block until the next is due, while a change of who serves waits to come into force."""


class Proposer:
    """Carries out the last ``Build`` that the core ordered. Times are trio's, in seconds.

    ``patience`` is how long a leader waits before it proposes an empty block only to make the one before it final.
    """

    def __init__(
        self,
        genesis: Genesis,
        vote_store: VoteStore | None,
        mempool: Mempool,
        tree: BlockTree,
        runtime: Runtime,
        verifier: SignatureVerifier,
        block_spacing_s: float,
        patience: float,
    ) -> None:
        self._genesis = genesis
        self._vote_store = vote_store
        self._mempool = mempool
        self._tree = tree
        self._runtime = runtime
        self._verifier = verifier
        self._block_spacing = block_spacing_s
        self._patience = patience
        self._order: Build | None = None
        self._ordered_at = 0.0
        self._not_before = 0.0  # what seemed to be work was none
        self._last_beat: tuple[Header, int] | None = None  # asked for again after each event, mostly for one header

    def set_order(self, order: Build | None) -> None:
        """Build this from now on; it replaces any order before it."""
        self._order, self._ordered_at, self._not_before = order, trio.current_time(), 0.0

    def get_time(self, timestamp: int) -> float:
        """When this node's clock shows ``timestamp`` (ms)."""
        return trio.current_time() + (timestamp - self._runtime.now()) / 1000

    def get_beat(self, header: Header, state: State) -> float:
        """When a block on ``header`` is due even if it is empty; ``state`` is the one after ``header``."""
        if self._last_beat is None or self._last_beat[0] is not header:
            beat = self._genesis.parameters.idle_beat_ms
            if is_change_pending(self._genesis, state, header.height + 1):
                beat = min(beat, CHANGE_BEAT_MS)
            self._last_beat = header, beat
        return self.get_time(header.timestamp + self._last_beat[1])

    def get_wakeup(self, simplex: Simplex) -> float:
        """When the block that was ordered is due; never if none was ordered."""
        parent = None if self._order is None else self._tree.find_parent(self._order.parent_id)
        if self._order is None or parent is None:  # sync is about to bring the parent
            return math.inf
        header = parent[0]
        due = self._get_empty_time(simplex, *parent)
        if self._mempool.has_ready(self._tree.get_operations(self._order.parent_id)):
            due = min(due, min(self.get_time(header.timestamp), self._ordered_at) + self._block_spacing)
        return max(due, self._not_before)

    def _get_empty_time(self, simplex: Simplex, header: Header, state: State) -> float:
        """When an empty block on ``header`` is due."""
        beat = self.get_beat(header, state)
        # A notarized block usually becomes final soon, so wait before proposing an empty block to make it so.
        return beat if simplex.is_settled else min(beat, self._ordered_at + self._patience)

    async def build(self, simplex: Simplex, epoch: Epoch) -> tuple[int, Block] | None:
        """Build the block that is due and put it into the tree. Returns its view and the block, or None."""
        order = self._order
        if order is not None and order.view != simplex.view:
            order = self._order = None
        if order is None or self.get_wakeup(simplex) > trio.current_time():
            return None
        self._order = None
        return await self._build(order, simplex, epoch)

    async def _build(self, order: Build, simplex: Simplex, epoch: Epoch) -> tuple[int, Block] | None:
        assert self._vote_store is not None
        parent = self._tree.find_parent(order.parent_id)
        assert parent is not None
        reveal = self._find_reveal(parent[1])
        if reveal is None:
            logger.error("this validator cannot lead: its hash chain is used up, or is not that of its key")
            return None
        recent = get_recent_blocks(parent[1], epoch, parent[0], order.parent_certificate)
        votes = simplex.get_notarize_votes((block.view, block.block_id) for block in recent)
        late = [vote for vote in votes if any(is_late_vote(epoch, block, vote) for block in recent)]
        operations = self._mempool.draw(MAX_BLOCK_BYTES, self._tree.get_operations(order.parent_id))
        block, transition, rejected = await self._runtime.run_sync(
            partial(
                build_block,
                self._genesis,
                self._vote_store.key,
                *parent,
                operations,
                view=order.view,
                timestamp=self._runtime.now(),
                reveal=reveal,
                parent_certificate=order.parent_certificate,
                nullifications=order.nullifications,
                late_votes=late,
                on_rejected=operations.reject,
            )
        )
        now = trio.current_time()
        for operation, reason in rejected:
            self._mempool.reject(operation.id, reason, now)
        if not block.body.operations and self._get_empty_time(simplex, *parent) > now:
            if order.view == simplex.view and self._order is None:  # it only seemed as if there were work
                self._order, self._not_before = order, now + self._block_spacing
            return None
        self._tree.add_executed(block, transition)
        self._verifier.trust(block.signature_check())
        return order.view, block

    def _find_reveal(self, state: State) -> bytes | None:
        """What this validator reveals in a block on ``state``."""
        assert self._vote_store is not None
        key, genesis = self._vote_store.key, self._genesis
        validator = state.validator_record(key.public_key)
        if validator is None:
            return None
        hash_chain = make_hash_chain(key, genesis.beacon, validator.hash_chain, genesis.parameters.epoch_heights)
        return hash_chain.find_reveal(validator.commitment)
