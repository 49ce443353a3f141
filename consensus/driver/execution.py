"""Executing blocks in worker threads, each once, on the state that its parent left in the tree."""

from __future__ import annotations

import structlog

from chain import crypto
from chain.exceptions import LedgerError
from chain.genesis import Genesis
from chain.state.state import State
from chain.transition.block import IsVerified, Transition, state_transition
from chain.types.blocks import Block, Header
from consensus.block_tree import BlockTree, ExecutedBlock
from consensus.mempool.pool import Mempool
from consensus.verifier import SignatureVerifier

logger = structlog.get_logger(__name__)


class BlockExecutor:
    """Checks and executes blocks. Signatures that were checked before, alone or in the mempool, are not checked
    again."""

    def __init__(self, genesis: Genesis, tree: BlockTree, mempool: Mempool, verifier: SignatureVerifier) -> None:
        self._genesis = genesis
        self._tree = tree
        self._mempool = mempool
        self._verifier = verifier

    async def execute(self, block: Block) -> ExecutedBlock | None:
        """The transition of a block whose parent is in the tree and was executed; None if the block is invalid."""
        known = self._tree.get_executed(block.id)
        if known is not None:
            return known
        parent = self._tree.find_parent(block.header.parent_id)
        assert parent is not None
        try:
            transition = await self._verifier.run(_execute, self._genesis, *parent, block, self._mempool.is_verified)
        except LedgerError as error:
            logger.warning("a block is invalid", height=block.height, block=block.id.hex(), reason=str(error))
            return None
        self._mempool.note_verified(block.body.operations)
        return self._tree.add_executed(block, transition)


def _execute(
    verify: crypto.Verify, genesis: Genesis, parent: Header, state: State, block: Block, is_verified: IsVerified
) -> Transition:
    return state_transition(genesis, parent, state, block, is_verified, verify)
