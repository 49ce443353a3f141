"""Messages of the epoch after this node's, kept until it gets there. Pure."""

from __future__ import annotations

from collections import deque

from consensus.network.compact_blocks import CompactPropose
from consensus.simplex.messages import Message, Propose, Repropose

MAX_EARLY_MESSAGES = 512
"""Messages kept; the oldest are dropped."""
MAX_EARLY_BYTES = 2 << 20
"""Bytes of all messages kept."""


class EarlyMessages:
    """A bounded queue."""

    def __init__(self) -> None:
        self._messages: deque[tuple[Message | CompactPropose, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, message: Message | CompactPropose, size: int) -> None:
        """Keep a message of ``size`` bytes, unless it is a proposal that would take most of the room."""
        if isinstance(message, Propose | Repropose | CompactPropose) and size > MAX_EARLY_BYTES // 2:
            return
        self._messages.append((message, size))
        self._bytes += size
        while len(self._messages) > MAX_EARLY_MESSAGES or self._bytes > MAX_EARLY_BYTES:
            self._bytes -= self._messages.popleft()[1]

    def take(self) -> list[tuple[Message | CompactPropose, int]]:
        """All messages with their sizes, which are no longer kept."""
        messages, self._messages, self._bytes = self._messages, deque(), 0
        return list(messages)
