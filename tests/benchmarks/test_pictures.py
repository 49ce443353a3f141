"""What is written in a picture can be read: names do not lie over one another, or over what is drawn."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from benchmarks.pictures import COLOURS, Chart, Series, draw

NAMES = tuple(f"a category with a long name, number {number}" for number in range(6))


def find_text(picture: str, text: str) -> tuple[float, float]:
    """Where a text stands: x, and y downwards."""
    found = re.search(rf"(?:translate\(|rotate\(-0 )([0-9.]+) ([0-9.]+)\)[^>]*>{re.escape(text)}<", picture)
    assert found is not None, text
    return float(found[1]), float(found[2])


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_long_names_of_categories_stand_below_one_another_in_their_order(scale: str) -> None:
    chart = Chart("bars", "", "s", (Series("", (), (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)),), NAMES, y_scale=scale)  # type: ignore[arg-type]
    picture = draw([chart], "test").decode()
    heights = [find_text(picture, f"number {number}")[1] for number in range(6)]
    assert all(below - above > 10 for above, below in pairwise(heights))


def test_short_names_of_categories_stand_side_by_side() -> None:
    chart = Chart("bars", "", "s", (Series("", (), (1.0, 2.0)),), ("first", "second"))
    picture = draw([chart], "test").decode()
    assert find_text(picture, "first")[1] == find_text(picture, "second")[1]


def test_the_legend_of_bars_stands_below_them_and_each_has_its_own_colour() -> None:
    series = tuple(Series(f"series {number}", (), (1.0, 2.0)) for number in range(6))
    picture = draw([Chart("bars", "", "s", series, ("first", "second"))], "test").decode()
    axis = find_text(picture, "first")[1]
    assert all(find_text(picture, each.name)[1] > axis + 10 for each in series)
    assert all(picture.count(colour) >= 3 for colour in COLOURS[:6])  # two bars, and the legend
