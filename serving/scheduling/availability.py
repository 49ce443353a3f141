"""Availability: whether this node serves other nodes at the moment, as its owner's hours and own use allow.

:func:`judge_availability` is pure. :class:`AvailabilityGate` gives it the time, and notes when the node's users were
last here. Moments of the week are in ms since the Unix epoch; how long the node has been quiet is in seconds of its
monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import trio

from p2p.runtime import Runtime
from serving.scheduling.policy import Policy, PolicyParameters
from serving.scheduling.weekly_schedule import WeeklySchedule

RECHECK_S = 60.0
"""After this time a closed node may be asked again, if it does not know when it will open."""


class ServeOthers(Enum):
    """When requests of other nodes are accepted, within the hours of the schedule."""

    ALWAYS = "always"
    IDLE = "idle"
    """While the node's users have been quiet for a while."""
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether offers are accepted. ``changes_in_s``: when that changes at the latest if nothing happens (None: not)."""

    is_open: bool
    changes_in_s: float | None
    reason: str

    @property
    def retry_after_s(self) -> float:
        """When a closed node may be asked again."""
        return RECHECK_S if self.changes_in_s is None else self.changes_in_s


@dataclass(frozen=True, slots=True)
class Hours:
    """What the schedule says from ``since`` until ``until`` (ms; None: for more than a week)."""

    is_open: bool
    since: int
    until: int | None

    def covers(self, now_ms: int) -> bool:
        """Whether that holds at ``now_ms``."""
        return self.since <= now_ms and (self.until is None or now_ms < self.until)


def judge_availability(parameters: PolicyParameters, hours: Hours | None, now_ms: int, quiet_s: float) -> Availability:
    """The availability at wall time ``now_ms`` of a node whose users have been quiet for ``quiet_s`` (0: one is
    active).

    ``hours`` come from the schedule; None if there is none.
    """
    serve_others = ServeOthers(parameters.serve_others)
    if serve_others is ServeOthers.NEVER:
        return Availability(False, None, "other nodes are not served")
    changes_in_s = None if hours is None or hours.until is None else (hours.until - now_ms) / 1000
    if hours is not None and not hours.is_open:
        return Availability(False, changes_in_s, "outside the hours of the schedule")
    if serve_others is ServeOthers.IDLE:
        missing_s = 60 * parameters.idle_after_minutes - quiet_s
        if missing_s > 0:
            return Availability(False, missing_s, "this node's users are active")
        return Availability(True, changes_in_s, "this node's users are quiet")
    return Availability(True, changes_in_s, "always" if hours is None else "within the hours of the schedule")


@dataclass(frozen=True, slots=True)
class Ending:
    """A node that is stopping takes no new requests. It was told to stop at ``since``, and waits until ``until`` for
    the requests under way, both on the monotonic clock."""

    since: float
    until: float


class AvailabilityGate:
    """The availability of one node, now."""

    def __init__(self, policy: Policy, runtime: Runtime) -> None:
        self._policy = policy
        self._runtime = runtime
        self._schedule: WeeklySchedule | None = None
        self._source: tuple[tuple[str, ...], str] = ((), "")
        """What the schedule was read from."""
        self._hours: Hours | None = None
        self._own_requests = 0
        self._quiet_since: float | None = None
        """When the last request of the node's users ended, on the monotonic clock; None: there was none since the
        start."""
        self.ending: Ending | None = None
        """Set when the node ends, and takes no new request."""

    @contextmanager
    def own_use(self) -> Iterator[None]:
        """A request of the node's users is under way within the context."""
        self._own_requests += 1
        try:
            yield
        finally:
            self._own_requests -= 1
            self._quiet_since = trio.current_time()

    def check(self) -> Availability:
        """Whether other nodes are served now."""
        if self.ending is not None:
            return Availability(False, None, "this node is ending")
        now = trio.current_time()
        if self._quiet_since is None:  # nobody knows who was here before the start
            self._quiet_since = now
        quiet_s = 0.0 if self._own_requests else now - self._quiet_since
        now_ms = self._runtime.now()
        return judge_availability(self._policy.parameters, self._look_up(now_ms), now_ms, quiet_s)

    def _look_up(self, now_ms: int) -> Hours | None:
        """The hours of the schedule, looked up anew when they change."""
        parameters = self._policy.parameters
        source = parameters.schedule, parameters.time_zone
        if source != self._source:
            self._source, self._hours = source, None
            self._schedule = WeeklySchedule.parse(*source) if parameters.schedule else None
        if self._schedule is None:
            return None
        if self._hours is None or not self._hours.covers(now_ms):
            self._hours = Hours(self._schedule.is_open(now_ms), now_ms, self._schedule.find_change(now_ms))
        return self._hours
