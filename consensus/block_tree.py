"""The tree of blocks that are not final yet, on top of the chain: what is held, and how far each block is. Pure.

The core of agreement (:mod:`consensus.simplex`) decides which block is to be executed next; the driver executes it and
puts the state after it into the tree. States share what they have in common
(:class:`chain.merkle.sparse_tree.SparseMerkleTree`), so that a branch costs only its differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from chain.state.state import State
from chain.transition.block import Transition
from chain.types.blocks import Block, Header

MAX_UNREQUESTED_BLOCKS = 64
"""Blocks kept that came before agreement asked for them; the oldest are dropped."""


@dataclass(frozen=True, slots=True)
class ExecutedBlock:
    """A block that was checked, and what it leads to."""

    block: Block
    transition: Transition


class BlockStatus(Enum):
    """How far a block is."""

    UNREQUESTED = auto()
    """It came before agreement asked for it, or agreement is done with it and the chain is not."""
    HELD = auto()
    """Agreement has it, and has not ordered its execution."""
    EXECUTING = auto()
    """Its execution is ordered."""
    WAITING_FOR_PARENT = auto()
    """Its execution is ordered, and will begin once the state before it is here."""
    AHEAD_OF_CLOCK = auto()
    """Its execution is ordered, and will begin once this node's clock has come near its timestamp."""
    VALID = auto()
    INVALID = auto()


IS_ORDERED = frozenset({BlockStatus.EXECUTING, BlockStatus.WAITING_FOR_PARENT, BlockStatus.AHEAD_OF_CLOCK})
"""The execution was ordered, and there is no result yet."""


@dataclass(slots=True)
class PendingBlock:
    """A block in the tree; ``transition`` is the result of its execution, once it was executed here."""

    block: Block
    status: BlockStatus
    transition: Transition | None = None


class BlockTree:
    """Blocks above the head of the chain, by id.

    ``header`` and ``state`` are those of the head, the last final block that is executed and on disk; None for a tree
    in which nothing is executed. Agreement may have made later blocks final already.
    """

    def __init__(self, header: Header | None = None, state: State | None = None) -> None:
        self.header = header
        self.state = state
        self._nodes: dict[bytes, PendingBlock] = {}
        self._operations: tuple[bytes, frozenset[bytes]] | None = None  # what was asked for last, and its answer

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, block_id: bytes) -> PendingBlock | None:
        """A block of the tree with its status, or None."""
        return self._nodes.get(block_id)

    def with_status(self, status: BlockStatus) -> list[Block]:
        """The blocks of a status, in the order in which they came."""
        return [node.block for node in self._nodes.values() if node.status is status]

    def resume(self, status: BlockStatus) -> list[Block]:
        """The blocks of a status, which are to be executed now."""
        nodes = [node for node in self._nodes.values() if node.status is status]
        for node in nodes:
            node.status = BlockStatus.EXECUTING
        return [node.block for node in nodes]

    def add(self, block: Block, status: BlockStatus = BlockStatus.HELD) -> PendingBlock:
        """Keep a block. One that is here already keeps its status, unless it was unrequested."""
        node = self._nodes.get(block.id)
        if node is None:
            node = self._nodes[block.id] = PendingBlock(block, status)
        elif node.status is BlockStatus.UNREQUESTED:
            node.status = status
        if status is BlockStatus.UNREQUESTED:
            self._limit_unrequested()
        return node

    def add_executed(self, block: Block, transition: Transition) -> ExecutedBlock:
        """Keep what a block leads to, whose parent is the head or was executed."""
        if self.find_parent(block.header.parent_id) is None:
            raise ValueError(f"the parent of block {block.height} is not in the tree")
        node = self.add(block)
        node.status, node.transition = BlockStatus.VALID, transition
        return ExecutedBlock(block, transition)

    def release(self, blocks: Sequence[Block]) -> None:
        """Agreement no longer needs these blocks, but the chain does not reach them yet: keep as many as there is room
        for."""
        for block in blocks:
            node = self._nodes.pop(block.id, None)
            if node is None or node.transition is None:
                node = PendingBlock(block, BlockStatus.UNREQUESTED)
            self._nodes[block.id] = node
        self._limit_unrequested()

    def get_executed(self, block_id: bytes) -> ExecutedBlock | None:
        """A block that was executed here, or None."""
        node = self._nodes.get(block_id)
        return None if node is None or node.transition is None else ExecutedBlock(node.block, node.transition)

    def find_parent(self, parent_id: bytes) -> tuple[Header, State] | None:
        """Header and state to execute a child of ``parent_id`` on, or None if that is not executed."""
        if self.header is not None and self.state is not None and parent_id == self.header.id:
            return self.header, self.state
        node = self._nodes.get(parent_id)
        return None if node is None or node.transition is None else (node.block.header, node.transition.state)

    def get_operations(self, block_id: bytes) -> frozenset[bytes]:
        """Ids of the operations in ``block_id`` and its ancestors, as far as they are in the tree."""
        if block_id not in self._nodes:
            return frozenset()
        if self._operations is None or self._operations[0] != block_id:
            found: set[bytes] = set()
            place = block_id
            while (node := self._nodes.get(place)) is not None:
                found.update(operation.id for operation in node.block.body.operations)
                place = node.block.header.parent_id
            self._operations = block_id, frozenset(found)
        return self._operations[1]

    def get_branch(self, blocks: Sequence[Block]) -> list[Block] | None:
        """The blocks that lead from the head to ``blocks[-1]``, oldest first; None if one of them is missing.

        Raises:
            ValueError: the branch does not descend from the head.
        """
        assert self.header is not None
        branch = [block for block in blocks if block.height > self.header.height]
        while branch and branch[0].header.parent_id != self.header.id:
            first = branch[0].header
            if first.height <= self.header.height + 1:
                raise ValueError(f"block {first.height} does not descend from the final block {self.header.height}")
            node = self._nodes.get(first.parent_id)
            if node is None:
                return None
            branch.insert(0, node.block)
        return branch

    def advance(self, header: Header, state: State) -> None:
        """Move the head. Blocks that are not above it are dropped, and so are those executed on another branch."""
        self.header, self.state = header, state
        kept: dict[bytes, PendingBlock] = {}
        executed = {header.id}
        for block_id, node in sorted(self._nodes.items(), key=lambda item: item[1].block.height):
            if node.block.height <= header.height:
                continue
            if node.transition is None:
                kept[block_id] = node
            elif node.block.header.parent_id in executed:
                executed.add(block_id)
                kept[block_id] = node
        self._nodes = {block_id: node for block_id, node in self._nodes.items() if block_id in kept}
        self._operations = None

    def forget(self) -> None:
        """Drop all but the unrequested blocks: another instance of agreement begins."""
        unrequested = BlockStatus.UNREQUESTED
        self._nodes = {block_id: node for block_id, node in self._nodes.items() if node.status is unrequested}
        self._operations = None

    def clear(self) -> None:
        """Drop everything above the head."""
        self._nodes.clear()
        self._operations = None

    def prune(self, height: int) -> None:
        """Drop what is not above ``height``."""
        self._nodes = {block_id: node for block_id, node in self._nodes.items() if node.block.height > height}

    def _limit_unrequested(self) -> None:
        unrequested = [key for key, node in self._nodes.items() if node.status is BlockStatus.UNREQUESTED]
        for block_id in unrequested[:-MAX_UNREQUESTED_BLOCKS]:
            del self._nodes[block_id]
