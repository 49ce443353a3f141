"""Continuous batching on a modelled GPU: which request has how many tokens at what time. No clock, no I/O.

The engine works in steps. A step gives every running stream one token and takes up waiting prompts within a budget
(chunked prefill). A request is admitted, first come first served, when a place is free and the cache has room for its
prompt; its output is not reserved. When the cache is full, the request admitted last gives up its blocks, waits before
all others, and computes its tokens again when there is room (preemption by recomputation). Blocks of the prompt that
are in the cache already cost nothing (prefix cache). The rules are those of vLLM's first version 1 scheduler.

Between two events nothing changes but the contexts, which grow by one token a step, so that a whole run of decode steps
is computed at once: simulating an hour costs what its requests cost, not what its tokens do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from serving.simulation.block_cache import BlockCache
from serving.simulation.gpu_curves import GpuCurve


@dataclass(frozen=True, slots=True)
class Progress:
    """At ``time`` (s), request ``id`` has ``tokens`` output tokens; ``finished``: that is all of them.

    ``cached`` tokens of its prompt were in the prefix cache when it was admitted.
    """

    time: float
    id: int
    tokens: int
    finished: bool
    cached: int = 0


@dataclass(slots=True)
class _Stream:
    id: int
    prompt: int
    output: int
    names: Sequence[int]  # of the full blocks of prompt and output, as far as known
    tokens: int = 0
    goal: int = 0  # tokens to take up before it decodes: the prompt, and after preemption the output so far
    prefilled: int = 0
    cached: int = 0
    shared: list[int] = field(default_factory=list)  # names of the blocks it uses
    nameless: int = 0  # other blocks it uses
    offered: int = 0  # leading blocks that have been named or found
    reported_at: float = float("-inf")

    @property
    def size(self) -> int:
        return self.prompt + self.tokens

    @property
    def decoding(self) -> bool:
        return self.prefilled == self.goal

    @property
    def blocks(self) -> int:
        """Blocks of the cache it uses."""
        return len(self.shared) + self.nameless


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
        self.preemptions = 0
        self._report_interval = report_interval
        self._cache = BlockCache(curve.kv_capacity // curve.block)
        self._host_free_at = 0.0
        self._arriving: deque[tuple[float, _Stream]] = deque()
        self._waiting: deque[_Stream] = deque()
        self._running: dict[int, _Stream] = {}
        self._phase: _Phase | None = None

    @property
    def running(self) -> int:
        """Requests admitted."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests not admitted yet, or preempted."""
        return len(self._arriving) + len(self._waiting)

    @property
    def cache_usage(self) -> float:
        """The fraction of the key-value cache that requests use."""
        return self._cache.usage

    def next_event(self) -> float | None:
        """The time at which :meth:`advance` will have something to do, or None while there is no work."""
        times = [self._arriving[0][0]] if self._arriving else []
        if self._phase is not None:
            times.append(self._phase.end)
        return min(times, default=None)

    def submit(self, now: float, id: int, prompt: int, output: int, names: Sequence[int] = ()) -> None:
        """Queue a request of ``prompt`` tokens that will generate ``output`` tokens (both at least 1).

        ``names``: for each full block of prompt and output, in order, a hash of all tokens up to its end. Output blocks
        may be missing; without any, nothing is cached.

        Raises:
            ValueError: it could never be admitted.
        """
        if prompt < 1 or output < 1 or self._count_blocks(prompt + output) > self._cache.blocks:
            raise ValueError(f"a request of {prompt} + {output} tokens does not fit")
        self._host_free_at = max(now, self._host_free_at) + self.curve.request_seconds
        stream = _Stream(id, prompt, output, names, goal=prompt)
        self._arriving.append((self._host_free_at + self.curve.arrival_seconds, stream))

    def cancel(self, now: float, id: int) -> None:
        """Forget a request, at the end of the step under way. Unknown ones are ignored."""
        if (stream := self._running.pop(id, None)) is not None:
            # The phase under way was computed with this stream, whose share of a step is small: it is only shortened.
            self._release(stream)
            self._cut_phase(now)
        else:
            self._waiting = deque(stream for stream in self._waiting if stream.id != id)
            self._arriving = deque(item for item in self._arriving if item[1].id != id)

    def advance(self, now: float) -> list[Progress]:
        """Do the work that ends by ``now``; returns what there is to report, in order of time."""
        reports: list[Progress] = []
        while (event := self.next_event()) is not None and event <= now:
            if self._arriving and self._arriving[0][0] == event:
                self._waiting.append(self._arriving.popleft()[1])
                if self._phase is None:
                    self._start_phase(event)
                elif self._has_room():
                    self._cut_phase(event)
            else:
                phase, self._phase = self._phase, None
                assert phase is not None
                self._finish_phase(phase, reports)
                self._start_phase(phase.end)
        return reports

    # --- cache ---

    def _count_blocks(self, tokens: int) -> int:
        return -(-tokens // self.curve.block)

    def _find_hits(self, stream: _Stream) -> tuple[int, int]:
        """Blocks of a waiting stream that need not be computed, and how many of them nobody uses.

        At least one token is always computed: the next one follows from it.
        """
        return self._cache.count_hits(stream.names[: (stream.goal - 1) // self.curve.block])

    def _has_room(self) -> bool:
        """Whether the first that waits can be admitted."""
        if len(self._running) >= self.curve.max_running:
            return False
        stream = self._waiting[0]
        hits, unused = self._find_hits(stream)
        return self._count_blocks(stream.goal + 1) - hits <= self._cache.available - unused

    def _admit(self) -> None:
        while self._waiting and self._has_room():
            stream = self._waiting.popleft()
            hits, _ = self._find_hits(stream)
            stream.shared = list(stream.names[:hits])
            self._cache.take_named(stream.shared)
            stream.nameless = self._count_blocks(stream.goal + 1) - hits
            self._cache.take(stream.nameless)
            stream.offered, stream.prefilled = hits, hits * self.curve.block
            if not stream.tokens:
                stream.cached = stream.prefilled
            self._running[stream.id] = stream

    def _name_blocks(self, stream: _Stream, tokens: int) -> None:
        """Let others use the full blocks among the first ``tokens`` of a stream."""
        for name in stream.names[stream.offered : tokens // self.curve.block]:
            if self._cache.name(name):
                stream.shared.append(name)
                stream.nameless -= 1
            stream.offered += 1

    def _release(self, stream: _Stream) -> None:
        """Give back the blocks of a stream; what it has computed stays cached."""
        if stream.decoding and stream.tokens:
            self._name_blocks(stream, stream.size - 1)  # the last token has not been an input yet
        self._cache.release(stream.shared, stream.nameless)
        stream.shared, stream.nameless, stream.offered = [], 0, 0

    def _count_missing(self, steps: int) -> int:
        """Blocks that all decoding streams need beyond their own for ``steps`` more tokens each."""
        missing = 0
        for stream in self._running.values():
            if stream.decoding:
                missing += max(0, self._count_blocks(stream.size + steps) - stream.blocks)
        return missing

    def _grow(self, steps: int) -> None:
        """Take the blocks that :meth:`_count_missing` counts."""
        for stream in self._running.values():
            if stream.decoding and (missing := self._count_blocks(stream.size + steps) - stream.blocks) > 0:
                self._cache.take(missing)
                stream.nameless += missing

    def _preempt(self) -> None:
        """Take the cache of the request admitted last."""
        _, stream = self._running.popitem()
        self._release(stream)
        stream.goal, stream.prefilled = stream.size, 0
        self._waiting.appendleft(stream)
        self.preemptions += 1

    # --- phases ---

    def _start_phase(self, now: float) -> None:
        before = self.preemptions
        while self._count_missing(1) > self._cache.available:
            self._preempt()
        self._grow(1)
        if self.preemptions == before:
            self._admit()
        if not self._running:
            return
        streams = [stream for stream in self._running.values() if stream.decoding]
        context = sum(stream.size for stream in streams)
        if len(streams) < len(self._running):
            prefill = self._plan_prefill(self.curve.prefill_budget - len(streams))
            work = sum(self.curve.prefill_seconds(stream.prefilled, tokens) for stream, tokens in prefill)
            self._phase = _Phase(now, now + self.curve.step_seconds(len(streams), context, work), 1, prefill)
            return
        steps = min(stream.output - stream.tokens for stream in streams)
        if self._count_missing(steps) > self._cache.available:
            steps = _find_steps(steps, lambda count: self._count_missing(count + 1) > self._cache.available)
        steps = min(steps, self._steps_within(self._report_interval, steps, len(streams), context))
        self._phase = _Phase(now, now + self.curve.decode_seconds(steps, len(streams), context), steps, ())

    def _plan_prefill(self, budget: int) -> tuple[tuple[_Stream, int], ...]:
        """Which prompts the next step takes up, and how much of each."""
        plan = []
        for stream in self._running.values():
            tokens = min(stream.goal - stream.prefilled, budget)
            if tokens > 0:
                plan.append((stream, tokens))
                budget -= tokens
        return tuple(plan)

    def _steps_within(self, seconds: float, most: int, streams: int, context: int) -> int:
        """The smallest number of decode steps, from 1 to ``most``, that takes at least ``seconds``."""
        return _find_steps(most, lambda count: self.curve.decode_seconds(count, streams, context) >= seconds)

    def _cut_phase(self, now: float) -> None:
        """Let the phase under way end with the step under way."""
        phase = self._phase
        if phase is None or phase.steps == 1:
            return
        streams = len(self._running)
        context = sum(stream.size for stream in self._running.values())
        steps = self._steps_within(now - phase.start, phase.steps, streams, context)
        end = max(now, phase.start + self.curve.decode_seconds(steps, streams, context))
        self._phase = _Phase(phase.start, min(end, phase.end), steps, ())

    def _finish_phase(self, phase: _Phase, reports: list[Progress]) -> None:
        """Credit the tokens of ``phase``, report, and let go of finished streams."""
        stepped = [stream for stream in self._running.values() if stream.decoding]
        for stream, tokens in phase.prefill:
            if stream.id not in self._running:
                continue  # cancelled during the step
            stream.prefilled += tokens
            self._name_blocks(stream, stream.prefilled)
            if stream.decoding:
                stepped.append(stream)  # the step that ends a prefill yields a token
        for stream in stepped:
            stream.tokens += phase.steps
            finished = stream.tokens >= stream.output
            if finished or phase.end - stream.reported_at >= self._report_interval:
                stream.reported_at = phase.end
                reports.append(Progress(phase.end, stream.id, stream.tokens, finished, stream.cached))
            if finished:
                del self._running[stream.id]
                self._release(stream)
        self._grow(0)


def _find_steps(most: int, is_enough: Callable[[int], bool]) -> int:
    """The smallest number from 1 to ``most`` that is enough (as all above it are), or ``most``."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle + 1
    return low
