"""Which pending operations are judged again, and in which order. Pure.

An operation with a nonce becomes ready in its turn. Of the others, those that depend on an entry of the state that a
final block changed are *marked*, and judged again a bounded number at a time: accounts take turns. All that are not
marked follow, the one judged longest ago first.
"""

from __future__ import annotations

from chain.types.operations import SignedOperation
from consensus.mempool.entries import get_dependencies


class RevalidationQueue:
    """The one-time operations of a pool, by id."""

    def __init__(self) -> None:
        self._dependents: dict[bytes, dict[bytes, bytes]] = {}
        """Ids and signers of operations, by the entry of the state that they need."""
        self._marked: dict[bytes, dict[bytes, None]] = {}
        """Ids of marked operations, by account."""
        self._order: dict[bytes, None] = {}
        """Ids of all operations, the one judged longest ago first."""

    def __len__(self) -> int:
        return len(self._order)

    def add(self, signed: SignedOperation) -> None:
        """A one-time operation is pending."""
        self._order[signed.id] = None
        for key in get_dependencies(signed.operation):
            self._dependents.setdefault(key, {})[signed.id] = signed.signer

    def remove(self, signed: SignedOperation) -> None:
        """It is pending no more."""
        del self._order[signed.id]
        self._unmark(signed.id, signed.signer)
        for key in get_dependencies(signed.operation):
            dependents = self._dependents[key]
            del dependents[signed.id]
            if not dependents:
                del self._dependents[key]

    def mark(self, operation_id: bytes, signer: bytes) -> None:
        """What was found of an operation may no longer be so."""
        self._marked.setdefault(signer, {})[operation_id] = None

    def mark_dependents(self, key: bytes) -> None:
        """Mark what needs an entry of the state that was changed."""
        for operation_id, signer in self._dependents.get(key, {}).items():
            self.mark(operation_id, signer)

    def note_judged(self, operation_id: bytes, signer: bytes) -> None:
        """An operation was judged just now."""
        self._unmark(operation_id, signer)
        del self._order[operation_id]
        self._order[operation_id] = None

    def find_marked(self) -> bytes | None:
        """A marked operation, each time of another account; None if there is none."""
        if not self._marked:
            return None
        signer, ids = next(iter(self._marked.items()))
        self._marked[signer] = self._marked.pop(signer)
        return next(iter(ids))

    def find_oldest(self) -> bytes | None:
        """The operation that was judged longest ago; None if there is none."""
        return next(iter(self._order), None)

    def _unmark(self, operation_id: bytes, signer: bytes) -> None:
        ids = self._marked.get(signer)
        if ids is not None:
            ids.pop(operation_id, None)
            if not ids:
                del self._marked[signer]
