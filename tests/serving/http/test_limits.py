"""What clients may make the server hold: connections by address, and bodies that have not arrived whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.http.limits import (
    MAX_REFUSALS,
    MAX_REFUSALS_PER_ADDRESS,
    BodyBudget,
    ConnectionCounter,
    HttpLimits,
    Verdict,
)

SMALL = HttpLimits(connections=10, connections_per_address=3)


def count(counter: ConnectionCounter, clients: list[str]) -> list[Verdict]:
    return [counter.add(client, 0.0) for client in clients]


def test_one_address_leaves_room_for_others() -> None:
    counter = ConnectionCounter(SMALL)
    verdicts = count(counter, 20 * ["192.0.2.1"])
    assert verdicts[:3] == 3 * [Verdict.SERVE]
    assert verdicts[3 : 3 + MAX_REFUSALS_PER_ADDRESS] == MAX_REFUSALS_PER_ADDRESS * [Verdict.REFUSE]
    assert set(verdicts[3 + MAX_REFUSALS_PER_ADDRESS :]) == {Verdict.CLOSE}
    assert counter.total == 3 + MAX_REFUSALS_PER_ADDRESS
    assert counter.add("192.0.2.2", 0.0) is Verdict.SERVE


def test_a_subnet_of_ipv6_is_one_address_and_a_mapped_one_is_ipv4() -> None:
    counter = ConnectionCounter(SMALL)
    assert count(counter, [f"2001:db8::{number}" for number in range(1, 5)])[-1] is Verdict.REFUSE
    assert counter.add("2001:db8:0:1::1", 0.0) is Verdict.SERVE
    assert count(counter, ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"])[-1] is Verdict.REFUSE


def test_an_address_that_makes_useless_connections_gets_no_more_for_a_while() -> None:
    limits = HttpLimits(useless_per_s=2.0, useless_burst_s=5.0)
    counter = ConnectionCounter(limits)

    def make_useless(client: str, connections: int, now: float) -> int:
        """Returns how many of them are not closed at once."""
        taken = 0
        for _ in range(connections):
            if counter.add(client, now) is not Verdict.CLOSE:
                counter.remove(client)
                taken += 1
        return taken

    assert make_useless("192.0.2.1", 100, 0.0) == 10
    assert counter.add("192.0.2.1", 0.0) is Verdict.CLOSE
    assert counter.add("192.0.2.2", 0.0) is Verdict.SERVE
    assert make_useless("192.0.2.1", 100, 3.0) == 6
    assert make_useless("192.0.2.1", 100, 1000.0) == 10
    assert make_useless("127.0.0.1", 100, 0.0) == 100
    assert make_useless("127.0.0.2", 100, 0.0) == 10  # no address of a proxy


def test_connections_are_charged_when_they_begin() -> None:
    counter = ConnectionCounter(HttpLimits(useless_per_s=2.0, useless_burst_s=5.0))
    verdicts = count(counter, 20 * ["192.0.2.1"])
    assert verdicts == 10 * [Verdict.SERVE] + 10 * [Verdict.CLOSE]
    counter.give_back("192.0.2.1", 3)
    assert count(counter, 5 * ["192.0.2.1"]) == 3 * [Verdict.SERVE] + 2 * [Verdict.CLOSE]
    assert not counter.charge("192.0.2.1", 0.0) and counter.charge("192.0.2.1", 0.5)
    assert counter.add("192.0.2.1", 0.5) is Verdict.CLOSE


def test_useful_connections_cost_an_address_nothing() -> None:
    counter = ConnectionCounter(HttpLimits())
    for _ in range(1000):
        assert counter.add("192.0.2.1", 0.0) is Verdict.SERVE
        counter.give_back("192.0.2.1", 1)
        counter.remove("192.0.2.1")


def test_an_address_is_given_back_no_more_than_it_may_be_charged_at_once() -> None:
    counter = ConnectionCounter(HttpLimits(useless_per_s=2.0, useless_burst_s=5.0))
    assert counter.add("192.0.2.1", 0.0) is Verdict.SERVE
    counter.give_back("192.0.2.1", 1)
    counter.give_back("192.0.2.1", 1)
    assert count(counter, 20 * ["192.0.2.1"]).count(Verdict.SERVE) == 10


def test_loopback_has_the_limit_of_all_alone() -> None:
    counter = ConnectionCounter(SMALL)
    clients = ["127.0.0.1", "::1", "::ffff:127.0.0.1"]
    verdicts = count(counter, [clients[number % 3] for number in range(100)])
    assert verdicts == 10 * [Verdict.SERVE] + MAX_REFUSALS * [Verdict.REFUSE] + 26 * [Verdict.CLOSE]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["127.0.0.1", "192.0.2.1", "2001:db8::1", "unknown"]))))
def test_counts_return_to_nothing(steps: list[tuple[bool, str]]) -> None:
    counter, open_connections = ConnectionCounter(SMALL), list[str]()
    for is_new, client in steps:
        if is_new:
            if counter.add(client, 0.0) is not Verdict.CLOSE:
                open_connections.append(client)
        elif open_connections:
            counter.remove(open_connections.pop(0))
        assert counter.total == len(open_connections)
    for client in open_connections:
        counter.remove(client)
    assert counter.total == 0 and not counter._by_address


def test_the_body_that_began_first_is_given_up() -> None:
    budget: BodyBudget[str] = BodyBudget(100)
    assert budget.hold("slow", 40) == []
    assert budget.hold("attacker", 50) == []
    assert budget.hold("honest", 20) == ["slow"]
    budget.release("honest")
    assert budget.size == 50
    assert budget.hold("attacker", 60) == ["attacker"]
    assert budget.size == 0
    budget.release("attacker")
    assert budget.hold("huge", 101) == ["huge"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60), st.booleans())))
def test_the_budget_holds_and_forgets_nothing(steps: list[tuple[int, int, bool]]) -> None:
    budget, held = BodyBudget[int](100), dict[int, int]()
    for owner, size, is_whole in steps:
        if is_whole:
            budget.release(owner)
            held.pop(owner, None)
            continue
        held[owner] = held.get(owner, 0) + size
        for given_up in budget.hold(owner, size):
            assert given_up == next(iter(held))
            del held[given_up]
        assert budget.size == sum(held.values()) <= 100
