"""The executor: answers offers of other nodes, and is paid for what it delivers.

It accepts or declines by the owner's policy; each offer that it accepts becomes an
:class:`~serving.offload.executor.session.OffloadSession`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from functools import partial
from typing import Any

import trio
from msgspec.structs import replace

from chain.exceptions import CodecError
from chain.histogram import Histogram
from chain.transition.payments import get_executor
from chain.types.operations import Usage, compute_digest, compute_hold_id
from p2p.network import NetworkError
from p2p.owned_tasks import OwnedTasks
from p2p.streams.exchange import Exchange
from serving.accounting.credit_line import CreditExhausted, CreditLine
from serving.accounting.unpaid_offers import TooManyUnpaid, UnpaidOffers
from serving.failover.patience import compute_patience
from serving.offload.context import AnswerTap, OffloadContext, receive_message
from serving.offload.executor.bond_shares import BondExhausted, BondShares
from serving.offload.executor.job import Job
from serving.offload.executor.offer_rates import OfferRates, Verdict
from serving.offload.executor.offered_bodies import OfferedBodies, OfferedBody
from serving.offload.executor.session import OffloadSession
from serving.offload.protocol import Accepted, Declined, Offer, Resume, cut_reason, encode_message
from serving.offload.settings import ExecutorSettings
from serving.openai.endpoints import ENDPOINTS
from serving.openai.errors import ApiError
from serving.openai.requests import Request, read_request
from serving.prediction.predicted_time import predict_wait
from serving.prediction.predictor import Predictor
from serving.scheduling.admission import Demand, NotAdmitted, Origin
from serving.scheduling.availability import AvailabilityGate
from serving.scheduling.backend_pool import BackendPool, ScheduledBackend
from serving.scheduling.own_prediction import predict_own
from serving.scheduling.policy import Decision, Policy

BUSY_RETRY_MS = 1000
"""Least time after which a busy node may be asked again, as it tells originators."""

LOOP_BODY_BYTES = 8 << 10
"""Longest body that is read on the event loop: to hand it to a thread takes as long."""

STALLED_RETRY_MS = 5000
"""Time after which a payer without credit may ask again while the ledger is stalled: the next block may have come by
then."""

MAX_RETRY_AFTER_MS = 7 * 86_400_000
"""Longest time that is told."""

DECISION_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Upper bounds of the histogram of the times that decisions took."""


class DeclineReason(StrEnum):
    """Why an offer is declined, in the words of the metrics."""

    BUSY = "busy"
    CLOSED = "closed"
    """The owner's hours, or the owner's own use."""
    MODEL = "model"
    """The model is not served, or not to others, or lacks something that the request asks for."""
    UNPAID = "unpaid"
    """The payer has left offers unpaid, or has too many that are not paid yet."""
    STALLED = "stalled"
    """No block becomes final, and the payer has no credit."""
    BOND = "bond"
    """This node's bond covers no more."""
    DRAW = "draw"
    """Another node is drawn, or this one leaves the lottery."""
    HOLD = "hold"
    """Terms of the hold."""
    REQUEST = "request"
    """What came is not what was offered, or no request."""


class _Declined(Exception):
    """The offer is not accepted; the message is what the payer is told."""

    def __init__(self, reason: DeclineReason, message: str, retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_ms = retry_after_ms


def _decline_busy(retry_after_s: float = 0.0) -> _Declined:
    """This node is busy, and expects to have time for the request in ``retry_after_s``."""
    return _Declined(DeclineReason.BUSY, "busy", max(BUSY_RETRY_MS, math.ceil(1000 * retry_after_s)))


class Executor:
    """Serves the exchanges of :data:`serving.offload.protocol.OFFLOAD_PROTOCOL`."""

    def __init__(
        self,
        context: OffloadContext,
        backend_pool: BackendPool,
        policy: Policy,
        availability: AvailabilityGate,
        settings: ExecutorSettings | None = None,
        blame: Callable[[bytes], None] = lambda peer: None,
        predictor: Predictor | None = None,
    ) -> None:
        """``blame`` is called with the key of a peer for each offer that it should not have made. ``predictor`` is the
        one of the node; it learns the lengths of the answers given here.
        """
        self._context = context
        self._backend_pool = backend_pool
        self._policy = policy
        self._availability = availability
        self._settings = settings = settings or ExecutorSettings()
        self._payee = payee = context.payments.payee
        self._credit_line = CreditLine(payee, settings.paid_share)
        self._blame = blame
        self._predictor = predictor or Predictor(context.key.public_key, context.runtime.random)
        self._rates = OfferRates(payee.history)
        self._unpaid_offers = UnpaidOffers(context.engine, payee)
        self._bodies = OfferedBodies(settings.body_bytes)
        self._bond_shares = BondShares(context.engine, payee, context.key.public_key)
        self._reading = trio.Lock()
        self._sessions: dict[bytes, OffloadSession] = {}
        """Those under way, by the id of their hold."""
        self._tasks = OwnedTasks()
        self.served = 0
        self.declines = dict.fromkeys(DeclineReason, 0)
        """Offers that were declined, for now or for good, by reason."""
        self.declined_for_now = 0
        """Those of them that may come again: the node was busy or closed."""
        self.decision_times = Histogram(DECISION_BOUNDS_S)
        """Seconds from the arrival of an offer until it is accepted or declined; this includes the arrival of its
        body."""

    @property
    def declined(self) -> int:
        """Offers that were declined."""
        return sum(self.declines.values())

    @property
    def under_way(self) -> int:
        """Requests of other nodes that are being served."""
        return len(self._sessions)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out what is accepted, until cancelled."""
        await self._tasks.run(task_status=task_status)

    async def handle(self, exchange: Exchange) -> None:
        """Serve one offer, or the rest of an answer that was interrupted.

        Raises:
            NetworkError: the peer sent neither, makes too many offers, or is gone.
        """
        verdict = self._rates.judge(exchange.peer, trio.current_time())
        if verdict is Verdict.BLAME:
            self._blame(exchange.peer)
        if verdict is not Verdict.ADMIT:
            raise NetworkError("busy")
        try:
            message = await receive_message(exchange, self._settings.body_timeout_s)
        except (CodecError, trio.TooSlowError) as error:
            raise NetworkError(f"no offer: {error}") from error
        came_at = trio.current_time()
        try:
            if isinstance(message, Resume):
                await self._resume(exchange, message)
            elif isinstance(message, Offer):
                await self._consider(exchange, message, came_at)
            else:
                raise NetworkError("expected an offer")
        except _Declined as declined:
            self.declines[declined.reason] += 1
            self.declined_for_now += declined.retry_after_ms > 0
            self.decision_times.observe(trio.current_time() - came_at)
            answer = Declined(cut_reason(str(declined)), declined.retry_after_ms)
            await exchange.send(encode_message(answer), end=True)

    async def _resume(self, exchange: Exchange, message: Resume) -> None:
        session = self._sessions.get(message.hold)
        if session is None or session.payer != exchange.peer:
            raise _Declined(DeclineReason.REQUEST, "there is no such answer any more")
        await session.resume(exchange, message.received)

    async def _consider(self, exchange: Exchange, offer: Offer, came_at: float) -> None:
        """Decide on an offer, and serve it.

        Raises:
            _Declined: it is not accepted.
        """
        hold_id = compute_hold_id(exchange.peer, offer.hold)
        self._check_open(offer.hold.model)
        self._validate_terms(exchange.peer, offer)
        self._check_payable(exchange.peer, offer.hold.amount)
        with ExitStack() as reservation:
            reservation.enter_context(self._payee.serving(exchange.peer, offer.hold))
            unpaid = reservation.enter_context(ExitStack())
            try:
                unpaid.enter_context(self._unpaid_offers.reserve(exchange.peer, offer.hold.amount))
            except TooManyUnpaid as error:
                raise _Declined(DeclineReason.UNPAID, str(error), BUSY_RETRY_MS) from None
            job, is_queued = await self._decide(exchange, hold_id, offer, unpaid)
            price = self._compute_price(job.request, job.body)
            try:
                reservation.enter_context(self._bond_shares.back(exchange.peer, hold_id, price))
            except BondExhausted as error:
                raise _Declined(DeclineReason.BOND, str(error), BUSY_RETRY_MS if error.is_for_now else 0) from None
            if not self._tasks.are_running:
                raise _decline_busy()
            self.decision_times.observe(trio.current_time() - came_at)
            await exchange.send(encode_message(Accepted(is_queued)))
            session = OffloadSession(self._context, self._settings, self._credit_line, exchange, job)
            self._tasks.start_soon(self._execute, session, hold_id, reservation.pop_all())
        await session.follow(exchange)

    async def _decide(self, exchange: Exchange, hold_id: bytes, offer: Offer, unpaid: ExitStack) -> tuple[Job, bool]:
        """The job for an offer with acceptable terms, and whether it waits first.

        Raises:
            _Declined: the offer is not accepted.
        """
        model = offer.hold.model
        backend, *others = self._find_backends(model)
        body, request, tap = await self._receive_request(exchange, offer)
        own = predict_own(self._predictor, backend, request, trio.current_time())
        speed = own.present_speed
        feature = request.endpoint.feature
        if feature is not None and feature not in speed.features:
            raise _Declined(DeclineReason.MODEL, f"the model has no {feature} here")
        demand = self._make_demand(exchange.peer, offer, own.predict_service())
        # A slot may be free here while the backend is busy with others.
        wait_s = backend.admission.predict_wait(demand) or predict_wait(speed, own.expected.usual_output)
        load = replace(backend.get_load_snapshot(model), wait_s=wait_s)
        decision = self._policy.decide_offer(load, self._context.runtime.random)
        longest_s = min(demand.max_wait_s, self._policy.parameters.max_offer_wait_s)
        if not backend.admission.has_room(demand):
            raise _decline_busy(backend.admission.predict_drained())
        if decision is Decision.DECLINE or wait_s > demand.max_wait_s:
            raise _decline_busy(wait_s - longest_s)
        has_credit, may_start = False, True
        try:
            unpaid.enter_context(self._credit_line.lend(exchange.peer, offer.hold.amount))
            has_credit = True
        except CreditExhausted:
            try:
                may_start = unpaid.enter_context(backend.admission.unpaid())
            except NotAdmitted as error:
                raise _decline_busy(error.retry_after_s) from None
        find_backends = partial(self._backend_pool.order, model)
        job = Job(
            hold_id,
            offer,
            request,
            body,
            backend,
            unpaid,
            has_credit,
            may_start,
            demand,
            compute_patience(request, own.prediction, own.expected.largest.output, shows_queue=backend.shows_queue),
            self._predictor.watch_length(request),
            tap,
            others,
            find_backends,
        )
        return job, decision is Decision.QUEUE or not may_start

    def _find_backends(self, model: str) -> list[ScheduledBackend]:
        """The backends of ``model`` in the order in which to ask them, without broken ones.

        Raises:
            _Declined: none works.
        """
        now, found = trio.current_time(), self._backend_pool.order(model)
        if not found:
            raise _Declined(DeclineReason.MODEL, "the model is not served here at the moment")
        if found[0].breaker.is_open(now):
            raise _decline_busy(min(each.breaker.get_rest(now) for each in found))
        return found

    def _make_demand(self, payer: bytes, offer: Offer, service_s: float) -> Demand:
        """The demand of an offer: a slot for ``service_s``, while its originator waits and its hold is good."""
        settings = self._settings
        rest = (offer.hold.deadline - self._context.engine.chain_time()) / 1000 - settings.capture_time_s
        max_wait_s = max(0.0, min(self._policy.parameters.max_wait_s, settings.max_queue_wait_s, rest - service_s))
        return Demand(Origin.DELEGATED, offer.hold.model, service_s, max_wait_s, payer)

    async def _execute(self, session: OffloadSession, hold_id: bytes, reservation: ExitStack) -> None:
        """Carry out a session; ``reservation`` ends with it."""
        with reservation:
            self._sessions[hold_id] = session
            try:
                is_served = await session.run()
                self.served += is_served
                if is_served:
                    session.note_length()
            finally:
                del self._sessions[hold_id]

    async def _receive_request(self, exchange: Exchange, offer: Offer) -> tuple[bytes, Request, AnswerTap | None]:
        """The body that was offered, the request in it, and the tap on its answer, if there is one.

        A long body is read in a thread, one at a time.

        Raises:
            _Declined: it is no request, the terms of the offer do not suit it, or too many bodies are on their way.
            NetworkError: it does not have the size that was offered, or is too slow.
        """
        has_paid = self._payee.history.get_paid(exchange.peer) > 0
        with self._bodies.receive(exchange.peer, has_paid) as received:
            body = await self._receive_body(exchange, offer, received)
            if len(body) <= LOOP_BODY_BYTES:
                return body, *self._read_request(offer, body)
            async with self._reading:
                return body, *await self._context.runtime.run_sync(self._read_request, offer, body)
        raise _decline_busy()

    async def _receive_body(self, exchange: Exchange, offer: Offer, received: OfferedBody) -> bytes:
        """The request that was offered. If it does not come, the offer counts as unpaid.

        Raises:
            NetworkError: it does not have the size that was offered, or is too slow.
        """
        body = bytearray()
        try:
            with trio.move_on_after(self._settings.body_timeout_s):
                while len(body) < offer.size:
                    frame = await exchange.receive()
                    if frame is None or len(body) + len(frame) > offer.size:
                        break
                    body += frame
                    self._bodies.grow(received, len(frame))
        finally:
            if len(body) < offer.size and not received.is_given_up:
                self._payee.history.note_unpaid(exchange.peer, trio.current_time())
        if len(body) < offer.size:
            raise NetworkError("the body is not as long as offered, or too slow")
        return bytes(body)

    def _check_open(self, model: str) -> None:
        """Decline offers outside of the owner's hours, and for models that other nodes do not get.

        Raises:
            _Declined: this is such an offer.
        """
        availability = self._availability.check()
        if not availability.is_open:
            retry_ms = min(MAX_RETRY_AFTER_MS, math.ceil(1000 * availability.retry_after_s))
            raise _Declined(DeclineReason.CLOSED, "closed", retry_ms)
        if not self._policy.parameters.accepts(model):
            raise _Declined(DeclineReason.MODEL, "the model is not served to other nodes")

    def _check_payable(self, payer: bytes, amount: int) -> None:
        """Decline offers that can be paid neither soon nor on credit: they would only wait, and occupy a slot.

        Raises:
            _Declined: the ledger is stalled, and the credit of ``payer`` does not cover ``amount``.
        """
        if self._context.engine.is_stalled and not self._credit_line.covers(payer, amount):
            raise _Declined(
                DeclineReason.STALLED, "the ledger is stalled, and your credit here does not cover it", STALLED_RETRY_MS
            )

    def _validate_terms(self, payer: bytes, offer: Offer) -> None:
        """Decline unacceptable terms.

        Raises:
            _Declined: they are.
        """
        hold, engine, me = offer.hold, self._context.engine, self._context.key.public_key
        parameters, state = engine.genesis.parameters, engine.state
        suspension = self._payee.history.get_suspension(payer, trio.current_time())
        if suspension:
            message = "you did not pay for what was accepted"
            raise _Declined(DeclineReason.UNPAID, message, math.ceil(1000 * suspension))
        endpoint = ENDPOINTS.get(offer.path)
        if endpoint is None:
            raise _Declined(DeclineReason.REQUEST, "unknown path")
        if hold.payee != me:
            raise _Declined(DeclineReason.HOLD, "the hold pays another node")
        least = parameters.get_price(hold.model).compute(Usage(offer.size, 0 if endpoint.is_priced_by_prompt else 1))
        if hold.amount < max(least, 1):
            raise _Declined(DeclineReason.HOLD, "the hold does not cover the request")
        if hold.attempt >= parameters.max_attempts:  # before the draw, whose cost grows with it
            raise _Declined(DeclineReason.DRAW, "not drawn for this request")
        if get_executor(state, hold.round, payer, hold.seq, hold.attempt, hold.model) != me:
            raise _Declined(DeclineReason.DRAW, "not drawn for this request")
        if self._payee.is_in_use(payer, hold) or not state.replay_window(payer).is_usable(hold.seq, hold.attempt):
            raise _Declined(DeclineReason.HOLD, "the hold number is used")
        if not state.account(me).models:
            raise _Declined(DeclineReason.DRAW, "this node is leaving the lottery")
        rest = hold.deadline - engine.chain_time()
        if not 1000 * self._settings.min_hold_time_s <= rest <= parameters.max_hold_time_ms:
            raise _Declined(DeclineReason.HOLD, "the deadline is too near or too far")

    def _read_request(self, offer: Offer, body: bytes) -> tuple[Request, AnswerTap | None]:
        """The request in ``body``, and the tap on its answer.

        Raises:
            _Declined: it is no request, or the terms of the offer do not suit it.
        """
        hold = offer.hold
        if compute_digest(offer.salt, body) != hold.request_digest:
            raise _Declined(DeclineReason.REQUEST, "the request digest is not that of the request")
        try:
            request = read_request(offer.path, body)
        except ApiError as error:
            raise _Declined(DeclineReason.REQUEST, f"not a request: {error}") from None
        if request.model != hold.model:
            raise _Declined(DeclineReason.REQUEST, "the hold is for another model")
        if hold.amount < self._compute_price(request, body):
            raise _Declined(DeclineReason.HOLD, "the hold does not cover the request")
        most = self._policy.parameters.get_max_tokens(request.model)
        if request.max_tokens > most * request.choices:
            raise _Declined(DeclineReason.MODEL, f"at most {most} tokens of an answer are served here")
        return request, self._context.make_tap(request)

    def _compute_price(self, request: Request, body: bytes) -> int:
        """The most that the answer may cost, in micro-credits."""
        usage = Usage(len(body), request.max_completion_bytes)
        return self._context.engine.genesis.parameters.get_price(request.model).compute(usage)
