"""Continuous batching on a modelled GPU: which request has how many tokens at what time. No clock, no I/O.

The engine works in steps. A step gives every running stream one token and takes up waiting prompts within a budget
(chunked prefill); a request is admitted, first come first served, when a slot and enough cache are free. Between two
events nothing changes but the contexts, which grow by one token a step, so that a whole run of decode steps is computed
at once: simulating an hour costs what its requests cost, not what its tokens do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from serving.simulation.gpu_curves import GpuCurve


@dataclass(frozen=True, slots=True)
class Progress:
    """At ``time`` (s), request ``id`` has ``tokens`` output tokens; ``finished``: that is all of them."""

    time: float
    id: int
    tokens: int
    finished: bool


@dataclass(slots=True)
class _Stream:
    id: int
    prompt: int
    output: int
    prefilled: int = 0
    tokens: int = 0
    reported_at: float = float("-inf")

    @property
    def size(self) -> int:
        """Cache it may come to need, reserved on admission: the model never preempts."""
        return self.prompt + self.output

    @property
    def decoding(self) -> bool:
        return self.prefilled == self.prompt


@dataclass(frozen=True, slots=True)
class _Phase:
    """Work under way since ``start``: one step that takes up ``prefill``, or ``steps`` plain decode steps."""

    start: float
    end: float
    steps: int
    prefill: tuple[tuple[_Stream, int], ...]


class ContinuousBatch:
    """The engine. Times never go back from call to call; call :meth:`advance` up to ``now`` before anything else."""

    def __init__(self, curve: GpuCurve, report_interval: float = 2.0) -> None:
        """``report_interval`` (s): progress of a stream, between its first and last token, is reported that often."""
        self.curve = curve
        self._report_interval = report_interval
        self._waiting: deque[_Stream] = deque()
        self._running: dict[int, _Stream] = {}
        self._reserved = 0
        self._phase: _Phase | None = None

    @property
    def running(self) -> int:
        """Requests admitted."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests not yet admitted."""
        return len(self._waiting)

    @property
    def cache_usage(self) -> float:
        """Reserved fraction of the key-value cache."""
        return self._reserved / self.curve.kv_capacity

    def next_event(self) -> float | None:
        """The time at which :meth:`advance` will have something to do, or None while there is no work."""
        return self._phase.end if self._phase is not None else None

    def submit(self, now: float, id: int, prompt: int, output: int) -> None:
        """Queue a request of ``prompt`` tokens that will generate ``output`` tokens (both at least 1).

        Raises:
            ValueError: it could never be admitted.
        """
        if prompt < 1 or output < 1 or prompt + output > self.curve.kv_capacity:
            raise ValueError(f"a request of {prompt} + {output} tokens does not fit")
        self._waiting.append(_Stream(id, prompt, output))
        if self._phase is None:
            self._start_phase(now)
        elif self._has_room():
            self._cut_phase(now)

    def cancel(self, now: float, id: int) -> None:
        """Forget a request, at the end of the step under way. Unknown ones are ignored."""
        if (stream := self._running.pop(id, None)) is not None:
            # The phase under way was computed with this stream, whose share of a step is small: it is only shortened.
            self._reserved -= stream.size
            self._cut_phase(now)
        else:
            self._waiting = deque(stream for stream in self._waiting if stream.id != id)

    def advance(self, now: float) -> list[Progress]:
        """Do the work that ends by ``now``; returns what there is to report, in order of time."""
        reports: list[Progress] = []
        while self._phase is not None and self._phase.end <= now:
            phase, self._phase = self._phase, None
            self._finish_phase(phase, reports)
            self._start_phase(phase.end)
        return reports

    # --- phases ---

    def _has_room(self) -> bool:
        return (
            len(self._running) < self.curve.max_running
            and self._reserved + self._waiting[0].size <= self.curve.kv_capacity
        )

    def _start_phase(self, now: float) -> None:
        while self._waiting and self._has_room():
            stream = self._waiting.popleft()
            self._running[stream.id] = stream
            self._reserved += stream.size
        if not self._running:
            return
        streams = [stream for stream in self._running.values() if stream.decoding]
        context = sum(stream.prompt + stream.tokens for stream in streams)
        if len(streams) < len(self._running):
            prefill = self._plan_prefill()
            seconds = self.curve.step_seconds(len(streams), context, sum(tokens for _, tokens in prefill))
            self._phase = _Phase(now, now + seconds, 1, prefill)
            return
        steps = min(stream.output - stream.tokens for stream in streams)
        steps = min(steps, self._steps_within(self._report_interval, steps, len(streams), context))
        self._phase = _Phase(now, now + self.curve.decode_seconds(steps, len(streams), context), steps, ())

    def _plan_prefill(self) -> tuple[tuple[_Stream, int], ...]:
        """Which prompts the next step takes up, and how much of each."""
        budget = self.curve.prefill_budget
        plan = []
        for stream in self._running.values():
            tokens = min(stream.prompt - stream.prefilled, budget)
            if tokens > 0:
                plan.append((stream, tokens))
                budget -= tokens
        return tuple(plan)

    def _steps_within(self, seconds: float, most: int, streams: int, context: int) -> int:
        """The smallest number of decode steps, from 1 to ``most``, that takes at least ``seconds``."""
        low, high = 1, most
        while low < high:
            middle = (low + high) // 2
            if self.curve.decode_seconds(middle, streams, context) >= seconds:
                high = middle
            else:
                low = middle + 1
        return low

    def _cut_phase(self, now: float) -> None:
        """Let the phase under way end with the step under way."""
        phase = self._phase
        if phase is None or phase.steps == 1:
            return
        streams = len(self._running)
        context = sum(stream.prompt + stream.tokens for stream in self._running.values())
        steps = self._steps_within(now - phase.start, phase.steps, streams, context)
        end = max(now, phase.start + self.curve.decode_seconds(steps, streams, context))
        self._phase = _Phase(phase.start, min(end, phase.end), steps, ())

    def _finish_phase(self, phase: _Phase, reports: list[Progress]) -> None:
        """Credit the tokens of ``phase``, report, and let go of finished streams."""
        stepped = [stream for stream in self._running.values() if stream.decoding]
        for stream, tokens in phase.prefill:
            stream.prefilled += tokens
            if stream.decoding:
                stepped.append(stream)  # the step that ends a prefill yields the first token
        for stream in stepped:
            if stream.id not in self._running:
                continue  # cancelled during the step
            stream.tokens += phase.steps
            finished = stream.tokens >= stream.output
            if finished or phase.end - stream.reported_at >= self._report_interval:
                stream.reported_at = phase.end
                reports.append(Progress(phase.end, stream.id, stream.tokens, finished))
            if finished:
                del self._running[stream.id]
                self._reserved -= stream.size
