"""The market of one node: what becomes of a user's request.

Admission, policy and router meet here: the policy says whether to serve a request here or to offload it; whatever
cannot be offloaded is served here if it can be, and refused with a clear error if not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio

from p2p.runtime import Runtime
from serving.accounting.payments import CannotAfford, TooManyPayments
from serving.backends.backend import BackendError
from serving.offload.originator import NoExecutor, Originator
from serving.openai.errors import (
    ApiError,
    bad_gateway,
    insufficient_quota,
    model_not_found,
    too_many_requests,
    unavailable,
)
from serving.openai.requests import Request
from serving.scheduling.admission import Origin, QueueFull
from serving.scheduling.backend_pool import BackendPool, ScheduledBackend
from serving.scheduling.policy import Decision, Policy

log = structlog.get_logger(__name__)

MAX_RECORDS = 1024


@dataclass(slots=True)
class RequestRecord:
    """What became of one request, for the owner's eyes. Times in seconds of the node's monotonic clock."""

    id: str
    model: str
    started: float
    executor: bytes | None = None
    """None: served here."""
    attempt: int = 0
    hold_id: bytes | None = None
    first_byte: float | None = None
    finished: float | None = None
    completion_tokens: int = 0
    outcome: str = "running"


@dataclass(slots=True)
class Reply:
    """An answer on its way to the user. ``body`` may be iterated once and raises BackendError if it breaks off."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]
    record: RequestRecord


@dataclass(slots=True)
class Counters:
    """Requests by what became of them."""

    local: int = 0
    offloaded: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    completed: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class Dispatcher:
    """Serves the requests of this node's users."""

    backend_pool: BackendPool
    policy: Policy
    originator: Originator
    runtime: Runtime
    counters: Counters = field(default_factory=Counters)
    records: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=MAX_RECORDS))

    async def get_models(self) -> list[str]:
        """Every model that this node serves or can offload to others, sorted."""
        return sorted({*await self.backend_pool.get_models(), *self.originator.get_models()})

    @asynccontextmanager
    async def complete(self, request: Request) -> AsyncIterator[Reply]:
        """Answer a request. Leaving the context early cancels the work wherever it is done.

        Raises:
            ApiError: it cannot be answered.
        """
        begun = False
        record = RequestRecord(f"req-{self.runtime.random.getrandbits(64):016x}", request.model, trio.current_time())
        self.records.append(record)
        try:
            async with AsyncExitStack() as stack:
                reply = await self._begin(stack, request, record)
                reply.body = await stack.enter_async_context(aclosing(_timed(reply.body, record)))
                begun = True
                yield reply
                if record.outcome == "running":
                    record.outcome = "completed" if reply.status == 200 else "error"
        except ApiError:
            record.outcome = "failed" if begun else "refused"
            raise
        except Exception:
            record.outcome = "failed"
            raise
        finally:
            record.finished = trio.current_time()
            if record.outcome == "running":
                record.outcome = "cancelled"
            self._count(record)

    def _count(self, record: RequestRecord) -> None:
        self.counters.completed += record.outcome == "completed"
        self.counters.failed += record.outcome == "failed"
        self.counters.refused += record.outcome == "refused"
        self.counters.cancelled += record.outcome == "cancelled"
        self.counters.completion_tokens += record.completion_tokens

    async def _begin(self, stack: AsyncExitStack, request: Request, record: RequestRecord) -> Reply:
        service = await self.backend_pool.find(request.model)
        can_offload = not request.local_only and self.originator.has_executors(request.model)
        if service is None and not can_offload:
            if self.backend_pool.names(request.model):
                raise unavailable(f"The backend of '{request.model}' does not answer.")
            raise model_not_found(request.model)
        refusal: ApiError | None = None
        if can_offload and (service is None or await self._wants_offload(service, request)):
            try:
                return await self._offload(stack, request, record)
            except CannotAfford as error:
                refusal = insufficient_quota(f"This node's account cannot pay: {error}.")
            except TooManyPayments as error:
                refusal = unavailable(f"This node cannot offload at the moment: {error}.")
            except NoExecutor as error:
                refusal = unavailable(f"No executor took the request: {error}.")
        if service is None:
            assert refusal is not None
            raise refusal
        if refusal is not None:
            log.info("served here after all", request=record.id, reason=str(refusal))
        return await self._serve(stack, service, request, record)

    async def _wants_offload(self, service: ScheduledBackend, request: Request) -> bool:
        load = await service.get_load_snapshot(request.model)
        return self.policy.decide_request(load, self.runtime.random) is Decision.OFFLOAD

    async def _offload(self, stack: AsyncExitStack, request: Request, record: RequestRecord) -> Reply:
        answer = await stack.enter_async_context(self.originator.complete(request))
        self.counters.offloaded += 1
        record.executor, record.attempt, record.hold_id = answer.executor, answer.attempt, answer.hold_id
        return Reply(answer.status, answer.content_type, answer.body, record)

    async def _serve(
        self, stack: AsyncExitStack, service: ScheduledBackend, request: Request, record: RequestRecord
    ) -> Reply:
        try:
            response = await stack.enter_async_context(service.complete(request.path, request.body, Origin.OWN))
        except QueueFull as error:
            raise too_many_requests(f"This node is busy: {error}.") from error
        except BackendError as error:
            raise bad_gateway(f"The backend failed: {error}.") from error
        self.counters.local += 1
        return Reply(response.status, response.content_type, response.body, record)


async def _timed(body: AsyncIterator[bytes], record: RequestRecord) -> AsyncGenerator[bytes, None]:
    async for chunk in body:
        if record.first_byte is None:
            record.first_byte = trio.current_time()
        yield chunk
