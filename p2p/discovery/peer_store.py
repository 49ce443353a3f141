"""The peers of earlier runs, in a file, so that a node that restarts finds the others without a bootstrap peer.

It also keeps the incarnation of the node itself. The file is small and replaced as a whole. It holds nothing that must
not get lost: a damaged one is ignored with a warning and replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from chain.codec import Bounds, Natural, PublicKey, Record
from chain.crypto import hash_bytes
from chain.exceptions import CodecError
from chain.files import write_atomically
from p2p.peers.announcement import MAX_ANNOUNCED_ADDRESSES, MAX_ANNOUNCED_RELAYS, Address

logger = logging.getLogger(__name__)

MAX_STORED = 500
"""Peers in the file: those that this node was connected to most often, then those it saw last."""
MAX_AGE_MS = 30 * 24 * 3600 * 1000
"""Milliseconds after which a peer that was not seen is forgotten."""
MAX_PEER_STORE_BYTES = 8 << 20
"""Largest file that is read."""
PEER_STORE_DOMAIN = "peers"
"""Domain of the hash in front of the content."""


@dataclass(frozen=True, slots=True)
class StoredPeer(Record):
    """One peer: where it was, when it was last seen (wall time, ms), and how often a run was connected to it."""

    peer: PublicKey
    addresses: Annotated[tuple[Address, ...], Bounds(0, MAX_ANNOUNCED_ADDRESSES)]
    relays: Annotated[tuple[Address, ...], Bounds(0, MAX_ANNOUNCED_RELAYS)]
    last_seen: Natural
    connections: Natural


@dataclass(frozen=True, slots=True)
class _File(Record):
    """What is on disk, behind a hash of it."""

    incarnation: Natural
    peers: Annotated[tuple[StoredPeer, ...], Bounds(0, MAX_STORED)]


class PeerStore:
    """The file at ``path``. Blocking: call :meth:`load` before anything runs and :meth:`save` in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.incarnation = 0
        """That of this node in its latest run that is known (:class:`p2p.peers.announcement.Announcement`)."""
        self._known: dict[bytes, StoredPeer] = {}
        self._counted: set[bytes] = set()  # only ever asked for membership

    def load(self) -> list[StoredPeer]:
        """The stored peers, the best first. A file that is missing or damaged counts as empty."""
        try:
            raw = self.path.read_bytes()
            if len(raw) > MAX_PEER_STORE_BYTES or raw[:32] != hash_bytes(PEER_STORE_DOMAIN, raw[32:]):
                raise CodecError("the content does not match its hash")
            content = _File.decode(raw[32:])
        except FileNotFoundError:
            content = _File(0, ())
        except (OSError, CodecError) as error:
            logger.warning("%s cannot be used and is begun anew: %s", self.path, error)
            content = _File(0, ())
        self.incarnation = content.incarnation
        self._known = {one.peer: one for one in content.peers}
        return list(content.peers)

    def save(self, seen: Iterable[StoredPeer], now: int) -> None:
        """Write what was stored and what is ``seen`` now (wall time ``now``, ms). Never raises.

        ``connections`` of those seen says whether this run was connected to them (1) or not (0).
        """
        for one in seen:
            before = self._known.get(one.peer)
            count = 0 if before is None else before.connections
            if one.connections and one.peer not in self._counted:
                self._counted.add(one.peer)
                count += 1
            self._known[one.peer] = replace(one, connections=count)
        fresh = [one for one in self._known.values() if now - one.last_seen <= MAX_AGE_MS]
        fresh.sort(key=lambda one: (-one.connections, -one.last_seen, one.peer))
        self._known = {one.peer: one for one in fresh[:MAX_STORED]}
        content = _File(self.incarnation, tuple(self._known.values())).encode()
        try:
            write_atomically(self.path, hash_bytes(PEER_STORE_DOMAIN, content) + content)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path, error)
