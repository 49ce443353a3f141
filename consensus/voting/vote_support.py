"""The blocks and certificates that own votes rest on, kept on disk beside them until the chain is past them.

A notarize is worth nothing without its block, nor a finalize without its notarization: if every validator crashed at
once and lost them, a block that may be final would be gone. The key of an entry is its prefix, epoch, view and kind (1,
8, 8 and 1 bytes). They are written before the vote is added to the journal, together with the vote itself
and the mark that the journal must then reach: so a vote can be missing from the journal after a crash, but never be
sent and leave no trace outside of it.
"""

from __future__ import annotations

from chain.exceptions import CodecError, StoreDamaged
from chain.store.kv import Store
from chain.store.layout import LAST_VOTE_KEY, VOTE_SUPPORT_PREFIX, encode_mark, encode_number
from chain.types.blocks import Block
from chain.types.votes import Certificate, Vote

_BLOCK, _CERTIFICATE = b"b", b"c"
PRUNE_AT_ENTRIES = 16
"""Entries worth a write to be forgotten."""


class VoteSupportStore:
    """The support of own votes, on any :class:`chain.store.kv.Store` (usually that of the chain).

    Raises:
        StoreError: from every method, when the store fails.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = [key for key, _ in store.items(VOTE_SUPPORT_PREFIX)]

    def put(self, vote: Vote, support: Block | Certificate | None, mark: tuple[int, bytes]) -> None:
        """Keep a vote, what it rests on, and how far the journal reaches with it. On disk when this returns."""
        entries = encode_mark(mark) | {LAST_VOTE_KEY: vote.encode()}
        if support is not None:
            key = _get_key(vote.epoch, vote.view) + bytes([vote.kind])
            entries[key] = (_BLOCK if isinstance(support, Block) else _CERTIFICATE) + support.encode()
            self._keys.append(key)
        self._store.write(entries)

    @property
    def last_vote(self) -> Vote | None:
        """The vote that was put last; it may not have come into the journal."""
        raw = self._store.get(LAST_VOTE_KEY)
        try:
            return None if raw is None else Vote.decode(raw)
        except CodecError as error:
            raise StoreDamaged(f"the last vote is damaged: {error}") from error

    def load(self, epoch: int) -> list[Block | Certificate]:
        """The support of an epoch's votes, in the order of views."""
        found: list[Block | Certificate] = []
        for key, raw in self._store.items(VOTE_SUPPORT_PREFIX + encode_number(epoch)):
            try:
                found.append(Block.decode(raw[1:]) if raw[:1] == _BLOCK else Certificate.decode(raw[1:]))
            except CodecError as error:
                raise StoreDamaged(f"vote support {key.hex()} is damaged: {error}") from error
        return found

    def prune(self, epoch: int, view: int) -> None:
        """Forget what lies before a view in which a block became final, now or later."""
        limit = _get_key(epoch, view)
        old = [key for key in self._keys if key < limit]
        if len(old) >= PRUNE_AT_ENTRIES:
            self._store.write(dict.fromkeys(old))
            self._keys = [key for key in self._keys if key >= limit]


def _get_key(epoch: int, view: int) -> bytes:
    return VOTE_SUPPORT_PREFIX + encode_number(epoch) + encode_number(view)
