"""Which connections are accepted: the limits of an address, of half-open ones and of all, and which one is evicted."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2p.host.connection_gater import (
    PATIENT_UPGRADE_TIMEOUT_S,
    UPGRADE_TIMEOUT_S,
    ConnectionGater,
    ConnectionLimits,
    InboundConnection,
)
from p2p.limits.peer_score import BAN_BACKOFF
from p2p.limits.places import OWNERS_CHOICE
from p2p.limits.rate_limit import Rate
from p2p.network import Misbehaviour
from tests.support.keys import make_peer

EASY = Rate(items=1e6, size=math.inf, burst=1e6)


def gater(protected: bytes = b"", **limits: Any) -> ConnectionGater:
    return ConnectionGater(
        ConnectionLimits(arrivals=EASY, **limits), lambda peer: int(bool(protected) and peer.startswith(protected))
    )


def accept(at: ConnectionGater, host: str | None, now: float = 0.0) -> InboundConnection:
    inbound = at.on_accept(host, now)
    assert inbound is not None
    return inbound


def test_an_address_has_so_many_connections_and_others_have_theirs() -> None:
    at = gater(max_per_address=3)
    connections = [accept(at, "192.0.2.1") for _ in range(3)]
    at.on_secured(connections[0], make_peer(1))
    assert at.on_accept("192.0.2.1", 0.0) is None and at.refusals["address"] == 1
    accept(at, "192.0.2.2")
    at.on_closed(connections[0], 1.0)
    accept(at, "192.0.2.1")


def test_an_ipv6_network_is_one_address_and_mapped_addresses_are_ipv4() -> None:
    at = gater(max_per_address=1)
    accept(at, "2001:db8::1")
    assert at.on_accept("2001:db8::ffff", 0.0) is None
    accept(at, "2001:db8:0:1::1")
    accept(at, "192.0.2.1")
    assert at.on_accept("::ffff:192.0.2.1", 0.0) is None


def test_an_address_arrives_no_faster_than_the_rate() -> None:
    at = ConnectionGater(ConnectionLimits(arrivals=Rate(items=10, size=math.inf, burst=2.0), max_per_address=1000))
    assert sum(at.on_accept("192.0.2.1", 0.0) is not None for _ in range(100)) == 20
    assert at.refusals["rate"] == 80
    accept(at, "192.0.2.1", 1.0)


def test_loopback_is_exempt_only_by_configuration() -> None:
    for host in ("127.0.0.1", "127.3.2.1", "::1"):
        free, strict = gater(max_per_address=1, exempt_loopback=True), gater(max_per_address=1)
        accept(free, host)
        accept(free, host)
        accept(strict, host)
        assert strict.on_accept(host, 0.0) is None
    free = gater(max_per_address=1, exempt_loopback=True)
    accept(free, "192.0.2.1")
    assert free.on_accept("192.0.2.1", 0.0) is None


def test_the_oldest_half_open_connection_makes_room() -> None:
    at = gater(max_half_open=4, max_half_open_per_address=2)
    first, second = accept(at, "192.0.2.1"), accept(at, "192.0.2.1")
    third = accept(at, "192.0.2.1")  # of the same address
    assert first.evicted and not second.evicted
    others = [accept(at, f"192.0.2.{number}") for number in (2, 3, 4)]  # of all
    assert second.evicted and not third.evicted
    assert at.half_open == 4 and not any(inbound.evicted for inbound in others)


def test_patience_is_for_quiet_times() -> None:
    at = gater(max_half_open=8)
    deadlines = [accept(at, f"192.0.2.{number}").deadline for number in range(8)]
    assert deadlines == [PATIENT_UPGRADE_TIMEOUT_S] * 2 + [UPGRADE_TIMEOUT_S] * 6


def test_the_youngest_stranger_of_the_fullest_address_goes() -> None:
    at = gater(protected=b"\x01", max_connections=4)
    connections = [accept(at, host) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1", "192.0.2.1")]
    for inbound, number in zip(connections, (1, 2, 3, 4, 1), strict=True):
        at.on_secured(inbound, make_peer(number))
    # Key 1 is protected, so of the fullest address the youngest unprotected peer is number 4.
    assert [inbound.evicted for inbound in connections] == [False, False, False, True, False]
    assert at.secured == 4 and at.refusals["evicted"] == 1


def fill(at: ConnectionGater, bonds: dict[bytes, int], start: int, count: int, bond: int) -> list[InboundConnection]:
    """That many peers with that bond connect, each from its own address."""
    connections = []
    for number in range(start, start + count):
        peer = number.to_bytes(32, "big")
        bonds[peer] = bond
        connections.append(accept(at, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
        at.on_secured(connections[-1], peer)
    return connections


def count_kept(connections: list[InboundConnection]) -> int:
    return sum(not inbound.evicted for inbound in connections)


def test_connections_are_kept_by_weight_and_a_share_of_them_is_for_newcomers() -> None:
    bonds: dict[bytes, int] = {}
    at = ConnectionGater(
        ConnectionLimits(arrivals=EASY, max_connections=40), lambda peer: bonds.get(peer, 0), secret=b"secret"
    )
    small = fill(at, bonds, 0, 100, 1_000)
    assert count_kept(small) == 40 == at.secured  # as long as nobody else wants in
    newcomers = fill(at, bonds, 1_000, 10, 0)
    assert count_kept(small) == 30
    assert count_kept(newcomers) == 10 and at.secured == 40
    large = fill(at, bonds, 2_000, 20, 64_000)
    assert count_kept(large) == 20 and count_kept(small) == 10 and count_kept(newcomers) == 10
    assert count_kept(fill(at, bonds, 3_000, 50, OWNERS_CHOICE)) == 30 and count_kept(newcomers) == 10
    assert at.secured == 40 and count_kept(large) == count_kept(small) == 0


def test_among_peers_of_one_class_the_first_ones_have_no_advantage() -> None:
    kept = {}
    for secret in (b"a", b"b"):
        bonds: dict[bytes, int] = {}
        at = ConnectionGater(
            ConnectionLimits(arrivals=EASY, max_connections=40), lambda peer, bonds=bonds: bonds.get(peer, 0), secret
        )
        kept[secret] = [not inbound.evicted for inbound in fill(at, bonds, 0, 200, 1_000)]
    assert kept[b"a"] != kept[b"b"] and all(sum(one) == 40 and sum(one[40:]) > 20 for one in kept.values())


def test_addresses_that_only_fail_are_banned_for_a_while() -> None:
    at = gater()
    for _ in range(100):
        at.on_closed(accept(at, "192.0.2.1"), 0.0, failed=True)
    assert at.on_accept("192.0.2.1", 0.0) is None and at.refusals["banned"] == 1
    accept(at, "192.0.2.2")
    accept(at, "192.0.2.1", BAN_BACKOFF.first_s)


def test_peers_are_banned_with_their_address_last_and_protected_ones_like_all_others() -> None:
    at = gater(protected=b"\x01")
    for number in (1, 2):
        assert [
            at.report_misbehaviour(make_peer(number), "192.0.2.1", Misbehaviour.FORGERY, 0.0) for _ in range(2)
        ] == [
            False,
            True,
        ]
        assert at.peers.is_banned(make_peer(number), 0.0)
    accept(at, "192.0.2.1")  # the address is that of others, too
    for number in range(3, 6):
        for _ in range(2):
            at.report_misbehaviour(make_peer(number), "192.0.2.1", Misbehaviour.FORGERY, 0.0)
    assert at.on_accept("192.0.2.1", 0.0) is None


def test_an_eviction_for_the_sake_of_others_counts_against_no_address() -> None:
    at = gater(max_half_open=4, max_half_open_per_address=2)
    honest = accept(at, "192.0.2.9")
    flood = [accept(at, f"192.0.2.{number}") for number in (1, 1, 2)]
    flood.append(accept(at, "192.0.2.3"))
    assert flood[0].evicted and not honest.evicted  # of the address that has most
    for number in range(4, 7):
        flood.append(accept(at, f"192.0.2.{number}"))
    assert honest.evicted
    at.on_closed(honest, 1.0, failed=True)
    assert len(at.addresses) == 0 and at.refusals["failed"] == 0
    # An address that exceeds its own limit answers for that.
    greedy = [accept(at, "192.0.2.1") for _ in range(3)]
    at.on_closed(greedy[0], 1.0, failed=True)
    assert greedy[0].evicted and len(at.addresses) == 1


def accept_circuit(at: ConnectionGater, quota_key: bytes) -> InboundConnection | None:
    inbound = at.on_accept(None, 0.0, quota_key)
    if inbound is not None:
        at.on_secured(inbound, make_peer(99))
    return inbound


def test_a_relay_that_was_not_asked_has_no_more_room_than_its_address() -> None:
    at = gater(max_per_address=8)
    host, relay = "192.0.2.1", make_peer(1)
    at.on_secured(accept(at, host), relay)
    quota_key = at.get_circuit_quota_key(relay, host, is_asked=False)
    assert sum(accept_circuit(at, quota_key) is not None for _ in range(20)) == 4
    assert sum(at.on_accept(host, 0.0) is not None for _ in range(20)) == 3  # and half of it for itself
    assert at.refusals["address"] == 16 + 17
    # A relay that this node has asked for circuits has room of its own, and so has one behind another address.
    asked = at.get_circuit_quota_key(relay, host, is_asked=True)
    assert sum(accept_circuit(at, asked) is not None for _ in range(20)) == 8
    assert accept_circuit(at, at.get_circuit_quota_key(make_peer(2), "192.0.2.2", is_asked=False)) is not None


def test_a_relay_that_came_through_a_relay_takes_from_its_room() -> None:
    at = gater(max_per_address=4)
    first = at.get_circuit_quota_key(make_peer(1), "192.0.2.1", is_asked=False)
    inbound = at.on_accept(None, 0.0, first)
    assert inbound is not None
    at.on_secured(inbound, make_peer(2))
    assert at.get_circuit_quota_key(make_peer(2), None, is_asked=False) == first
    assert at.get_circuit_quota_key(make_peer(3), None, is_asked=False) not in (
        first,
        b"",
    )  # one that this node has dialled


def test_what_fails_in_a_circuit_is_not_held_against_the_relay() -> None:
    at = gater(max_per_address=8)
    quota_key = at.get_circuit_quota_key(make_peer(1), "192.0.2.1", is_asked=False)
    for _ in range(200):
        inbound = at.on_accept(None, 0.0, quota_key)
        assert inbound is not None
        at.on_closed(inbound, 0.0, failed=True)
    assert accept(at, "192.0.2.1") and at.refusals["failed"] == 200


@given(
    st.lists(
        st.tuples(st.sampled_from(["on_accept", "on_secured", "on_closed"]), st.integers(0, 5), st.integers(0, 20)),
        max_size=200,
    )
)
def test_no_order_of_events_exceeds_a_limit_or_loses_count(events: list[tuple[str, int, int]]) -> None:
    at = gater(max_connections=6, max_per_address=4, max_half_open=5, max_half_open_per_address=2)
    half_open: list[InboundConnection] = []
    inside: list[InboundConnection] = []
    for kind, host, number in events:
        if kind == "on_accept":
            inbound = at.on_accept(None if not host else f"192.0.2.{host}", 0.0)
            half_open += [] if inbound is None else [inbound]
        elif kind == "on_secured" and half_open:
            inbound = half_open.pop(number % len(half_open))
            at.on_secured(inbound, make_peer(number))
            inside.append(inbound)
        elif kind == "on_closed" and half_open + inside:
            inbound = (half_open + inside)[number % len(half_open + inside)]
            at.on_closed(inbound, 0.0)
            (half_open if inbound in half_open else inside).remove(inbound)
        for inbound in [inbound for inbound in half_open + inside if inbound.evicted]:
            at.on_closed(inbound, 0.0, failed=inbound in half_open)
            (half_open if inbound in half_open else inside).remove(inbound)
        assert at.half_open == len(half_open) <= 5
        assert at.secured == len(inside) <= 6
        for address in range(1, 6):
            assert sum(inbound.quota_key == bytes([192, 0, 2, address]) for inbound in half_open + inside) <= 4
