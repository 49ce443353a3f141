"""Which connections are taken in: the limits of an address, of half-open ones and of all, and who goes first."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2p.host.connection_gater import PATIENT_UPGRADE_TIMEOUT, UPGRADE_TIMEOUT, Door, DoorLimits, Visit
from p2p.network import Misbehaviour
from p2p.peer_score import BAN
from p2p.rate_limit import Rate

EASY = Rate(items=1e6, size=math.inf, burst=1e6)


def door(kept: bytes = b"", **limits: Any) -> Door:
    return Door(DoorLimits(arrivals=EASY, **limits), lambda peer: bool(kept) and peer.startswith(kept))


def come(at: Door, host: str | None, now: float = 0.0) -> Visit:
    visit = at.knock(host, now)
    assert visit is not None
    return visit


def name(number: int) -> bytes:
    return bytes([number]) * 32


def test_an_address_has_so_many_connections_and_others_have_theirs() -> None:
    at = door(max_per_address=3)
    visits = [come(at, "192.0.2.1") for _ in range(3)]
    at.enter(visits[0], name(1))
    assert at.knock("192.0.2.1", 0.0) is None and at.refusals["address"] == 1
    come(at, "192.0.2.2")
    at.leave(visits[0], 1.0)
    come(at, "192.0.2.1")


def test_an_ipv6_network_is_one_address_and_mapped_addresses_are_ipv4() -> None:
    at = door(max_per_address=1)
    come(at, "2001:db8::1")
    assert at.knock("2001:db8::ffff", 0.0) is None
    come(at, "2001:db8:0:1::1")
    come(at, "192.0.2.1")
    assert at.knock("::ffff:192.0.2.1", 0.0) is None


def test_an_address_arrives_no_faster_than_the_rate() -> None:
    at = Door(DoorLimits(arrivals=Rate(items=10, size=math.inf, burst=2.0), max_per_address=1000))
    assert sum(at.knock("192.0.2.1", 0.0) is not None for _ in range(100)) == 20
    assert at.refusals["rate"] == 80
    come(at, "192.0.2.1", 1.0)


def test_loopback_is_exempt_only_by_configuration() -> None:
    for host in ("127.0.0.1", "127.3.2.1", "::1"):
        free, strict = door(max_per_address=1, exempt_loopback=True), door(max_per_address=1)
        come(free, host)
        come(free, host)
        come(strict, host)
        assert strict.knock(host, 0.0) is None
    free = door(max_per_address=1, exempt_loopback=True)
    come(free, "192.0.2.1")
    assert free.knock("192.0.2.1", 0.0) is None


def test_the_oldest_half_open_connection_makes_room() -> None:
    at = door(max_half_open=4, max_half_open_per_address=2)
    first, second = come(at, "192.0.2.1"), come(at, "192.0.2.1")
    third = come(at, "192.0.2.1")  # of the same address
    assert first.dismissed and not second.dismissed
    others = [come(at, f"192.0.2.{number}") for number in (2, 3, 4)]  # of all
    assert second.dismissed and not third.dismissed
    assert at.half_open == 4 and not any(visit.dismissed for visit in others)


def test_patience_is_for_quiet_times() -> None:
    at = door(max_half_open=8)
    deadlines = [come(at, f"192.0.2.{number}").deadline for number in range(8)]
    assert deadlines == [PATIENT_UPGRADE_TIMEOUT] * 2 + [UPGRADE_TIMEOUT] * 6


def test_the_youngest_stranger_of_the_fullest_address_goes() -> None:
    at = door(kept=b"\x01", max_connections=4)
    visits = [come(at, host) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1", "192.0.2.1")]
    for visit, number in zip(visits, (1, 2, 3, 4, 1), strict=True):
        at.enter(visit, name(number))
    # Those of key 1 are kept, so of the fullest address the youngest stranger is number 4.
    assert [visit.dismissed for visit in visits] == [False, False, False, True, False]
    assert at.inside == 4 and at.refusals["evicted"] == 1


def test_who_is_kept_gets_in_when_all_are_kept() -> None:
    at = door(kept=b"\x01", max_connections=1)
    visits = [come(at, "192.0.2.1") for _ in range(2)]
    for visit in visits:
        at.enter(visit, name(1))
    assert not any(visit.dismissed for visit in visits)
    stranger = come(at, "192.0.2.1")
    at.enter(stranger, name(2))
    assert stranger.dismissed


def test_addresses_that_only_fail_are_banned_for_a_while() -> None:
    at = door()
    for _ in range(100):
        at.leave(come(at, "192.0.2.1"), 0.0, failed=True)
    assert at.knock("192.0.2.1", 0.0) is None and at.refusals["banned"] == 1
    come(at, "192.0.2.2")
    come(at, "192.0.2.1", BAN)


def test_peers_are_banned_with_their_address_last_and_those_kept_like_all_others() -> None:
    at = door(kept=b"\x01")
    for number in (1, 2):
        assert [at.report_misbehaviour(name(number), "192.0.2.1", Misbehaviour.FORGERY, 0.0) for _ in range(2)] == [
            False,
            True,
        ]
        assert at.peers.is_banned(name(number), 0.0)
    come(at, "192.0.2.1")  # the address is that of others, too
    for number in range(3, 6):
        for _ in range(2):
            at.report_misbehaviour(name(number), "192.0.2.1", Misbehaviour.FORGERY, 0.0)
    assert at.knock("192.0.2.1", 0.0) is None


def test_who_is_pushed_out_for_others_is_not_blamed_for_it() -> None:
    at = door(max_half_open=4, max_half_open_per_address=2)
    honest = come(at, "192.0.2.9")
    flood = [come(at, f"192.0.2.{number}") for number in (1, 1, 2)]
    flood.append(come(at, "192.0.2.3"))
    assert flood[0].dismissed and not honest.dismissed  # of the address that has most
    for number in range(4, 7):
        flood.append(come(at, f"192.0.2.{number}"))
    assert honest.dismissed
    at.leave(honest, 1.0, failed=True)
    assert len(at.addresses) == 0 and at.refusals["failed"] == 0
    # Whoever exceeds his own limit has himself to blame.
    greedy = [come(at, "192.0.2.1") for _ in range(3)]
    at.leave(greedy[0], 1.0, failed=True)
    assert greedy[0].dismissed and len(at.addresses) == 1


def come_through(at: Door, origin: bytes) -> Visit | None:
    visit = at.knock(None, 0.0, origin)
    if visit is not None:
        at.enter(visit, name(99))
    return visit


def test_a_relay_that_was_not_asked_has_no_more_room_than_its_address() -> None:
    at = door(max_per_address=8)
    host, relay = "192.0.2.1", name(1)
    at.enter(come(at, host), relay)
    origin = at.get_origin(relay, host, is_asked=False)
    assert sum(come_through(at, origin) is not None for _ in range(20)) == 4
    assert sum(at.knock(host, 0.0) is not None for _ in range(20)) == 3  # and half of it for itself
    assert at.refusals["address"] == 16 + 17
    # A relay that this node has asked for circuits has room of its own, and so has one behind another address.
    asked = at.get_origin(relay, host, is_asked=True)
    assert sum(come_through(at, asked) is not None for _ in range(20)) == 8
    assert come_through(at, at.get_origin(name(2), "192.0.2.2", is_asked=False)) is not None


def test_a_relay_that_came_through_a_relay_takes_from_its_room() -> None:
    at = door(max_per_address=4)
    first = at.get_origin(name(1), "192.0.2.1", is_asked=False)
    visit = at.knock(None, 0.0, first)
    assert visit is not None
    at.enter(visit, name(2))
    assert at.get_origin(name(2), None, is_asked=False) == first
    assert at.get_origin(name(3), None, is_asked=False) not in (first, b"")  # one that this node has dialled


def test_what_fails_in_a_circuit_is_not_held_against_the_relay() -> None:
    at = door(max_per_address=8)
    origin = at.get_origin(name(1), "192.0.2.1", is_asked=False)
    for _ in range(200):
        visit = at.knock(None, 0.0, origin)
        assert visit is not None
        at.leave(visit, 0.0, failed=True)
    assert come(at, "192.0.2.1") and at.refusals["failed"] == 200


@given(
    st.lists(
        st.tuples(st.sampled_from(["knock", "enter", "leave"]), st.integers(0, 5), st.integers(0, 20)), max_size=200
    )
)
def test_no_order_of_events_exceeds_a_limit_or_loses_count(events: list[tuple[str, int, int]]) -> None:
    at = door(max_connections=6, max_per_address=4, max_half_open=5, max_half_open_per_address=2)
    half_open: list[Visit] = []
    inside: list[Visit] = []
    for kind, host, number in events:
        if kind == "knock":
            visit = at.knock(None if not host else f"192.0.2.{host}", 0.0)
            half_open += [] if visit is None else [visit]
        elif kind == "enter" and half_open:
            visit = half_open.pop(number % len(half_open))
            at.enter(visit, name(number))
            inside.append(visit)
        elif kind == "leave" and half_open + inside:
            visit = (half_open + inside)[number % len(half_open + inside)]
            at.leave(visit, 0.0)
            (half_open if visit in half_open else inside).remove(visit)
        for visit in [visit for visit in half_open + inside if visit.dismissed]:
            at.leave(visit, 0.0, failed=visit in half_open)
            (half_open if visit in half_open else inside).remove(visit)
        assert at.half_open == len(half_open) <= 5
        assert at.inside == len(inside) <= 6
        for address in range(1, 6):
            assert sum(visit.address == bytes([192, 0, 2, address]) for visit in half_open + inside) <= 4
