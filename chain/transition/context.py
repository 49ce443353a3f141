"""What an operation may know of the block that contains it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from chain.genesis import Genesis
from chain.transition.epochs import get_epoch
from chain.types.blocks import Header


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What an operation may know of the block that it stands in.

    ``proven`` has the ids of registrations whose proof of work was checked before.
    """

    genesis: Genesis
    epoch: int
    height: int
    chain_time: int
    proven: Container[bytes] = ()

    @classmethod
    def after(cls, genesis: Genesis, header: Header) -> BlockContext:
        """The context of the block after ``header``, with the earliest chain time that it may have."""
        height = header.height + 1
        return cls(genesis, get_epoch(genesis.parameters, height), height, header.chain_time)
