"""The backends of this node, tried one after the other until the content of an answer begins.

A stream is held back until its first content, and any other answer until it is whole. An event that only names a role
is not content. So until then nothing has gone out that another answer would contradict. :mod:`serving.failover.rules`
says what counts as a failure, and which errors go to the user.

Requests of users and of other nodes both come here, so that both survive a failed backend. A failed try has released
its slot and closed its connection before the next begins.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing

import msgspec
import structlog
import trio

from serving.backends.backend import CONTINUATION, BackendError, ErrorEventSent
from serving.failover.rules import Next, Outcome, judge_status, judge_whole
from serving.openai.answers import EVENT_STREAM, MAX_EVENT_BYTES, Answer, AnswerInspector, WholeBody
from serving.openai.errors import bad_gateway, too_many_requests, unavailable
from serving.openai.event_writer import write_events
from serving.openai.requests import Request
from serving.prediction.output_length import AnswerLength
from serving.prediction.predicted_time import BYTES_PER_TOKEN
from serving.prediction.speed import AnswerTimer
from serving.scheduling.admission import Demand, NotAdmitted, QueueFull
from serving.scheduling.backend_pool import ScheduledBackend

log = structlog.get_logger(__name__)

MAX_PAUSE_S = 120.0
"""Seconds for which a backend may send bytes without content for the user."""
NO_ENDPOINT = (404, 405, 501)
"""Statuses of a server without completions or embeddings. They are no fault of that server."""


class BadAnswer(BackendError):
    """The answer of a backend is not valid: it contains an error, or is malformed, too long or cut."""


class TryFailed(BackendError):
    """One backend failed before any content. ``answer`` is the error that it answered with, if any."""

    def __init__(self, message: str, outcome: Outcome, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.answer = answer


class BackendsFailed(BackendError):
    """No backend delivered; ``failures`` has one or more, in order."""

    def __init__(self, failures: Sequence[TryFailed]) -> None:
        super().__init__("; ".join(map(str, failures)))
        others = [failure for failure in failures if failure.outcome is not Outcome.CONTEXT]
        self.answer = next((each.answer for each in others or failures if each.answer is not None), None)
        """The first error that a backend answered with; "the prompt is too long" only if all of them say so."""


class Tries(msgspec.Struct, frozen=True, gc=False):
    """What to ask of backends. ``body`` is the request's own, or one that also asks for log-probabilities.

    ``patience_s`` bounds the time of each backend from its slot to its content. It does not bound the last one, unless
    ``is_last`` is False: then another node can be asked after it. ``withhold_usage`` hides the usage from a user that
    did not ask for it.
    """

    request: Request
    body: bytes
    demand: Demand
    patience_s: float = math.inf
    is_last: bool = True
    withhold_usage: bool = False


class Begun(msgspec.Struct, frozen=True):
    """An answer whose content has begun. The body of ``answer`` is the rest, after the ``held`` bytes.

    Of a stream, ``inspector`` has seen the held bytes, and let ``passed`` through; of another answer it has seen
    nothing. ``is_streamed``: the backend writes it piece by piece, so that its speed can be measured.
    """

    backend: ScheduledBackend
    answer: Answer
    held: bytes
    inspector: AnswerInspector
    passed: bytes
    is_streamed: bool

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The whole body, as it came."""
        if self.held:
            yield self.held
        async for chunk in self.answer.body:
            yield chunk


def find_continuing(
    backends: Sequence[ScheduledBackend], request: Request, cut: Sequence[object]
) -> list[ScheduledBackend]:
    """Those of ``backends`` that can be asked for the rest of an answer with ``request``, without those ``cut`` in
    it."""
    return [
        each
        for each in backends
        if CONTINUATION not in request.features or CONTINUATION in each.backend.get_limits(request.model).features
        if all(each is not other for other in cut)
    ]


def describe_failure(error: NotAdmitted | BackendsFailed) -> tuple[Answer, AnswerInspector]:
    """The answer to a request that no backend serves: the error of a backend, unchanged, if there is one.

    Raises:
        ApiError: there is none. 429 for a full queue, 503 for no slot in time, 502 for a backend that broke.
    """
    if isinstance(error, NotAdmitted):
        refuse = too_many_requests if isinstance(error, QueueFull) else unavailable
        raise refuse(f"This node is busy: {error}.", error.retry_after_s) from error
    if error.answer is None:
        raise bad_gateway(f"The backend failed: {error}.") from error
    return error.answer, AnswerInspector(stream=False)


async def ask_backends(
    stack: AsyncExitStack,
    backends: Sequence[ScheduledBackend],
    tries: Tries,
    on_slot: Callable[[], None] = lambda: None,
    on_failure: Callable[[], None] = lambda: None,
) -> Begun:
    """The answer of the first of ``backends`` that delivers, once its content begins. ``on_slot`` is called when one
    has a slot, ``on_failure`` when one fails.

    The slot and the connection are released when ``stack`` is closed. So the slots also bound how many whole answers
    are kept for users who do not read.

    Raises:
        NotAdmitted: no backend has a slot for it.
        BackendsFailed: none delivers.
    """
    failures: list[TryFailed] = []
    refusal: NotAdmitted | None = None
    for place, backend in enumerate(backends):
        is_patient = tries.is_last and place == len(backends) - 1
        patience_s = math.inf if is_patient else tries.patience_s
        try:
            return await _try(stack, backend, tries, patience_s, on_slot)
        except NotAdmitted as error:
            refusal = refusal or error
        except TryFailed as error:
            log.info("a backend did not deliver", model=tries.request.model, reason=str(error))
            failures.append(error.with_traceback(None))  # which would hold this frame, and that the request
            on_failure()
    if refusal is not None and not failures:
        try:
            raise refusal
        finally:
            del refusal  # it holds this frame, which must not hold it
    raise BackendsFailed(failures)


async def _try(
    stack: AsyncExitStack,
    backend: ScheduledBackend,
    tries: Tries,
    patience_s: float,
    on_slot: Callable[[], None],
) -> Begun:
    """Ask one backend until its content begins. The rest of its answer is closed with ``stack``.

    It has ``patience_s`` from its slot on, or longer if it shows that requests wait in it.

    Raises:
        NotAdmitted: it has no slot.
        TryFailed: it does not deliver.
    """
    async with AsyncExitStack() as opened:
        scope = opened.enter_context(trio.CancelScope())
        try:
            begun = await _begin(opened, scope, backend, tries, patience_s, on_slot)
        finally:
            backend.silent.end(scope)
        stack.push_async_exit(opened.pop_all())
        return begun
    backend.breaker.note_failure(trio.current_time())
    raise TryFailed(f"no content within {patience_s:.0f} s", Outcome.BROKEN)


async def _begin(
    opened: AsyncExitStack,
    scope: trio.CancelScope,
    backend: ScheduledBackend,
    tries: Tries,
    patience_s: float,
    on_slot: Callable[[], None],
) -> Begun:
    """Wait for the first content of a backend's answer; its resources are closed with ``opened``.

    ``scope`` is cancelled if that takes too long.
    """
    request = tries.request

    def note_slot() -> None:
        if patience_s < math.inf:
            backend.silent.begin(scope, patience_s, trio.current_time())
        if request.stream:
            reading.enter_context(backend.meter.reading(request.model, len(request.body), request.prefixes))
        on_slot()

    with ExitStack() as reading:
        serving = backend.complete(request.path, tries.body, tries.demand, stream=request.stream, on_slot=note_slot)
        try:
            answer = await opened.enter_async_context(serving)
            is_streamed = answer.is_stream
            if answer.status == 200 and is_streamed != request.stream:
                answer = await _write_as_stream(answer, request)
            is_stream = answer.is_stream and answer.status == 200
            inspector = AnswerInspector(
                answer.is_stream,
                form=request.endpoint.form,
                choices=request.choices,
                has_tools=request.has_tools,
                withhold_usage=tries.withhold_usage,
            )
            hold_back = _hold_back_stream(answer, inspector) if is_stream else _hold_back_whole(answer, inspector)
            held, passed = await hold_back
        except BackendError as error:
            _note_fault(backend, is_doubt=isinstance(error, BadAnswer) and tries.demand.is_of_stranger)
            raise TryFailed(str(error), Outcome.BROKEN) from error
    if scope.cancel_called:  # at the same moment: no other try may come after content has gone out
        await trio.lowlevel.checkpoint()
    if patience_s < math.inf:
        scope.deadline = math.inf
    outcome = judge_status(answer.status, held)
    if outcome is not None and outcome.rule.next is Next.ELSEWHERE:
        if request.endpoint.feature is None or answer.status not in NO_ENDPOINT:
            _note(backend, outcome, answer.retry_after_s, is_doubt=tries.demand.is_of_stranger)
        whole = Answer(answer.status, answer.content_type, WholeBody(held), answer.retry_after_s)
        raise TryFailed(f"the backend answered {answer.status}", outcome, whole)
    if is_stream:
        answer.body = await opened.enter_async_context(aclosing(_pass_on(answer.body, backend)))
    else:
        answer.body = WholeBody()
        backend.breaker.note_answer()
    return Begun(backend, answer, held, inspector, passed, is_streamed)


async def inspect_answer(begun: Begun, timer: AnswerTimer, length: AnswerLength) -> AsyncGenerator[bytes, None]:
    """The bytes of a backend's answer for the user; the answer is timed and measured.

    Raises:
        BackendError: it broke off, or ended too early.
    """
    inspector, breaker, body = begun.inspector, begun.backend.breaker, begun.answer.body
    content_at = trio.current_time()
    timer.feed(content_at, len(begun.held))
    passed = begun.passed if inspector.is_stream else inspector.feed(begun.held)
    if passed:
        yield passed
    async for chunk in body:
        now = trio.current_time()
        timer.feed(now, len(chunk))
        passed = inspector.feed(chunk)
        length.grow(inspector.completion_bytes)
        if inspector.is_over:  # users hang up on the closing event
            breaker.note_answer()
        if passed:
            yield passed
            content_at = trio.current_time()
            timer.note_taken(content_at, content_at - now)
            begun.answer.gather(begun.backend.gathering_s)
        elif now - content_at > MAX_PAUSE_S:
            breaker.note_failure(now)
            raise BackendError("the backend sent nothing of the answer for too long")
        if inspector.error is not None:  # what may come after an error contradicts it
            breaker.note_failure(now)
            raise ErrorEventSent(inspector.error)
    if rest := inspector.finish():
        yield rest
    if inspector.error is not None:
        raise ErrorEventSent(inspector.error)
    if inspector.is_stream and not inspector.is_complete:
        breaker.note_failure(trio.current_time())
        raise BackendError("the answer ended too early")
    _note_whole(inspector, timer, length)


def inspect_whole(begun: Begun, timer: AnswerTimer, length: AnswerLength) -> bytes:
    """The same for an answer that is not a stream: it has come as a whole, within the limit."""
    inspector = begun.inspector
    timer.feed(trio.current_time(), len(begun.held))
    inspector.feed(begun.held)
    body = inspector.finish()
    _note_whole(inspector, timer, length)
    return body


def _note_whole(inspector: AnswerInspector, timer: AnswerTimer, length: AnswerLength) -> None:
    """Learn from an answer that has come to its end."""
    timer.finish(inspector.completion_bytes / BYTES_PER_TOKEN)
    if inspector.is_complete:
        length.end(inspector.completion_bytes, is_cut_off=inspector.finish_reason == "length")


async def _hold_back_stream(answer: Answer, inspector: AnswerInspector) -> tuple[bytes, bytes]:
    """A stream up to its first content: the bytes as they came, and those that ``inspector`` lets through.

    Raises:
        BackendError: it broke off, or ended without being complete.
    """
    held, passed = bytearray(), bytearray()
    async for chunk in answer.body:
        held += chunk
        passed += inspector.feed(chunk)
        if inspector.error is not None:
            raise BadAnswer(inspector.error)
        if inspector.is_malformed:
            raise BadAnswer("the answer begins with an event that is not JSON")
        if inspector.completion_bytes or len(held) > MAX_EVENT_BYTES:
            return bytes(held), bytes(passed)
    passed += inspector.finish()
    if not inspector.is_complete:
        raise BadAnswer(inspector.error or "the answer ended too early")
    return bytes(held), bytes(passed)


async def _hold_back_whole(answer: Answer, inspector: AnswerInspector) -> tuple[bytes, bytes]:
    """The whole of an answer that is not streamed.

    Raises:
        BackendError: it broke off, or is malformed.
    """
    held = bytearray()
    async for chunk in answer.body:
        held += chunk
        if len(held) > inspector.max_bytes:
            raise BadAnswer(f"the answer is longer than {inspector.max_bytes} bytes")
    if answer.status == 200 and (fault := judge_whole(bytes(held))) is not None:
        raise BadAnswer(fault)
    return bytes(held), b""


async def _write_as_stream(answer: Answer, request: Request) -> Answer:
    """The answer in one piece of a backend that was asked for a stream, written as a stream.

    Raises:
        BackendError: it broke off, is malformed, or is no answer; or it is a stream that was not asked for.
    """
    if answer.is_stream:
        raise BadAnswer("the backend streams an answer that was asked for in one piece")
    form = request.endpoint.form
    whole, _ = await _hold_back_whole(answer, AnswerInspector(stream=False, form=form))
    try:
        events = write_events(whole, form, request.choices)
    except ValueError as error:
        raise BadAnswer(str(error)) from error
    return Answer(200, EVENT_STREAM, WholeBody(events))


def _note(backend: ScheduledBackend, outcome: Outcome, retry_after_s: float, *, is_doubt: bool) -> None:
    """Note in the breaker of a backend that it answered with an error."""
    if outcome.rule.is_fault:
        _note_fault(backend, is_doubt=is_doubt)
    now = trio.current_time()
    if outcome is Outcome.BUSY or (retry_after_s and outcome is Outcome.SERVER_ERROR):
        backend.breaker.note_busy(now, retry_after_s)


def _note_fault(backend: ScheduledBackend, *, is_doubt: bool) -> None:
    """Note that a backend failed; ``is_doubt``: the request may be the cause
    (:mod:`serving.scheduling.backend_check`)."""
    if is_doubt:
        backend.breaker.note_doubt()
    else:
        backend.breaker.note_failure(trio.current_time())


async def _pass_on(rest: AsyncIterator[bytes], backend: ScheduledBackend) -> AsyncGenerator[bytes, None]:
    """The rest of the body of an answer; how it ends is noted in the breaker."""
    try:
        async for chunk in rest:
            yield chunk
    except BackendError:
        backend.breaker.note_failure(trio.current_time())
        raise
    backend.breaker.note_answer()
