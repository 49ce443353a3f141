"""Expected lengths of answers: learned, bounded, and by the request's own limit."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.prediction.output_length import (
    MAX_CLASSES,
    PRIOR_OUTPUT_TOKENS,
    STEP_TOKENS,
    AnswerLength,
    OutputLengths,
)


def teach(lengths: OutputLengths, tokens: float, count: int = 100, *, prompt: int = 100, limited: bool = False) -> None:
    for _ in range(count):
        lengths.note("m", prompt, tokens, is_limited=limited, is_cut_off=False)


def test_nothing_known_is_the_prior_and_never_above_the_limit() -> None:
    lengths = OutputLengths()
    assert lengths.expect("m", 100, 10**6, is_limited=False) == lengths.get_usual("m") == PRIOR_OUTPUT_TOKENS
    assert lengths.expect("m", 100, 16, is_limited=True) == 16.0


def test_a_class_is_learned_and_others_take_the_mean_of_the_model() -> None:
    lengths = OutputLengths()
    teach(lengths, 1000.0)
    assert lengths.expect("m", 100, 10**6, is_limited=False) == pytest.approx(1000.0, rel=0.01)
    assert lengths.expect("m", 50_000, 10**6, is_limited=True) == lengths.get_usual("m") > 900.0
    assert lengths.expect("other", 100, 10**6, is_limited=False) == PRIOR_OUTPUT_TOKENS
    teach(lengths, 20.0, limited=True)
    teach(lengths, 4000.0, prompt=50_000)
    assert lengths.expect("m", 100, 10**6, is_limited=True) == pytest.approx(20.0, rel=0.2)
    assert lengths.expect("m", 50_000, 10**6, is_limited=False) == pytest.approx(4000.0, rel=0.2)
    assert lengths.expect("m", 100, 10**6, is_limited=False) == pytest.approx(1000.0, rel=0.01)


def test_what_was_cut_off_counts_as_at_least_so_long() -> None:
    lengths = OutputLengths()
    teach(lengths, 1000.0)
    before = lengths.expect("m", 100, 10**6, is_limited=False)
    for _ in range(50):
        lengths.note("m", 100, 8.0, is_limited=False, is_cut_off=True)
    assert lengths.expect("m", 100, 10**6, is_limited=False) >= before
    lengths.note("m", 100, 9000.0, is_limited=False, is_cut_off=True)
    assert lengths.expect("m", 100, 10**6, is_limited=False) > before


@given(st.lists(st.tuples(st.integers(0, 10**5), st.floats(0, 10**5), st.booleans(), st.booleans()), max_size=50))
def test_the_mean_stays_within_what_was_seen(seen: list[tuple[int, float, bool, bool]]) -> None:
    lengths, most = OutputLengths(), PRIOR_OUTPUT_TOKENS
    for prompt, tokens, limited, cut in seen:
        most = max(most, tokens)
        lengths.note("m", prompt, tokens, is_limited=limited, is_cut_off=cut)
        assert -1e-6 <= lengths.expect("m", prompt, 10**9, is_limited=limited) <= most * (1 + 1e-9)


def test_memory_is_bounded() -> None:
    lengths = OutputLengths()
    for number in range(MAX_CLASSES):
        lengths.note(f"model {number}", 1, 1.0, is_limited=False, is_cut_off=False)
    assert len(lengths) == MAX_CLASSES


def write(answers: list[tuple[int, int]], until: int) -> OutputLengths:
    """Answers, each with the step at which it begins and its tokens, that are written at a token a step."""
    lengths = OutputLengths()
    under_way = [(start, tokens, AnswerLength(lengths, "m", 100, 4, is_limited=False)) for start, tokens in answers]
    for now in range(0, until, int(STEP_TOKENS)):
        for start, tokens, answer in under_way:
            if start < now < start + tokens:
                answer.grow(4 * (now - start))
            elif start + tokens <= now < start + tokens + STEP_TOKENS:
                answer.end(4 * tokens, is_cut_off=False)
    return lengths


def test_answers_under_way_teach_before_the_first_has_ended() -> None:
    """The first to end are the shortest: their mean alone would be far too short."""
    chance = random.Random(7)
    answers = [(0, max(1, round(chance.expovariate(1 / 4000)))) for _ in range(64)]
    for until in (640, 1280, 2560):
        ended = [tokens for _, tokens in answers if tokens < until]
        learned = write(answers, until).get_usual("m")
        assert 1.5 * statistics.mean(ended) < learned <= until, "no longer than any that was seen"
    assert 2500 < write(answers, 5120).get_usual("m") < 5000
    assert write([(0, 5000)] * 8, 1000).get_usual("m") > 900, "none has ended"


def test_in_the_long_run_it_is_the_mean_of_what_is_seen_whether_watched_or_not() -> None:
    chance = random.Random(7)
    tokens = [chance.randint(100, 3900) for _ in range(150)]
    learned = write([(150 * number, each) for number, each in enumerate(tokens)], 22_000).get_usual("m")
    assert learned == pytest.approx(2000, rel=0.3)


@given(st.lists(st.integers(0, 10_000), max_size=20), st.integers(0, 10_000))
def test_an_answer_counts_once(steps: list[int], end: int) -> None:
    watched, told = OutputLengths(), OutputLengths()
    answer, size = AnswerLength(watched, "m", 100, 4, is_limited=True), 0
    for step in steps:
        size += step
        answer.grow(size)
    answer.end(size + end, is_cut_off=False)
    told.note("m", 100, (size + end) / 4, is_limited=True, is_cut_off=False)
    # Only the decay of what had come before may differ.
    assert watched.get_usual("m") == pytest.approx(told.get_usual("m"), abs=(size + end) / 4 / 16 + 1)
