"""What counts as a broken answer without reading it."""

from __future__ import annotations

import pytest

from benchmarks.quality.judges import is_broken
from serving.quality.judging.cases import load_cases


@pytest.mark.parametrize("answer", ["", " \n", "...", "I am sorry. " * 6, "the cat sat on the mat and " * 3])
def test_emptiness_and_running_in_circles_are_broken(answer: str) -> None:
    assert is_broken(answer)


def test_sound_answers_are_not_broken() -> None:
    for case in load_cases().questions:
        assert not is_broken(case.answer) and not is_broken(case.other) and not is_broken(case.padded)
    assert not is_broken("Yes.") and not is_broken("1. Go home. 2. Go to bed. 3. Go to sleep.")
