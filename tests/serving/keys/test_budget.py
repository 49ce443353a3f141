"""The budget of a key: what the disk says is never less than what was spent and is reserved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.keys.budget import KeyBudget

AMOUNTS = st.integers(0, 40)
STEPS = st.one_of(
    st.tuples(st.just("reserve"), AMOUNTS),
    st.tuples(st.just("settle"), AMOUNTS),
    st.tuples(st.sampled_from(["begin", "end", "lose"]), AMOUNTS),
)


@given(st.integers(0, 300), st.lists(STEPS, max_size=60))
def test_whatever_the_disk_says_covers_every_request_that_has_begun(limit: int, steps: list[tuple[str, int]]) -> None:
    budget, disk, writing = KeyBudget(limit, 0), {0}, None
    waiting: list[int] = []
    begun: list[int] = []
    for step, amount in steps:
        if step == "reserve" and budget.reserve(amount):
            waiting.append(amount)
        elif step == "settle" and begun:
            budget.settle(begun.pop(0), amount)
        elif step == "begin" and writing is None:
            writing = budget.begin_write(amount)
            disk.add(writing)  # the write may be done at any moment from now on
        elif step == "end" and writing is not None:
            budget.end_write()
            disk, writing = {writing}, None
        elif step == "lose" and writing is not None:
            writing = None  # it failed, and nobody knows whether anything of it was written
        if budget.is_covered:
            begun, waiting = begun + waiting, []
        assert budget.spent + sum(begun) + sum(waiting) == budget.spent + budget.reserved <= limit
        assert budget.spent + sum(begun) <= min(disk), "what has begun is on the disk"
        assert all(value <= limit for value in disk)


def test_a_request_does_not_begin_while_less_is_being_written() -> None:
    budget = KeyBudget(1_000, 0)
    assert budget.reserve(600) and not budget.is_covered
    assert budget.begin_write() == 600
    budget.end_write()
    assert budget.is_covered
    budget.settle(600, 100)
    assert budget.begin_write() == 100
    assert budget.reserve(300) and not budget.is_covered, "a crash might find 100 on the disk"
    budget.end_write()
    assert not budget.is_covered and not budget.reserve(601)
    assert budget.begin_write() == 400
    budget.end_write()
    assert budget.is_covered
