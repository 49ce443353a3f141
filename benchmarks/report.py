"""What all benchmarks share: their options, their figures, one table for people, and JSON for programs.

A benchmark starts a :class:`Run`, measures, and hands its figures and charts to :meth:`Run.finish`. That prints one
table and writes ``results/NAME.json`` and ``results/NAME.svg``. The JSON has one schema for all benchmarks::

    {"benchmark", "started", "elapsed_s", "quick", "is_timed", "seed", "options": {…},
     "commit": {"id", "is_dirty"}, "machine": {"cpu", "cores", "memory_gib", "python", "system", "busy_cores"},
     "figures": [{"name", "value", "unit", "reference", "against", "ratio", "limit", "headline"}], "notes": {…},
     "charts": [see benchmarks.pictures.Chart]}

``reference`` is what a value is compared with, measured in the same run or known by calculation; ``ratio`` is value
over reference. Ratios travel between machines, absolute times do not. ``notes`` are results that are no numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import Commit, Machine, find_commit, find_machine
from benchmarks.pictures import Chart, draw

DEFAULT_SEED = 7
DIGITS = 6
"""Significant digits of the numbers in the JSON."""
TABLE_WIDTH = 140
"""Columns of a table that is not printed on a terminal."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value.

    ``against`` names the ``reference``. A value above ``limit`` makes the benchmark fail. ``headline`` is what the
    README calls the figure; one without is not in the README.
    """

    name: str
    value: float
    unit: str
    reference: float | None = None
    against: str = ""
    limit: float | None = None
    headline: str = ""

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of its reference."""
        return None if not self.reference else self.value / self.reference

    @property
    def is_missed(self) -> bool:
        """Whether the value is above its limit."""
        return self.limit is not None and self.value > self.limit


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of a benchmark found, and where.

    ``started`` is in UTC (ISO 8601). ``is_timed``: the figures depend on how fast the machine was.
    """

    benchmark: str
    started: str
    elapsed_s: float
    quick: bool
    is_timed: bool
    seed: int
    options: dict[str, Any]
    commit: Commit
    machine: Machine
    figures: tuple[Figure, ...]
    charts: tuple[Chart, ...]
    notes: dict[str, str]

    def encode(self) -> bytes:
        """As JSON."""
        content = asdict(self)
        for entry, figure in zip(content["figures"], self.figures, strict=True):
            entry["ratio"] = figure.ratio
        return json.dumps(_round(content), indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def decode(cls, raw: bytes) -> Report:
        """From JSON. Raises KeyError, TypeError or ValueError if it is not of this schema."""
        content = json.loads(raw)
        figures = []
        for entry in content["figures"]:
            del entry["ratio"]
            figures.append(Figure(**entry))
        parts = {
            "commit": Commit(**content["commit"]),
            "machine": Machine(**content["machine"]),
            "figures": tuple(figures),
            "charts": tuple(map(Chart.from_json, content["charts"])),
        }
        return cls(**{**content, **parts})

    @property
    def digest(self) -> str:
        """The first hex digits of the hash of its JSON."""
        return hashlib.sha256(self.encode()).hexdigest()[:16]

    def draw(self) -> bytes:
        """The charts as SVG."""
        return draw(self.charts, f"{self.benchmark}, commit {self.commit}")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of one benchmark that sets how much it does; a tuple takes several values."""

    name: str
    full: Any
    quick: Any
    help: str


class Run:
    """One run of a benchmark from its command line: ``values`` holds its options by name."""

    def __init__(self, benchmark: str, description: str | None, *options: Option, is_timed: bool = True) -> None:
        parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
        parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
        parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="of all that is drawn (%(default)s)")
        parser.add_argument("--results", type=Path, default=Path("results"), help="folder to write to (%(default)s)")
        for option in options:
            is_many = isinstance(option.full, tuple)
            parser.add_argument(
                f"--{option.name}",
                type=type(option.full[0]) if is_many else type(option.full),
                nargs="+" if is_many else None,
                help=f"{option.help} ({option.full}; quick: {option.quick})",
            )
        chosen = parser.parse_args()
        self.benchmark = benchmark
        self.quick: bool = chosen.quick
        self.seed: int = chosen.seed
        self.is_timed = is_timed
        self.values: dict[str, Any] = {}
        for option in options:
            value = getattr(chosen, option.name)
            self.values[option.name] = (option.quick if chosen.quick else option.full) if value is None else value
        self.results: Path = chosen.results
        self._commit, self._machine = find_commit(), find_machine()
        self._started = time.time()
        print(f"{benchmark}{' (quick)' if self.quick else ''}, seed {self.seed}, commit {self._commit}")
        print(f"{self._machine}; {self._machine.busy_cores} cores busy before the run", flush=True)

    def finish(
        self, figures: Sequence[Figure], charts: Sequence[Chart], notes: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Print the table, write JSON and picture, and exit with 1 if a figure is above its limit."""
        names = [figure.name for figure in figures]
        if len(set(names)) < len(names):
            raise ValueError(f"two figures of {self.benchmark} have one name")
        report = Report(
            benchmark=self.benchmark,
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            elapsed_s=time.time() - self._started,
            quick=self.quick,
            is_timed=self.is_timed,
            seed=self.seed,
            options=self.values,
            commit=self._commit,
            machine=self._machine,
            figures=tuple(figures),
            charts=tuple(charts),
            notes=dict(notes),
        )
        Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(make_table(report))
        self.results.mkdir(parents=True, exist_ok=True)
        write(self.results / f"{self.benchmark}.json", report.encode())
        write(self.results / f"{self.benchmark}.svg", report.draw())
        missed = [figure for figure in figures if figure.is_missed]
        for figure in missed:
            print(f"missed: {figure.name} is {format_value(figure.value)}, above {figure.limit}", file=sys.stderr)
        if missed:
            sys.exit(1)


def make_table(report: Report) -> Table:
    """The figures of one run, for a terminal."""
    table = Table(title=f"{report.benchmark}, {report.elapsed_s:.0f} s", title_justify="left", box=None)
    table.add_column("figure")
    for heading in ("value", "unit", "reference", "ratio", "limit"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    table.add_column("against")
    for figure in report.figures:
        reference, ratio, limit = map(format_value, (figure.reference, figure.ratio, figure.limit))
        table.add_row(figure.name, format_value(figure.value), figure.unit, reference, ratio, limit, figure.against)
    return table


def format_value(value: float | None) -> str:
    """Three significant digits, or all of those before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def get_percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def write(path: Path, content: bytes) -> None:
    """Write a whole file or leave the old one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _round(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
