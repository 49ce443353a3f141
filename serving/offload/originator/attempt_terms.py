"""What one attempt at an offload is made on, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass

from serving.backends.backend import BackendError
from serving.offload.originator.choice import Reason
from serving.openai.requests import Request
from serving.prediction.predictor import Prediction


class Stalled(BackendError):
    """The executor sent no content for too long. That is no deceit: it may capture what was received."""


class SaidFailed(BackendError):
    """The executor says that it cannot answer: its backend does not work, or has an error for this request."""


class AttemptFailed(Exception):
    """One candidate did not deliver. ``retry_after_s``: when it expects to take requests again (0: unknown).
    ``is_queued``: it had put the request into its queue.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0, is_queued: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_queued = is_queued


class Outrun(Exception):
    """Another attempt at the same request had content first."""


@dataclass(frozen=True, slots=True)
class AttemptTerms:
    """What one attempt offers: ``number`` is the executor's position in the lottery of the period begun with ``round``.

    ``prediction`` is what was expected of it, and ``reason`` why it is asked. ``first_token_within_s``: seconds after
    it has its slot when another is asked instead (None: as in the settings). ``late_after_s``: the same for asking
    another as well (None: none is). ``is_last``: there is no other. ``longest_s``: predicted seconds of the longest
    answer, if whole answers of this executor were measured.
    """

    request: Request
    amount: int
    round: int
    seq: int
    number: int
    executor: bytes
    prediction: Prediction
    hold_time_ms: int
    reason: Reason
    first_token_within_s: float | None = None
    late_after_s: float | None = None
    is_last: bool = False
    longest_s: float | None = None

    @property
    def is_hedge(self) -> bool:
        """Whether it is asked beside another that is late."""
        return self.reason is Reason.HEDGED
