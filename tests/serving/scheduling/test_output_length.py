"""Expected lengths of answers: learned, bounded, and by the request's own limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.scheduling.output_length import MAX_CLASSES, PRIOR_OUTPUT_TOKENS, OutputLengths


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
