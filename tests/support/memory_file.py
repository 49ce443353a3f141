"""A journal's file in memory."""

from __future__ import annotations


class MemoryFile:
    """A journal's file in memory; ``crash`` forgets what was not synced, all of it or all but the first bytes."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.durable = 0
        self.syncs = 0

    def get_size(self) -> int:
        return len(self.content)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.content[offset : offset + size])

    def append(self, data: bytes) -> None:
        self.content += data

    def truncate(self, size: int) -> None:
        del self.content[size:]
        self.durable = min(self.durable, size)

    def replace(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.durable = len(content)

    def sync(self) -> None:
        self.durable = len(self.content)
        self.syncs += 1

    def close(self) -> None:
        pass

    def crash(self, torn: int = 0) -> None:
        del self.content[self.durable + torn :]
