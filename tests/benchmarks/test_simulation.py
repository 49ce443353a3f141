"""How fast simulations are that run side by side, and that each is the one that runs alone."""

from __future__ import annotations

import pytest

from benchmarks.network.simulation import SeedRun, get_simulated_s, make_figure_of_seeds, simulate, simulate_seeds


def test_seeds_side_by_side_count_from_when_the_first_begins_until_the_last_has_ended() -> None:
    runs = [SeedRun(10.0, 14.0, "a"), SeedRun(11.0, 15.0, "b")]
    figure = make_figure_of_seeds(runs, 60.0)
    assert (figure.value, figure.reference) == (2 * get_simulated_s(60.0), 5.0)
    assert figure.ratio == 2 * get_simulated_s(60.0) / 5.0


@pytest.mark.long
def test_a_seed_side_by_side_with_another_has_the_trace_that_it_has_alone() -> None:
    first, second = simulate_seeds([7, 8], 3, 12.0, 0.5)
    assert first.trace_hash == simulate(7, 3, 12.0, 0.5).trace_hash != second.trace_hash
    assert max(first.began, second.began) < min(first.ended, second.ended)
