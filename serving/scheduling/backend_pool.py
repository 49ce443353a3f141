"""What this node serves itself: for each model a backend, and the slots and queues in front of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

import trio

from serving.backends.backend import Backend, Load, LoadedBackend, WeightedBackend
from serving.openai.answers import Answer
from serving.openai.number_formats import NumberFormats, classify, join_formats
from serving.prediction.predicted_time import ServiceSpeed
from serving.prediction.speed import SpeedMeter
from serving.scheduling.admission import Admission, Demand, Origin
from serving.scheduling.backend_check import check_backend
from serving.scheduling.circuit_breaker import CircuitBreaker
from serving.scheduling.policy import LoadSnapshot, Policy, PolicyParameters
from serving.scheduling.silent_answers import SilentAnswers

REFILL_INTERVAL_S = 1.0
"""Seconds between two looks at the room of a backend: about the age of the load that it reports."""


GATHERED_FROM = 32
"""Concurrent requests from which on the pieces of their streams are gathered."""
GATHERING_S_PER_REQUEST, MAX_GATHERING_S = 0.00025, 0.02
"""For how long: a node with many streams then wakes up for them at most four thousand times a second."""


@dataclass(frozen=True, slots=True)
class ScheduledBackend:
    """One backend with its admission and its circuit breaker."""

    backend: Backend
    admission: Admission
    weight: float = 1.0
    """Its share of requests relative to its capacity: with 2 it gets twice as many for each slot as with 1."""
    meter: SpeedMeter = field(default_factory=SpeedMeter)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    silent: SilentAnswers = field(default_factory=SilentAnswers)

    def get_speed(self, model: str) -> ServiceSpeed:
        """How busy it is, with other users of the backend if it reports them, and how fast it has been recently."""
        load, slots, own = self.backend.get_load(), self.admission.slots, self.admission.requests
        known, limits = self.meter.get(model), self.backend.get_limits(model)
        running, waiting = max(min(own, slots), load.running), max(own - slots, load.waiting, 0)
        return ServiceSpeed(
            running=running,
            waiting=waiting,
            slots=slots,
            prefill_rate=known.prefill_rate,
            decode_rate=known.decode_rate,
            context_length=limits.context_length,
            features=limits.features,
            number_formats=classify(limits.quantization),
            cache_tokens=load.cache_tokens,
        )

    def get_number_formats(self, model: str) -> NumberFormats:
        """In which it serves a model."""
        return classify(self.backend.get_limits(model).quantization)

    @property
    def relative_load(self) -> float:
        """Requests, the next one included, divided by slots and by weight: the backend with the least is asked next."""
        return (self.admission.utilization + 1 / self.admission.capacity) / self.weight

    @property
    def gathering_s(self) -> float:
        """Seconds for which the pieces of a stream are gathered after its beginning; 0: each is passed on as it comes.

        A piece costs a node about the same with one event as with ten.
        """
        running = self.admission.running
        return min(MAX_GATHERING_S, running * GATHERING_S_PER_REQUEST) if running >= GATHERED_FROM else 0.0

    @property
    def shows_queue(self) -> bool:
        """Whether it is seen how many requests wait in the backend."""
        return self.backend.get_load().known

    @property
    def is_backlogged(self) -> bool:
        """Whether requests wait in the backend itself. If its cache is full, some of them may have begun."""
        return self.backend.get_load().waiting > 0

    def get_load_snapshot(self, model: str) -> LoadSnapshot:
        """What the policy decides by. Utilization is the larger of the backend's own and that of the slots."""
        load = self.backend.get_load()
        admission = self.admission
        return LoadSnapshot(
            model=model,
            utilization=max(load.utilization, admission.utilization),
            own_queue=admission.waiting(Origin.OWN),
            delegated_queue=admission.waiting(Origin.DELEGATED),
        )

    def complete(
        self, path: str, body: bytes, demand: Demand, *, stream: bool, on_slot: Callable[[], None] = lambda: None
    ) -> AdmittedRequest:
        """A context that waits for a slot, then asks the backend. ``on_slot`` is called in between.

        Entering it raises:
            NotAdmitted: it gets no slot.
            BackendError: the backend does not answer.
        """
        return AdmittedRequest(self, partial(self.backend.complete, path, body, stream=stream), demand, on_slot)


class AdmittedRequest:
    """A request to a backend, which has a slot within the context."""

    def __init__(
        self,
        scheduled: ScheduledBackend,
        ask: Callable[[], AbstractAsyncContextManager[Answer]],
        demand: Demand,
        on_slot: Callable[[], None],
    ) -> None:
        self._scheduled = scheduled
        self._ask = ask
        self._slot = scheduled.admission.slot(demand)
        self._on_slot = on_slot

    async def __aenter__(self) -> Answer:
        await self._slot.__aenter__()
        try:
            self._on_slot()
            self._scheduled.breaker.begin(trio.current_time())
            self._asked = self._ask()
            return await self._asked.__aenter__()
        except BaseException:
            self._slot.leave(is_done=False)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        is_done = False
        try:
            await self._asked.__aexit__(kind, error, traceback)
            is_done = kind is None
        finally:
            self._slot.leave(is_done=is_done)


def find_room(load: Load, capacity: int) -> int:
    """Requests for which a backend seems to have room: only those that it runs, while others wait in its own queue."""
    return min(capacity, load.running) if load.known and load.waiting else capacity


def _find_room(backend: Backend, capacity: int) -> int:
    return find_room(backend.get_load(), capacity)


async def _follow(scheduled: ScheduledBackend, nursery: trio.Nursery) -> None:
    """Every second, begin one more request if a backend has room again, and extend answers that may wait in it.

    A backend in doubt is checked by a task in ``nursery``.
    """
    backend, breaker = scheduled.backend, scheduled.breaker
    while True:
        await trio.sleep(REFILL_INTERVAL_S)
        scheduled.admission.refill()
        if backend.models and breaker.take_doubt():
            nursery.start_soon(check_backend, backend, backend.models[0], breaker, scheduled.meter)
        if scheduled.is_backlogged:
            scheduled.silent.put_off(trio.current_time(), scheduled.meter.content_at)


class BackendPool:
    """The backends of a node, by model."""

    def __init__(self, backends: Sequence[tuple[Backend, int]], policy: Policy) -> None:
        """``backends``: each with the number of requests that it may run at a time."""
        self._policy = policy
        given = policy.parameters
        self._scheduled = [
            ScheduledBackend(
                backend,
                Admission(
                    capacity,
                    given.max_queue,
                    given.prioritize_own,
                    given.models,
                    partial(_find_room, backend, capacity),
                ),
                backend.weight if isinstance(backend, WeightedBackend) else 1.0,
            )
            for backend, capacity in backends
        ]

    def apply(self, parameters: PolicyParameters) -> None:
        """Have the policy and all queues follow other parameters from now on."""
        self._policy.parameters = parameters
        for admission in self.admissions:
            admission.apply(parameters)

    async def run(self) -> None:
        """Run what the backends need apart from requests."""
        async with trio.open_nursery() as nursery:
            for scheduled in self._scheduled:
                nursery.start_soon(scheduled.backend.run)
                nursery.start_soon(_follow, scheduled, nursery)

    async def wait_alive(self, patience: float) -> None:
        """Wait until the models of this process are loaded, then until every backend is alive. The second wait ends
        after ``patience`` seconds, since another server may be away."""
        for scheduled in self._scheduled:
            if isinstance(scheduled.backend, LoadedBackend):
                await scheduled.backend.wait_loaded()
        with trio.move_on_after(patience):
            for scheduled in self._scheduled:
                await scheduled.backend.wait_alive()

    def get_models(self) -> tuple[str, ...]:
        """Models of the backends that are alive, sorted."""
        alive = [scheduled for scheduled in self._scheduled if scheduled.backend.is_alive()]
        return tuple(sorted({model for scheduled in alive for model in scheduled.backend.models}))

    def get_offered_models(self) -> tuple[str, ...]:
        """Those of the models that other nodes may ask for, within the owner's hours, and that have an unbroken
        backend.

        A model whose backends are only busy is still announced: they decline until they have time.
        """
        now = trio.current_time()
        accepted = filter(self._policy.parameters.accepts, self.get_models())
        return tuple(
            model
            for model in accepted
            if not all(scheduled.breaker.is_withdrawn(now) for scheduled in self.find_all(model))
        )

    @property
    def first_model(self) -> str | None:
        """The first model of the first backend that names any, alive or not."""
        return next((scheduled.backend.models[0] for scheduled in self._scheduled if scheduled.backend.models), None)

    def is_configured(self, model: str) -> bool:
        """Whether a backend serves ``model``, alive or not."""
        return any(model in scheduled.backend.models for scheduled in self._scheduled)

    def find(self, model: str) -> ScheduledBackend | None:
        """The backend of ``model`` to ask first; None if none is alive."""
        found = self.order(model)
        return found[0] if found else None

    def order(self, model: str) -> list[ScheduledBackend]:
        """The living backends of ``model`` in the order in which to ask them: by load, with the failing ones at the
        end."""
        found, now = self.find_all(model), trio.current_time()
        if len(found) > 1:
            found.sort(key=lambda each: (each.breaker.is_open(now), each.relative_load))
        return found

    def get_number_formats(self, model: str) -> NumberFormats:
        """In which a model may be served, whichever backend answers."""
        return join_formats(each.get_number_formats(model) for each in self._scheduled if model in each.backend.models)

    def find_all(self, model: str) -> list[ScheduledBackend]:
        """The living backends of ``model``."""
        return [
            scheduled
            for scheduled in self._scheduled
            if model in scheduled.backend.models and scheduled.backend.is_alive()
        ]

    @property
    def scheduled(self) -> Sequence[ScheduledBackend]:
        """All backends, alive or not, in the order of the configuration."""
        return self._scheduled

    @property
    def breakers(self) -> list[CircuitBreaker]:
        """All circuit breakers, for reports."""
        return [scheduled.breaker for scheduled in self._scheduled]

    @property
    def admissions(self) -> list[Admission]:
        """All admissions, for reports."""
        return [scheduled.admission for scheduled in self._scheduled]
