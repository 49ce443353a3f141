"""The figures in the documents: tables between markers, written from the published JSON and never typed.

``docs/figures/NAME.json`` is the last published run of a benchmark, as :mod:`benchmarks.report` writes it. In a
document, what stands between ``<!-- figures:KIND -->`` and ``<!-- figures:end -->`` is generated:

- ``headlines``: the figures of all benchmarks that have a headline;
- ``conditions``: on which machine and commit they were measured;
- the name of a benchmark (in documents of ``docs``): its picture, all of its figures, and its conditions; if no run of
  it is published, that.

``python -m benchmarks.figures`` writes the documents and the pictures ``docs/pictures/NAME.svg``. With ``--check`` it
writes nothing, and fails if a document or picture is not what the JSON says. With ``--publish`` it first takes over the
full runs in ``results``.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from benchmarks import pictures
from benchmarks.__main__ import BENCHMARKS
from benchmarks.machine import ROOT
from benchmarks.report import Figure, Report, format_value, write

DOCUMENTS = ("README.md", "docs/performance.md", "docs/evaluation.md")
PUBLISHED = "docs/figures"
PICTURES = "docs/pictures"
BUSY_CORES = 0.25
"""Cores in use before a run from which on it counts as disturbed by other work."""
MARKER = re.compile(r"(<!-- figures:(?P<kind>[\w-]+) -->\n).*?(<!-- figures:end -->)", re.DOTALL)
"""A generated part of a document."""


def load_reports(folder: Path) -> dict[str, Report]:
    """The reports in a folder by benchmark, in the order in which they are shown.

    Raises:
        ValueError: a file is not of this version's schema.
    """
    reports = {}
    for name in BENCHMARKS:
        path = folder / f"{name}.json"
        if path.exists():
            try:
                reports[name] = Report.decode(path.read_bytes())
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is of another version: {error}") from error
    return reports


def render(document: str, reports: Mapping[str, Report]) -> str:
    """The document with its generated parts written anew.

    Raises:
        ValueError: a marker names no benchmark.
    """

    def fill(found: re.Match[str]) -> str:
        kind = found["kind"]
        if kind == "headlines":
            lines = make_headlines(reports.values())
        elif kind == "conditions":
            lines = make_conditions(reports.values())
        elif kind in reports:
            lines = chain([f"![{kind}](pictures/{kind}.svg)", ""], make_table(reports[kind]))
        elif kind in BENCHMARKS:
            lines = iter([f"Not published yet; `make bench ARGS={kind}` measures it."])
        else:
            raise ValueError(f"figures:{kind}: there is no such benchmark")
        return "\n".join((found[1].rstrip("\n"), "", *lines, "", found[3]))

    return MARKER.sub(fill, document)


def make_headlines(reports: Iterable[Report]) -> Iterator[str]:
    """One row per figure that the README shows."""
    yield "| what | measured | compared with | ratio |"
    yield "|---|---|---|---|"
    for report in reports:
        for figure in report.figures:
            if figure.headline:
                yield _make_row(figure, figure.headline)


def make_table(report: Report) -> Iterator[str]:
    """All figures of one benchmark."""
    yield "| figure | measured | compared with | ratio |"
    yield "|---|---|---|---|"
    for figure in report.figures:
        yield _make_row(figure, figure.name)
    yield ""
    options = ", ".join(f"{name} {_format_option(value)}" for name, value in report.options.items())
    notes = "".join(f" {name.capitalize()}: `{value}`." for name, value in report.notes.items())
    yield f"Options: {options}.{notes} {_describe(report)}"


def make_conditions(reports: Iterable[Report]) -> Iterator[str]:
    """Where the figures come from, once for all benchmarks that share it."""
    shared: dict[str, list[str]] = {}
    for report in reports:
        shared.setdefault(_describe(report), []).append(report.benchmark)
    for text, names in shared.items():
        yield text if len(shared) == 1 else f"- {', '.join(names)}: {text}"


def _make_row(figure: Figure, name: str) -> str:
    def say(number: float | None) -> str:
        return f"{format_value(number)} {figure.unit}".strip()

    value, compared = say(figure.value), figure.against
    if figure.reference is not None and compared:
        compared += f": {say(figure.reference)}"
    if figure.limit is not None and figure.limit != figure.reference:
        compared += f"; at most {say(figure.limit)}" if compared else f"at most {say(figure.limit)}"
    ratio = f"{format_value(figure.ratio)} ×" if figure.ratio is not None else ""
    return f"| {name} | {value} | {compared} | {ratio} |"


def _describe(report: Report) -> str:
    quick = " Quick run." if report.quick else ""
    is_disturbed = report.is_timed and report.machine.busy_cores > BUSY_CORES
    busy = " Other work shared the machine: times are too long, and ratios are rough." if is_disturbed else ""
    commit, day = f"commit `{report.commit}`", report.started[:10]
    return f"Measured on {day} at {commit}, seed {report.seed}: {report.machine}.{quick}{busy}"


def _format_option(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def publish(results: Path, root: Path) -> list[str]:
    """Take over the JSON of all full runs in ``results``; returns their benchmarks.

    Raises:
        ValueError: a run was of uncommitted code, and cannot be repeated.
    """
    taken = []
    for name, report in load_reports(results).items():
        if report.quick:
            continue
        if report.commit.is_dirty:
            raise ValueError(f"{name} ran with uncommitted changes; commit and run it again")
        (root / PUBLISHED).mkdir(parents=True, exist_ok=True)
        write(root / PUBLISHED / f"{name}.json", report.encode())
        taken.append(name)
    return taken


def find_stale(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Documents and pictures that differ from what the published JSON says, each with what it should be."""
    reports = load_reports(root / PUBLISHED)
    for name in DOCUMENTS:
        path = root / name
        wanted = render(path.read_text(), reports).encode()
        if wanted != path.read_bytes():
            yield path, wanted
    drawing = hashlib.sha256(Path(pictures.__file__).read_bytes()).hexdigest()[:16]
    for report in reports.values():
        path = root / PICTURES / f"{report.benchmark}.svg"
        mark = f"<!-- drawn from {report.benchmark}.json {report.digest} by pictures.py {drawing} -->\n".encode()
        if not path.exists() or mark not in path.read_bytes():
            yield path, mark_picture(report.draw(), mark)


def mark_picture(picture: bytes, mark: bytes) -> bytes:
    """Name in an SVG what it was drawn from and by: two versions of matplotlib draw the same in other bytes."""
    return picture.replace(b"<svg ", mark + b"<svg ", 1)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything is stale")
    parser.add_argument("--publish", action="store_true", help="first take over the full runs in the results folder")
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    options = parser.parse_args()
    try:
        if options.publish:
            print("published:", ", ".join(publish(options.results, ROOT)) or "nothing")
        stale = list(find_stale(ROOT))
    except ValueError as error:
        print(f"figures: {error}", file=sys.stderr)
        return 1
    for path, wanted in stale:
        name = str(path.relative_to(ROOT))
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, wanted)
            print(f"wrote {name}")
        elif path.suffix == ".svg":
            print(
                f"{name} is not what is drawn of the published JSON: run 'make figures'",
                file=sys.stderr,
            )
        else:
            lines = (path.read_text().splitlines(), wanted.decode().splitlines())
            print(
                *difflib.unified_diff(*lines, name, "what the published JSON says", lineterm=""),
                sep="\n",
                file=sys.stderr,
            )
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
