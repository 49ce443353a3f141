"""The predictor: what this node expects of itself and of others, for one request after the other. No I/O, no clock.

It combines the speed that a node announces, the expected output, the cached part of the prompt, the requests that were
sent and are not announced yet, and the correction by measured times.
"""

from __future__ import annotations

import random

import msgspec
from msgspec.structs import replace

from chain.collections import BoundedDict
from serving.openai.provider_rules import FASTEST
from serving.openai.requests import Request
from serving.prediction.affinity import Conversations
from serving.prediction.correction import Corrections
from serving.prediction.first_token_bound import FirstTokenBounds
from serving.prediction.output_length import AnswerLength, OutputLengths
from serving.prediction.predicted_time import (
    BYTES_PER_TOKEN,
    PredictedTime,
    RequestSize,
    ServiceSpeed,
    estimate_tokens,
    get_decode_rate,
    predict_begun,
    predict_time,
    share_cache,
)

PRIOR_OVERHEAD_S = 0.2
"""Expected delay of a first token beyond wait, prefill and decoding, of a peer of which nothing is known."""
MAX_OVERHEAD_S = 2.0
"""Longest such delay: a round trip, and the finality of the hold. Anything longer counts as slowness of the node."""
OVERHEAD_WEIGHT = 0.25
"""Weight of a new measurement of that delay, relative to all before it."""
LATE_FACTOR = 1.5
"""An answer that is not streamed is late after this many times the predicted time of the longest one allowed."""
MAX_PEERS = 4096
"""Peers whose delay is kept; beyond it, the one measured longest ago is forgotten."""


class Expected(msgspec.Struct, frozen=True, gc=False):
    """What is expected of a request, wherever it is answered."""

    size: RequestSize
    largest: RequestSize
    """The size with the longest answer if the request itself sets a limit: servers want room for all of it."""
    usual_output: float
    """Expected output tokens of any request for this model, such as those before this one."""
    kept_by: bytes | None
    """The node that has answered the conversation so far."""
    cached_tokens: int
    """Tokens of the prompt that it has in its cache."""

    @property
    def held_tokens(self) -> float:
        """Tokens that a request like it holds in a cache, on average over its time.

        A request is found with the mean length already written, if lengths are exponential, as ``output_length``
        assumes.
        """
        return self.size.prompt + self.usual_output


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """What is expected of one node for one request, and what that rests on."""

    node: bytes
    model: str
    size: RequestSize
    speed: ServiceSpeed
    cached_tokens: int
    overhead_s: float
    usual_output: float
    time: PredictedTime
    """Corrected."""
    score: float
    """Of that, in seconds: less is better."""
    is_new: bool = False
    """Whether its speed is unknown, and no request of ours is under way there."""
    tokens_ahead: int = 0
    """Tokens of other prompts that the node has got before and has not read yet, as far as is known."""

    @property
    def unread_tokens(self) -> int:
        """Tokens of the prompt that it has to read."""
        return max(0, self.size.prompt - self.cached_tokens)

    def compute_begun(self) -> float:
        """Seconds from when it has its slot to the first token, without correction."""
        return predict_begun(self.speed, self.size, self.cached_tokens, self.overhead_s, self.tokens_ahead).first_token

    def compute_made(self, worked_s: float) -> float:
        """Tokens of an answer that are written ``worked_s`` seconds after it got its slot, unless it ends before."""
        rest_s = worked_s - self.compute_begun()
        return 1 + rest_s * get_decode_rate(self.speed) if rest_s >= 0 else 0.0

    def compute_uncorrected(self, output: float, overhead_s: float | None = None) -> PredictedTime:
        """The prediction for a known ``output``, without correction."""
        size = RequestSize(self.size.prompt, output)
        overhead_s = self.overhead_s if overhead_s is None else overhead_s
        return predict_time(self.speed, size, self.cached_tokens, overhead_s, self.usual_output, self.tokens_ahead)


class Predictor:
    """Predicts for the node with the key ``me``. ``chance`` salts what is kept of conversations.

    ``corrects`` and ``has_affinity`` switch corrections and affinity on or off.
    """

    def __init__(self, me: bytes, chance: random.Random, *, corrects: bool = True, has_affinity: bool = True) -> None:
        self.me = me
        self.lengths = OutputLengths()
        self.corrections = Corrections()
        self._bounds = FirstTokenBounds()
        self._conversations = Conversations(chance)
        self._overheads: BoundedDict[bytes, float] = BoundedDict(MAX_PEERS)
        self._corrects = corrects
        self._has_affinity = has_affinity

    def expect(self, request: Request) -> Expected:
        """What is expected of a request; it goes into each prediction."""
        has_affinity = self._has_affinity and request.rules.sort not in FASTEST
        found = self._conversations.find(request.prefixes) if has_affinity else None
        kept_by, cached = (None, 0) if found is None else (found[0], estimate_tokens(found[1]))
        size = expect_size(self.lengths, request)
        output = float(request.max_tokens // request.choices) if request.is_limited else size.output
        largest = RequestSize(size.prompt, output)
        return Expected(size, largest, self.lengths.get_usual(request.model), kept_by, cached)

    def predict(
        self,
        node: bytes,
        request: Request,
        expected: Expected,
        speed: ServiceSpeed,
        now: float,
        unannounced: int = 0,
        tokens_ahead: int = 0,
    ) -> Prediction:
        """When ``node`` will have answered.

        ``unannounced`` is the number of requests there that ``speed`` does not count yet, and ``tokens_ahead`` the
        tokens of prompts there that are not read yet.
        """
        size, usual = expected.size, expected.usual_output
        cached = expected.cached_tokens if expected.kept_by == node else 0
        overhead_s = 0.0 if node == self.me else self._overheads.get(node, PRIOR_OVERHEAD_S)
        if unannounced:
            speed = replace(speed, running=speed.running + unannounced)
        speed = share_cache(speed, expected.held_tokens)
        time = predict_time(speed, size, cached, overhead_s, usual, tokens_ahead)
        if self._corrects:
            time = self.corrections.correct(node, request.model, size, time, now)
        score = time.score(request.stream, request.rules.sort)
        is_new = not (speed.decode_rate or unannounced or node in self._overheads)
        return Prediction(
            node, request.model, size, speed, cached, overhead_s, usual, time, score, is_new, tokens_ahead
        )

    def note(
        self,
        prediction: Prediction,
        now: float,
        tokens: float,
        first_token_s: float | None,
        total_s: float | None,
        *,
        was_queued: bool = False,
    ) -> None:
        """Note the times of a request whose answer had ``tokens``. None: not known. ``was_queued``: it waited for its
        slot.

        They are compared with a prediction for the known output, so that a long answer does not count as a slow one.
        """
        node = prediction.node
        if first_token_s is not None and node != self.me:
            least = prediction.compute_uncorrected(tokens, 0.0).first_token
            delay = min(MAX_OVERHEAD_S, max(0.0, first_token_s - least))
            before = self._overheads.get(node, PRIOR_OVERHEAD_S)
            self._overheads[node] = before + OVERHEAD_WEIGHT * (delay - before)
            if not was_queued:
                expected_s = prediction.compute_begun()
                self._bounds.note(node, prediction.model, prediction.size, expected_s, first_token_s)
        predicted = prediction.compute_uncorrected(tokens)
        self.corrections.note(node, prediction.model, prediction.size, predicted, now, first_token_s, total_s)

    def bound_first_token(self, prediction: Prediction) -> float | None:
        """Seconds from when it has its slot in which the first token should come; None: too little was measured."""
        expected_s = prediction.compute_begun()
        return self._bounds.get(prediction.node, prediction.model, prediction.size, expected_s)

    def find_late(self, prediction: Prediction, request: Request, now: float) -> float | None:
        """Seconds after getting its slot when the first token is late, or the whole answer if it is not streamed.

        Nothing can be seen of a whole answer before its end, so it may be as long as the request allows. None: too
        little was measured, or such requests are not predicted.
        """
        node, model, size = prediction.node, prediction.model, prediction.size
        if request.stream:
            return self._bounds.get_late(node, model, size, prediction.compute_begun())
        if request.endpoint.is_priced_by_prompt or not self.has_measured(prediction):
            return None
        return LATE_FACTOR * self.predict_longest(prediction, request, now)

    def has_measured(self, prediction: Prediction) -> bool:
        """Whether times of whole answers from the node were measured. An announcement alone is not believed."""
        return self.corrections.has_total(prediction.node, prediction.model, prediction.size)

    def predict_longest(self, prediction: Prediction, request: Request, now: float) -> float:
        """Seconds until the end of the longest answer that a request allows, under the conditions of ``prediction``."""
        longest = prediction.compute_uncorrected(request.max_tokens / request.choices)
        return self.corrections.correct(prediction.node, prediction.model, prediction.size, longest, now).total

    def note_late(self, prediction: Prediction, begun_at: float, now: float) -> None:
        """The first token of a request that was sent at ``begun_at`` did not come within the bound."""
        self._bounds.note_late(prediction.node, prediction.model, prediction.size, begun_at, now)

    def note_unfinished(
        self, prediction: Prediction, now: float, tokens: float, first_token_s: float | None, waited_s: float
    ) -> None:
        """A request whose user left after ``waited_s``, in which at most ``tokens`` of the answer can have come.

        It counts only if it took longer than predicted for so many tokens; otherwise a node so slow that users give up
        would never be measured. ``first_token_s``: None if no content was seen; then the longest delay for a payment is
        allowed for.
        """
        node, model, size = prediction.node, prediction.model, prediction.size
        predicted = prediction.compute_uncorrected(tokens)
        latest = prediction.compute_uncorrected(tokens, MAX_OVERHEAD_S if first_token_s is None else None)
        is_slow = waited_s > self.corrections.correct(node, model, size, latest, now).total
        if is_slow and not tokens:
            first_token_s = waited_s
        self.corrections.note(node, model, size, predicted, now, first_token_s, waited_s if is_slow else None)

    def watch_length(self, request: Request) -> AnswerLength:
        """Learn from the answer to a request while it is written."""
        return watch_length(self.lengths, request)

    def note_answered(self, node: bytes, request: Request) -> None:
        """``node`` has answered a request."""
        if self._has_affinity:
            self._conversations.note(request.prefixes, node)


def expect_size(lengths: OutputLengths, request: Request) -> RequestSize:
    """The expected size of a request. Answers to it (``n``) are written side by side."""
    prompt, limit = estimate_tokens(len(request.body)), request.max_tokens // request.choices
    return RequestSize(prompt, lengths.expect(request.model, prompt, limit, is_limited=request.is_limited))


def watch_length(lengths: OutputLengths, request: Request) -> AnswerLength:
    """See :meth:`Predictor.watch_length`. Several answers to one request (``n``) count as one of their mean length."""
    prompt, token_bytes = estimate_tokens(len(request.body)), BYTES_PER_TOKEN * request.choices
    is_text = not request.endpoint.is_priced_by_prompt
    return AnswerLength(lengths, request.model, prompt, token_bytes, is_limited=request.is_limited, is_text=is_text)


def is_able(speed: ServiceSpeed, size: RequestSize, features: frozenset[str]) -> bool:
    """Whether a node can answer a request of ``size`` that asks for ``features``."""
    fits = not speed.context_length or size.prompt + size.output <= speed.context_length
    return fits and features <= speed.features
