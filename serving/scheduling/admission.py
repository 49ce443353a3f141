"""Admission: two bounded queues, the owner's users and delegated requests, in front of the backend's slots.

Within a queue the shortest request goes first, with ageing (:mod:`serving.scheduling.queueing`). A request that would
wait for longer than it can is refused at once.

Requests of other nodes that are not paid yet have a share of the slots and of the queue. One that finds a slot of that
share free begins at once. The others wait for their payment before they queue.

A backend may have room for fewer requests than it has slots: once its cache is full, it puts some into a queue of its
own, which knows no priorities. While requests wait there, it is given no further ones.

Work that no user waits for, such as that for a duel, is *lent* a free slot. The first request that finds no free slot
takes it back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import merge

import msgspec
import trio

from chain.histogram import Histogram
from serving.scheduling.policy import ModelQuota, PolicyParameters
from serving.scheduling.queueing import QueueEntry, ServiceTimes, WaitingQueue, predict_wait

UNPAID_SHARE = 4
"""One slot in so many, and one place in the queue, are for requests that are not paid yet; at least one of each."""
WAIT_BOUNDS_S = (0.01, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 80, 160)
"""Bounds of the histogram of waits for a slot."""
MIN_RETRY_AFTER_S = 1.0
"""Least time after which a request that is not admitted may come again."""


class Origin(IntEnum):
    """Where a request comes from: the owner's users, or another node."""

    OWN = 0
    DELEGATED = 1


class NotAdmitted(Exception):
    """A request gets no slot. ``retry_after_s`` is when the queues will have drained, by prediction."""

    def __init__(self, message: str, retry_after_s: float = MIN_RETRY_AFTER_S) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(NotAdmitted):
    """The queue for this kind of request is full."""


class TooLate(NotAdmitted):
    """No slot is free in the time that the request has."""


class SlotLost(Exception):
    """A slot that was lent is needed for a request."""


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What a request asks of admission.

    ``predicted_s`` is its predicted service time (0: unknown), ``max_wait_s`` how long it can wait for its slot.
    ``payer`` is the node that pays for a delegated request, or the API key of a request of a user.
    """

    origin: Origin
    model: str = ""
    predicted_s: float = 0.0
    max_wait_s: float = math.inf
    payer: bytes = b""

    @property
    def is_of_stranger(self) -> bool:
        """Whether the owner does not vouch for it: another node asks, or a user with an API key."""
        return self.origin is Origin.DELEGATED or bool(self.payer)


@dataclass(slots=True, eq=False)
class _Ticket(QueueEntry):
    """A request that waits for a slot or has it."""

    demand: Demand
    started_at: float = 0.0
    handed_over: trio.Event | None = None
    """None unless the request has to wait; set when it is given its slot."""

    @property
    def group(self) -> tuple[str, Origin]:
        """The requests with which it shares a limit of its model."""
        return self.demand.model, self.demand.origin


@dataclass(slots=True)
class QueueCounters:
    """Requests of one origin since the start: the waits of those that got a slot, and how many got none."""

    waits: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS_S))
    full: int = 0
    late: int = 0


class Admission:
    """Gives out the ``capacity`` slots of a backend, in one order for all or the owner's queue first.

    ``prioritize_own`` puts the owner's queue first. At most ``max_queue`` requests wait in each queue. ``quotas`` are
    those of the models: a request over the limit of its model waits while others pass it. ``find_room`` returns for how
    many requests the backend seems to have room at present.
    """

    def __init__(
        self,
        capacity: int,
        max_queue: int,
        prioritize_own: bool,
        quotas: Mapping[str, ModelQuota] | None = None,
        find_room: Callable[[], int] | None = None,
    ) -> None:
        self.capacity = capacity
        self._find_room = find_room or (lambda: capacity)
        self.max_queue = max_queue
        self.prioritize_own = prioritize_own
        self.running = 0
        self.unpaid_running = 0
        """Slots of requests that are not paid yet."""
        self.unpaid_waiting = 0
        """Requests that wait to be paid before they queue."""
        self.counters = {origin: QueueCounters() for origin in Origin}
        self.service_times = ServiceTimes()
        self._quotas = quotas or {}
        self._queues = {origin: WaitingQueue[_Ticket]() for origin in Origin}
        self._arrivals = 0
        self._working: dict[_Ticket, None] = {}
        """Requests that have a slot."""
        self._groups = Counter[tuple[str, Origin]]()
        """Numbers of requests that have a slot, by model and origin."""
        self._lent: dict[trio.CancelScope, None] = {}
        """Slots that are lent and not asked back yet, in order; they count as running."""
        self._freed = trio.lowlevel.ParkingLot()

    def apply(self, parameters: PolicyParameters) -> None:
        """Follow other parameters from now on. What waits or runs already stays, whatever the new bounds."""
        self.max_queue, self.prioritize_own = parameters.max_queue, parameters.prioritize_own
        self._quotas = parameters.models
        while self.refill():
            pass

    def refill(self) -> bool:
        """Hand a free slot to the next request. Returns False if there is no such slot or no such request."""
        if self.running >= self.slots:
            return False
        if (ticket := self._find_next()) is None:
            self._freed.unpark_all()
            return False
        self.running += 1
        self._hand_over(ticket)
        return True

    @property
    def slots(self) -> int:
        """Requests that may run at present."""
        return max(1, min(self.capacity, self._find_room()))

    def waiting(self, origin: Origin) -> int:
        """Requests in one queue, and those that will come into it when they are paid."""
        return len(self._queues[origin]) + self.unpaid_waiting * (origin is Origin.DELEGATED)

    @property
    def total_waiting(self) -> int:
        """Requests that wait in all."""
        return sum(map(len, self._queues.values())) + self.unpaid_waiting

    @contextmanager
    def unpaid(self) -> Iterator[bool]:
        """Count a delegated request as not paid within the context. Yields whether it may ask for a slot meanwhile.

        Raises:
            QueueFull: too many of them wait.
        """
        if self._is_free and self.unpaid_running < max(1, self.slots // UNPAID_SHARE):
            self.unpaid_running += 1
            try:
                yield True
            finally:
                self.unpaid_running -= 1
            return
        if self.unpaid_waiting >= max(1, self.max_queue // UNPAID_SHARE):
            raise QueueFull(f"{self.unpaid_waiting} requests wait to be paid already", self.predict_drained())
        self.unpaid_waiting += 1
        try:
            yield False
        finally:
            self.unpaid_waiting -= 1

    def has_room(self, demand: Demand) -> bool:
        """Whether a request may wait if it has to: its payer must hold fewer places in the queue than are free.

        This is the dynamic threshold of Choudhury and Hahne (1998). A single payer gets half of the queue, two get a
        third each, and none keeps the others out.
        """
        if self._is_free and self._is_within_limit(self._make_ticket(demand)):
            return True
        taken = sum(ticket.demand.payer == demand.payer for ticket in self._queues[demand.origin])
        return taken < self.max_queue - self.waiting(demand.origin)

    @property
    def requests(self) -> int:
        """Requests that have a slot or wait for one."""
        return self._taken + self.total_waiting

    @property
    def utilization(self) -> float:
        """Slots taken and requests waiting, over the slots there are. A slot that is lent is as good as free."""
        return self.requests / self.capacity

    @property
    def _taken(self) -> int:
        """Slots that requests have."""
        return self.running - len(self._lent)

    @property
    def _is_free(self) -> bool:
        """Whether a request that came now would find a slot."""
        return self._taken < self.slots and self._find_next() is None

    # Prediction

    def predict_wait(self, demand: Demand) -> float:
        """Seconds until a request that came now would get a slot; 0 while nothing is known of service times.

        Looks at each request ahead of it, so it is asked once for a request.
        """
        newcomer = self._make_ticket(demand)
        if self._is_free and self._is_within_limit(newcomer):
            return 0.0
        own, delegated = (self._queues[origin] for origin in Origin)
        if not self.prioritize_own:
            ahead = list(merge(own.get_ahead(newcomer.key), delegated.get_ahead(newcomer.key), key=lambda one: one.key))
        elif demand.origin is Origin.OWN:
            ahead = own.get_ahead(newcomer.key)
        else:
            ahead = [*own, *delegated.get_ahead(newcomer.key)]
        wait = self._predict(self.slots, list(self._working), ahead)
        limit = self._get_limit(demand)
        if limit is not None:
            working = sorted(
                (ticket for ticket in self._working if ticket.group == newcomer.group),
                key=lambda ticket: ticket.started_at,
            )[-limit:]  # there are more of them than the limit after it was lowered
            wait = max(
                wait, self._predict(limit, working, [ticket for ticket in ahead if ticket.group == newcomer.group])
            )
        return wait

    def predict_drained(self) -> float:
        """Seconds until a slot is free and no request waits, if none comes; at least :data:`MIN_RETRY_AFTER_S`."""
        waiting = [ticket for queue in self._queues.values() for ticket in queue]
        return max(MIN_RETRY_AFTER_S, self._predict(self.slots, list(self._working), waiting))

    def _predict(self, slots: int, working: list[_Ticket], ahead: list[_Ticket]) -> float:
        now = trio.current_time()
        rests = [ticket.started_at + ticket.expected_s - now for ticket in working]
        # A service time includes the wait in the backend's own queue: it counts from when the backend got the request.
        return predict_wait(max(slots, len(rests)), rests, [ticket.expected_s for ticket in ahead])

    # Slots

    @asynccontextmanager
    async def lend_slot(self) -> AsyncIterator[None]:
        """Wait for a slot that no request wants, and hold it until a request finds no free slot.

        Raises:
            SlotLost: a request has taken the slot back; the block was cancelled.
        """
        while self.running >= self.slots:
            await self._freed.park()
        self.running += 1
        scope = trio.CancelScope()
        self._lent[scope] = None
        try:
            with scope:
                yield
        finally:
            self._lent.pop(scope, None)
            self._pass_on()
        if scope.cancelled_caught:
            raise SlotLost("a request needs the backend")

    def slot(self, demand: Demand) -> Slot:
        """A slot to be waited for and held, as an asynchronous context."""
        return Slot(self, demand)

    async def take(self, demand: Demand) -> _Ticket:
        """Wait for a slot, to be given back by :meth:`give_back`.

        Raises:
            QueueFull: no slot is free and the queue has no room.
            TooLate: none is free in time, by prediction or in fact.
        """
        ticket = self._make_ticket(demand)
        counters = self.counters[demand.origin]
        try:
            self._check_share(demand)
            await self._acquire(ticket)
        except QueueFull:
            counters.full += 1
            raise
        except TooLate:
            counters.late += 1
            raise
        counters.waits.observe(ticket.started_at - ticket.arrived_at)
        return ticket

    def give_back(self, ticket: _Ticket, *, is_done: bool) -> None:
        """A request no longer needs its slot; ``is_done``: as it should."""
        if is_done:
            self.service_times.note(ticket.demand.predicted_s, trio.current_time() - ticket.started_at)
        self._release(ticket)

    def _check_share(self, demand: Demand) -> None:
        """Keep one API key from filling the queue. Offers have been checked before they came here.

        Raises:
            QueueFull: the key has as many places as are free.
        """
        if demand.origin is Origin.OWN and demand.payer and not self.has_room(demand):
            reason = "as many requests of this API key are waiting as there are places left"
            raise QueueFull(reason, self.predict_drained())

    def _make_ticket(self, demand: Demand) -> _Ticket:
        self._arrivals += 1
        expected_s = self.service_times.correct(demand.predicted_s)
        return _Ticket(trio.current_time(), self._arrivals, expected_s, demand)

    async def _acquire(self, ticket: _Ticket) -> None:
        demand, queue = ticket.demand, self._queues[ticket.demand.origin]
        is_within = self._is_within_limit(ticket)
        if self.running < self.slots and is_within and self._find_next() is None:
            self.running += 1
            self._begin(ticket)
            return
        if self._lent and is_within:
            loser, _ = self._lent.popitem()  # the latest, which has done least
            loser.cancel()
        elif len(queue) >= self.max_queue:
            raise QueueFull(f"{len(queue)} requests are waiting already", self.predict_drained())
        elif demand.max_wait_s < math.inf:
            wait = self.predict_wait(demand)
            if wait > demand.max_wait_s:
                raise TooLate(
                    f"a slot is expected in {wait:.0f} s, and the request can wait for {demand.max_wait_s:.0f} s",
                    self.predict_drained(),
                )
        handed_over = ticket.handed_over = trio.Event()
        queue.add(ticket)
        try:
            with trio.move_on_after(demand.max_wait_s):
                await handed_over.wait()
        except trio.Cancelled:
            if handed_over.is_set():  # in the moment of cancellation
                self._release(ticket)
            else:
                queue.remove(ticket)
            raise
        if not handed_over.is_set():
            queue.remove(ticket)
            raise TooLate(f"no slot was free in {demand.max_wait_s:.0f} s", self.predict_drained())

    def _get_limit(self, demand: Demand) -> int | None:
        quota = self._quotas.get(demand.model)
        if quota is None:
            return None
        return quota.max_own if demand.origin is Origin.OWN else quota.max_delegated

    def _is_within_limit(self, ticket: _Ticket) -> bool:
        limit = self._get_limit(ticket.demand) if self._quotas else None
        return limit is None or self._groups[ticket.group] < limit

    def _find_next(self) -> _Ticket | None:
        """The request to get the next slot."""
        if not any(self._queues.values()):
            return None
        firsts = [next(filter(self._is_within_limit, queue), None) for queue in self._queues.values()]
        own, delegated = firsts
        if own is None or delegated is None:
            return own or delegated
        return own if self.prioritize_own or own.key < delegated.key else delegated

    def _hand_over(self, ticket: _Ticket) -> None:
        """Give a slot, which counts as running already, to a request that waits."""
        self._queues[ticket.demand.origin].remove(ticket)
        self._begin(ticket)
        assert ticket.handed_over is not None
        ticket.handed_over.set()

    def _begin(self, ticket: _Ticket) -> None:
        ticket.started_at = trio.current_time()
        self._working[ticket] = None
        self._groups[ticket.group] += 1

    def _release(self, ticket: _Ticket) -> None:
        del self._working[ticket]
        self._groups[ticket.group] -= 1
        if not self._groups[ticket.group]:
            del self._groups[ticket.group]
        self._pass_on()

    def _pass_on(self) -> None:
        """Hand a slot to the next request, or free it."""
        self.running -= 1
        self.refill()


class Slot:
    """A slot of a backend, held within the context; entering it raises what :meth:`Admission.take` does."""

    def __init__(self, admission: Admission, demand: Demand) -> None:
        self._admission = admission
        self._demand = demand

    async def __aenter__(self) -> None:
        self._ticket = await self._admission.take(self._demand)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.leave(is_done=kind is None)

    def leave(self, *, is_done: bool) -> None:
        """Give the slot back; ``is_done``: the request was carried out."""
        self._admission.give_back(self._ticket, is_done=is_done)
