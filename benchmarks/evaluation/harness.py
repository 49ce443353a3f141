"""Many runs at once: every scheduler on every setting and seed, on all cores, with results kept.

A result is kept in ``results/evaluation`` under a hash of the commit, the task and its seed, so that a run that was
broken off goes on where it was. With uncommitted changes nothing is kept or taken.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.evaluation.replay import Result
from benchmarks.machine import find_commit
from benchmarks.report import write

T = TypeVar("T")

T_95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Two-sided 95 % quantiles of Student's t, from one degree of freedom on."""
T_95_LARGE = 2.0
"""The same, about, for more."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run: what is asked of the worker, and the seed. ``parameters`` are whatever else it depends on, as JSON."""

    scheduler: str
    setting: str
    seed: int
    parameters: str = "{}"


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds, and half of its 95 % confidence interval."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.half:.2g}"


def estimate(values: Sequence[float]) -> Interval:
    """The mean of independent values with its interval (Student's t); without one for a single value."""
    count = len(values)
    if count < 2:
        return Interval(values[0], math.nan)
    quantile = T_95[count - 2] if count - 2 < len(T_95) else T_95_LARGE
    return Interval(statistics.mean(values), quantile * statistics.stdev(values) / math.sqrt(count))


def run_all(
    tasks: Sequence[Task], work: Callable[[Task], Sequence[Result]], folder: Path, workers: int | None = None
) -> dict[Task, list[Result]]:
    """Do all tasks; ``work`` is a function of a module, which a process can import.

    Raises:
        Exception: what ``work`` raised; the results so far are kept.
    """
    commit = find_commit()
    done: dict[Task, list[Result]] = {}
    open_tasks = []
    for task in tasks:
        kept = None if commit.is_dirty else load(folder, commit.id, task)
        if kept is None:
            open_tasks.append(task)
        else:
            done[task] = kept
    if done:
        print(f"{len(done)} of {len(tasks)} runs are kept from before")
    for task, found, seconds in _work_off(open_tasks, work, workers):
        done[task] = results = list(found)
        if not commit.is_dirty:
            keep(folder, commit.id, task, results)
        missed = sum(not result.is_answered for result in results)
        mean = statistics.mean(result.latency for result in results)
        print(
            f"{len(done):4} of {len(tasks)}: {task.scheduler:12} setting {task.setting} seed {task.seed}: "
            f"{len(results)} requests, {missed} missed, mean {mean:.1f} s; {seconds:.0f} s of work",
            flush=True,
        )
    return done


def map_tasks(tasks: Sequence[Task], work: Callable[[Task], T], workers: int | None = None) -> dict[Task, T]:
    """Do all tasks, whatever they find; nothing is kept. ``work`` is a function of a module.

    Raises:
        Exception: what ``work`` raised.
    """
    done: dict[Task, T] = {}
    for task, found, seconds in _work_off(tasks, work, workers):
        done[task] = found
        print(f"{len(done):4} of {len(tasks)}: {task.setting} seed {task.seed}: {seconds:.0f} s of work", flush=True)
    return done


def _work_off(tasks: Sequence[Task], work: Callable[[Task], T], workers: int | None) -> Iterator[tuple[Task, T, float]]:
    if not tasks:
        return
    count = min(len(tasks), workers or len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_time, work, task): task for task in tasks}
        for future in as_completed(futures):
            results, seconds = future.result()
            yield futures[future], results, seconds


def _time(work: Callable[[Task], T], task: Task) -> tuple[T, float]:
    started = time.process_time()
    return work(task), time.process_time() - started


def get_path(folder: Path, commit: str, task: Task) -> Path:
    """Where the results of a task are kept."""
    name = json.dumps([commit, asdict(task)], sort_keys=True)
    return folder / "evaluation" / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"


def keep(folder: Path, commit: str, task: Task, results: Sequence[Result]) -> None:
    """Write the results of a task."""
    keep_findings(folder, commit, task, {"results": [asdict(result) for result in results]})


def load(folder: Path, commit: str, task: Task) -> list[Result] | None:
    """The results of a task, if they are kept."""
    findings = load_findings(folder, commit, task)
    return None if findings is None else [Result(**entry) for entry in findings["results"]]


def keep_findings(folder: Path, commit: str, task: Task, findings: Mapping[str, Any]) -> None:
    """Write whatever a task has found, as JSON."""
    path = get_path(folder, commit, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps({"commit": commit, "task": asdict(task), **findings}).encode())


def load_findings(folder: Path, commit: str, task: Task) -> dict[str, Any] | None:
    """What a task has found, if it is kept, with its commit and itself."""
    path = get_path(folder, commit, task)
    if not path.exists():
        return None
    findings: dict[str, Any] = json.loads(path.read_bytes())
    return findings
