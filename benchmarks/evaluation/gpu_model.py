"""How near the modelled GPU is to a real one: closed loops on the model, beside vLLM on an H100.

Each measured point is repeated on the model: so many streams, prompts and answers of so many tokens, output tokens per
second, and the medians of the time between tokens and of the time to the first token. Where the GPU is the limit,
throughput and the time between tokens must be within 15 % of the measurement. The GPU is the limit if reading weights
and cache takes at least half of a modelled step, if the step is longer than the host needs to send its tokens, and if
the measured tokens came one by one: where the median between tokens is far above their mean, the host sent them in
bursts. Elsewhere the host is the limit, which the model knows only as one constant rate; the errors are shown. The
time to the first token depends on the load client as well, and has no limit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.pictures import Chart, Series
from benchmarks.report import TABLE_WIDTH, Figure, Option, Run, format_value
from serving.simulation.continuous_batch import ContinuousBatch
from serving.simulation.gpu_curves import GpuCurve, load_curve

MEASUREMENTS = Path(__file__).resolve().parents[1] / "data" / "gpu_measurements.json"
TOLERANCE = 0.15
"""By how much the model may differ from the measurement where the GPU is the limit, as a share."""
GPU_SHARE = 0.5
"""Share of a modelled step that the GPU takes where it is the limit."""
BURST = 1.25
"""Median over mean time between tokens from which on the tokens came in bursts."""
METRICS = ("throughput", "time between tokens", "time to first token")


@dataclass(frozen=True, slots=True)
class Point:
    """One point as measured. ``requests`` in all, ``streams`` at a time; medians in ms, of the whole request in s."""

    model: str
    prompt: int
    output: int
    streams: int
    requests: int
    tokens_per_s: float
    itl_p50_ms: float
    ttft_p50_ms: float
    latency_p50_s: float

    @property
    def values(self) -> tuple[float, float, float]:
        """In the order of ``METRICS``."""
        return self.tokens_per_s, self.itl_p50_ms, self.ttft_p50_ms

    @property
    def comes_in_bursts(self) -> bool:
        """Whether the host sent several tokens at a time."""
        mean = (1000 * self.latency_p50_s - self.ttft_p50_ms) / (self.output - 1)
        return self.itl_p50_ms > BURST * mean


@dataclass(frozen=True, slots=True)
class Comparison:
    """A point and what the model makes of it; ``modelled`` in the order of ``METRICS``."""

    point: Point
    modelled: tuple[float, float, float]
    is_gpu_limited: bool

    @property
    def ratios(self) -> tuple[float, ...]:
        """Modelled over measured."""
        return tuple(model / real for model, real in zip(self.modelled, self.point.values, strict=True))


def load_points() -> list[Point]:
    """The measured points."""
    return [Point(**entry) for entry in json.loads(MEASUREMENTS.read_text())["points"]]


def is_gpu_limited(point: Point, curve: GpuCurve) -> bool:
    """Whether the GPU, and not the host, sets the pace of a point."""
    context = point.streams * (point.prompt + point.output // 2)
    gpu = (curve.weights + context * curve.kv_bytes) / curve.bandwidth + point.streams * curve.stream_cost
    step = curve.step_seconds(point.streams, context)
    return gpu >= GPU_SHARE * step and point.streams / curve.host_rate < step and not point.comes_in_bursts


def repeat(point: Point, curve: GpuCurve) -> tuple[float, float, float]:
    """The point on the model, in the order of ``METRICS``."""
    engine = ContinuousBatch(curve, report_interval=0.0)  # every token is reported
    sent_at, last_at = [0.0] * point.streams, dict[int, float]()
    firsts, gaps = list[float](), list[float]()
    now = 0.0
    for number in range(point.streams):
        engine.submit(now, number, point.prompt, point.output)
    while (event := engine.next_event()) is not None:
        now = event
        for report in engine.advance(now):
            if report.tokens == 1:
                firsts.append(now - sent_at[report.id])
            else:
                gaps.append(now - last_at[report.id])
            last_at[report.id] = now
            if report.finished and len(sent_at) < point.requests:
                engine.submit(now, len(sent_at), point.prompt, point.output)
                sent_at.append(now)
    return point.requests * point.output / now, 1000 * median(gaps), 1000 * median(firsts)


def compare(points: Sequence[Point]) -> list[Comparison]:
    """Every point on the model."""
    curves = {point.model: load_curve(point.model) for point in points}
    return [
        Comparison(point, repeat(point, curves[point.model]), is_gpu_limited(point, curves[point.model]))
        for point in points
    ]


def make_table(comparisons: Sequence[Comparison]) -> Table:
    """Every point, for a terminal."""
    table = Table(title="modelled, measured, modelled over measured", title_justify="left", box=None)
    for heading in ("model", "prompt + output", "streams", "limit", "output tokens/s", "between ms", "first ms"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for each in comparisons:
        point = each.point
        values = [
            f"{format_value(model)} / {format_value(real)} = {ratio:.2f}"
            for model, real, ratio in zip(each.modelled, point.values, each.ratios, strict=True)
        ]
        limit = "GPU" if each.is_gpu_limited else "host"
        table.add_row(point.model, f"{point.prompt} + {point.output}", str(point.streams), limit, *values)
    return table


def make_figures(comparisons: Sequence[Comparison]) -> list[Figure]:
    """The largest and the mean deviation for each model and metric, where the GPU is the limit and elsewhere."""
    figures = []
    for limit, is_gpu in (("GPU", True), ("host", False)):
        for model in dict.fromkeys(each.point.model for each in comparisons):
            chosen = [each for each in comparisons if each.point.model == model and each.is_gpu_limited == is_gpu]
            if not chosen:
                continue
            figures.append(Figure(f"{limit} is the limit, {model}: points", len(chosen), "points"))
            for number, metric in enumerate(METRICS):
                deviations = [100 * abs(each.ratios[number] - 1) for each in chosen]
                bound = 100 * TOLERANCE if is_gpu and number < 2 else None
                name = f"{limit} is the limit, {model}: {metric}"
                figures.append(Figure(f"{name}, largest deviation", max(deviations), "%", limit=bound))
    return figures


def make_charts(comparisons: Sequence[Comparison]) -> list[Chart]:
    """For each metric the modelled curves and the measured points, at the prompt that most points have."""
    charts = []
    for number, (metric, unit) in enumerate(zip(METRICS, ("output tokens/s", "ms", "ms"), strict=True)):
        series = []
        for model in dict.fromkeys(each.point.model for each in comparisons):
            chosen = [each for each in comparisons if each.point.model == model and each.point.prompt == 512]
            streams = tuple(float(each.point.streams) for each in chosen)
            series.append(Series(f"{model}, model", streams, tuple(each.modelled[number] for each in chosen)))
            measured = tuple(each.point.values[number] for each in chosen)
            series.append(Series(f"{model}, measured", streams, measured, is_reference=True))
        title = f"{metric}, prompt 512, output 128"
        charts.append(Chart(title, "streams", unit, tuple(series), x_scale="log", y_scale="log"))
    return charts


def main() -> None:
    """Command line."""
    run = Run("gpu_model", __doc__, Option("streams", 256, 16, "most streams of a point"), is_timed=False)
    points = [point for point in load_points() if point.streams <= run.values["streams"]]
    comparisons = compare(points)
    Console(width=TABLE_WIDTH).print(make_table(comparisons))
    run.finish(make_figures(comparisons), make_charts(comparisons))


if __name__ == "__main__":
    main()
