"""Sessions that were ended before their time, so that no restart of the node brings one back (pure).

A session is not stored: it is valid by its own code. So a session that was ended early is remembered until it would
have expired. At most :data:`MAX_ENDED` are remembered. When one has to be forgotten, all sessions that began no later
than it are ended, so that it does not become valid again.

Times are in whole seconds of the wall clock, and are those at which sessions end by themselves.
"""

from __future__ import annotations

import json

MAX_ENDED = 256
"""Sessions that are remembered."""


class EndedSessions:
    """Names of sessions that were ended, with their times; none is good whose time is not after ``floor``."""

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self._times: dict[str, int] = {}

    def add(self, name: str, time: int, now: float) -> None:
        """A session is ended at ``now``."""
        self._times[name] = time
        for each in [each for each, end in self._times.items() if end <= now]:
            del self._times[each]
        while len(self._times) > MAX_ENDED:
            first = min(self._times, key=self._times.__getitem__)
            self.floor = max(self.floor, self._times.pop(first))

    def has(self, name: str, time: int) -> bool:
        """Whether a session was ended."""
        return time <= self.floor or name in self._times

    def encode(self) -> bytes:
        """As it is stored."""
        return json.dumps({"floor": self.floor, "ended": self._times}).encode()

    @classmethod
    def decode(cls, raw: bytes) -> EndedSessions:
        """What was stored.

        Raises:
            ValueError: it is not that.
        """
        try:
            content = json.loads(raw)
            found = cls(int(content["floor"]))
            found._times.update({str(name): int(time) for name, time in content["ended"].items()})
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a list of ended sessions: {error!r}") from error
        return found
