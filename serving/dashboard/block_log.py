"""The last final blocks in short, and who paid whom in them: what the public sees move."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import trio

from chain.crypto import format_address
from chain.explorer.blocks import compute_share
from chain.explorer.flows import FLOWS_MS, FinalHold, add_up, list_holds
from chain.store.reader import ChainReader
from chain.types.blocks import Block
from chain.types.operations import Capture
from consensus.engine import Engine

MAX_BLOCKS = 120
"""Blocks that are kept."""
INITIAL_BLOCKS = 40
"""Blocks of before the start that are shown."""
MAX_FLOW_BLOCKS = 256
"""Earlier blocks in which holds are looked for at the start: those of a minute on the busiest chain."""
MAX_HOLDS = 4_096
"""Holds that are kept for the flows."""
MAX_LOOK_AHEAD = 8
"""If a block has no certificate of its own, so many later blocks are searched for the one that made it final."""


class BlockLog:
    """What is kept of the last final blocks. ``get_now`` reads the wall clock, in ms."""

    def __init__(self, engine: Engine, get_now: Callable[[], int]) -> None:
        self._engine = engine
        self._get_now = get_now
        self._entries: deque[tuple[int, str]] = deque(maxlen=MAX_BLOCKS)
        self._holds: deque[FinalHold] = deque(maxlen=MAX_HOLDS)

    async def run(self) -> None:
        """Follow the ledger until cancelled."""
        with self._engine.subscribe_final() as events:
            head = self._engine.header.height
            await self._look_back(head)
            async for event in events:
                if event.block.height > head:
                    self._add(event.block)

    async def _look_back(self, head: int) -> None:
        """Read the last blocks up to ``head`` from the disk, and the holds of all others of the last minute."""
        chain, since, shown = self._engine.chain, self._get_now() - FLOWS_MS, max(1, head - INITIAL_BLOCKS + 1)
        older: list[list[FinalHold]] = []
        for height in range(shown - 1, max(0, head - MAX_FLOW_BLOCKS), -1):
            block = chain.block(height)
            if block is None or block.header.timestamp < since:
                break
            older.append(list_holds(block))
            await trio.lowlevel.checkpoint()
        for holds in reversed(older):
            self._holds += holds
        for height in range(shown, head + 1):
            block = chain.block(height)
            if block is not None:
                self._add(block)
            await trio.lowlevel.checkpoint()

    def _add(self, block: Block) -> None:
        summary = describe_block(block, self._engine.chain)
        self._entries.append((block.height, json.dumps(summary, separators=(",", ":"))))
        self._holds += list_holds(block)

    def get_since(self, height: int) -> tuple[int, list[str]]:
        """Height of the last block that is kept, and in JSON those above ``height``, oldest first."""
        last = self._entries[-1][0] if self._entries else 0
        return last, [text for at, text in self._entries if at > height]

    def find_flows(self, now: int) -> list[dict[str, Any]]:
        """Who made holds for whom in the last minute; ``now`` is the wall clock in ms."""
        return add_up(hold for hold in self._holds if now - hold.timestamp <= FLOWS_MS)


def describe_block(block: Block, reader: ChainReader) -> dict[str, Any]:
    """A block in short. ``signed`` is the share of stake in its certificate (0 to 1), or in that of the block after it
    that made it final; None if there is none. ``paid`` is what its captures moved."""
    header = block.header
    kinds = Counter(type(signed.operation).__name__.lower() for signed in block.body.operations)
    captures = [signed.operation for signed in block.body.operations if isinstance(signed.operation, Capture)]
    return {
        "height": header.height,
        "id": header.id.hex(),
        "at": header.timestamp,
        "epoch": header.epoch,
        "view": header.view,
        "proposer": format_address(header.proposer),
        "operations": len(block.body.operations),
        "kinds": dict(kinds),
        "paid": sum(item.delivery.amount for capture in captures for item in capture.items),
        "bytes": len(block.encoded),
        "skipped": len(block.body.nullifications),
        "signed": _find_signed_share(header.height, reader),
    }


def _find_signed_share(height: int, reader: ChainReader) -> float | None:
    for ahead in range(height, min(reader.height, height + MAX_LOOK_AHEAD) + 1):
        certificate, header = reader.certificate(ahead), reader.find_header(ahead)
        if certificate is not None and header is not None:
            share = compute_share(reader, header, certificate)
            return None if share is None else round(share, 4)
    return None
