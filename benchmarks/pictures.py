"""The pictures of the benchmarks: charts as plain data, which travel in the JSON, and SVG drawn from them.

The same data give the same bytes with one version of matplotlib. The background is white, so that a picture is legible
on a dark page too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

PANEL_INCHES = (4.4, 3.1)
"""Width and height of one chart."""
MAX_COLUMNS = 4
"""Charts in a row at most."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999")
"""The first of Okabe and Ito's palette, which people with any kind of colour blindness can tell apart."""
MARKED_POINTS = 12
"""Most points of a curve that are marked one by one."""
BAR_GROUP_WIDTH = 0.8
"""Share of the distance between two categories that their bars fill."""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve, or one bar in every category. ``is_limit`` draws it as what must not be exceeded: dashed and grey."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    is_limit: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: curves over numbers, or bars over ``categories`` (then ``x`` of its series is empty)."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    categories: tuple[str, ...] = ()
    x_scale: Literal["linear", "log"] = "linear"
    y_scale: Literal["linear", "log"] = "linear"

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Chart:
        """From ``dataclasses.asdict`` of a chart."""
        series = tuple(
            Series(each["name"], tuple(each["x"]), tuple(each["y"]), each["is_limit"]) for each in content["series"]
        )
        return cls(**{**content, "series": series, "categories": tuple(content["categories"])})


def make_cumulative(name: str, values: Sequence[float], points: int = 100) -> Series:
    """The share (0 to 1) of ``values`` up to each value, at ``points`` quantiles."""
    ordered = sorted(values)
    places = [round(index * (len(ordered) - 1) / points) for index in range(points + 1)]
    x = tuple(ordered[place] for place in places)
    return Series(name, x, tuple((place + 1) / len(ordered) for place in places))


def draw(charts: Sequence[Chart], source: str) -> bytes:
    """The charts side by side, in as many rows as they need, as SVG. ``source`` goes into its metadata."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    settings: Any = {
        "font.size": 9,
        "font.family": "sans-serif",
        "svg.fonttype": "none",
        "svg.hashsalt": "wwwserve",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6e6e6",
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    with matplotlib.rc_context(settings):
        width, height = PANEL_INCHES
        columns = min(len(charts), MAX_COLUMNS)
        rows = -(-len(charts) // columns)
        figure, panels = pyplot.subplots(
            rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained"
        )
        for chart, axes in zip_longest(charts, panels.flat):
            if chart is None:
                axes.set_axis_off()
            else:
                _draw_chart(chart, axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Source": source})
        pyplot.close(figure)
    return buffer.getvalue()


def _draw_chart(chart: Chart, axes: Any) -> None:
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

    bars = [series for series in chart.series if not series.is_limit]
    width = BAR_GROUP_WIDTH / max(1, len(bars))
    for number, series in enumerate(chart.series):
        colour = COLOURS[number % len(COLOURS)]
        if series.is_limit:
            axes.plot(series.x, series.y, color="#666666", linestyle="--", linewidth=1, label=series.name)
        elif chart.categories:
            places = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(chart.categories))]
            axes.bar(places, series.y, width, color=colour, label=series.name)
        else:
            marker = "o" if len(series.x) <= MARKED_POINTS else None
            axes.plot(series.x, series.y, color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=series.name)
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.set_yscale(chart.y_scale)
    if chart.categories:
        axes.set_xticks(range(len(chart.categories)), chart.categories)
        axes.grid(axis="x", visible=False)
    else:
        axes.set_xscale(chart.x_scale)
    for scale, axis in ((chart.x_scale, axes.xaxis), (chart.y_scale, axes.yaxis)):
        if scale == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    places = sorted({x for series in chart.series for x in series.x})
    if chart.x_scale == "log" and len(places) <= MARKED_POINTS:
        axes.xaxis.set_major_locator(FixedLocator(places))
    if chart.y_scale == "linear" and all(y >= 0 for series in chart.series for y in series.y):
        axes.set_ylim(bottom=0)
    if len(chart.series) > 1:
        axes.legend()
