"""The histogram: each value is counted at the bounds that it does not exceed."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.histogram import Histogram

NUMBERS = st.integers(-4, 12)


@given(st.sets(NUMBERS, min_size=1), st.lists(NUMBERS), st.lists(NUMBERS))
def test_each_value_is_counted_where_it_belongs(bounds: set[int], values: list[int], more: list[int]) -> None:
    one, other = Histogram(sorted(bounds)), Histogram(sorted(bounds))
    for value in values:
        one.observe(value)
    for value in more:
        other.observe(value)
    one.add(other)
    everything = sorted(values + more)
    assert one.cumulate() == [*(bisect_right(everything, bound) for bound in one.bounds), len(everything)]
    assert (one.count, one.sum) == (len(everything), sum(everything))
    assert all(one.count_above(bound) == sum(value > bound for value in everything) for bound in bounds)


def test_what_is_no_bound_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        Histogram((1, 2)).count_above(1.5)
