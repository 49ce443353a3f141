"""The common shape of every benchmark: options, one table for people, JSON for programs.

The JSON is ``{"benchmark", "machine", "claims": [{"name", "value", "unit", "reference", "ratio"}]}``: ``reference`` is
what the value is compared with, measured in the same run unless its name says otherwise, and ``ratio`` is value over
reference. Ratios travel between machines, absolute figures do not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Claim:
    """One measured figure, and what it is measured against (None: nothing)."""

    name: str
    value: float
    unit: str
    reference: float | None = None
    against: str = ""

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of its reference."""
        return None if not self.reference else self.value / self.reference

    def to_json(self) -> dict[str, Any]:
        """As it stands in the JSON file."""
        return {**asdict(self), "ratio": self.ratio}


def parse_options(description: str | None, **extra: Any) -> argparse.Namespace:
    """The options that every benchmark has: ``--quick`` and ``--json FILE``; ``extra`` integers with their defaults."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    for name, default in extra.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def report(benchmark: str, claims: Sequence[Claim], path: Path | None) -> None:
    """Print the table, and write the JSON where asked."""
    table = Table(title=benchmark, title_justify="left", box=None)
    table.add_column("claim")
    for heading in ("value", "unit", "reference", "ratio"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    table.add_column("against")
    for claim in claims:
        reference = "" if claim.reference is None else _format(claim.reference)
        ratio = "" if claim.ratio is None else f"{claim.ratio:.2f}"
        table.add_row(claim.name, _format(claim.value), claim.unit, reference, ratio, claim.against)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"benchmark": benchmark, "machine": _machine(), "claims": [claim.to_json() for claim in claims]}
        path.write_text(json.dumps(content, indent=2) + "\n")


def get_percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]


def _format(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def _machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
