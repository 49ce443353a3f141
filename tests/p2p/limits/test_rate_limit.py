"""Rates: what a peer may send, what all may together, and what no flood can take from a peer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.limits.rate_limit import IDLE_S, Budget, Limiter, Rate
from tests.support.keys import make_peer

ONE, TWO = make_peer(1), make_peer(2)
RATE = Rate(items=10, size=1_000, burst=2.0)


def count_admitted(limiter: Limiter, peer: bytes, size: int, now: float, tries: int = 1_000) -> int:
    return sum(limiter.admit(peer, size, now) for _ in range(tries))


def test_a_burst_and_then_the_rate_by_count_or_by_bytes() -> None:
    for size, rate in ((1, 10), (500, 2)):
        limiter = Limiter(RATE)
        assert count_admitted(limiter, ONE, size, 0.0) == 2 * rate
        assert count_admitted(limiter, ONE, size, 1.0) in (rate, rate + 1)
        assert limiter.dropped > 1_000
        assert count_admitted(limiter, TWO, size, 1.0) == 2 * rate  # others have theirs


def test_a_large_item_passes_alone_and_is_paid_for_afterwards() -> None:
    limiter = Limiter(RATE)
    assert limiter.admit(ONE, 10_000, 0.0)
    assert not limiter.admit(ONE, 1, 7.9)
    assert limiter.admit(ONE, 1, 8.1)


def test_who_is_punished_is_not_heard_for_a_while() -> None:
    limiter = Limiter(RATE)
    limiter.punish(ONE, 0.0, 5.0)
    assert not limiter.admit(ONE, 1, 5.0) and limiter.admit(ONE, 1, 5.1)
    assert limiter.admit(TWO, 1, 0.0)


def test_a_flood_leaves_the_others_their_shares() -> None:
    limiter = Limiter(RATE, Rate(items=10, size=10_000, burst=2.0))
    assert limiter.admit(ONE, 1, 0.0)
    flooders = [bytes([number]) for number in range(19)]
    flooded = admitted = 0
    for step in range(1, 10_001):
        now = step / 100
        flooded += sum(limiter.admit(flooder, 1, now) for flooder in flooders)
        if step % 250 == 0:  # 10 a second among 20 is one every 2 s
            admitted += limiter.admit(ONE, 1, now)
    assert admitted == 40
    assert flooded <= 2 * 10 * 100 + 20


def test_a_new_name_has_no_share() -> None:
    limiter = Limiter(RATE, Rate(items=10, size=10_000, burst=2.0))
    assert sum(limiter.admit(number.to_bytes(32, "big"), 1, 0.0) for number in range(1_000)) == 20
    assert sum(limiter.admit(number.to_bytes(32, "big"), 1, 0.1) for number in range(1_000)) <= 2


def test_peers_that_are_silent_are_forgotten_and_the_number_is_bounded() -> None:
    limiter = Limiter(RATE, max_peers=5)
    for number in range(10):
        limiter.admit(bytes([number]), 1, 0.0)
    assert len(limiter) == 5
    limiter.admit(ONE, 1, IDLE_S + 1)
    assert len(limiter) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3_000), st.floats(0, 1)), max_size=200))
def test_no_peer_exceeds_the_rate_and_all_together_twice_the_total(events: list[tuple[int, int, float]]) -> None:
    total = Rate(items=20, size=2_000, burst=1.0)
    limiter = Limiter(RATE, total)
    now, spent, largest = 0.0, dict.fromkeys(range(6), 0.0), 0.0
    common = 0.0
    for peer, size, pause in events:
        now += pause
        if limiter.admit(bytes([peer]), size, now):
            spent[peer] += RATE.get_cost(size)
            common += total.get_cost(size)
            largest = max(largest, RATE.get_cost(size))
    assert all(seconds <= RATE.burst + now + largest + 1e-6 for seconds in spent.values())
    assert common <= 2 * now + 8 * max(total.burst, largest) + 1e-6


def test_several_items_cost_as_many_as_one_after_the_other() -> None:
    limiter = Limiter(Rate(items=10, size=1000, burst=1.0))
    assert limiter.admit(ONE, 0, 0.0, items=30)
    assert not limiter.admit(ONE, 0, 1.9) and limiter.admit(ONE, 0, 2.1)


def test_a_budget_names_who_is_over_his_own_or_has_most() -> None:
    budget = Budget(each=100, total=150)
    assert budget.hold(b"a", 100) is None
    assert budget.hold(b"b", 50) is None
    assert budget.hold(b"b", 10) == b"a"  # together they have too much, and a has most
    assert budget.hold(b"a", -100) is None and len(budget) == 1 and budget.size == 60
    assert budget.hold(b"b", 50) == b"b"  # over its own
    assert budget.hold(b"b", -110) is None and len(budget) == budget.size == 0
