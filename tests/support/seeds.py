"""Seeds of tests that show the same with each."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet


def list_seeds(quick: int, count: int) -> list[ParameterSet]:
    """The first ``count`` seeds; those after the ``quick`` first ones are for ``make test-long``."""
    return [pytest.param(seed, marks=[pytest.mark.long] if seed >= quick else []) for seed in range(count)]
