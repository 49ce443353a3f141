"""Hold numbers: none is signed twice, whatever is given back and whenever the node is restarted."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.state.records import REPLAY_WINDOW_SIZE
from serving.accounting.hold_numbers import (
    AHEAD,
    MAX_SET_ASIDE,
    RESERVE,
    REUSE_DISTANCE,
    HoldNumbers,
    TooManyPayments,
)


@given(st.lists(st.sampled_from(["take", "sign", "give back", "final", "restart", "end"]), max_size=400), st.randoms())
def test_no_number_is_signed_twice(steps: list[str], random: Random) -> None:
    numbers, stored, top = HoldNumbers(0, 0), 0, 0
    taken: list[int] = []
    signed: set[int] = set()
    for step in steps:
        if step == "take":
            try:
                seq = numbers.take(top)
            except TooManyPayments:
                continue
            assert seq not in signed and seq not in taken and seq < top + REPLAY_WINDOW_SIZE
            taken.append(seq)
        elif step == "sign" and taken:
            seq = taken.pop(random.randrange(len(taken)))
            reserved = numbers.reserve(seq)
            stored = stored if reserved is None else reserved
            assert stored > seq
            signed.add(seq)
            numbers.give_back(seq)
        elif step == "give back" and taken:
            numbers.give_back(taken.pop(random.randrange(len(taken))))
        elif step == "final" and signed:
            top = max(top, random.choice(sorted(signed)) + 1)
        elif step in ("restart", "end"):
            stored = numbers.release_reserve() if step == "end" else stored
            numbers, taken = HoldNumbers(top, stored, numbers.find_unsigned() if step == "end" else ()), []


def test_half_the_window_may_be_in_use_and_what_was_given_back_is_used_again() -> None:
    numbers = HoldNumbers(0, 0)
    assert [numbers.take(0) for _ in range(AHEAD)] == list(range(AHEAD))
    with pytest.raises(TooManyPayments):
        numbers.take(0)
    numbers.give_back(3)
    numbers.give_back(3)
    assert numbers.peek(0) == numbers.take(0) == 3
    assert numbers.take(1) == AHEAD


def test_a_number_that_was_signed_is_never_given_out_again() -> None:
    numbers = HoldNumbers(0, 0)
    for seq in range(AHEAD):
        assert numbers.take(0) == seq
    stored = numbers.reserve(3)
    numbers.give_back(3)
    with pytest.raises(TooManyPayments):
        numbers.take(0)
    assert stored is not None
    assert HoldNumbers(0, stored).take(0) == stored > 3


def test_a_number_that_was_given_back_is_used_before_it_leaves_the_window() -> None:
    numbers, top = HoldNumbers(0, 0), 0
    taken = [numbers.take(top) for _ in range(3)]
    for seq in taken[:2]:
        numbers.give_back(seq)
    numbers.reserve(taken[2])
    used = [taken[2]]
    for _ in range(REUSE_DISTANCE + 5):
        top = max(used) + 1
        used.append(numbers.take(top))
        numbers.reserve(used[-1])
    assert sorted(used) == list(range(max(used) + 1)), "none was left out"
    assert used[1:4] == [3, 4, 5], "others are tried first"


def test_few_numbers_that_were_given_back_are_set_aside() -> None:
    numbers = HoldNumbers(0, 0)
    for seq in range(MAX_SET_ASIDE + 1):
        assert numbers.take(0) == seq
    for seq in range(MAX_SET_ASIDE):
        numbers.give_back(seq)
    assert numbers.peek(0) == MAX_SET_ASIDE + 1
    numbers.give_back(MAX_SET_ASIDE)
    assert numbers.take(0) == 0
    assert numbers.take(0) == MAX_SET_ASIDE + 1


def test_a_node_that_ends_in_order_leaves_no_number_out() -> None:
    numbers = HoldNumbers(0, 0)
    for _ in range(3):
        numbers.reserve(numbers.take(0))
    numbers.take(0)
    assert numbers.release_reserve() == 3
    assert HoldNumbers(0, 3).take(0) == 3
    assert HoldNumbers(0, RESERVE).release_reserve() == RESERVE, "what an earlier life may have signed stays reserved"


def test_a_node_that_ends_in_order_goes_on_with_the_numbers_that_have_no_hold() -> None:
    numbers = HoldNumbers(0, 0)
    taken = [numbers.take(0) for _ in range(5)]
    numbers.give_back(taken[0])
    numbers.reserve(taken[1])
    numbers.reserve(taken[3])
    assert numbers.find_unsigned() == [0, 2], "one that was given back, and one of a request that was under way"
    top = 4
    numbers = HoldNumbers(top, numbers.release_reserve(), numbers.find_unsigned())
    assert numbers.find_unsigned() == [0, 2], "and so does the next"
    used = []
    for _ in range(REUSE_DISTANCE + 5):
        used.append(numbers.take(top))
        numbers.reserve(used[-1])
        top = max(used) + 1
    assert sorted([1, 3, *used]) == list(range(top)), "none was left out"


def test_a_write_reserves_several_numbers() -> None:
    numbers = HoldNumbers(5, 0)
    assert numbers.reserve(5) == 5 + RESERVE
    assert [numbers.reserve(seq) for seq in range(6, 5 + RESERVE)] == [None] * (RESERVE - 1)
    assert numbers.reserve(5 + RESERVE) == 5 + 2 * RESERVE
