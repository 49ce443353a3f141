"""Settings of every test: hypothesis draws the same examples in every run, and no example has a time limit."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],  # explaining traces every line: far too slow
)
# For mutants: whether there is a failing example, not which is the smallest.
settings.register_profile("find", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="NATs: every combination, and ten minutes of churn; abuse: a node as shipped, and thousands of peers",
    )
