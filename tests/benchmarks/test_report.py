"""What the benchmarks write: one schema, one name per figure, an exit code for a limit that is exceeded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, get_module
from benchmarks.machine import ROOT
from benchmarks.pictures import Chart, Series, make_cumulative
from benchmarks.report import Figure, Option, Report, Run, format_value, get_percentile

BARS = Chart(
    "bars",
    "",
    "seconds",
    (Series("a", (), (1.0, 2.0)), Series("b", (), (3.0, 4.0), intervals=((2.0, 4.0), (3.0, 5.0)))),
    ("first", "second"),
)
CURVES = Chart(
    "curves",
    "nodes",
    "bytes",
    (
        Series("a", (1, 2), (3.0, 4.0)),
        Series("compared with", (1, 2), (3.0, 3.0), is_reference=True),
        Series("limit", (1, 2), (5.0, 5.0), is_limit=True),
    ),
)


def run(
    monkeypatch: pytest.MonkeyPatch,
    results: Path,
    figures: Sequence[Figure],
    *arguments: str,
    charts: Sequence[Chart] = (),
) -> Report:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--results", str(results), *arguments])
    options = Option("count", 10, 2, "how many"), Option("sizes", (50, 100), (50,), "which")
    Run("name", "What it measures.\n", *options).finish(figures, charts or (BARS, CURVES), {"trace": "ff"})
    return Report.decode((results / "name.json").read_bytes())


def test_a_report_comes_back_from_its_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = (
        Figure("fast", 1.5, "s", 3.0, "slow", limit=2.0, headline="how fast"),
        Figure("many", 12345, "operations"),
    )
    report = run(monkeypatch, tmp_path, figures, "--seed", "9")
    assert report.figures == figures and report.figures[0].ratio == 0.5
    assert report.charts == (BARS, CURVES)
    assert (report.seed, report.quick, report.notes) == (9, False, {"trace": "ff"})
    assert report.encode() == (tmp_path / "name.json").read_bytes()
    output = capsys.readouterr().out
    assert (
        "seed 9" in output and report.commit.id[:12] in output and report.machine.cpu in output and "12,345" in output
    )


def test_the_size_of_a_run_is_full_or_quick_or_as_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, tmp_path, ()).options == {"count": 10, "sizes": [50, 100]}
    assert run(monkeypatch, tmp_path, (), "--quick").options == {"count": 2, "sizes": [50]}
    assert run(monkeypatch, tmp_path, (), "--quick", "--count", "3", "--sizes", "7", "8").options == {
        "count": 3,
        "sizes": [7, 8],
    }


def test_a_figure_above_its_limit_fails_the_run_after_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tmp_path, (Figure("late", 5.1, "s", limit=5.0), Figure("soon", 5.0, "s", limit=5.0)))
    assert stop.value.code == 1
    assert capsys.readouterr().err == "missed: late is 5.1, above 5.0\n"
    assert Report.decode((tmp_path / "name.json").read_bytes()).figures[0].is_missed


def test_two_figures_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one name"):
        run(monkeypatch, tmp_path, (Figure("same", 1, "s"), Figure("same", 2, "s")))


def test_the_picture_shows_every_chart_and_is_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = run(monkeypatch, tmp_path, ())
    picture = (tmp_path / "name.svg").read_bytes()
    assert all(title in picture for title in (b"bars", b"curves", b"second", b"limit"))
    assert report.draw() == picture


def test_a_cumulative_curve_ends_at_the_largest_value() -> None:
    curve = make_cumulative("values", [3.0, 1.0, 2.0, 4.0], points=4)
    assert curve.x[0] == 1.0 and curve.x[-1] == 4.0
    assert curve.y[-1] == 1.0 and sorted(curve.y) == list(curve.y)


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 2), (51, 3), (99, 4), (100, 4)])
def test_a_percentile_is_a_value_of_the_sample(percent: float, value: int) -> None:
    assert get_percentile([4, 3, 2, 1], percent) == value


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0, "0"), (0.12345, "0.123"), (99.96, "100"), (1234.5, "1,234")]
)
def test_values_have_three_digits_or_all_before_the_point(value: float | None, text: str) -> None:
    assert format_value(value) == text


def test_every_program_is_run_by_the_command_that_runs_all() -> None:
    programs = {
        path.stem
        for path in (ROOT / "benchmarks").rglob("*.py")
        if "run.finish(" in path.read_text() and path.stem != "report"
    }
    assert programs == set(BENCHMARKS)
    for name in BENCHMARKS:
        module = importlib.import_module(get_module(name))
        assert callable(module.main) and module.__doc__
