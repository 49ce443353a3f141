"""The order of a queue in front of a backend, and how long it makes a request wait. Pure: times are in seconds.

The shortest request goes first, with ageing: a request is ordered by ``arrival + AGEING_INVERSE * expected``, where
``expected`` is its predicted service time. The key does not change while it waits, so the queue is a sorted list. A
later request passes an earlier one only if it is shorter by more than the earlier one has waited. So none is passed
over by requests that come more than ``AGEING_INVERSE * expected`` seconds after it, however many they are and however
short.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from typing import Generic, TypeVar

AGEING_INVERSE = 1.0
"""Seconds of waiting that outweigh one second of predicted service."""
MAX_EXPECTED_S = 600.0
"""Longest service time that is believed. It also bounds how long a request can be passed over."""
OFFSET_S = 1.0
"""Added to measured and predicted times before they are compared: the fixed cost of a short request says nothing about
longer ones. Otherwise a payer could make all requests look ten times as long, by some requests for one token."""
SMOOTHING = 1 / 8
"""Weight of the last service time in what is learned from all."""


@dataclass(slots=True, eq=False)
class QueueEntry:
    """A request that waits; ``number`` decides between equals: the first to arrive."""

    arrived_at: float
    number: int
    expected_s: float
    """Predicted service time."""
    key: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.arrived_at + AGEING_INVERSE * self.expected_s, self.number)


E = TypeVar("E", bound=QueueEntry)


class WaitingQueue(Generic[E]):
    """Entries in the order in which they are to be served. Adding and removing move pointers of one list only."""

    def __init__(self) -> None:
        self._entries: list[E] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[E]:
        return iter(self._entries)

    def add(self, entry: E) -> None:
        """Put an entry into its place."""
        insort(self._entries, entry, key=_get_key)

    def remove(self, entry: E) -> None:
        """Take out an entry, which must be there."""
        del self._entries[bisect_left(self._entries, entry.key, key=_get_key)]

    def get_ahead(self, key: tuple[float, int]) -> list[E]:
        """The entries that go before an entry with ``key``, in order."""
        return self._entries[: bisect_left(self._entries, key, key=_get_key)]


def _get_key(entry: QueueEntry) -> tuple[float, int]:
    return entry.key


def predict_wait(slots: int, busy: Iterable[float], ahead: Iterable[float]) -> float:
    """Seconds until a slot is free for a request, by list scheduling.

    ``busy`` has the seconds for which each slot in use stays so (at most ``slots`` of them), ``ahead`` the service
    times of the requests that go first, in order.
    """
    ends = [max(0.0, rest) for rest in busy]
    ends += [0.0] * (slots - len(ends))
    heapify(ends)
    for service in ahead:
        heapreplace(ends, ends[0] + service)
    return ends[0]


class ServiceTimes:
    """Measured service times: their mean, and by which factor predictions are wrong on average."""

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._measured_s = 0.0
        self._predicted_s = 0.0

    def correct(self, predicted_s: float) -> float:
        """The expected service time of a request for which ``predicted_s`` was predicted (0: no prediction).

        0 while nothing is known.
        """
        if predicted_s <= 0:
            return min(self._mean_s or 0.0, MAX_EXPECTED_S)
        factor = self._measured_s / self._predicted_s if self._predicted_s else 1.0
        return min(max(0.0, (predicted_s + OFFSET_S) * factor - OFFSET_S), MAX_EXPECTED_S)

    def note(self, predicted_s: float, measured_s: float) -> None:
        """A request was served to its end in ``measured_s``."""
        if self._mean_s is None:
            self._mean_s = measured_s
        self._mean_s += SMOOTHING * (measured_s - self._mean_s)
        if predicted_s > 0:
            self._measured_s += SMOOTHING * (measured_s + OFFSET_S - self._measured_s)
            self._predicted_s += SMOOTHING * (predicted_s + OFFSET_S - self._predicted_s)
