"""How long a view may take before it is nullified: rule 5 of :mod:`consensus.simplex.core`."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.simplex.messages import Effect, SetTimer, StopTimer

MAX_DOUBLINGS = 64
"""Bound of the exponent, far beyond any cap."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds a view may take at first, and at most after doubling."""

    first_s: float = 1.5
    cap_s: float = 30.0


class ViewTimer:
    """The timer of the current view. Orders to the driver are appended to ``effects``."""

    def __init__(self, timeouts: Timeouts, effects: list[Effect]) -> None:
        self._timeouts, self._effects = timeouts, effects
        self.is_running = False
        self._retries = 0
        """Timeouts in this view."""
        self._nullified = 0
        """Views nullified since a block became final."""

    def run(self, view: int, *, is_busy: bool, is_behind: bool) -> None:
        """Run the timer while ``is_busy``; it starts now if it was stopped. With ``is_behind`` it waits the shortest
        time."""
        if is_busy != self.is_running:
            self.is_running = is_busy
            doublings = min((0 if is_behind else self._nullified) + self._retries, MAX_DOUBLINGS)
            seconds = min(self._timeouts.cap_s, self._timeouts.first_s * 2.0**doublings)
            self._effects.append(SetTimer(view, seconds) if is_busy else StopTimer())

    def note_timeout(self) -> None:
        """The timer rang."""
        self._retries += 1
        self.is_running = False

    def enter_view(self) -> None:
        """Enter another view; the driver replaces its timer when this one runs again."""
        self.is_running, self._retries = False, 0

    def note_nullified(self) -> None:
        """A view was nullified: the next may take longer."""
        self._nullified += 1

    def note_final(self) -> None:
        """A block became final: views take as long as at first."""
        self._nullified = 0
