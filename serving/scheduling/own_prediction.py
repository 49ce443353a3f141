"""What a node expects of itself for one request: computed once, and used for all that is decided when it arrives.

From it follow whether to offload the request, how long it will have its slot, and what its times are compared with.
"""

from __future__ import annotations

import math

import msgspec

from serving.openai.requests import Request
from serving.prediction.predicted_time import ServiceSpeed, predict_service
from serving.prediction.predictor import Expected, Prediction, Predictor, is_able
from serving.scheduling.backend_pool import ScheduledBackend


class OwnPrediction(msgspec.Struct, frozen=True):
    """What was expected at ``predicted_at`` (s) of ``backend``, for one request."""

    backend: ScheduledBackend
    expected: Expected
    prediction: Prediction
    present_speed: ServiceSpeed
    """Of the backend at that moment; the speed of ``prediction`` is what a further request can expect."""
    predicted_at: float
    is_able: bool

    @property
    def score(self) -> float:
        """What other nodes are compared with, in seconds; infinite if the backend cannot take the request."""
        return self.prediction.score if self.is_able else math.inf

    def predict_service(self) -> float:
        """Seconds for which the request will have its slot."""
        return predict_service(self.present_speed, self.expected.size, self.prediction.cached_tokens)


def predict_own(predictor: Predictor, backend: ScheduledBackend, request: Request, now: float) -> OwnPrediction:
    """What is expected of ``backend`` for a request that came now."""
    speed, expected = backend.get_speed(request.model), predictor.expect(request)
    able = is_able(speed, expected.largest, request.features)
    ahead = backend.meter.get(request.model).unread_tokens
    prediction = predictor.predict(predictor.me, request, expected, speed, now, tokens_ahead=ahead)
    return OwnPrediction(backend, expected, prediction, speed, now, able)
