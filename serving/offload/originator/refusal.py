"""What an originator says when no executor takes a request, and how it counts client errors of executors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.offload.originator.attempt import OffloadAttempt
from serving.offload.originator.attempt_terms import AttemptFailed, AttemptTerms
from serving.offload.originator.executor_scores import MAX_RETRY_AFTER_S


@dataclass(slots=True)
class ClientErrors:
    """Requests to which an executor answered with a client error, by the answer of another executor or backend."""

    shared: int = 0
    """It gave a client error too, which was passed on."""
    unshared: int = 0
    """It gave the answer."""
    unconfirmed: int = 0
    """No other was in reach: the error was passed on."""


class NoExecutor(Exception):
    """No candidate took the request; the message says what each one answered.

    ``retry_after_s`` is when the first of them expects to take requests again (0: none said). ``doubted`` is the
    attempt that ended with a client error which no other executor has confirmed.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0, doubted: AttemptTerms | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.doubted = doubted


def make_refusal(failures: Sequence[AttemptFailed], doubted: OffloadAttempt | None) -> NoExecutor:
    """What to say when no candidate took the request."""
    reasons = list(map(str, failures))
    if doubted is not None:
        reasons.insert(0, f"answered {doubted.answer.status}, which no other confirms")
    hints = [failure.retry_after_s for failure in failures if failure.retry_after_s]
    return NoExecutor(
        "; ".join(reasons) or "no executor is in reach that can serve it and whose bond covers the request",
        min([*hints, MAX_RETRY_AFTER_S]) if hints else 0.0,
        doubted.terms if doubted is not None else None,
    )
