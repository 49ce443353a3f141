"""Probes: dial a peer that may be gone, and tell the others if it does not answer.

A peer is probed when its connection was lost, when others suspect it, and now and then without cause. A probe that
fails becomes a suspect message of this node (:mod:`p2p.peers.failure_detector`).
"""

from __future__ import annotations

import trio

from chain.crypto import KeyPair
from p2p.discovery.connector import Connector
from p2p.discovery.peer_tasks import PeerTasks
from p2p.discovery.plumtree import Plumtree
from p2p.discovery.size_estimate import SizeEstimate
from p2p.network import Network
from p2p.peers.announcement import Announcement, get_item_id
from p2p.peers.failure_detector import OBSERVER_MIN_AGE_S, PROBERS, FailureDetector
from p2p.peers.suspect_message import sign_suspect_message
from p2p.peers.table import PeerTable
from p2p.runtime import Runtime

PROBE_TIMEOUT_S = 4.0
"""Seconds for the dial of a probe. Too short for a slow link does no harm: the suspect refutes the suspicion."""
PROBE_HEAD_START_S = 0.5
"""Seconds that the peer with the greater key leaves to the other, when their connection was lost."""
RETURN_DELAY_S = 8.0
"""Seconds that a peer which cannot be dialled has to come back by itself."""
SUSPECT_DELAY_PER_NEIGHBOUR_S = 0.25
"""A failed probe is reported after a random delay of up to this × neighbours, so that few report the same failure."""
MAX_PROBES = 16
"""Probes at the same time."""


class Prober:
    """Probes the peers of one node."""

    def __init__(
        self,
        network: Network,
        runtime: Runtime,
        key: KeyPair,
        chain_id: bytes,
        table: PeerTable,
        failure_detector: FailureDetector,
        plumtree: Plumtree,
        connector: Connector,
        size: SizeEstimate,
        tasks: PeerTasks,
    ) -> None:
        self._network = network
        self._random = runtime.random
        self._key = key
        self._chain_id = chain_id
        self._table = table
        self._failure_detector = failure_detector
        self._plumtree = plumtree
        self._connector = connector
        self._size = size
        self._tasks = tasks
        self._probing: dict[bytes, None] = {}

    def start(self, peer: bytes, delay: float = 0.0) -> None:
        """Probe ``peer`` after ``delay`` seconds, unless that is under way or too many probes are."""
        if self._tasks.is_open and peer not in self._probing and len(self._probing) < MAX_PROBES:
            self._probing[peer] = None
            self._tasks.start(peer, self._probe, peer, delay)

    def start_due(self, now: float) -> None:
        """Probe the suspects: those that this node has lost, and by chance those that others suspect."""
        connected, due = self._network.peers(), []
        for peer in self._table.suspects():
            if peer in connected:
                self._connector.mark_alive(peer)
            elif not self._failure_detector.is_failing(peer) and not self._is_isolated():
                due.append(peer)
        for peer, chance in self._failure_detector.get_probe_chances(now, self._size.get(now)):
            if peer not in connected and self._random.random() < chance:
                due.append(peer)
        # There may be more than there is time for, most of them invented.
        self._random.shuffle(due)
        for peer in sorted(due, key=lambda peer: not self._table.is_verified(peer)):
            self.start(peer)

    def is_drawn(self) -> bool:
        """Whether this node is among the few, drawn by chance, that probe a peer on behalf of all."""
        return self._random.random() * self._size.get(trio.current_time()) < PROBERS

    def _is_isolated(self) -> bool:
        """Whether it is more likely that this node is cut off than that all others are gone."""
        return not self._network.peers() and len(self._table) > 1

    async def _probe(self, peer: bytes, delay: float) -> None:
        try:
            await trio.sleep(delay or (PROBE_HEAD_START_S if peer < self._network.me else 0.0))
            known = self._table.find(peer)
            if known is None or self._failure_detector.is_failing(peer):
                return
            addresses = self._table.get_dialable(known)
            if peer not in self._network.peers():
                if not addresses:
                    await trio.sleep(RETURN_DELAY_S)
                elif not (addresses := self._connector.admit(peer, addresses)):
                    return  # not now: who is at these addresses was tried a moment ago
            before = self._network.peers()
            is_alive = peer in before or await self._connector.connect(peer, addresses, PROBE_TIMEOUT_S)
            self._tasks.start(peer, self._connector.close_probe, peer, addresses, before)
            if is_alive:
                self._connector.mark_alive(peer)
                self._failure_detector.probe_succeeded(peer, trio.current_time())
            elif not self._is_isolated():
                # A newcomer's message does not count with everybody, so it lets others speak first.
                neighbours = len(self._network.peers())
                await trio.sleep(
                    SUSPECT_DELAY_PER_NEIGHBOUR_S * neighbours * (self._random.random() + self._is_newcomer())
                )
                self._suspect(peer, known)
        finally:
            del self._probing[peer]

    def _is_newcomer(self) -> bool:
        """Whether this node started so lately that others may not count it as an observer."""
        own = self._table.entries[self._network.me]
        return trio.current_time() - own.first_seen_at < OBSERVER_MIN_AGE_S

    def _suspect(self, peer: bytes, known: Announcement) -> None:
        """Take a failed probe of ``peer`` into account and report it, unless it has announced itself since."""
        entry, now = self._table.entries.get(peer), trio.current_time()
        if entry is None or not entry.state.is_present or entry.announcement.order != known.order:
            return
        can_be_probed = bool(self._table.get_dialable(known))
        if self._failure_detector.needs_confirmations(peer):
            message = sign_suspect_message(self._key, self._chain_id, entry.announcement)
            if self._failure_detector.on_suspect_message(message, now):
                self._plumtree.broadcast([get_item_id(message.encode())])
        if can_be_probed:
            self._failure_detector.probe_failed(peer, now)
