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
    """An accepted offer: its terms, its request, and the backend that is to answer it.

    ``others`` are asked if that backend fails before there is content. ``find_backends`` returns the living backends of
    the model, to continue an answer that was cut. ``body`` is the body as it was offered, from which the request's
    digest and price follow. ``unpaid`` is closed when the hold is final; until then the request counts as unpaid, the
    answer is sent only if the payer ``has_credit``, and the backend is asked only if the request ``may_start``.
    ``demand`` is that for a slot. While another backend can be asked, one has ``patience_s`` for its first content.
    ``length`` learns the length of the answer. ``tap`` is the tap on an answer that others may check.
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
