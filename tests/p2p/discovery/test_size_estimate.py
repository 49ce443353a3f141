"""The estimate of the network's size: verified peers in full, others by the share that answers."""

from __future__ import annotations

from p2p.discovery.dial_scheduler import SMALL_NETWORK
from p2p.discovery.size_estimate import ANSWER_SAMPLES, ESTIMATE_INTERVAL_S, SizeEstimate
from p2p.peers.announcement import Announcement, PeerLoad
from p2p.peers.table import PeerTable
from tests.support.keys import make_peer


def make_table(count: int) -> PeerTable:
    table = PeerTable(make_peer(0))
    for number in range(1, count + 1):
        addresses = (f"/memory/{number}",)
        table.apply(
            Announcement(make_peer(number), 1, 1, False, addresses, (), (), PeerLoad(), 300_000, bytes(64)), 0.0
        )
    return table


def test_unverified_peers_count_by_the_share_of_first_dials_that_are_answered() -> None:
    table = make_table(10)
    size = SizeEstimate(table)
    assert size.get(0.0) == 10
    table.mark_alive(make_peer(1), dialled=True)
    for _ in range(10 * ANSWER_SAMPLES):
        size.note_first_dial(False)
    assert 1 <= size.get(0.0) < 1.1


def test_the_estimate_of_a_large_network_is_kept_for_a_while() -> None:
    table = make_table(SMALL_NETWORK + 10)
    size = SizeEstimate(table)
    assert size.get(0.0) == SMALL_NETWORK + 10
    table.mark_suspect(make_peer(1))
    table.mark_crashed(make_peer(1), 1.0)
    assert size.get(1.0) == SMALL_NETWORK + 10
    assert size.get(ESTIMATE_INTERVAL_S) == SMALL_NETWORK + 9
