"""The overlay benchmark says when a target is missed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.network.overlay import Outcome, get_figures


def run(nodes: int, seed: int = 0, **figures: Any) -> Outcome:
    times = {"join": [1.0], "leave": [1.0], "crash": [9.0] * 3, "address": [2.0]} | figures.pop("times", {})
    return Outcome(nodes, seed, times=times, **{"bytes": 500.0, "keepalive_bytes": 700.0, **figures})


def missed(*outcomes: Outcome) -> list[str]:
    return [figure.name for figure in get_figures(outcomes) if figure.is_missed]


def test_runs_that_meet_all_targets_miss_none() -> None:
    most = math.log(400) / math.log(50)
    assert missed(run(50), run(50, 1), run(400, bytes=500.0 * most, keepalive_bytes=700.0 * most)) == []


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        ({"times": {"crash": [9.0] * 90 + [20.1] * 10}}, "crash known to 99 %, p99, n=400"),
        ({"times": {"join": [5.1]}}, "join known to 99 %, p99, n=400"),
        ({"times": {"leave": [5.1]}}, "leave known to 99 %, p99, n=400"),
        ({"times": {"address": [5.1]}}, "address known to 99 %, p99, n=400"),
        ({"ghosts": 1}, "ghosts at the end, n=400"),
        ({"missing": 1}, "missing at the end, n=400"),
        ({"bytes": 1200.0}, "bytes, n=400 over n=50"),
        ({"keepalive_bytes": 1400.0}, "bytes, n=400 over n=50"),
    ],
)
def test_what_is_missed_is_named(figures: dict[str, Any], name: str) -> None:
    assert missed(run(50), run(400, **figures)) == [name]
