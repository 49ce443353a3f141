"""The pictures of the benchmarks: charts as plain data, which travel in the JSON, and SVG drawn from them.

The same data give the same bytes with one version of matplotlib. The background is white, so that a picture is legible
on a dark page too.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

PANEL_INCHES = (4.4, 3.1)
"""Width and height of one chart."""
MAX_COLUMNS = 4
"""Charts in a row at most."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#999999", "#e69f00", "#000000", "#56b4e9")
"""Okabe and Ito's palette, which people with any kind of colour blindness can tell apart; grey for its yellow."""
MARKED_POINTS = 12
"""Most points of a curve that are marked one by one."""
BAR_GROUP_WIDTH = 0.8
"""Share of the distance between two categories that their bars fill."""
MAX_LABEL_CHARACTERS = 40
"""Names of categories that fit below one chart, in characters of them all; with longer ones the bars lie."""
CATEGORY_CHARACTERS = 30
"""Length at which the name of a category beside a lying bar goes on in the next line."""
MAX_DECADES = 3.6
"""Orders of magnitude on a horizontal axis beyond which only its powers of ten are marked."""
MAX_LEGEND_INSIDE = 5
"""Most curves whose names stand among them; those of more, and of bars, which fill their chart, stand below it."""
MAX_LEGEND_CHARACTERS = 20
"""Longest name with which a legend below a chart has two columns."""
LEGEND_ROW_INCHES = 0.17
LEGEND_DISTANCE_INCHES = 0.45
"""From a chart down to its legend: room for the numbers and the label of the axis."""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve, or one bar in every category, with an interval around each if ``intervals`` are given.

    ``is_limit`` draws it as what must not be exceeded: dashed and grey. ``is_reference`` draws it as what the series
    before it is compared with: dashed, in the same colour.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    is_limit: bool = False
    is_reference: bool = False
    intervals: tuple[tuple[float, float], ...] = ()


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
            Series(
                each["name"], tuple(each["x"]), tuple(each["y"]), each["is_limit"], each.get("is_reference", False),
                tuple((low, high) for low, high in each.get("intervals", ())),
            )
            for each in content["series"]
        )  # fmt: skip
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
        height += LEGEND_ROW_INCHES * max(map(_count_legend_rows, charts))
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
    are_lying = _are_lying(chart)
    bars = [series for series in chart.series if not series.is_limit]
    number = -1  # of the colour
    for series in chart.series:
        number += not (series.is_limit or series.is_reference)
        colour = COLOURS[number % len(COLOURS)]
        if series.is_limit:
            x, y = (series.y, series.x) if are_lying else (series.x, series.y)
            axes.plot(x, y, color="#666666", linestyle="--", linewidth=1, label=series.name)
        elif chart.categories:
            width = BAR_GROUP_WIDTH / len(bars)
            places = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(chart.categories))]
            (axes.barh if are_lying else axes.bar)(places, series.y, width, color=colour, label=series.name)
            if series.intervals:
                around = [[y - low, high - y] for y, (low, high) in zip(series.y, series.intervals, strict=True)]
                at = (series.y, places) if are_lying else (places, series.y)
                error = {"xerr" if are_lying else "yerr": list(zip(*around, strict=True))}
                axes.errorbar(*at, **error, fmt="none", ecolor="#333333", elinewidth=1, capsize=3)
        elif series.is_reference:
            axes.plot(series.x, series.y, color=colour, linestyle="--", linewidth=1, label=series.name)
        else:
            marker = "o" if len(series.x) <= MARKED_POINTS else None
            axes.plot(series.x, series.y, color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=series.name)
    x_axis, y_axis = (axes.yaxis, axes.xaxis) if are_lying else (axes.xaxis, axes.yaxis)
    axes.set_title(chart.title)
    x_axis.set_label_text(chart.x_label)
    y_axis.set_label_text(chart.y_label)
    if are_lying:
        names = [
            "\n".join(textwrap.wrap(name, CATEGORY_CHARACTERS, break_on_hyphens=False)) for name in chart.categories
        ]
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()  # the first category on top
    elif chart.categories:
        axes.set_xticks(range(len(chart.categories)), chart.categories)
    else:
        axes.set_xscale(chart.x_scale)
    x_axis.grid(visible=not chart.categories)
    (axes.set_xscale if are_lying else axes.set_yscale)(chart.y_scale)
    _set_ticks(chart, axes)
    if chart.y_scale == "linear" and all(y >= 0 for series in chart.series for y in series.y):
        axes.set(**{"xlim" if are_lying else "ylim": (0, None)})
    _add_legend(chart, axes)


def _are_lying(chart: Chart) -> bool:
    return sum(map(len, chart.categories)) > MAX_LABEL_CHARACTERS


def _set_ticks(chart: Chart, axes: Any) -> None:
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            is_long = axis is axes.xaxis and math.log10(high / low) > MAX_DECADES * (0.5 if chart.categories else 1)
            axis.set_major_locator(LogLocator(subs=(1,) if is_long else (1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    places = sorted({x for series in chart.series for x in series.x})
    if chart.x_scale == "log" and len(places) <= MARKED_POINTS:
        axes.xaxis.set_major_locator(FixedLocator(places))


def _get_legend_columns(chart: Chart) -> int:
    """Columns of a legend that stands below its chart; 0 if it stands inside, or there is none."""
    if len(chart.series) <= (1 if chart.categories else MAX_LEGEND_INSIDE):
        return 0
    return 2 if max(len(series.name) for series in chart.series) <= MAX_LEGEND_CHARACTERS else 1


def _count_legend_rows(chart: Chart) -> int:
    columns = _get_legend_columns(chart)
    return -(-len(chart.series) // columns) if columns else 0


def _add_legend(chart: Chart, axes: Any) -> None:
    from matplotlib.transforms import ScaledTranslation

    if columns := _get_legend_columns(chart):
        down = ScaledTranslation(0, -LEGEND_DISTANCE_INCHES, axes.figure.dpi_scale_trans)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=axes.transAxes + down, ncols=columns)
    elif len(chart.series) > 1:
        axes.legend()
