"""The two statistics, on distributions whose values can be told by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.quality.same_model.statistics import (
    MAX_SHORTFALL_NATS,
    NOISE_NATS,
    compute_distance,
    compute_surprise,
    measure,
)
from serving.quality.same_model.transcript import TopToken, Transcript, TranscriptToken, to_surprisal


def logs(*probabilities: float, first: int = 0) -> dict[int, float]:
    return {first + number: math.log(probability) for number, probability in enumerate(probabilities)}


def listing(*probabilities: float, chosen: int = 0, first: int = 0) -> TranscriptToken:
    listed = logs(*probabilities, first=first).items()
    return TranscriptToken(chosen, tuple(TopToken(token, to_surprisal(logprob)) for token, logprob in listed))


FIVE = (0.4, 0.2, 0.1, 0.05, 0.05)


def test_equal_lists_have_no_distance() -> None:
    assert compute_distance(listing(*FIVE), logs(*FIVE)) == pytest.approx(0, abs=1e-6)


def test_the_distance_is_half_the_sum_of_the_differences() -> None:
    assert compute_distance(listing(*FIVE), logs(0.3, 0.3, 0.1, 0.05, 0.05)) == pytest.approx(0.1, abs=1e-6)


def test_a_token_that_one_side_does_not_list_counts_against_the_least_of_its_list() -> None:
    scored = logs(0.4, 0.2, 0.1, 0.05) | {9: math.log(0.05)}
    # Token 4 (0.05) may be as probable as the least that the scorer lists, and token 9 as the least of the transcript.
    assert compute_distance(listing(*FIVE), scored) == pytest.approx(0, abs=1e-6)
    # Of five other tokens each exceeds the least of the other list (0.05) by 0.35, 0.15, 0.05, 0 and 0, on both sides.
    assert compute_distance(listing(*FIVE), logs(*FIVE, first=10)) == pytest.approx(0.55, abs=1e-6)


@given(st.lists(st.floats(0.001, 1), min_size=12, max_size=12), st.lists(st.floats(0.001, 1), min_size=12, max_size=12))
def test_the_distance_is_symmetric_and_never_above_the_total_variation(left: list[float], right: list[float]) -> None:
    p, q = ([weight / sum(weights) for weight in weights] for weights in (left, right))
    tops = [sorted(range(12), key=lambda token, each=each: -each[token])[:5] for each in (p, q)]
    tokens = [
        TranscriptToken(0, tuple(TopToken(token, to_surprisal(math.log(each[token]))) for token in top))
        for each, top in zip((p, q), tops, strict=True)
    ]
    variation = sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    lists = [{token: math.log(each[token]) for token in top} for each, top in zip((p, q), tops, strict=True)]
    distance = compute_distance(tokens[0], lists[1])
    assert distance <= variation + 1e-4
    assert distance == pytest.approx(compute_distance(tokens[1], lists[0]), abs=1e-4)


def test_at_temperature_0_the_likeliest_token_surprises_nobody_and_another_does() -> None:
    scored = logs(0.5, 0.25, 0.125)
    assert compute_surprise(0, scored, 0) == (0.0, 0.0)
    assert compute_surprise(1, scored, 0) == (pytest.approx(math.log(2)), 0.0)


def test_a_token_that_is_not_listed_counts_as_all_that_are_not_but_as_no_more_than_one_that_is() -> None:
    assert compute_surprise(77, logs(0.5, 0.35), 0)[0] == pytest.approx(math.log(0.5 / 0.15))
    assert compute_surprise(77, logs(0.5, 0.1), 0)[0] == pytest.approx(math.log(0.5 / 0.1))
    assert compute_surprise(77, logs(1.0), 0)[0] == MAX_SHORTFALL_NATS


@pytest.mark.parametrize(("temperature", "least"), [(0.0, 2.5), (1.0, 0.0)])
def test_tokens_that_are_never_chosen_fall_short_where_the_scorer_is_unsure(temperature: float, least: float) -> None:
    """All that are not listed are together likelier than the likeliest."""
    scored = logs(*[0.02] * 10, *[0.01] * 10)
    transcript = Transcript(tuple(listing(*FIVE, chosen=77) for _ in range(10)))
    assert measure(transcript, dict.fromkeys(range(10), scored), temperature).shortfall > least


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0])
def test_draws_from_the_weights_themselves_fall_short_of_nothing_on_average(temperature: float) -> None:
    scored = logs(0.4, 0.3, 0.2, 0.1)
    weights = [math.exp(logprob / temperature) for logprob in scored.values()]
    surprises = [compute_surprise(token, scored, temperature)[0] for token in scored]
    mean = sum(weight * each for weight, each in zip(weights, surprises, strict=True)) / sum(weights)
    variance = sum(weight * each**2 for weight, each in zip(weights, surprises, strict=True)) / sum(weights)
    assert mean == pytest.approx(0, abs=1e-6)
    assert variance == pytest.approx(compute_surprise(0, scored, temperature)[1], rel=1e-4)


@given(
    st.lists(st.floats(0.01, 1), min_size=3, max_size=12),
    st.integers(1, 11),
    st.sampled_from([0.2, 0.5, 0.8, 0.95, 1.0]),
)
def test_what_is_not_known_of_the_unlisted_tokens_errs_in_favour_of_the_answer(
    masses: list[float], count: int, temperature: float
) -> None:
    probabilities = sorted((mass / sum(masses) for mass in masses), reverse=True)
    scored = logs(*probabilities[: min(count, len(masses) - 1)])
    weights = [probability ** (1 / temperature) for probability in probabilities]
    surprises = [compute_surprise(token, scored, temperature)[0] for token in range(len(masses))]
    assert sum(weight * each for weight, each in zip(weights, surprises, strict=True)) <= 1e-9


def test_the_shortfall_of_answers_is_near_that_of_a_standard_normal_variable() -> None:
    scored, chance = logs(0.4, 0.3, 0.2, 0.1), random.Random(7)
    shortfalls = []
    for _ in range(400):
        chosen = chance.choices(range(4), [0.4, 0.3, 0.2, 0.1], k=10)
        transcript = Transcript(tuple(listing(*FIVE, chosen=token) for token in chosen))
        shortfalls.append(measure(transcript, dict.fromkeys(range(10), scored), 1.0).shortfall)
    mean = sum(shortfalls) / 400
    assert abs(mean) < 0.15
    assert 0.8 < math.sqrt(sum((each - mean) ** 2 for each in shortfalls) / 400) < 1.2


def test_at_temperature_0_ties_that_rounding_decides_are_no_shortfall() -> None:
    scored = {0: math.log(0.4), 1: math.log(0.4) - NOISE_NATS / 10}
    transcript = Transcript(tuple(listing(*FIVE, chosen=1) for _ in range(10)))
    assert measure(transcript, dict.fromkeys(range(10), scored), 0).shortfall < 1
    worse = {0: math.log(0.4), 1: math.log(0.4) - 0.36}
    assert measure(transcript, dict.fromkeys(range(10), worse), 0).shortfall > 10


def test_scores_must_be_of_positions_of_the_transcript() -> None:
    transcript = Transcript((listing(*FIVE),))
    for scores in ({}, {1: logs(0.5)}, {-1: logs(0.5)}):
        with pytest.raises(ValueError, match="position"):
            measure(transcript, scores, 0)
