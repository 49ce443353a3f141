"""What one request costs its API key: reserved before it begins, settled when it is over.

An answer costs its price, wherever it was served. What failed attempts cost this node is not passed on. A user who
leaves before there is anything to see of an answer pays for what was probably made of it until then: else a key could
have far more made than its budget covers.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from serving.keys.keyring import Charge, Keyring
from serving.keys.usage import Usage
from serving.openai.requests import Request
from serving.prediction.predicted_time import BYTES_PER_TOKEN, estimate_tokens
from serving.prediction.predictor import Prediction

ComputePrice = Callable[[Request, int], int]
"""Computes the price of an answer, in micro-credits, from the request and the size of the answer in bytes."""


class Work(msgspec.Struct, frozen=True, gc=False):
    """Work on an answer before any of it can be seen. It began at ``since`` (s), at the speed of ``prediction``."""

    since: float
    prediction: Prediction


class ChargedRequest(msgspec.Struct, frozen=True):
    """A request under way, and what was reserved for it."""

    keys: Keyring
    charge: Charge
    request: Request
    compute_price: ComputePrice

    def settle_answer(self, completion_bytes: int, completion_tokens: int) -> None:
        """The user got that much of an answer."""
        prompt = len(self.request.body)
        price = self.compute_price(self.request, completion_bytes)
        usage = Usage(1, 0, prompt, completion_bytes, completion_tokens, price)
        self.keys.settle(self.charge, usage, estimate_tokens(prompt) + completion_tokens)

    def settle_left(self, work: Work, now: float) -> None:
        """The user left before anything could be seen of the answer.

        Of a stream nothing but the prompt was worked on, or its first token would be there.
        """
        request, made = self.request, 0.0
        if not request.stream:
            made = request.choices * work.prediction.compute_made(now - work.since)
        completion_bytes = min(round(made * BYTES_PER_TOKEN), request.max_completion_bytes)
        self.settle_answer(completion_bytes, min(round(made), request.max_tokens))

    def settle_nothing(self) -> None:
        """There was no answer."""
        self.keys.settle(self.charge, Usage(requests=1), 0)


async def reserve(keys: Keyring | None, request: Request, compute_price: ComputePrice) -> ChargedRequest | None:
    """Reserve what a request can cost its API key at most; None without a key.

    Raises:
        ApiError: the key may not make it.
    """
    if keys is None or not request.key:
        return None
    amount = compute_price(request, request.max_completion_bytes)
    tokens = estimate_tokens(len(request.body)) + request.max_tokens
    charge = await keys.reserve(request.key, request.model, amount, tokens)
    return None if charge is None else ChargedRequest(keys, charge, request, compute_price)
