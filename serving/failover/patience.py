"""How long a backend of this node may take for the content of an answer while another can still be asked. Pure.

It is the predicted time of the model, times a factor: a slow backend is not broken, and giving up its work costs more
than waiting. For the last backend that can be asked, only its own timeouts apply.
"""

from __future__ import annotations

from serving.openai.requests import Request
from serving.prediction.predictor import Prediction

PATIENCE_FACTOR = 4.0
"""A backend may take so many times the predicted time."""
MIN_PATIENCE_S = 5.0
"""Least patience for the first content of a stream, in seconds, if it is extended while requests wait in the backend
(:mod:`serving.scheduling.silent_answers`)."""
MIN_BLIND_PATIENCE_S = 10.0
"""Least patience for any other content."""
UNKNOWN_FIRST_S = 30.0
"""Patience for the first content of a stream while the speed of a backend is not known."""
UNKNOWN_WHOLE_S, UNKNOWN_TOKEN_S = 60.0, 0.05
"""The same for an answer that is not streamed, and the addition for each token that it may have."""


def compute_patience(request: Request, prediction: Prediction, largest_output: float, *, shows_queue: bool) -> float:
    """The patience in seconds, from the slot on. ``largest_output``: most tokens of the answer; ``shows_queue``: the
    backend reports how many requests wait in it.
    """
    is_known = prediction.speed.decode_rate > 0
    if request.stream:
        least_s, expected_s = MIN_PATIENCE_S if shows_queue else MIN_BLIND_PATIENCE_S, prediction.time.first_token
        return max(least_s, min(UNKNOWN_FIRST_S, PATIENCE_FACTOR * expected_s)) if is_known else UNKNOWN_FIRST_S
    unknown_s = UNKNOWN_WHOLE_S + UNKNOWN_TOKEN_S * largest_output
    if not is_known:
        return unknown_s
    return max(
        MIN_BLIND_PATIENCE_S, min(unknown_s, PATIENCE_FACTOR * prediction.compute_uncorrected(largest_output).total)
    )
