"""Prediction: when a node will have answered a request. Pure.

The time is what its slots take to drain, the round trip, the prefill of the part of the prompt that is not cached, and
the decoding of the expected output. It is as true as the numbers that go in: an announcement is corrected by what was
measured (``serving.offload``), and the expected output is learned (``output_length``).
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.openai.number_formats import NOT_KNOWN, NumberFormats

BYTES_PER_TOKEN = 4
"""Bytes of text that count as one token where no tokenizer has counted."""
PRIOR_PREFILL_RATE = 2000.0
"""Prompt tokens per second of a node whose rate is not known: a small model on one card of the middle class."""
PRIOR_DECODE_RATE = 30.0
"""Output tokens per second of one stream of such a node."""
FIRST_TOKEN_WEIGHT = 0.7
"""Weight of the time to the first token in the score of a stream; the total time has the rest."""


@dataclass(frozen=True, slots=True)
class RequestSize:
    """Size of a request in tokens."""

    prompt: int
    """Estimated from bytes until usage is known."""
    output: float
    """Expected, never above the limit of the request."""


@dataclass(frozen=True, slots=True)
class ServiceSpeed:
    """How fast one node serves one model, as it announces or as it knows of its own backend."""

    running: int
    """Requests that have a slot."""
    waiting: int
    """Requests that wait for one."""
    slots: int
    """Requests that run at a time; 0: unknown."""
    prefill_rate: float
    """Prompt tokens per second; 0: unknown."""
    decode_rate: float
    """Output tokens per second of one stream at the present load; 0: unknown."""
    context_length: int = 0
    """Most tokens of prompt and output together; 0: unknown."""
    features: frozenset[str] = frozenset()
    """Of "tools", "vision", "logprobs", "completions", "embeddings"."""
    number_formats: NumberFormats = NOT_KNOWN
    """Those that it may be served in."""


UNKNOWN_SPEED = ServiceSpeed(
    0, 0, 0, 0.0, 0.0, 0, frozenset({"tools", "vision", "logprobs", "completions", "embeddings"})
)
"""A node of which nothing is known: it may have every feature."""


@dataclass(frozen=True, slots=True)
class PredictedTime:
    """Seconds from now to the first token, and to the end of the answer."""

    first_token: float
    total: float

    def score(self, stream: bool, sort: str | None = None) -> float:
        """What candidates are compared by, in seconds: less is better.

        The user of a whole answer waits for its end. The reader of a stream waits for its first token above all.
        ``sort`` is what the request says about that: ``latency``, ``throughput``, or anything else.
        """
        if sort == "latency":
            return self.first_token
        if not stream or sort == "throughput":
            return self.total
        return FIRST_TOKEN_WEIGHT * self.first_token + (1 - FIRST_TOKEN_WEIGHT) * self.total


def estimate_tokens(size_bytes: int) -> int:
    """Tokens of a text of ``size_bytes``, at least one."""
    return max(1, -(-size_bytes // BYTES_PER_TOKEN))


def predict_wait(speed: ServiceSpeed, output: float) -> float:
    """Seconds until a new request gets a slot, if every request before it has ``output`` tokens left on average.

    Slots free one by one, at the rate at which all of them together finish answers; a free slot is had at once.
    """
    slots = speed.slots or max(1, speed.running)
    answers_before = speed.running + speed.waiting + 1 - slots
    if answers_before <= 0 or (not speed.slots and not speed.waiting):
        return 0.0
    return answers_before * output / (slots * (speed.decode_rate or PRIOR_DECODE_RATE))


def predict_service(speed: ServiceSpeed, size: RequestSize, cached_tokens: int = 0) -> float:
    """Seconds for which a request of ``size`` will have its slot."""
    return predict_begun(speed, size, cached_tokens).total


def predict_time(
    speed: ServiceSpeed,
    size: RequestSize,
    cached_tokens: int = 0,
    round_trip_s: float = 0.0,
    usual_output: float | None = None,
) -> PredictedTime:
    """When a request of ``size`` is answered by a node of ``speed``.

    ``cached_tokens`` of its prompt need no prefill. ``usual_output`` is the expected output of the requests before it,
    in tokens; None: that of this one.
    """
    wait = predict_wait(speed, size.output if usual_output is None else usual_output)
    return predict_begun(speed, size, cached_tokens, wait + round_trip_s)


def predict_begun(
    speed: ServiceSpeed, size: RequestSize, cached_tokens: int = 0, delay_s: float = 0.0
) -> PredictedTime:
    """The same from when it has its slot, and ``delay_s`` before that."""
    prefill = max(0, size.prompt - cached_tokens) / (speed.prefill_rate or PRIOR_PREFILL_RATE)
    decode_s_per_token = 1 / (speed.decode_rate or PRIOR_DECODE_RATE)
    first_token = delay_s + prefill + min(1.0, size.output) * decode_s_per_token
    return PredictedTime(first_token, first_token + max(0.0, size.output - 1.0) * decode_s_per_token)
