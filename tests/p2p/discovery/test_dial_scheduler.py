"""Whom to dial: targets, patience, backoff, bootstrap peers, probes of lost peers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from random import Random

from p2p.addresses import CIRCUIT, Reach, get_direct, get_subnet
from p2p.discovery.dial_scheduler import (
    BOOTSTRAP_BACKOFF,
    BOOTSTRAP_INTERVAL_S,
    DIAL_BACKOFF,
    HEAD_START_S,
    MAX_FAILURES,
    PROBE_INTERVAL_S,
    SMALL_NETWORK,
    STABLE_S,
    ConnectionSnapshot,
    DialScheduler,
)
from p2p.limits.dial_pace import ADDRESS_BURST, ADDRESS_INTERVAL_S
from p2p.peers.announcement import Announcement, PeerLoad
from p2p.peers.table import MAX_DIALLED_PER_ANNOUNCEMENT, PeerTable
from tests.support.keys import make_key, make_peer

ME = make_peer(0x80)
GREATER = [make_peer(0x81 + number) for number in range(20)]
LESSER = make_peer(1)


def announcement(peer: bytes) -> Announcement:
    return Announcement(peer, 1, 1, False, (f"/memory/{peer[0]}",), (), (), PeerLoad(), 300_000, bytes(64))


def view_of(*peers: bytes) -> PeerTable:
    table = PeerTable(ME)
    for peer in peers:
        table.apply(announcement(peer), 0.0)
    return table


def plan(bootstrap: dict[bytes, tuple[str, ...]] | None = None, target: int = 8) -> DialScheduler:
    return DialScheduler(ME, bootstrap or {}, Random(1), target)


def snapshot(
    connected: Collection[bytes] = (),
    dialling: Collection[bytes] = (),
    outbound: Collection[bytes] | None = None,
    is_reachable: bool = True,
) -> ConnectionSnapshot:
    """Connections that this node has made itself, unless ``outbound`` says which of them."""
    outbound = connected if outbound is None else outbound
    return ConnectionSnapshot(connected, dialling, outbound, is_reachable=is_reachable)


def chosen(of: DialScheduler, table: PeerTable, now: float, connected: list[bytes] | None = None) -> list[bytes]:
    return sorted(peer for peer, _ in of.choose(table, snapshot(connected or []), now))


def test_all_are_dialled_in_a_small_network_and_no_more_than_needed_in_a_large_one() -> None:
    assert chosen(plan(), view_of(*GREATER[:3]), 0.0) == GREATER[:3]
    assert len(chosen(plan(), view_of(*GREATER), 0.0)) == 8
    assert len(chosen(plan(), view_of(*GREATER), 0.0, GREATER[:6])) == 2
    assert chosen(plan(), view_of(*GREATER), 0.0, GREATER[:8]) == []


def test_dials_under_way_count() -> None:
    assert plan().choose(view_of(*GREATER[:3]), snapshot(GREATER[:1], dialling=GREATER[1:3]), 0.0) == []


def test_the_lesser_key_is_left_to_dial_first_unless_it_cannot() -> None:
    waiting, table = plan(), view_of(LESSER)
    assert chosen(waiting, table, 0.0) == []
    assert chosen(waiting, table, HEAD_START_S) == [LESSER]
    assert [peer for peer, _ in plan().choose(table, snapshot((), is_reachable=False), 0.0)] == [LESSER]


def test_a_failed_dial_waits_longer_and_longer() -> None:
    of, table, dials, now = plan(), view_of(GREATER[0]), [], 0.0
    while now < 280.0:
        if chosen(of, table, now):
            dials.append(now)
            of.failed(GREATER[0], now)
        now += 0.25
    gaps = [later - earlier for earlier, later in pairwise(dials)]
    assert gaps[0] <= 1.25
    assert max(gaps) > 20.0
    assert 6 <= len(dials) <= 14


def test_bootstrap_peers_are_never_given_up() -> None:
    of = plan({GREATER[0]: ("/memory/1",)})
    assert of.choose(view_of(), snapshot(()), 0.0) == [(GREATER[0], ("/memory/1",))]
    now, last = 0.0, 0.0
    while now < 1000.0:
        if chosen(of, view_of(), now):
            assert now - last <= BOOTSTRAP_BACKOFF.max_s + 1.0
            of.failed(GREATER[0], now)
            last = now
        now += 0.5
    assert now - last < BOOTSTRAP_BACKOFF.max_s + 1.0


def test_one_bootstrap_connection_is_kept_beyond_the_target_of_a_small_network() -> None:
    of = plan({GREATER[18]: ("/memory/1",), GREATER[19]: ("/memory/2",)})
    table = view_of(*GREATER)
    assert chosen(of, table, 0.0, GREATER[:8]) == GREATER[18:]
    assert chosen(of, table, 0.0, GREATER[:8] + GREATER[18:19]) == []


def test_a_bootstrap_peer_is_visited_now_and_then_in_a_large_network() -> None:
    bootstrap = make_peer(0xFF)
    of = plan({bootstrap: ("/memory/1",)})
    table = view_of(*(number.to_bytes(2, "big") * 16 for number in range(300, 300 + 2 * SMALL_NETWORK)))
    connected = [known.peer for known in table.present()[:8]]
    assert bootstrap in chosen(of, table, 0.0, connected)
    of.choose(table, snapshot([*connected, bootstrap]), 1.0)
    visits = sum(bootstrap in chosen(of, table, float(second), connected) for second in range(2, 60))
    assert visits == 0
    assert bootstrap in chosen(of, table, 1.0 + 1.5 * BOOTSTRAP_INTERVAL_S, connected)


def test_half_of_those_dialled_are_proven() -> None:
    table = view_of(*GREATER)
    for peer in GREATER[:4]:
        table.mark_alive(peer, dialled=True)
    assert {*GREATER[:4]} <= {*chosen(plan(), table, 0.0)}


def test_a_node_is_not_its_own_bootstrap_peer() -> None:
    assert chosen(plan({ME: ("/memory/1",)}), view_of(), 0.0) == []


def test_a_short_connection_counts_as_a_failed_dial_and_a_long_one_does_not() -> None:
    of, table, peer = plan(), view_of(GREATER[0]), GREATER[0]
    of.connected(peer, 0.0)
    of.disconnected(peer, STABLE_S)
    assert chosen(of, table, STABLE_S) == [peer]
    of.connected(peer, 20.0)
    of.disconnected(peer, 20.0)
    assert chosen(of, table, 20.0) == []
    assert chosen(of, table, 21.0) == [peer]


def test_lost_peers_are_probed_now_and_then() -> None:
    of, table = plan(), view_of(GREATER[0])
    table.mark_alive(GREATER[0], dialled=True)
    table.mark_suspect(GREATER[0])
    table.mark_crashed(GREATER[0], 0.0)
    dials = sum(chosen(of, table, second) == [GREATER[0]] for second in range(300))
    assert 300 / PROBE_INTERVAL_S / 2 < dials < 300 / PROBE_INTERVAL_S * 2


def test_an_address_of_which_only_strangers_speak_is_dialled_once_a_minute_however_many_they_are() -> None:
    table, of = PeerTable(ME), plan()
    direct, relayed = GREATER[:9], GREATER[9:18]
    host = make_key("relay")
    relay = f"/ip4/45.1.0.1/tcp/80/p2p/{host.address}"
    for peer in direct:
        table.apply(replace(announcement(peer), addresses=("/ip4/45.1.0.1/tcp/80",)), 0.0)
    for peer in relayed:
        table.apply(replace(announcement(peer), addresses=(), relays=(relay,)), 0.0)
    dials = []
    for second in range(240):
        for peer, _ in of.choose(table, snapshot(), second):
            dials.append(peer)
            of.failed(peer, second)
    assert ADDRESS_BURST <= len(dials) <= ADDRESS_BURST + 240 / ADDRESS_INTERVAL_S
    for peer in (*direct[:2], host.public_key):  # who was there when this node dialled is dialled as often as it needs
        table.apply(replace(announcement(peer), addresses=("/ip4/45.1.0.1/tcp/80",)), 0.0)
        table.mark_alive(peer, dialled=True)
    assert {*direct[:2], *relayed} <= {peer for peer, _ in plan(target=20).choose(table, snapshot(), 300.0)}


def test_what_strangers_announce_is_dialled_in_the_scope_of_the_network_only() -> None:
    near, lan, far = "/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip4/45.1.0.1/tcp/1"
    relay = f"{lan}/p2p/{make_key('relay').address}"
    for scope, expected in (
        (Reach.ANYWHERE, (far,)),
        (Reach.LOCAL_NETWORK, (lan, far, relay + CIRCUIT)),
        (Reach.MACHINE, (near, lan, far, relay + CIRCUIT)),
    ):
        table, of = PeerTable(ME), plan({GREATER[1]: (near,)})
        table.scope = scope
        table.apply(replace(announcement(GREATER[0]), addresses=(near, lan, far), relays=(relay,)), 0.0)
        of.remember({GREATER[2]: tuple(address[:-1] + "2" for address in (near, lan, far))})
        dials = dict(of.choose(table, snapshot(), 0.0))
        assert dials[GREATER[0]] == table.get_addresses(GREATER[0]) == expected
        stored = [address[:-1] + "1" for address in dials[GREATER[2]]]
        assert tuple(stored) == get_direct(expected)  # told by strangers, too
        assert dials[GREATER[1]] == (near,)  # told by the owner
    table.own_addresses = frozenset({far})
    assert table.get_addresses(GREATER[0]) == (near, lan, relay + CIRCUIT)


def test_of_an_announcement_only_some_addresses_are_dialled() -> None:
    table = PeerTable(ME)
    many = tuple(f"/ip4/45.{number}.0.1/tcp/1" for number in range(8))
    table.apply(replace(announcement(GREATER[0]), addresses=many), 0.0)
    assert table.get_addresses(GREATER[0]) == many[:MAX_DIALLED_PER_ANNOUNCEMENT]


def test_peers_without_a_connection_are_probed_too() -> None:
    of, table = plan(), view_of(*GREATER)
    dials = [peer for second in range(600) for peer in chosen(of, table, float(second), GREATER[:8])]
    assert 600 / PROBE_INTERVAL_S / 2 < len(dials) < 600 / PROBE_INTERVAL_S * 2
    assert len({*dials}) > 6 and not {*dials} & {*GREATER[:8]}


def test_unreachable_peers_are_not_dialled() -> None:
    table = PeerTable(ME)
    table.apply(replace(announcement(GREATER[0]), addresses=()), 0.0)
    table.apply(replace(announcement(GREATER[1]), addresses=(), relays=("/memory/2",)), 0.0)
    assert plan().choose(table, snapshot(()), 0.0) == [(GREATER[1], ("/memory/2" + CIRCUIT,))]


def test_the_failures_of_a_peer_that_is_back_are_forgotten() -> None:
    of, table, peer = plan(), view_of(GREATER[0]), GREATER[0]
    for _ in range(8):
        of.failed(peer, 0.0)
    assert chosen(of, table, 10.0) == []
    of.reset_backoff(peer)
    assert chosen(of, table, 10.0) == [peer]


def test_suggested_peers_are_dialled_like_remembered_ones_while_too_few_are_known() -> None:
    suggested = {peer: (f"/ip4/192.0.2.{number}/tcp/1",) for number, peer in enumerate(GREATER[:12])}
    few = plan()
    few.suggest({**suggested, ME: ("/ip4/192.0.2.1/tcp/1",)})
    assert len(chosen(few, view_of(), 0.0)) == 8
    assert chosen(few, view_of(*GREATER[12:20]), 0.0) == GREATER[12:20], "known ones go first"
    assert chosen(few, view_of(), 0.0, GREATER[12:20]) == []
    few.suggest({})
    assert chosen(few, view_of(), 0.0) == []
    few.suggest({GREATER[0]: ("/suggested", "/both")})
    few.remember({GREATER[0]: ("/both", "/remembered")})
    assert few.choose(view_of(), snapshot(()), 0.0) == [(GREATER[0], ("/both", "/remembered", "/suggested"))]


def test_what_strangers_suggested_is_forgotten_when_it_fails() -> None:
    believing = plan()
    believing.suggest({GREATER[0]: ("/nowhere",)})
    now = 0.0
    for _ in range(MAX_FAILURES):
        assert chosen(believing, view_of(), now) == [GREATER[0]]
        believing.failed(GREATER[0], now)
        now += DIAL_BACKOFF.max_s
    assert chosen(believing, view_of(), now) == []


def test_outsiders_among_the_connections_do_not_count() -> None:
    outsiders, table = GREATER[:8], view_of(*GREATER[8:12])
    assert chosen(plan(), table, 0.0, outsiders) == []
    choice = plan().choose(table, snapshot(outsiders, outbound=()), 0.0)
    assert sorted(peer for peer, _ in choice) == GREATER[8:12]


def test_only_connections_of_its_own_count_towards_the_target() -> None:
    table = view_of(*GREATER)
    inbound = GREATER[:12]
    dialled = [peer for peer, _ in plan().choose(table, snapshot(inbound, outbound=()), 0.0)]
    assert sorted(dialled) == GREATER[12:]
    assert len(plan().choose(table, snapshot(GREATER[:6], outbound=GREATER[:2]), 0.0)) == 6
    assert plan().choose(table, snapshot(inbound, outbound=GREATER[:8]), 0.0) == []


def place(number: int, *addresses: str) -> Announcement:
    return replace(announcement(GREATER[0]), peer=number.to_bytes(2, "big") * 16, addresses=addresses)


def draw(table: PeerTable, seed: int, near: tuple[str, ...] = ()) -> list[bytes]:
    return [peer for peer, _ in DialScheduler(ME, {}, Random(seed)).choose(table, snapshot((), outbound=()), 0.0, near)]


def test_many_identities_in_few_networks_are_chosen_no_more_often_than_few() -> None:
    table = PeerTable(ME)
    honest = [place(number, f"/ip4/45.{number}.0.1/tcp/1") for number in range(1, 13)]
    sybils = [place(1000 + number, f"/ip4/66.{number % 4}.0.{number // 4}/tcp/1") for number in range(400)]
    for known in (*honest, *sybils):
        table.apply(known, 0.0)
    for seed in range(20):
        dialled = draw(table, seed)
        assert len(dialled) == 8 and len({*dialled} & {known.peer for known in honest}) >= 4
        dialled = draw(table, seed, near=tuple(get_subnet(f"66.{number}.0.1") for number in range(4)))
        assert {*dialled} <= {known.peer for known in honest}
    first = [draw(table, seed)[0] in {known.peer for known in honest} for seed in range(100)]
    assert 60 <= sum(first) <= 90  # 12 of 16 networks


def test_a_false_address_in_front_hides_no_network_and_a_name_is_none() -> None:
    table = PeerTable(ME)
    honest = [place(number, f"/ip4/45.{number}.0.1/tcp/1") for number in range(1, 10)]
    for number in range(200):
        table.apply(place(1000 + number, f"/ip4/20.{number}.0.1/tcp/1", f"/ip4/66.6.6.6/tcp/{number + 1}"), 0.0)
        table.apply(place(2000 + number, f"/dns4/host{number}.example/tcp/1"), 0.0)
    for known in honest:
        table.apply(known, 0.0)
    for seed in range(20):
        dialled = {*draw(table, seed)}
        assert len(dialled & {known.peer for known in honest}) >= 6


def test_keys_have_no_say_in_a_choice() -> None:
    lesser = [number.to_bytes(2, "big") * 16 for number in range(1, 11)]
    table = view_of(*GREATER[:10])
    for number in range(1, 11):
        table.apply(place(number, f"/ip4/45.{number}.0.1/tcp/1"), 0.0)
    dialled = [peer for seed in range(50) for peer in draw(table, seed)]
    assert 150 < sum(peer in lesser for peer in dialled) < 250


def test_peers_of_an_earlier_run_are_dialled_at_once_with_an_empty_table_and_probed_otherwise() -> None:
    old = {number.to_bytes(2, "big") * 16: (f"/memory/{number}",) for number in range(900, 960)}
    of = plan()
    of.remember(old)
    assert len(of.choose(PeerTable(ME), snapshot(()), 0.0)) == 8
    of, table = plan(), view_of(*GREATER)
    of.remember(old)
    dials = [
        peer
        for second in range(600)
        for peer, _ in of.choose(table, snapshot(GREATER, outbound=GREATER[:4]), float(second))
    ]
    assert 600 / PROBE_INTERVAL_S / 2 < len(dials) < 600 / PROBE_INTERVAL_S * 2 and {*dials} <= {*old}


def test_those_behind_relays_come_last_within_networks_that_are_new() -> None:
    table = PeerTable(ME)
    for number in range(1, 6):
        table.apply(place(number, f"/ip4/45.{number}.0.1/tcp/1"), 0.0)
    for number in range(100, 130):
        table.apply(replace(place(number), relays=(f"/ip4/50.{number}.0.1/tcp/1/p2p/x",)), 0.0)
        table.apply(place(1000 + number, f"/ip4/66.6.0.{number}/tcp/1"), 0.0)
    for seed in range(20):
        dialled = [int.from_bytes(peer[:2]) for peer in draw(table, seed)]
        assert {*range(1, 6)} < {*dialled[:6]} and dialled[6] < 1000 and sum(number >= 1000 for number in dialled) == 1


def test_bootstrap_peers_are_not_all_dialled_for_each_connection_that_is_lost() -> None:
    bootstrap = {make_peer(number): (f"/memory/{number}",) for number in (0xF0, 0xF1, 0xF2)}
    many = [number.to_bytes(2, "big") * 16 for number in range(300, 300 + 2 * SMALL_NETWORK)]
    of, table = plan(bootstrap), view_of(*many)
    kept = [*many[:6], min(bootstrap)]
    dialled = chosen(of, table, 0.0, kept)
    assert len(dialled) == 1 and not {*dialled} & {*bootstrap}
    assert {*bootstrap} <= {*chosen(of, table, 1.0)}  # but when all are
    assert {*chosen(plan(bootstrap), view_of(*many[:2]), 0.0, many[:1])} == {*bootstrap}  # or when few are known
