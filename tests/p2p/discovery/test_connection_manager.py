"""What a node does about its connections: public links, reservations, renewals, networks apart."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

import pytest

from p2p.discovery.connection_manager import (
    PUBLIC_LINKS,
    REFUSAL_BACKOFF,
    RENEW_INTERVAL_S,
    RENEW_SHARE,
    TARGET_RESERVATIONS,
    ConnectionManager,
    Dial,
    Reserve,
)
from p2p.discovery.dial_scheduler import ConnectionSnapshot
from p2p.peers.announcement import Announcement, PeerLoad
from p2p.peers.table import PeerTable
from tests.support.keys import make_peer

ME = make_peer(0x80)
RESERVATION_S = 1000.0


def announcement(number: int, address: str | None = None) -> Announcement:
    addresses = () if address is None else (address,)
    return Announcement(make_peer(number), 1, 1, False, addresses, (), (), PeerLoad(), 300_000, bytes(64))


def view_of(addresses: dict[int, str | None]) -> PeerTable:
    table = PeerTable(ME)
    for number, address in addresses.items():
        table.apply(announcement(number, address), 0.0)
    return table


def ip(a: int, b: int) -> str:
    return f"/ip4/10.{a}.{b}.1/tcp/4001"


def act(
    manager: ConnectionManager,
    table: PeerTable,
    connected: Collection[int],
    now: float = 0.0,
    reachable: bool = False,
    relayed: Collection[int] = (),
    dialling: Collection[int] = (),
) -> tuple[list[int], list[int]]:
    """The peers that are to be dialled, and those to be asked for a reservation."""
    links, busy = [make_peer(number) for number in connected], [make_peer(number) for number in dialling]
    through = {make_peer(number) for number in relayed}
    snapshot = ConnectionSnapshot(links, busy, outbound=links, relayed=through, is_reachable=reachable)
    actions = manager.choose(table, snapshot, now)
    dials = sorted(action.peer[0] for action in actions if isinstance(action, Dial))
    return dials, sorted(action.peer[0] for action in actions if isinstance(action, Reserve))


def make(target: int = 0) -> ConnectionManager:
    """A manager that does nothing beyond what a private node needs."""
    return ConnectionManager(ME, {}, Random(1), target)


def test_a_private_node_links_to_public_ones_whatever_else_it_has() -> None:
    table = view_of({1: None, 2: None, 10: ip(1, 1), 11: ip(2, 1), 12: ip(3, 1), 13: ip(4, 1)})
    dials, _ = act(make(), table, [1, 2])
    assert len(dials) == PUBLIC_LINKS
    assert {*dials} < {10, 11, 12, 13}
    dials, _ = act(make(), table, [1, 2, 10, 11])
    assert len(dials) == 1
    assert act(make(), table, [1, 2, 10, 11, 12])[0] == []
    assert act(make(), table, [1, 2, 10, 11], dialling=[12])[0] == []


def test_a_node_that_can_be_dialled_needs_neither_links_nor_reservations() -> None:
    table = view_of({10: ip(1, 1), 11: ip(2, 1)})
    assert act(make(), table, [10], reachable=True) == ([], [])


def test_a_relayed_connection_is_no_link() -> None:
    table = view_of({10: ip(1, 1), 11: ip(2, 1), 12: None, 13: ip(4, 1)})
    dials, relays = act(make(), table, [10, 11, 12], relayed=[12])
    assert dials == [13]
    assert relays == [10, 11]


def test_a_relayed_connection_to_a_dialable_peer_gets_a_direct_one_beside_it() -> None:
    table, manager = view_of({10: ip(1, 1), 11: ip(2, 1), 12: ip(3, 1)}), make()
    assert act(manager, table, [10, 11, 12], relayed=[12])[0] == [12]
    manager.scheduler.failed(make_peer(12), 0.0)
    assert act(manager, table, [10, 11, 12], relayed=[12], now=0.1)[0] == []
    assert act(manager, table, [10, 11, 12], relayed=[12], now=5.0)[0] == [12]
    assert act(manager, table, [10, 11, 12], now=10.0)[0] == []


def test_links_lie_in_different_networks_where_there_are_as_many() -> None:
    near = {number: ip(1, 1) for number in range(10, 40)}
    table = view_of({**near, 50: ip(2, 1), 51: ip(3, 1)})
    for seed in range(10):
        dials, _ = act(ConnectionManager(ME, {}, Random(seed), 0), table, [10])
        assert dials == [50, 51]
    dials, _ = act(make(), view_of(near), [10])
    assert len(dials) == PUBLIC_LINKS - 1


def test_reservations_lie_in_different_networks_and_are_not_asked_for_twice() -> None:
    table = view_of({10: ip(1, 1), 11: ip(1, 2), 12: ip(1, 3), 13: ip(2, 1)})
    for seed in range(10):
        manager = ConnectionManager(ME, {}, Random(seed), 0)
        _, relays = act(manager, table, [10, 11, 12, 13])
        assert len(relays) == TARGET_RESERVATIONS
        assert 13 in relays
    assert act(manager, table, [10, 11, 12, 13], 1.0)[1] != relays


@pytest.mark.parametrize(
    "lasts,renewed", [(RENEW_INTERVAL_S, (1 - RENEW_SHARE) * RENEW_INTERVAL_S), (RESERVATION_S, RENEW_INTERVAL_S)]
)
def test_reservations_are_renewed_before_they_end(lasts: float, renewed: float) -> None:
    table = view_of({10: ip(1, 1), 11: ip(2, 1), 12: ip(3, 1)})
    manager = make()
    _, relays = act(manager, table, [10, 11, 12])
    for number in relays:
        manager.reserved(make_peer(number), lasts, 0.0)
    assert manager.get_relays(0.0) == [make_peer(number) for number in relays]
    assert act(manager, table, [10, 11, 12], renewed - 1) == ([], [])
    assert act(manager, table, [10, 11, 12], renewed) == ([], relays)
    assert manager.get_relays(lasts) == []


def test_a_reservation_ends_with_the_connection_and_is_asked_for_again_at_once() -> None:
    table = view_of({10: ip(1, 1), 11: ip(2, 1), 12: ip(3, 1), 13: ip(4, 1)})
    manager = make()
    for number in (10, 11):
        manager.reserved(make_peer(number), RESERVATION_S, 0.0)
    manager.disconnected(make_peer(10), 5.0)
    assert manager.get_relays(5.0) == [make_peer(11)]
    manager.connected(make_peer(10), 6.0)
    assert act(manager, table, [10, 11, 12, 13], 6.0)[1] == [10]


def test_another_relay_takes_the_place_of_one_that_is_gone() -> None:
    table = view_of({10: ip(1, 1), 11: ip(2, 1), 12: ip(3, 1)})
    manager = make()
    for number in (10, 11):
        manager.reserved(make_peer(number), RESERVATION_S, 0.0)
    manager.disconnected(make_peer(10), 5.0)
    assert act(manager, table, [11, 12], 5.0)[1] == [12]


def test_another_relay_takes_the_place_of_one_that_does_not_renew() -> None:
    table = view_of({10: ip(1, 1), 11: ip(2, 1), 12: ip(3, 1)})
    manager = make()
    for number in (10, 11):
        manager.reserved(make_peer(number), RESERVATION_S, 0.0)
    assert act(manager, table, [10, 11, 12], RENEW_INTERVAL_S)[1] == [10, 11]
    manager.refused(make_peer(10), RENEW_INTERVAL_S)
    manager.reserved(make_peer(11), RESERVATION_S, RENEW_INTERVAL_S)
    assert manager.get_relays(RENEW_INTERVAL_S) == [make_peer(11)]
    assert act(manager, table, [10, 11, 12], RENEW_INTERVAL_S)[1] == [12]


def test_a_relay_that_refuses_is_left_alone_longer_and_longer() -> None:
    table, manager = view_of({10: ip(1, 1)}), make()
    asked, now = [], 0.0
    while now < 40 * REFUSAL_BACKOFF.first_s:
        if act(manager, table, [10], now)[1]:
            asked.append(now)
            manager.refused(make_peer(10), now)
        now += 1.0
    assert 4 <= len(asked) <= 8
    assert asked[1] - asked[0] < 1.5 * REFUSAL_BACKOFF.first_s < asked[-1] - asked[-2]


def test_a_link_that_cannot_be_dialled_is_tried_again_and_others_meanwhile() -> None:
    table = view_of({10: ip(1, 1), 11: ip(2, 1), 12: ip(3, 1), 13: ip(4, 1)})
    manager = make()
    first, _ = act(manager, table, [])
    for number in first:
        manager.scheduler.failed(make_peer(number), 0.0)
    (other,) = {10, 11, 12, 13} - {*first}
    assert act(manager, table, [], 0.1)[0] == [other]
    assert len(act(manager, table, [other], 2.0)[0]) == PUBLIC_LINKS - 1


def test_networks_are_those_that_connections_lead_to_and_not_those_that_are_announced() -> None:
    """Five peers of one host, each of which announces an address elsewhere in front."""
    table = view_of({number: ip(number, 1) for number in range(10, 15)} | {20: ip(20, 1)})
    for seed in range(10):
        manager = ConnectionManager(ME, {}, Random(seed), 0)
        connected = {make_peer(number): "66.6.6.6" for number in range(10, 15)} | {make_peer(20): "10.20.1.1"}
        actions = manager.choose(table, ConnectionSnapshot(connected, remote_hosts=connected), 0.0)
        assert make_peer(20) in {action.peer for action in actions if isinstance(action, Reserve)}


def test_connections_that_others_made_do_not_count() -> None:
    manager, table = (
        ConnectionManager(ME, {}, Random(1), 4),
        view_of({number: ip(number, 1) for number in range(10, 30)}),
    )
    inbound = [make_peer(number) for number in range(10, 20)]
    actions = manager.choose(table, ConnectionSnapshot(inbound, is_reachable=True), 0.0)
    assert len(actions) == 4 and all(isinstance(action, Dial) and not action.is_probe for action in actions)
    enough = ConnectionSnapshot(inbound, outbound=inbound[:4], is_reachable=True)
    assert manager.choose(table, enough, 0.0) == []
