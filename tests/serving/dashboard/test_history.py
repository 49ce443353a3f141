"""What is remembered for the charts."""

from __future__ import annotations

from serving.dashboard.history import COARSE_S, COARSE_SAMPLES, FINE_SAMPLES, History


def test_samples_are_kept_by_the_second_and_by_the_minute() -> None:
    history = History(("value",))
    end = COARSE_S * (COARSE_SAMPLES + 10)
    for second in range(end):
        history.add({"at": second, "value": -second})
    fine, coarse = history.to_columns(), history.to_columns(coarse=True)
    assert fine["at"] == list(range(end - FINE_SAMPLES, end))
    assert coarse["at"] == list(range(10 * COARSE_S, end, COARSE_S))
    assert [-at for at in coarse["at"]] == coarse["value"]
    assert history.latest == {"at": end - 1, "value": 1 - end}


def test_nothing_is_nothing() -> None:
    assert History(("value",)).to_columns() == {"at": [], "value": []}
    assert History(("value",)).latest is None


def test_time_never_goes_back() -> None:
    history = History(("value",))
    for at in (1_000, 999, 1_000, 1_001):
        history.add({"at": at, "value": at})
    assert history.to_columns()["at"] == [1_000, 1_001]
    history.add({"at": 10, "value": 0})  # the clock was set back by more than a minute
    history.add({"at": 11, "value": 0})
    assert history.to_columns()["at"] == [11]
