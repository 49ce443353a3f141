"""How many lines of one event the log takes, so that no one fills the owner's disk by causing events. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LINES = 60
"""Lines of one event within a window; further ones are counted and left out."""
WINDOW_S = 60.0
"""Length of a window, from the first line of its event on."""


@dataclass(slots=True)
class _Window:
    since: float
    lines: int = 0


class LogRate:
    """Counts the lines of each event; times are in seconds of one clock, which may be set back."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}  # oldest first

    def admit(self, event: str, now: float) -> bool:
        """Whether to write a line of ``event``."""
        window = self._windows.setdefault(event, _Window(now))
        window.lines += 1
        return window.lines <= MAX_LINES

    def take_left_out(self, now: float) -> list[tuple[str, int]]:
        """End the windows that are over. Returns the events of which lines were left out, with their number."""
        left_out = []
        for event, window in list(self._windows.items()):
            if 0 <= now - window.since < WINDOW_S:
                break
            del self._windows[event]
            if window.lines > MAX_LINES:
                left_out.append((event, window.lines - MAX_LINES))
        return left_out
