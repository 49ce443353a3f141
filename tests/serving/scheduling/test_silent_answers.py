"""Silent answers: what waits in a server that works is put off, and nothing for ever."""

from __future__ import annotations

import math

import trio
from hypothesis import given
from hypothesis import strategies as st

from serving.scheduling.silent_answers import MAX_QUEUED_S, WORKING_S, SilentAnswers

PATIENCE_S = 5.0


@given(st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 20.0)), max_size=40))
def test_it_is_put_off_while_content_comes_within_a_limit_and_never_the_other_way(
    looks: list[tuple[float, float]],
) -> None:
    silent, scope, now = SilentAnswers(), trio.CancelScope(), 0.0
    silent.begin(scope, PATIENCE_S, now)
    for step, age in looks:
        now, before = now + step, scope.deadline
        silent.put_off(now, now - age)
        put_off = max(before, min(now + PATIENCE_S, MAX_QUEUED_S))
        assert scope.deadline == (put_off if age < WORKING_S else before)
    silent.put_off(now, -math.inf)
    assert PATIENCE_S <= scope.deadline <= MAX_QUEUED_S
    silent.end(scope)
    before = scope.deadline
    silent.put_off(1e9, 1e9)
    assert scope.deadline == before, "it has ended"
