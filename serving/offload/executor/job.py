"""What an executor has accepted to do for an offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from serving.offload.context import AnswerTap
from serving.offload.protocol import Offer
from serving.openai.requests import Request
from serving.prediction.output_length import AnswerLength
from serving.scheduling.admission import Demand
from serving.scheduling.backend_pool import ScheduledBackend


@dataclass(frozen=True, slots=True)
class Job:
    """What was accepted: an offer, the request that came with it, and the backend that is to answer it.

    ``others`` are asked if that fails before there is content. ``find_backends`` finds those of the model that live by
    then, to go on with an answer that was cut. ``body`` is the body as it was offered, which the request's digest and
    price count. ``unpaid`` is what counts as unpaid, and ends when the hold is final. Until then the answer is sent if
    the payer ``has_credit``, and the backend asked if the request ``may_start``. ``demand`` is for its slot. While
    another can be asked, a backend may take ``patience_s`` for its first content. ``length`` is told of the answer.
    ``tap`` is that on an answer which others may check.
    """

    hold_id: bytes
    offer: Offer
    request: Request
    body: bytes
    backend: ScheduledBackend
    unpaid: ExitStack
    has_credit: bool
    may_start: bool
    demand: Demand
    patience_s: float
    length: AnswerLength
    tap: AnswerTap | None
    others: Sequence[ScheduledBackend]
    find_backends: Callable[[], Sequence[ScheduledBackend]]
