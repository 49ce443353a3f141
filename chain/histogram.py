"""How often a measured value was how large: counts by upper bounds, as Prometheus' histograms have them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts of values that are at most each of ``bounds``, which ascend, and the sum of all values.

    Observing costs less than a microsecond, and memory is that of the bounds. It takes no lock.
    """

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Values counted."""
        return sum(self._counts)

    def count_above(self, bound: float) -> int:
        """Values counted that are above one of the bounds.

        Raises:
            ValueError: there is no such bound.
        """
        return sum(self._counts[self.bounds.index(bound) + 1 :])

    def add(self, other: Histogram) -> None:
        """Count what another, of the same bounds, has counted."""
        assert self.bounds == other.bounds
        self._counts = [one + more for one, more in zip(self._counts, other._counts, strict=True)]
        self.sum += other.sum

    def cumulate(self) -> list[int]:
        """For each bound the number of values that are at most as large, and last that of all values."""
        total, totals = 0, []
        for count in self._counts:
            total += count
            totals.append(total)
        return totals
