"""Prediction: when a node will have answered a request. Pure.

The time is the sum of four: until a slot is free, the round trip, the prefill of the part of the prompt that is not
cached, and the decoding of the expected output. It is no better than its inputs. The expected output is learned
(``output_length``), and times that follow from an announcement are corrected by measured ones (``correction``).
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from serving.openai.number_formats import NOT_KNOWN, NumberFormats

BYTES_PER_TOKEN = 4
"""Bytes of text that count as one token where no tokenizer has counted."""
PRIOR_PREFILL_RATE = 2000.0
"""Prompt tokens per second of a node whose rate is not known: a small model on one card of the middle class."""
PRIOR_DECODE_RATE = 30.0
"""Output tokens per second of one stream of such a node, if it has nothing else to do."""
PRIOR_ROOM = 8
"""Requests for which such a node has room in its cache: with twice as many, each of them takes twice as long."""
FIRST_TOKEN_WEIGHT = 0.7
"""Weight of the time to the first token in the score of a stream; the total time has the rest."""


class RequestSize(msgspec.Struct, frozen=True, gc=False):
    """Size of a request in tokens."""

    prompt: int
    """Estimated from bytes until usage is known."""
    output: float
    """Expected, never above the limit of the request."""


class ServiceSpeed(msgspec.Struct, frozen=True, gc=False):
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
    cache_tokens: int = 0
    """Tokens of context that all running requests can have together; 0: unknown."""


UNKNOWN_SPEED = ServiceSpeed(
    0, 0, 0, 0.0, 0.0, 0, frozenset({"tools", "vision", "logprobs", "completions", "embeddings"})
)
"""A node of which nothing is known: it may have every feature."""


class PredictedTime(msgspec.Struct, frozen=True, gc=False):
    """Seconds from now to the first token, and to the end of the answer."""

    first_token: float
    total: float

    def score(self, stream: bool, sort: str | None = None) -> float:
        """What candidates are compared by, in seconds: less is better.

        The user of a whole answer waits for its end. The reader of a stream waits for its first token above all.
        ``sort`` is what the request itself prefers: ``latency``, ``throughput``, or anything else for none.
        """
        if sort == "latency":
            return self.first_token
        if not stream or sort == "throughput":
            return self.total
        return FIRST_TOKEN_WEIGHT * self.first_token + (1 - FIRST_TOKEN_WEIGHT) * self.total


def estimate_tokens(size_bytes: int) -> int:
    """Tokens of a text of ``size_bytes``, at least one."""
    return max(1, -(-size_bytes // BYTES_PER_TOKEN))


def get_decode_rate(speed: ServiceSpeed) -> float:
    """Output tokens per second of one stream that begins now.

    If no rate was measured, it falls with the number of requests there. Otherwise a node that has just started, with
    ten requests in their first minute, would look as good as an idle one.
    """
    if speed.decode_rate:
        return speed.decode_rate
    return PRIOR_DECODE_RATE * PRIOR_ROOM / (PRIOR_ROOM + speed.running + speed.waiting)


def share_cache(speed: ServiceSpeed, held_tokens: float) -> ServiceSpeed:
    """``speed`` with the decode rate that a further request can expect until its end, in place of the present one.

    When a cache is full, some requests wait again in the middle of their answers, and new ones at their beginning.
    Whether it fills before the answer ends is not known, but the more requests run now, the likelier it is. So each
    running request takes its share of the rate long before that, as if all shared one processor. With processor
    sharing, the mean time grows in proportion to the requests that are found (Coffman, Muntz and Trotter 1970).

    ``held_tokens`` is a property of the requests, not of the node. It must be the same number for all nodes that are
    compared: what each node measures over few requests of its own differs by more than their loads do.
    """
    if not speed.cache_tokens or not speed.decode_rate:
        return speed
    share = speed.cache_tokens / (speed.cache_tokens + held_tokens * speed.running)
    return replace(speed, decode_rate=share * speed.decode_rate)


def predict_wait(speed: ServiceSpeed, output: float) -> float:
    """Seconds until a new request gets a slot, if every request before it has ``output`` tokens left on average.

    Slots free one by one, at the rate at which all of them together finish answers; a free slot is had at once.
    """
    slots = speed.slots or max(1, speed.running)
    answers_before = speed.running + speed.waiting + 1 - slots
    if answers_before <= 0 or (not speed.slots and not speed.waiting):
        return 0.0
    return answers_before * output / (slots * get_decode_rate(speed))


def predict_service(speed: ServiceSpeed, size: RequestSize, cached_tokens: int = 0) -> float:
    """Seconds for which a request of ``size`` will have its slot."""
    return predict_begun(speed, size, cached_tokens).total


def predict_time(
    speed: ServiceSpeed,
    size: RequestSize,
    cached_tokens: int = 0,
    round_trip_s: float = 0.0,
    usual_output: float | None = None,
    tokens_ahead: int = 0,
) -> PredictedTime:
    """When a request of ``size`` is answered by a node of ``speed``.

    ``cached_tokens`` of its prompt need no prefill. ``usual_output`` is the expected output of the requests before it,
    in tokens; None: the same as of this one. ``tokens_ahead``: see :func:`predict_begun`.
    """
    wait = predict_wait(speed, size.output if usual_output is None else usual_output)
    return predict_begun(speed, size, cached_tokens, wait + round_trip_s, tokens_ahead)


def predict_begun(
    speed: ServiceSpeed, size: RequestSize, cached_tokens: int = 0, delay_s: float = 0.0, tokens_ahead: int = 0
) -> PredictedTime:
    """The predicted time of a request that has its slot after ``delay_s``.

    ``tokens_ahead`` are the tokens of other prompts that are read before its own: servers read prompts in the order of
    arrival.
    """
    unread = tokens_ahead + max(0, size.prompt - cached_tokens)
    prefill = unread / (speed.prefill_rate or PRIOR_PREFILL_RATE)
    decode_s_per_token = 1 / get_decode_rate(speed)
    first_token = delay_s + prefill + min(1.0, size.output) * decode_s_per_token
    return PredictedTime(first_token, first_token + max(0.0, size.output - 1.0) * decode_s_per_token)
