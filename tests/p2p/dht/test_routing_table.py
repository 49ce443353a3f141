"""Which servers are remembered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.dht.kademlia import (
    K,
    PeerInfo,
    get_dht_id,
    get_peer_dht_id,
)
from p2p.dht.routing_table import STALE_S, RoutingTable
from tests.p2p.dht.servers import KEY, ME, make_info


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 5), st.floats(0, STALE_S)), max_size=300))
def test_a_routing_table_is_bounded_and_names_the_nearest_it_has(entries: list[tuple[int, int, float]]) -> None:
    table, added, now = RoutingTable(ME), {}, 0.0
    for number, subnet, seconds in entries:
        now += seconds
        table.add(make_info(number, subnet), now)
        added[make_info(number).peer] = None
    groups = [one.addresses[0].split("/")[2] for one in table.closest(KEY, 10_000)]
    assert len(table) == len(groups) <= len(added)
    assert all(groups.count(subnet) <= 2 * 256 for subnet in groups)
    found = table.closest(KEY)
    assert found == sorted(found, key=lambda one: get_peer_dht_id(one.peer) ^ get_dht_id(KEY))
    for one in table.closest(KEY, 10_000):
        table.remove(one.peer)
    assert len(table) == 0


def test_old_servers_stay_and_silent_ones_make_room() -> None:
    table = RoutingTable(ME)
    half = [make_info(n) for n in range(2000) if (get_peer_dht_id(make_info(n).peer) ^ get_peer_dht_id(ME)) >> 255]
    for one in half[:K]:
        table.add(one, 0.0)
    table.add(half[K], 1.0)
    assert half[K] not in table.closest(KEY, 100) and len(table) == K
    table.add(half[0], 2.0)
    table.add(half[K], STALE_S + 1)
    assert half[K] in table.closest(KEY, 100) and half[1] not in table.closest(KEY, 100) and len(table) == K


def test_a_network_does_not_fill_a_bucket() -> None:
    table = RoutingTable(ME)
    for number in range(300):
        table.add(make_info(number, subnet=5), 0.0)
    assert len(table) <= 2 * 12
    for number in range(300):
        table.add(PeerInfo(make_info(number).peer, ("/ip4/127.0.0.1/tcp/1",)), 0.0)
    assert len(table) > 60, "a network at home has only one"
