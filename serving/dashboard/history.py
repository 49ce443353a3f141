"""The recent past of a node in numbers: a sample a second for ten minutes, and one a minute for a day (pure).

Counters are kept as they count, since the node started; who draws them makes rates of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

FINE_SAMPLES = 600
"""Samples a second apart that are kept."""
COARSE_SAMPLES = 1_440
"""Samples a minute apart that are kept."""
COARSE_S = 60
"""Seconds between two of the latter."""

Sample = Mapping[str, float | int | None]
"""Values by name; ``at`` is the wall clock in seconds. None: not known at that moment."""


class History:
    """The samples of one node, each with the values called ``names`` beside its time."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = ("at", *names)
        self._fine: deque[tuple[Any, ...]] = deque(maxlen=FINE_SAMPLES)
        self._coarse: deque[tuple[Any, ...]] = deque(maxlen=COARSE_SAMPLES)

    def add(self, sample: Sample) -> None:
        """Append a sample. One that is not later than the last is left out: the clock was set back."""
        row = tuple(sample[name] for name in self.names)
        if self._fine and row[0] <= self._fine[-1][0]:
            if self._fine[-1][0] - row[0] > COARSE_S:
                self._fine.clear()
                self._coarse.clear()
            return
        self._fine.append(row)
        if not self._coarse or row[0] - self._coarse[-1][0] >= COARSE_S:
            self._coarse.append(row)

    @property
    def latest(self) -> dict[str, Any] | None:
        """The last sample."""
        return dict(zip(self.names, self._fine[-1], strict=True)) if self._fine else None

    def to_columns(self, *, coarse: bool = False) -> dict[str, list[Any]]:
        """The samples by name, oldest first: those of ten minutes, or those of a day."""
        rows = self._coarse if coarse else self._fine
        columns = zip(*rows, strict=True) if rows else ((),) * len(self.names)
        return {name: list(column) for name, column in zip(self.names, columns, strict=True)}
