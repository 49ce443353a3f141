"""The blocks of an epoch that are not final yet: which to execute next, and which to fetch."""

from __future__ import annotations

from chain.types.blocks import Block
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate
from consensus.block_tree import IS_ORDERED, BlockStatus, BlockTree, PendingBlock
from consensus.simplex.messages import Effect, ExecuteBlock, Fetch
from consensus.simplex.validation import FinalizedBlock


class PendingBlocks:
    """The part of the block tree above the last block that agreement made final.

    Orders to the driver are appended to ``effects``. The driver prunes the tree as the chain under it grows; a tree
    without a chain is pruned here.
    """

    def __init__(
        self, tree: BlockTree, finalized: FinalizedBlock, epoch: int, validators: ValidatorSet, effects: list[Effect]
    ) -> None:
        self.finalized = finalized
        self._tree, self._epoch, self._validators, self._effects = tree, epoch, validators, effects
        self._requests: dict[bytes, Fetch] = {}

    def _find(self, block_id: bytes) -> PendingBlock | None:
        node = self._tree.find(block_id)
        return None if node is None or node.block.height <= self.finalized.height else node

    def get(self, block_id: bytes) -> Block | None:
        """A block that is held, or None."""
        node = self._find(block_id)
        return None if node is None else node.block

    def get_height(self, block_id: bytes) -> int:
        """Height of the final block or of one that is held."""
        if block_id == self.finalized.block_id:
            return self.finalized.height
        node = self._find(block_id)
        assert node is not None
        return node.block.height

    def is_requested(self, block_id: bytes) -> bool:
        """Whether the block was asked for and has not come."""
        return block_id in self._requests

    def add(self, block: Block, is_valid: bool = False) -> None:
        """Keep an authentic block. A block that was built here is added as valid, and is not executed again."""
        self._requests.pop(block.id, None)
        if block.height > self.finalized.height:
            self._tree.add(block, BlockStatus.VALID if is_valid else BlockStatus.HELD)

    def request(self, block_id: bytes, certificate: Certificate | None) -> None:
        """Ask for a block, once; those who signed ``certificate`` for it can send it."""
        if block_id not in self._requests:
            known = certificate is not None and certificate.epoch == self._epoch
            signers = certificate.signers if certificate is not None and known else ()
            order = Fetch(block_id, tuple(self._validators[position].public_key for position in signers))
            self._requests[block_id] = order
            self._effects.append(order)

    def repeat_requests(self) -> None:
        """Ask again for the blocks that did not come."""
        self._effects.extend(self._requests.values())

    def is_valid(self, block_id: bytes, certificate: Certificate | None) -> bool:
        """Whether a block and all before it were executed; if not, ask for the first thing missing."""
        lowest: PendingBlock | None = None
        while block_id != self.finalized.block_id:
            node = self._find(block_id)
            if node is None:
                self.request(block_id, certificate)
                return False
            if node.status is BlockStatus.VALID:
                break
            if node.status is BlockStatus.INVALID or node.status in IS_ORDERED:
                return False
            lowest, block_id = node, node.block.header.parent_id
            certificate = node.block.body.parent_certificate
            if node.block.height == self.finalized.height + 1 and block_id != self.finalized.block_id:
                node.status = BlockStatus.INVALID  # of a branch that lost
                return False
        if lowest is None:
            return True
        if lowest.block.height == self.get_height(block_id) + 1:
            lowest.status = BlockStatus.EXECUTING
            self._effects.append(ExecuteBlock(lowest.block))
        else:
            lowest.status = BlockStatus.INVALID
        return False

    def set_result(self, block_id: bytes, is_valid: bool) -> None:
        """Take the result of an execution that was ordered."""
        node = self._find(block_id)
        if node is not None and node.status in IS_ORDERED:
            node.status = BlockStatus.VALID if is_valid else BlockStatus.INVALID

    def retry(self, block_id: bytes) -> None:
        """Execute an invalid block again after all: a quorum found it good."""
        node = self._find(block_id)
        if node is not None and node.status is BlockStatus.INVALID:
            node.status = BlockStatus.HELD

    def finalize(self, certificate: Certificate) -> tuple[Block, ...]:
        """Make a held block final. Returns it and its ancestors at hand that were not final, oldest first."""
        block = self.get(certificate.block_id)
        assert block is not None
        branch = [block]
        while (parent := self.get(branch[-1].header.parent_id)) is not None:
            branch.append(parent)
        self.finalized = FinalizedBlock(block.id, block.height, certificate)
        self._requests.clear()  # whatever is still needed is asked for again
        if self._tree.header is None:
            self._tree.prune(block.height)
        return tuple(reversed(branch))
