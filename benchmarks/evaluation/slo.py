"""Mean latency and SLO attainment of every scheduler in the paper's four settings (its Table 2 and Figure 4).

The paper compares three rows: nodes that do not share, a centre, and its decentralized market. Here the same requests
are also given to a centre that knows all counts at once, to one that knows all speeds and lengths, to the behaviour of
the reference implementation, and to whole nodes of this project. Attainment at a threshold is the share of all requests
answered within it; a request that fails or takes longer than 600 s is a miss, and counts with 600 s in the mean.

Users have their answers streamed, but for one row, in which they ask for whole answers as the paper's nodes do: then
nodes choose by the total time alone, and learn how fast an answer is written only when it ends.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from benchmarks.evaluation.baselines import BASELINES
from benchmarks.evaluation.harness import Task, estimate, run_all
from benchmarks.evaluation.market import MarketKind, run_market
from benchmarks.evaluation.replay import Result, replay
from benchmarks.evaluation.workloads import SETTINGS, draw_requests
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from serving.offload.settings import OriginatorSettings

THRESHOLDS = tuple(range(150, 401, 10))
"""Seconds, as in the paper's figure and below."""
SHIPPED = "choice of four"
WHOLE = "choice of four, whole answers"
"""The row whose users ask for whole answers."""
MARKETS = {
    "pos": MarketKind("paper", OriginatorSettings(choices=1, exploration=0.0)),
    SHIPPED: MarketKind("adaptive", OriginatorSettings()),
    WHOLE: MarketKind("adaptive", OriginatorSettings()),
}
"""This project's nodes, by what is switched."""
SCHEDULERS = (*BASELINES, *MARKETS)
PAPER_RATIOS = {
    "1": {"centralized": 188.419 / 200.380, "market": 184.400 / 200.380},
    "2": {"centralized": 168.221 / 226.578, "market": 168.485 / 226.578},
    "3": {"centralized": 206.123 / 237.925, "market": 198.306 / 237.925},
    "4": {"centralized": 169.896 / 241.042, "market": 174.592 / 241.042},
}
"""Mean latency over that without sharing, as published in the paper's Table 2."""

Results = Mapping[tuple[str, str], Sequence[Sequence[Result]]]
"""By setting and scheduler: for each seed the results."""


@dataclass(frozen=True, slots=True)
class Attainment:
    """The share of requests answered within each threshold, a mean over seeds."""

    shares: tuple[float, ...]

    def compare(self, other: Attainment) -> tuple[float, int]:
        """The largest ratio to another over all thresholds, and at which; where the other has nothing, none."""
        return max(
            (mine / theirs, at)
            for mine, theirs, at in zip(self.shares, other.shares, THRESHOLDS, strict=True)
            if theirs
        )


def work(task: Task) -> Sequence[Result]:
    """One run."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    setting = next(setting for setting in SETTINGS if setting.name == task.setting)
    duration = json.loads(task.parameters)["minutes"] * 60
    drawn, is_streamed = draw_requests(setting, task.seed), task.scheduler != WHOLE
    requests = [replace(request, stream=is_streamed) for request in drawn if request.time < duration]
    if task.scheduler in BASELINES:
        return replay(setting, requests, task.seed, BASELINES[task.scheduler])
    return run_market(setting, requests, task.seed, MARKETS[task.scheduler]).results


def compute_attainment(runs: Sequence[Sequence[Result]]) -> Attainment:
    """Over all requests, answered or not."""
    shares = []
    for threshold in THRESHOLDS:
        within = [sum(result.is_answered and result.latency <= threshold for result in run) / len(run) for run in runs]
        shares.append(sum(within) / len(within))
    return Attainment(tuple(shares))


def compute_means(runs: Sequence[Sequence[Result]]) -> list[float]:
    """The mean latency of each seed."""
    return [sum(result.latency for result in run) / len(run) for run in runs]


def make_figures(results: Results) -> list[Figure]:
    """Latencies, their ratios to those without sharing, and attainment, per setting and scheduler."""
    figures = []
    for setting in SETTINGS:
        single = compute_means(results[setting.name, "single"])
        attained = compute_attainment(results[setting.name, "single"])
        for scheduler in SCHEDULERS:
            runs = results[setting.name, scheduler]
            name = f"setting {setting.name}, {scheduler}"
            means = compute_means(runs)
            published = setting.single_latency_s if scheduler == "single" else None
            latency = estimate(means)
            figures.append(
                Figure(f"{name}: mean latency", latency.mean, "s", published, describe(latency.half, "s", published))
            )
            missed = sum(not result.is_answered for run in runs for result in run)
            figures.append(Figure(f"{name}: missed", missed, "requests", sum(map(len, runs)), "of all"))
            if scheduler == "single":
                continue
            ratio = estimate([mean / alone for mean, alone in zip(means, single, strict=True)])
            row = "market" if scheduler in MARKETS or scheduler == "reference" else scheduler
            paper = PAPER_RATIOS[setting.name].get(row)
            headline = f"{setting.about}: mean latency over that without sharing" if scheduler == SHIPPED else ""
            against = describe(ratio.half, "×", paper)
            figures.append(
                Figure(f"{name}: mean latency over single", ratio.mean, "×", paper, against, headline=headline)
            )
            gain, at = compute_attainment(runs).compare(attained)
            figures.append(Figure(f"{name}: best attainment over single", gain, "×", None, f"at {at} s"))
    return figures


def describe(half: float, unit: str, published: float | None) -> str:
    """What a value is compared with: its interval, and what the paper says."""
    parts = [] if math.isnan(half) else [f"± {half:.2g} {unit} at 95 %"]
    return "; ".join([*parts, *(["the paper"] if published is not None else [])])


def make_charts(results: Results) -> list[Chart]:
    """Attainment over the threshold, one chart for each setting."""
    charts = []
    for setting in SETTINGS:
        series = [
            Series(
                scheduler, tuple(map(float, THRESHOLDS)), compute_attainment(results[setting.name, scheduler]).shares
            )
            for scheduler in SCHEDULERS
            if scheduler != WHOLE
        ]
        charts.append(Chart(f"Setting {setting.name}: {setting.about}", "threshold, s", "attainment", tuple(series)))
    return charts


def main() -> None:
    """Command line."""
    run = Run(
        "slo",
        __doc__,
        Option("seeds", 10, 1, "workloads of each setting"),
        Option("minutes", 12.5, 1.0, "minutes of requests"),
        Option("schedulers", SCHEDULERS, SCHEDULERS, "rows"),
        is_timed=False,
    )
    parameters = json.dumps({"minutes": run.values["minutes"]})
    tasks = [
        Task(scheduler, setting.name, run.seed + number, parameters)
        for scheduler in run.values["schedulers"]
        for setting in SETTINGS
        for number in range(run.values["seeds"])
    ]
    done = run_all(tasks, work, run.results)
    results = {
        (setting.name, scheduler): [
            done[task] for task in tasks if (task.setting, task.scheduler) == (setting.name, scheduler)
        ]
        for setting in SETTINGS
        for scheduler in run.values["schedulers"]
    }
    run.finish(make_figures(results), make_charts(results))


if __name__ == "__main__":
    main()
