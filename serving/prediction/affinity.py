"""Affinity: which node has answered the turns of a conversation so far, and has them in its prefix cache. Pure.

Clients send the whole conversation with each turn. The messages of a request are hashed as a chain, and the hash of
them all is remembered with the node that answered. The next turn begins with the same messages, so that one of its
prefixes is found. A prefix that many conversations share, such as a system prompt, is not remembered by itself, or all
of them would go to one node.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from chain.collections import BoundedDict
from serving.openai.prefixes import DIGEST_BYTES, Prefix

SALT_BYTES = 16
"""Bytes of the salt."""
MAX_CONVERSATIONS = 8192
"""Conversations that are remembered; beyond it, the one used longest ago is forgotten."""


class Conversations:
    """Who has answered which conversation. The hashes that are kept are salted, by ``chance``."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._salt = b""
        self._nodes: BoundedDict[bytes, bytes] = BoundedDict(MAX_CONVERSATIONS)

    def __len__(self) -> int:
        """Conversations that are remembered."""
        return len(self._nodes)

    def find(self, prefixes: Sequence[Prefix]) -> tuple[bytes, int] | None:
        """The node that answered the longest prefix that is known, and the bytes of that prefix."""
        for digest, size in reversed(prefixes if self._nodes else ()):
            if (node := self._nodes.get(self._make_key(digest))) is not None:
                return node, size
        return None

    def note(self, prefixes: Sequence[Prefix], node: bytes) -> None:
        """``node`` has answered a request with these prefixes."""
        if prefixes:
            self._nodes[self._make_key(prefixes[-1][0])] = node

    def _make_key(self, digest: bytes) -> bytes:
        self._salt = self._salt or self._chance.randbytes(SALT_BYTES)
        return hashlib.blake2b(digest, key=self._salt, digest_size=DIGEST_BYTES).digest()
