"""The documents show the figures of the published JSON, and a change of either is noticed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.figures import DOCUMENTS, MARKER, find_stale, load_reports, publish, render
from benchmarks.machine import ROOT, Commit, Machine
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Report

REPORT = Report(
    benchmark="verify",
    started="2026-01-02T03:04:05Z",
    elapsed_s=12.5,
    quick=False,
    is_timed=True,
    seed=7,
    options={"blocks": 60},
    commit=Commit("0123456789abcdef", False),
    machine=Machine("CPU", 2, 16.0, "3.11.7", "Linux 6", 0.1),
    figures=(
        Figure("audited", 8000.0, "/s", 16000.0, "PyNaCl alone", headline="an audit"),
        Figure("late", 3.0, "s", limit=5.0),
    ),
    charts=(Chart("chart", "x", "y", (Series("a", (1, 2), (3.0, 4.0)),)),),
    notes={"trace": "ff"},
)
DOCUMENT = "Before.\n\n<!-- figures:{kind} -->\nold\n<!-- figures:end -->\n\nAfter.\n"


def test_the_documents_say_what_the_published_json_says() -> None:
    assert [path.name for path, _ in find_stale(ROOT)] == [], "run 'make figures'"


def test_published_figures_can_be_measured_again() -> None:
    for report in load_reports(ROOT / "docs" / "figures").values():
        assert not report.quick and not report.commit.is_dirty and len(report.commit.id) == 40


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("headlines", "| an audit | 8,000 /s | PyNaCl alone: 16,000 /s | 0.5 × |"),
        ("verify", "![verify](pictures/verify.svg)"),
        ("verify", "| late | 3 s | at most 5 s |  |"),
        ("ledger", "Not published yet; `make bench ARGS=ledger` measures it."),
        ("verify", "Options: blocks 60. Trace: `ff`."),
        (
            "conditions",
            "Measured on 2026-01-02 at commit `0123456789ab`, seed 7: CPU, 2 cores, 16 GiB, Python 3.11.7, Linux 6.",
        ),
    ],
)
def test_what_stands_between_the_markers_is_replaced(kind: str, row: str) -> None:
    document = render(DOCUMENT.format(kind=kind), {"verify": REPORT})
    assert row in document and "old" not in document
    assert document.startswith("Before.\n\n<!-- figures:") and document.endswith("<!-- figures:end -->\n\nAfter.\n")
    assert render(document, {"verify": REPORT}) == document


def test_figures_of_a_busy_machine_are_called_that() -> None:
    busy = replace(REPORT, machine=replace(REPORT.machine, busy_cores=1.5))
    for report, is_said in ((busy, True), (REPORT, False), (replace(busy, is_timed=False), False)):
        said = render(DOCUMENT.format(kind="conditions"), {"verify": report})
        assert ("Other work shared the machine" in said) == is_said


def test_a_marker_without_a_benchmark_is_an_error() -> None:
    with pytest.raises(ValueError, match="figures:legder"):
        render(DOCUMENT.format(kind="legder"), {"verify": REPORT})


def test_a_benchmark_has_one_place_in_the_documents_before_it_is_published() -> None:
    shown = Counter(found["kind"] for name in DOCUMENTS for found in MARKER.finditer((ROOT / name).read_text()))
    assert {kind for kind, count in shown.items() if count > 1} == set()
    assert set(load_reports(ROOT / "docs" / "figures")) <= set(shown)


def make_tree(root: Path, report: Report) -> None:
    for folder in ("docs/figures", "docs/pictures", "results"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in DOCUMENTS:
        (root / name).write_text(DOCUMENT.format(kind="verify"))
    (root / "results" / "verify.json").write_bytes(report.encode())


def test_a_published_run_reaches_documents_and_pictures(tmp_path: Path) -> None:
    make_tree(tmp_path, REPORT)
    assert publish(tmp_path / "results", tmp_path) == ["verify"]
    stale = dict(find_stale(tmp_path))
    assert set(stale) == {tmp_path / "docs/pictures/verify.svg", *(tmp_path / name for name in DOCUMENTS)}
    for path, wanted in stale.items():
        path.write_bytes(wanted)
    assert list(find_stale(tmp_path)) == []
    changed = replace(REPORT, figures=(replace(REPORT.figures[0], value=8001.0), REPORT.figures[1]))
    (tmp_path / "docs/figures/verify.json").write_bytes(changed.encode())
    assert {path for path, _ in find_stale(tmp_path)} == set(stale)


@pytest.mark.parametrize("report", [replace(REPORT, quick=True), replace(REPORT, commit=Commit("0" * 40, True))])
def test_a_quick_run_and_uncommitted_code_are_not_published(tmp_path: Path, report: Report) -> None:
    make_tree(tmp_path, report)
    if report.quick:
        assert publish(tmp_path / "results", tmp_path) == []
    else:
        with pytest.raises(ValueError, match="uncommitted"):
            publish(tmp_path / "results", tmp_path)
    assert not (tmp_path / "docs/figures/verify.json").exists()
