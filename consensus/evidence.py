"""What own votes rest on, kept on disk beside them until the chain is past it.

A notarize is worth nothing without its block, nor a finalize without its notarization: if every validator crashed at
once and lost them, a block that may be final would be gone. Entries live in the node's database under ``e`` ‖ epoch ‖
view ‖ kind (8, 8 and 1 bytes).
"""

from __future__ import annotations

from chain.blocks import Block
from chain.exceptions import CodecError, StoreError
from chain.store import Store
from chain.votes import Certificate, Vote

PREFIX = b"e"
_BLOCK, _CERTIFICATE = b"b", b"c"
PRUNE_AT = 16
"""Entries worth a write to be forgotten."""


class EvidenceStore:
    """The evidence of own votes, on any :class:`chain.store.Store` (usually that of the chain).

    Raises:
        StoreError: from every method, when the store fails.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = [key for key, _ in store.items(PREFIX)]

    def put(self, vote: Vote, evidence: Block | Certificate | None) -> None:
        """Keep what ``vote`` rests on. It is on disk when this returns."""
        if evidence is None:
            return
        kind = _BLOCK if isinstance(evidence, Block) else _CERTIFICATE
        key = _get_key(vote.epoch, vote.view) + bytes([vote.kind])
        self._store.write({key: kind + evidence.encode()})
        self._keys.append(key)

    def load(self, epoch: int) -> list[Block | Certificate]:
        """The evidence of an epoch, in the order of views."""
        found: list[Block | Certificate] = []
        for key, raw in self._store.items(PREFIX + epoch.to_bytes(8, "big")):
            try:
                found.append(Block.decode(raw[1:]) if raw[:1] == _BLOCK else Certificate.decode(raw[1:]))
            except CodecError as error:
                raise StoreError(f"evidence {key.hex()} is damaged: {error}") from error
        return found

    def prune(self, epoch: int, view: int) -> None:
        """Forget what lies before a view in which a block became final, now or later."""
        limit = _get_key(epoch, view)
        old = [key for key in self._keys if key < limit]
        if len(old) >= PRUNE_AT:
            self._store.write(dict.fromkeys(old))
            self._keys = [key for key in self._keys if key >= limit]


def _get_key(epoch: int, view: int) -> bytes:
    return PREFIX + epoch.to_bytes(8, "big") + view.to_bytes(8, "big")
