"""Where and on what a benchmark ran: the machine, and the commit of this repository."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
SAMPLE_S = 1.0
"""Seconds for which the machine is watched before a run."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A computer as the figures of a benchmark need it.

    ``memory_gib`` is all of its memory. ``busy_cores`` is how many cores were in use just before the run: well above 0
    means that other work disturbed the figures.
    """

    cpu: str
    cores: int
    memory_gib: float
    python: str
    system: str
    busy_cores: float

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib:.0f} GiB, Python {self.python}, {self.system}"


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit that ran. ``is_dirty``: with changes that are not committed. Both unknown outside a git repository."""

    id: str
    is_dirty: bool

    def __str__(self) -> str:
        return self.id[:12] + (" with uncommitted changes" if self.is_dirty else "")


def find_machine() -> Machine:
    """This machine, now."""
    return Machine(
        cpu=_find_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        python=platform.python_version(),
        system=f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        busy_cores=round(_measure_busy_cores(), 2),
    )


def find_commit() -> Commit:
    """The commit of the working tree."""
    try:
        return Commit(_git("rev-parse", "HEAD").strip(), bool(_git("status", "--porcelain").strip()))
    except (OSError, subprocess.CalledProcessError):
        return Commit("unknown", False)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout


def _find_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _measure_busy_cores() -> float:
    """Cores in use, on average over SAMPLE_S; 0 where the system does not tell."""
    before, started = _read_busy_s(), time.monotonic()
    time.sleep(SAMPLE_S)
    return (_read_busy_s() - before) / (time.monotonic() - started)


def _read_busy_s() -> float:
    """Seconds that all cores together have worked since the machine started (``man proc_stat``)."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, *rest = map(int, fields)
    return (user + nice + system + irq + softirq + sum(rest[:1])) / os.sysconf("SC_CLK_TCK")
