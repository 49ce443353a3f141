"""A backend without a GPU: the modelled engine of ``continuous_batch`` behind the same interface, for simulations.

It answers valid OpenAI chat completions, streamed or not, whose text says nothing. Time is trio's clock, so that under
``MockClock`` hundreds of nodes serve for hours in seconds. Tokens of a stream arrive in bursts (the first alone, then
one burst per report of the engine), with the text of each token intact. Its load is what a node reads of a real server:
a metrics page about once a second, and the count of the node's own requests since.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from p2p.runtime import Runtime
from serving.backends.backend import BackendError, Load, ModelLimits
from serving.backends.load_metrics import MetricsPage, compute_full_load, compute_load, parse_vllm
from serving.backends.openai_compatible import METRICS_READ_INTERVAL_S
from serving.openai.answers import Answer, WholeBody
from serving.openai.errors import ApiError
from serving.openai.requests import CHAT_COMPLETIONS
from serving.simulation.continuous_batch import ContinuousBatch
from serving.simulation.gpu_curves import GpuCurve
from serving.simulation.modelled_requests import (
    TOKEN,
    Call,
    OutputLength,
    make_metrics_page,
    make_usage,
    parse_call,
)

ROUNDING_S = 1e-9
"""A clock that wakes a task at a deadline may read this much less than it."""


@dataclass(slots=True)
class _Answer:
    """Progress of one request: the engine writes, the reader of the body waits."""

    id: int
    created: int
    call: Call
    tokens: int = 0
    cached: int = 0
    finished: bool = False
    broken: bool = False
    changed: trio.Event = field(default_factory=trio.Event)

    def update(self, tokens: int, finished: bool, broken: bool = False) -> None:
        self.tokens, self.finished, self.broken = tokens, finished, broken
        self.changed.set()

    async def progress(self, seen: int) -> None:
        """Wait for more than ``seen`` tokens.

        Raises:
            BackendError: the backend has stopped.
        """
        while self.tokens == seen and not self.broken:
            self.changed = trio.Event()
            await self.changed.wait()
        if self.broken:
            raise BackendError("the modelled backend stopped")


class ModelledBackend:
    """One modelled GPU. :meth:`stop` and :meth:`start` let a simulation take it down and bring it back."""

    def __init__(
        self,
        curve: GpuCurve,
        runtime: Runtime,
        *,
        models: tuple[str, ...] = (),
        capacity: int | None = None,
        default_tokens: int = 256,
        report_interval: float = 2.0,
        output_length: OutputLength | None = None,
    ) -> None:
        """``models``: names it answers to (default: the curve's). ``capacity``: running requests that count as full."""
        self._batch = ContinuousBatch(curve, report_interval)
        self._curve = curve
        self._runtime = runtime
        self._models = models or (curve.model,)
        self._capacity = capacity or curve.max_running
        self._default_tokens = default_tokens
        self._report_interval = report_interval
        self._output_length = output_length
        self._answers: dict[int, _Answer] = {}
        self._count = 0
        self._running = trio.Event()
        self._running.set()
        self._wake = trio.Event()
        self._page_text = ""
        self._page: MetricsPage | None = None
        self._own_at_page = 0
        self._read_page()

    @property
    def models(self) -> tuple[str, ...]:
        """The names it answers to."""
        return self._models

    def make_metrics_page(self) -> str:
        """What a server of this kind would show at ``/metrics``."""
        batch, tokens = self._batch, self._curve.kv_capacity
        busy = batch.running, batch.waiting, batch.cache_usage, batch.preemptions
        return make_metrics_page(self._models[0], *busy, tokens)

    def get_load(self) -> Load:
        """See :meth:`serving.backends.backend.Backend.get_load`."""
        if not self._running.is_set():
            return compute_full_load(len(self._answers), self._capacity)
        return compute_load(self._page, self._own_at_page, len(self._answers), self._capacity)

    def get_limits(self, model: str) -> ModelLimits:
        """See :meth:`serving.backends.backend.Backend.get_limits`."""
        length = min(self._curve.context_length, self._curve.kv_capacity)
        return ModelLimits(length, frozenset({"tools", "vision", "logprobs"}))

    def is_alive(self) -> bool:
        """Whether it has not been stopped."""
        return self._running.is_set()

    async def wait_alive(self) -> None:
        """Return once it has been started."""
        if not self._running.is_set():
            await self._running.wait()

    def stop(self) -> None:
        """Die: every answer under way breaks off, and further requests fail."""
        self._running = trio.Event()
        for answer in self._answers.values():
            answer.update(answer.tokens, finished=False, broken=True)
        self._batch = ContinuousBatch(self._curve, self._report_interval)

    def start(self) -> None:
        """Come back, empty."""
        self._running.set()

    async def run(self) -> None:
        """Drive the engine, and read its metrics page now and then, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_pages)
            while True:
                self._advance()
                self._wake = trio.Event()
                event = self._batch.next_event()
                with trio.CancelScope(deadline=float("inf") if event is None else event):
                    await self._wake.wait()

    async def _read_pages(self) -> None:
        while True:
            await trio.sleep(METRICS_READ_INTERVAL_S)
            self._read_page()

    def _read_page(self) -> None:
        text = self.make_metrics_page()
        if text != self._page_text:
            self._page_text, self._page = text, parse_vllm(text)
        self._own_at_page = len(self._answers)

    def _advance(self) -> None:
        for report in self._batch.advance(trio.current_time() + ROUNDING_S):
            if (answer := self._answers.get(report.id)) is not None:
                answer.cached = report.cached
                answer.update(report.tokens, report.finished)

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        """See :meth:`serving.backends.backend.Backend.complete`. A request it refuses is answered with the error."""
        if not self._running.is_set():
            raise BackendError("the modelled backend is stopped")
        try:
            call = self._parse(path, body)
        except ApiError as error:
            yield Answer(error.status, "application/json", WholeBody(error.body()))
            return
        answer = _Answer(self._count, self._runtime.now() // 1000, call)
        self._count += 1
        self._advance()
        self._batch.submit(trio.current_time(), answer.id, call.prompt, call.output, call.names)
        self._answers[answer.id] = answer
        self._wake.set()
        try:
            if call.stream:
                yield Answer(200, "text/event-stream", _Events(answer))
            else:
                while not answer.finished:
                    await answer.progress(answer.tokens)
                yield Answer(200, "application/json", WholeBody(_completion(answer)))
        finally:
            del self._answers[answer.id]
            if not answer.finished and not answer.broken:
                self._advance()
                self._batch.cancel(trio.current_time(), answer.id)
                self._wake.set()

    def _parse(self, path: str, body: bytes) -> Call:
        """Read a request.

        Raises:
            ApiError: it is not a chat completion of one of the models that fits.
        """
        if path != CHAT_COMPLETIONS:
            raise ApiError(404, f"The modelled backend only serves {CHAT_COMPLETIONS}.", "invalid_request_error")
        return parse_call(body, self._models, self._curve, self._default_tokens, self._output_length)


def _head(answer: _Answer, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{answer.id}", "object": kind, "created": answer.created, "model": answer.call.model}


def _usage(answer: _Answer) -> dict[str, Any]:
    return make_usage(answer.call, answer.tokens, answer.cached)


def _finish_reason(answer: _Answer) -> str:
    return "length" if answer.call.is_cut else "stop"


def _completion(answer: _Answer) -> bytes:
    message = {"role": "assistant", "content": TOKEN * answer.tokens}
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer)}
    return json.dumps({**_head(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer)}).encode()


def _chunk(answer: _Answer, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _event({**_head(answer, "chat.completion.chunk"), "choices": [choice]})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


class _Events:
    """The events of a streamed answer, one piece for each burst of tokens.

    A class, not a generator: one left unfinished would be closed by the garbage collector, at a time of its choosing.
    """

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._sent = 0

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> bytes:
        answer, sent = self._answer, self._sent
        if answer.finished and sent == answer.tokens:
            raise StopAsyncIteration
        await answer.progress(sent)
        self._sent = answer.tokens
        role = {"role": "assistant"} if sent == 0 else {}
        events = _chunk(answer, {**role, "content": TOKEN * (answer.tokens - sent)})
        if not answer.finished:
            return events
        events += _chunk(answer, {}, _finish_reason(answer))
        if answer.call.include_usage:
            events += _event({**_head(answer, "chat.completion.chunk"), "choices": [], "usage": _usage(answer)})
        return events + b"data: [DONE]\n\n"
