"""Chains of tests in stores, and as sources for the audit; and damage to the files that they are in."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from chain.crypto import hash_bytes
from chain.genesis import Genesis
from chain.light.client import LightClientUpdate
from chain.state.state import State
from chain.store.kv import Store
from chain.store.writer import ChainStore
from chain.transition.block import Transition, apply_block
from chain.types.blocks import Block, Header
from chain.types.votes import Certificate
from tests.support.chain_builder import Chain

OTHER = hash_bytes("test other")

Finals = dict[int, Certificate]
"""Finality certificates by height; a block without one is final by a descendant's."""


def get_transitions(chain: Chain) -> list[tuple[Block, Transition]]:
    """The blocks of a chain, each with what it leads to."""
    headers = [chain.genesis.header, *(block.header for block in chain.blocks)]
    return [
        (block, apply_block(chain.genesis, headers[index], chain.states[index], block))
        for index, block in enumerate(chain.blocks)
    ]


def fill_store(store: Store, chain: Chain, finals: Finals, keep_epochs: int = 0) -> ChainStore:
    """Write a chain to a store, or what it lacks of it, one batch per certificate as a node would."""
    blocks = ChainStore(store, chain.genesis, keep_epochs)
    transitions = get_transitions(chain)
    for height in sorted(height for height in finals if height > blocks.height):
        blocks.append(transitions[blocks.height : height], finals[height], (height, OTHER))
    return blocks


class ListSource:
    """A chain in memory, as a source for the audit."""

    def __init__(self, genesis: Genesis, entries: Sequence[tuple[bytes, bytes | None]], height: int) -> None:
        self.genesis = genesis
        self.height = height
        self.rows = entries

    @property
    def base(self) -> Header:
        """See :class:`chain.audit.sources.ChainSource`."""
        return self.genesis.header

    def read_base(self) -> State:
        """See :class:`chain.audit.sources.ChainSource`."""
        return self.genesis.state

    def light_client_updates(self) -> Iterator[LightClientUpdate]:
        """See :class:`chain.audit.sources.ChainSource`."""
        return iter(())

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """See :class:`chain.audit.sources.ChainSource`."""
        yield from self.rows

    def check_block(self, block: Block, before: State, transition: Transition) -> None:
        """See :class:`chain.audit.sources.ChainSource`."""

    def check(self, state: State, header: Header) -> None:
        """See :class:`chain.audit.sources.ChainSource`."""


def flip(raw: bytes, position: int = 10) -> bytes:
    """``raw`` with one bit changed."""
    changed = bytearray(raw)
    changed[position] ^= 1
    return bytes(changed)


def damage_file(path: Path, damage: str, rng: random.Random) -> None:
    """Do one of ``DAMAGES`` to a file."""
    if damage == "deleted":
        path.unlink()
        return
    raw = bytearray(path.read_bytes())
    spot = rng.randrange(len(raw) or 1)
    match damage:
        case "cut short":
            del raw[spot:]
        case "a bit flipped":
            raw[spot : spot + 1] = (byte ^ 1 << rng.randrange(8) for byte in raw[spot : spot + 1])
        case "a stretch of zeros":
            raw[spot : spot + 64] = bytes(len(raw[spot : spot + 64]))
    path.write_bytes(raw)


DAMAGES = ("deleted", "cut short", "a bit flipped", "a stretch of zeros")
