"""The tree of executed blocks that are not final yet, on top of the last final one. Pure.

States share what they have in common (:class:`chain.merkle.sparse_tree.SparseMerkleTree`), so that a branch costs
only its differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chain.state.state import State
from chain.transition.block import Transition
from chain.types.blocks import Block, Header


@dataclass(frozen=True, slots=True)
class ExecutedBlock:
    """A block that was checked, and what it leads to."""

    block: Block
    transition: Transition


class BlockTree:
    """ExecutedBlock blocks by id. ``header`` and ``state`` are those of the last final block."""

    def __init__(self, header: Header, state: State) -> None:
        self.header = header
        self.state = state
        self._nodes: dict[bytes, ExecutedBlock] = {}
        self._operations: tuple[bytes, frozenset[bytes]] | None = None  # what was asked for last, and its answer

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, block_id: bytes) -> ExecutedBlock | None:
        """The executed block that is not final yet, or None."""
        return self._nodes.get(block_id)

    def find_parent(self, parent_id: bytes) -> tuple[Header, State] | None:
        """Header and state to execute a child of ``parent_id`` on, or None if that is not here."""
        if parent_id == self.header.id:
            return self.header, self.state
        node = self._nodes.get(parent_id)
        return None if node is None else (node.block.header, node.transition.state)

    def add(self, block: Block, transition: Transition) -> None:
        """Keep an executed block, whose parent is here."""
        if self.find_parent(block.header.parent_id) is None:
            raise ValueError(f"the parent of block {block.height} is not in the tree")
        self._nodes[block.id] = ExecutedBlock(block, transition)

    def get_operations(self, block_id: bytes) -> frozenset[bytes]:
        """Ids of the operations in the blocks that are not final yet, from ``block_id`` down."""
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

    def get_branch(self, blocks: Sequence[Block], find: Callable[[bytes], Block | None]) -> list[Block] | bytes:
        """The blocks that lead from the last final one to ``blocks[-1]``, oldest first.

        Those before ``blocks`` come from the tree or from ``find``. If one is nowhere, its id is returned instead.

        Raises:
            ValueError: the branch does not descend from the last final block.
        """
        branch = [block for block in blocks if block.height > self.header.height]
        while branch and branch[0].header.parent_id != self.header.id:
            first = branch[0].header
            if first.height <= self.header.height + 1:
                raise ValueError(f"block {first.height} does not descend from the final block {self.header.height}")
            node = self._nodes.get(first.parent_id)
            parent = node.block if node is not None else find(first.parent_id)
            if parent is None:
                return first.parent_id
            branch.insert(0, parent)
        return branch

    def advance(self, header: Header, state: State) -> None:
        """Make a block the last final one; what does not descend from it is dropped."""
        self.header, self.state = header, state
        kept: dict[bytes, ExecutedBlock] = {}
        for block_id, node in sorted(self._nodes.items(), key=lambda item: item[1].block.height):
            parent_id = node.block.header.parent_id
            if node.block.height > header.height and (parent_id == header.id or parent_id in kept):
                kept[block_id] = node
        self._nodes = kept
        self._operations = None
