"""How fast a backend is, measured over its latest answers. Pure: times are seconds of one monotonic clock.

A prompt is read from the moment the request has its slot to the first piece of the answer. How fast one stream is
written is seen in windows of some seconds while it comes: a change of load shows long before a long answer ends. The
pieces are counted in raw bytes, which cost nothing to count; how many of them make a token is learned from answers
that have ended. Windows in which the reader held the stream up do not count: else a slow reader would make the node
announce that it is slow. A stream that the server has put back into its queue stands still for as long as that lasts.
That is waiting, not slow writing, and has no more weight than some usual windows.
"""

from __future__ import annotations

from chain.collections import BoundedDict
from serving.scheduling.prediction import PRIOR_PREFILL_RATE

WINDOW_S = 2.0
"""Seconds of a stream that make one measurement."""
MAX_WINDOW_S = 10.0
"""Most seconds that one measurement counts for, however long it took."""
DECODE_HALF_LIFE_S = 20.0
"""Time after which a measured window has half of its weight beside a new one."""
SAMPLE_DECAY = 7 / 8
"""Part of their weight that earlier answers keep at each new one."""
PRIOR_PROMPT_TOKENS = 500.0
"""Prompt tokens at :data:`~serving.scheduling.prediction.PRIOR_PREFILL_RATE` that weigh as much as measured ones: short
prompts take as long as the first step does, which says little about long ones."""
LEAST_SCALE = 1e-6
"""Least factor by which weights are reduced at once, so that none becomes 0."""
BLOCKED_S = 0.1
"""A reader that takes longer for a piece holds the stream up."""
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
        self._prefill = DecayedRatio()
        self._streamed = DecayedRatio()
        """Raw bytes by seconds of one stream."""
        self._streamed_at = 0.0
        self._bytes_per_token = DecayedRatio()
        self._held_tokens = DecayedRatio()
        """Tokens that requests held in the cache, weighted by those that they wrote: the longest are there longest."""
        self._whole = DecayedRatio()
        """Tokens by seconds, of answers that are not streamed."""

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

    @property
    def held_tokens(self) -> float:
        """Tokens that a running request holds in the cache, on average over its time; 0: unknown."""
        return self._held_tokens.value

    def note_request(self, prompt: int, tokens: float) -> None:
        """A prompt of so many tokens and its whole answer: it held the prompt, and half of the answer on average."""
        self._held_tokens.add((prompt + tokens / 2) * tokens, tokens, 1.0)

    def note_prefill(self, prompt: int, seconds: float) -> None:
        """A prompt of so many tokens was read in ``seconds``."""
        self._prefill.add(prompt, seconds)

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
        """An answer that is not streamed took so long in all."""
        prefill_s = prompt / (self.prefill_rate or PRIOR_PREFILL_RATE)
        self._whole.add(tokens, max(seconds - prefill_s, seconds / 2))


class SpeedMeter:
    """The speeds of one backend, by model."""

    def __init__(self) -> None:
        self._speeds: BoundedDict[str, ModelSpeed] = BoundedDict(MAX_MODELS)

    def get(self, model: str) -> ModelSpeed:
        """What was measured of a model so far."""
        speed = self._speeds.get(model)
        if speed is None:
            speed = self._speeds[model] = ModelSpeed()
        return speed

    def start_timer(self, model: str, prompt: int, started_at: float, *, is_stream: bool) -> AnswerTimer:
        """Time an answer to a prompt of so many tokens, whose request got its slot at ``started_at``."""
        return AnswerTimer(self.get(model), prompt, started_at, is_stream)


class AnswerTimer:
    """Times one answer of a backend."""

    def __init__(self, speed: ModelSpeed, prompt: int, started_at: float, is_stream: bool) -> None:
        self._speed = speed
        self._prompt = prompt
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
        self._raw_bytes += raw_bytes
        if not self._is_stream:
            return
        if is_first:
            self._window_at = now
            self._speed.note_prefill(self._prompt, now - self._started_at)
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
        self._speed.note_request(self._prompt, tokens)
        if not self._is_stream:
            self._speed.note_whole(self._prompt, tokens, self._last_at - self._started_at)
            return
        self._speed.note_size(self._raw_bytes, tokens)
        if self._window_bytes:
            self._end_window(self._last_at)

    def _end_window(self, now: float) -> None:
        if now > self._window_at:
            self._speed.note_window(now, self._window_bytes, now - self._window_at)
        self._window_at, self._window_bytes = now, 0
