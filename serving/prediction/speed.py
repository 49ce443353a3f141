"""How fast a backend is, measured over its latest answers. Pure: times are seconds of one monotonic clock.

**Prefill.** A prompt is read from the moment when the request has its slot and the prompts before it are read, until
the first piece of the answer. Its beginning is not counted if the backend has read that before, in another prompt: it
is likely to be cached.

**Decoding.** The rate of a stream is measured in windows of some seconds while it comes, so that a change of load shows
long before a long answer ends. Pieces are counted in raw bytes, which cost nothing to count; the bytes of a token are
learned from answers that have ended. Windows in which the reader held the stream up do not count, or a slow reader
would make the node announce that it is slow. A stream that the server has put back into its queue stands still. That is
waiting, not slow writing, so its window weighs no more than :data:`MAX_WINDOW_S`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from chain.collections import BoundedDict
from serving.openai.prefixes import Prefix
from serving.prediction.predicted_time import PRIOR_PREFILL_RATE, estimate_tokens

WINDOW_S = 2.0
"""Seconds of a stream that make one measurement."""
MAX_WINDOW_S = 10.0
"""Most seconds that one measurement counts for, however long it took."""
DECODE_HALF_LIFE_S = 20.0
"""Time after which a measured window has half of its weight beside a new one."""
SAMPLE_DECAY = 7 / 8
"""Part of their weight that earlier answers keep at each new one."""
READ_TOGETHER_S = 0.1
"""Prompts whose reading ends within this time, in one step of a server, are hardly more than one sample."""
PRIOR_PROMPT_TOKENS = 500.0
"""Weight of :data:`~serving.prediction.predicted_time.PRIOR_PREFILL_RATE`, in measured prompt tokens: the time of short
prompts is that of one step, which says little about long ones."""
LEAST_SCALE = 1e-6
"""Least factor by which weights are reduced at once, so that none becomes 0."""
BLOCKED_S = 0.1
"""A reader that takes longer for a piece holds the stream up."""
LEAST_UNREAD = 0.5
"""Part of a prompt that must be new for its time to count. If the backend no longer has the rest in its cache, the rate
is too low by a factor of two at most. A short new part takes as long as one step, which says nothing."""
MAX_READ = 16_384
"""Beginnings of prompts that are remembered of one backend; beyond it, the one read longest ago is forgotten."""
MAX_MODELS = 256
"""Models whose speed is kept; beyond it, the one begun first is forgotten."""


class DecayedRatio:
    """A sum of numerators over a sum of denominators, in which old ones lose weight. 0 while nothing is known."""

    def __init__(self) -> None:
        self.numerator = 0.0
        self.denominator = 0.0

    def add(self, numerator: float, denominator: float, scale: float = SAMPLE_DECAY) -> None:
        """Add one measurement; the earlier ones keep ``scale`` of their weight."""
        scale = max(LEAST_SCALE, scale)
        self.numerator = self.numerator * scale + numerator
        self.denominator = self.denominator * scale + denominator

    @property
    def value(self) -> float:
        return self.numerator / self.denominator if self.denominator > 0 else 0.0


class ModelSpeed:
    """What was measured of one model of one backend."""

    def __init__(self) -> None:
        self.unread_tokens = 0
        """Tokens of the prompts that the backend has been given and has not read."""
        self._prefill = DecayedRatio()
        self._read = (-math.inf, -math.inf)
        """When the last measured prompt was given to the backend, and when its reading ended."""
        self._streamed = DecayedRatio()
        """Raw bytes by seconds of one stream."""
        self._streamed_at = 0.0
        self._bytes_per_token = DecayedRatio()
        self._whole = DecayedRatio()
        """Tokens per second of answers that are not streamed."""

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second; 0: unknown."""
        if not self._prefill.denominator:
            return 0.0
        tokens = self._prefill.numerator + PRIOR_PROMPT_TOKENS
        return tokens / (self._prefill.denominator + PRIOR_PROMPT_TOKENS / PRIOR_PREFILL_RATE)

    @property
    def decode_rate(self) -> float:
        """Output tokens per second of one stream; 0: unknown."""
        per_token = self._bytes_per_token.value
        return self._streamed.value / per_token if per_token and self._streamed.numerator else self._whole.value

    def note_prefill(self, prompt: int, started_at: float, now: float) -> None:
        """A prompt that the backend was given at ``started_at`` is read; ``prompt`` tokens of it were not cached.

        Prompts are read in the order of arrival, so the time of one begins when the one before it is read. If a server
        reads several at once, their tokens and times still add up to its rate.
        """
        before_started_at, before_read_at = self._read
        since = max(started_at, before_read_at) if before_started_at <= started_at else started_at
        scale = SAMPLE_DECAY ** min(1.0, (now - before_read_at) / READ_TOGETHER_S)
        self._prefill.add(prompt, now - since, scale)
        self._read = started_at, now

    def note_window(self, now: float, raw_bytes: int, seconds: float) -> None:
        """So many bytes of a stream came in ``seconds``."""
        weight = min(1.0, MAX_WINDOW_S / seconds)
        scale = 0.5 ** (max(0.0, now - self._streamed_at) / DECODE_HALF_LIFE_S)
        self._streamed.add(weight * raw_bytes, weight * seconds, scale)
        self._streamed_at = now

    def note_size(self, raw_bytes: int, tokens: float) -> None:
        """So many bytes of a stream made so many tokens."""
        self._bytes_per_token.add(raw_bytes, tokens)

    def note_whole(self, prompt: int, tokens: float, seconds: float) -> None:
        """An answer of ``tokens`` that was not streamed took ``seconds``; ``prompt`` tokens were not cached."""
        prefill_s = prompt / (self.prefill_rate or PRIOR_PREFILL_RATE)
        self._whole.add(tokens, max(seconds - prefill_s, seconds / 2))


class SpeedMeter:
    """The speeds of one backend, by model."""

    def __init__(self) -> None:
        self._speeds: BoundedDict[str, ModelSpeed] = BoundedDict(MAX_MODELS)
        self.content_at = -math.inf
        """When content came last, in any answer."""
        self._read: BoundedDict[bytes, None] = BoundedDict(MAX_READ)
        """Hashes of the beginnings of prompts that the backend has read."""

    def get(self, model: str) -> ModelSpeed:
        """What was measured of a model so far."""
        speed = self._speeds.get(model)
        if speed is None:
            speed = self._speeds[model] = ModelSpeed()
        return speed

    def start_timer(
        self, model: str, size: int, started_at: float, *, is_stream: bool, prefixes: Sequence[Prefix] = ()
    ) -> AnswerTimer:
        """Time an answer to a request of ``size`` bytes that got its slot at ``started_at``.

        ``prefixes`` are those of its prompt; they count as read from now on.
        """
        cached = self._find_cached(prefixes)
        for digest, _ in prefixes:
            self._read[digest] = None
        return AnswerTimer(self, model, size, cached, started_at, is_stream)

    @contextmanager
    def reading(self, model: str, size: int, prefixes: Sequence[Prefix] = ()) -> Iterator[None]:
        """Within the context, count the new part of the prompt of a request of ``size`` bytes as unread."""
        speed, tokens = self.get(model), estimate_tokens(max(0, size - self._find_cached(prefixes)))
        speed.unread_tokens += tokens
        try:
            yield
        finally:
            speed.unread_tokens -= tokens

    def _find_cached(self, prefixes: Sequence[Prefix]) -> int:
        """Bytes of the longest of these prefixes that the backend has read before."""
        return max((length for digest, length in prefixes if digest in self._read), default=0)


class AnswerTimer:
    """Times one answer of a backend, to a request of ``size`` bytes of which it has read ``cached`` before."""

    def __init__(
        self, meter: SpeedMeter, model: str, size: int, cached: int, started_at: float, is_stream: bool
    ) -> None:
        self._meter = meter
        self._speed = meter.get(model)
        self._prompt = estimate_tokens(size)
        self._unread = estimate_tokens(max(0, size - cached))
        self._started_at = started_at
        self._is_stream = is_stream
        self._last_at: float | None = None
        """When the last piece came."""
        self._window_at = started_at
        self._window_bytes = 0
        self._raw_bytes = 0

    def feed(self, now: float, raw_bytes: int) -> None:
        """The next piece of the answer has come."""
        if not raw_bytes:
            return
        is_first, self._last_at = self._last_at is None, now
        self._meter.content_at = now
        self._raw_bytes += raw_bytes
        if not self._is_stream:
            return
        if is_first:
            self._window_at = now
            if self._unread >= LEAST_UNREAD * self._prompt:
                self._speed.note_prefill(self._unread, self._started_at, now)
            return
        self._window_bytes += raw_bytes
        if now - self._window_at >= WINDOW_S:
            self._end_window(now)

    def note_taken(self, now: float, seconds: float) -> None:
        """The reader has taken the piece, after so many seconds."""
        if seconds > BLOCKED_S:
            self._window_at, self._window_bytes = now, 0

    def finish(self, tokens: float) -> None:
        """The whole answer has come, with so many tokens."""
        if tokens <= 0 or self._last_at is None:
            return
        if not self._is_stream:
            self._speed.note_whole(self._unread, tokens, self._last_at - self._started_at)
            return
        self._speed.note_size(self._raw_bytes, tokens)
        if self._window_bytes:
            self._end_window(self._last_at)

    def _end_window(self, now: float) -> None:
        if now > self._window_at:
            self._speed.note_window(now, self._window_bytes, now - self._window_at)
        self._window_at, self._window_bytes = now, 0
