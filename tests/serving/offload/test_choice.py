"""The order in which candidates are asked."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from p2p.peers.announcement import ModelLoad, PeerLoad
from serving.offload.originator.choice import AFFINITY_FACTOR, Candidate, Reason, RequestsSent, order_candidates
from serving.offload.originator.executor_scores import Rank
from serving.prediction.predicted_time import UNKNOWN_SPEED, PredictedTime, RequestSize
from serving.prediction.predictor import Prediction

SIZE = RequestSize(100, 100.0)


def make(number: int, score: float, rank: int = Rank.GOOD) -> Candidate:
    node, time = bytes([number]) * 32, PredictedTime(score, score)
    return Candidate(number, node, rank, Prediction(node, "m", SIZE, UNKNOWN_SPEED, 0, 0.0, 100.0, time, score))


def order(candidates: list[Candidate], choices: int = 4, kept_by: int | None = None) -> list[int]:
    found = order_candidates(candidates, choices, None if kept_by is None else bytes([kept_by]) * 32)
    return [candidate.number for candidate, _ in found]


def test_the_least_predicted_time_of_the_first_four_goes_first_and_the_rest_follow_as_drawn() -> None:
    candidates = [make(0, 4.0), make(1, 3.0), make(2, 1.0), make(3, 2.0), make(4, 0.5), make(5, 0.1)]
    assert order(candidates) == [2, 3, 1, 0, 4, 5]
    assert order(candidates, choices=1) == order(candidates, choices=0) == [0, 1, 2, 3, 4, 5]
    assert order(candidates, choices=2) == [1, 0, 2, 3, 4, 5]
    assert order([]) == []


def test_between_those_that_are_as_good_as_equal_the_draw_decides() -> None:
    assert order([make(0, 9.0), make(1, 6.7), make(2, 6.0), make(3, 5.9)]) == [1, 3, 2, 0]
    assert order([make(0, 0.25), make(1, 0.0)]) == [0, 1] and order([make(0, 0.26), make(1, 0.0)]) == [1, 0]
    assert order([make(0, 0.0), make(1, 0.0)], choices=1) == [0, 1]


def test_a_worse_rank_is_never_asked_before_a_better_one() -> None:
    candidates = [make(0, 1.0, Rank.FAULTY), make(1, 5.0), make(2, 1.0, Rank.WAITING), make(3, 4.0)]
    assert order(candidates) == [3, 1, 2, 0]
    assert order(candidates, kept_by=2) == [3, 1, 2, 0], "a conversation does not stay with one that declined"


def test_a_conversation_stays_within_a_factor_of_the_best_wherever_its_node_was_drawn() -> None:
    candidates = [make(number, 2.0) for number in range(5)]
    for score, is_first in ((2.0 * AFFINITY_FACTOR, True), (2.0 * AFFINITY_FACTOR + 0.01, False)):
        found = order_candidates([*candidates, make(5, score)], 4, bytes([5]) * 32)
        assert (found[0][0].number == 5) is is_first
        assert found[0][1] is (Reason.CONVERSATION if is_first else Reason.PREDICTED)
        assert {reason for _, reason in found[1:]} == {Reason.NEXT}


def test_exploration_is_even_and_as_frequent_as_set() -> None:
    candidates = [make(number, 10.0 + 3 * number) for number in range(6)]
    firsts, chance = Counter[int](), random.Random("exploration")
    for _ in range(4000):
        firsts[order_candidates(candidates, 4, None, 0.2, chance)[0][0].number] += 1
    assert set(firsts) == {0, 1, 2, 3}
    assert firsts[0] / 4000 == pytest.approx(0.85, abs=0.03)
    assert all(firsts[number] / 4000 == pytest.approx(0.05, abs=0.02) for number in (1, 2, 3))
    assert order_candidates(candidates, 1, None, 1.0, chance)[0][0].number == 0


def test_one_of_which_nothing_is_known_is_tried_if_it_was_drawn_before_the_best() -> None:
    new = [replace(each, prediction=replace(each.prediction, is_new=True)) for each in (make(1, 90.0), make(3, 90.0))]
    assert order([make(0, 20.0), new[0], make(2, 10.0), new[1]])[0] == 1
    assert order([make(0, 20.0), make(2, 10.0), new[1]])[0] == 2


def test_no_node_is_explored_that_is_known_to_be_far_slower() -> None:
    candidates, chance = [make(0, 10.0), make(1, 19.0), make(2, 21.0), make(3, 90.0)], random.Random("exploration")
    firsts = Counter(order_candidates(candidates, 4, None, 1.0, chance)[0][0].number for _ in range(400))
    assert set(firsts) == {0, 1} and min(firsts.values()) > 150


CANDIDATES = st.lists(st.tuples(st.floats(0, 100), st.sampled_from(list(Rank))), max_size=8)


@given(CANDIDATES, st.integers(1, 8), st.none() | st.integers(0, 8), st.integers(0, 99))
def test_everyone_is_asked_once_and_the_better_ranks_first(
    drawn: list[tuple[float, Rank]], choices: int, kept_by: int | None, seed: int
) -> None:
    candidates = [make(number, *each) for number, each in enumerate(drawn)]
    kept = None if kept_by is None else bytes([kept_by]) * 32
    found = [each for each, _ in order_candidates(candidates, choices, kept, 0.5, random.Random(seed))]
    assert sorted(each.number for each in found) == list(range(len(drawn)))
    assert [each.rank for each in found] == sorted(each.rank for each in found)


def test_requests_count_until_their_executor_announces_its_load() -> None:
    sent, old, new = RequestsSent(), PeerLoad((ModelLoad("m"),)), PeerLoad((ModelLoad("m"),))
    with sent.sending(b"1", "m", old):
        with sent.sending(b"1", "m", old), sent.sending(b"1", "m", new):
            assert sent.count(b"1", "m", old) == 2 and sent.count(b"1", "m", new) == 1
            assert sent.count(b"2", "m", old) == sent.count(b"1", "n", old) == 0
        assert sent.count(b"1", "m", old) == 1 and sent.count(b"1", "m", new) == 0
    assert sent.count(b"1", "m", old) == 0 and not sent._sent
