"""The executor: answers offers of other nodes, and is paid for what it delivers.

It accepts or declines by the owner's policy; each offer that it accepts becomes an
:class:`~serving.offload.executor.session.OffloadSession`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from chain.exceptions import CodecError
from chain.transition.payments import get_executor
from chain.types.operations import Usage, compute_digest, compute_hold_id
from p2p.network import NetworkError
from p2p.streams.exchanges import Exchange
from serving.accounting.credit_line import CreditExhausted, CreditLine
from serving.accounting.unpaid_offers import TooManyUnpaid, UnpaidOffers
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
from serving.scheduling.admission import Demand, NotAdmitted, Origin
from serving.scheduling.availability import AvailabilityGate
from serving.scheduling.backend_pool import BackendPool, ScheduledBackend
from serving.scheduling.output_length import OutputLengths
from serving.scheduling.policy import Decision, Policy
from serving.scheduling.prediction import (
    ServiceSpeed,
    predict_service,
    predict_wait,
)
from serving.scheduling.predictor import expect_size, watch_length

BUSY_RETRY_MS = 1000
"""Least time after which a busy node may be asked again, as it tells originators."""

LOOP_BODY_BYTES = 8 << 10
"""Longest body that is read on the event loop: to hand it to a thread takes as long."""

MAX_RETRY_AFTER_MS = 7 * 86_400_000
"""Longest time that is told."""


class _Declined(Exception):
    """The offer is not accepted; the message is the reason."""

    def __init__(self, reason: str, retry_after_ms: int = 0) -> None:
        super().__init__(reason)
        self.retry_after_ms = retry_after_ms


def _decline_busy(retry_after_s: float) -> _Declined:
    """The backend is busy, and expects to have time for the request in ``retry_after_s``."""
    return _Declined("busy", max(BUSY_RETRY_MS, math.ceil(1000 * retry_after_s)))


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
        lengths: OutputLengths | None = None,
    ) -> None:
        """``blame`` is called with the key of a peer for each offer that it should not have made. ``lengths`` are the
        expected lengths of answers, which learn from those that are given here.
        """
        self._context = context
        self._backend_pool = backend_pool
        self._policy = policy
        self._availability = availability
        self._settings = settings = settings or ExecutorSettings()
        self._payee = payee = context.payments.payee
        self._credit_line = CreditLine(payee, settings.paid_share)
        self._blame = blame
        self._lengths = lengths if lengths is not None else OutputLengths()
        self._rates = OfferRates(payee.history)
        self._unpaid_offers = UnpaidOffers(context.engine, payee)
        self._bodies = OfferedBodies(settings.body_bytes)
        self._bond_shares = BondShares(context.engine, payee, context.key.public_key)
        self._reading = trio.Lock()
        self._sessions: dict[bytes, OffloadSession] = {}
        """Those under way, by the id of their hold."""
        self._nursery: trio.Nursery | None = None
        self.served = 0
        self.declined = 0
        """Offers that were declined, for now or for good."""
        self.declined_for_now = 0
        """Those of them that may come again: the node was busy or closed."""

    @property
    def under_way(self) -> int:
        """Requests of other nodes that are being served."""
        return len(self._sessions)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out what is accepted, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

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
        try:
            if isinstance(message, Resume):
                await self._resume(exchange, message)
            elif isinstance(message, Offer):
                await self._consider(exchange, message)
            else:
                raise NetworkError("expected an offer")
        except _Declined as declined:
            self.declined += 1
            self.declined_for_now += declined.retry_after_ms > 0
            answer = Declined(cut_reason(str(declined)), declined.retry_after_ms)
            await exchange.send(encode_message(answer), end=True)

    async def _resume(self, exchange: Exchange, message: Resume) -> None:
        session = self._sessions.get(message.hold)
        if session is None or session.payer != exchange.peer:
            raise _Declined("there is no such answer any more")
        await session.resume(exchange, message.received)

    async def _consider(self, exchange: Exchange, offer: Offer) -> None:
        """Decide on an offer, and serve it.

        Raises:
            _Declined: it is not accepted.
        """
        hold_id = compute_hold_id(exchange.peer, offer.hold)
        self._check_open(offer.hold.model)
        self._validate_terms(exchange.peer, offer)
        with ExitStack() as reservation:
            reservation.enter_context(self._payee.serving(exchange.peer, offer.hold))
            unpaid = reservation.enter_context(ExitStack())
            try:
                unpaid.enter_context(self._unpaid_offers.reserve(exchange.peer, offer.hold.amount))
            except TooManyUnpaid as error:
                raise _Declined(str(error), BUSY_RETRY_MS) from None
            job, is_queued = await self._decide(exchange, hold_id, offer, unpaid)
            price = self._compute_price(job.request, job.body)
            try:
                reservation.enter_context(self._bond_shares.back(exchange.peer, hold_id, price))
            except BondExhausted as error:
                raise _Declined(str(error), BUSY_RETRY_MS if error.is_for_now else 0) from None
            nursery = self._nursery
            if nursery is None:
                raise _Declined("busy", BUSY_RETRY_MS)
            await exchange.send(encode_message(Accepted(is_queued)))
            session = OffloadSession(self._context, self._settings, self._credit_line, exchange, job)
            nursery.start_soon(self._execute, session, hold_id, reservation.pop_all())
        await session.follow(exchange)

    async def _decide(self, exchange: Exchange, hold_id: bytes, offer: Offer, unpaid: ExitStack) -> tuple[Job, bool]:
        """What to do for an offer with acceptable terms, and whether it waits first.

        Raises:
            _Declined: nothing.
        """
        model = offer.hold.model
        backend, *others = self._find_backends(model)
        body, request, tap = await self._receive_request(exchange, offer)
        speed = backend.get_speed(model)
        feature = request.endpoint.feature
        if feature is not None and feature not in speed.features:
            raise _Declined(f"the model has no {feature} here")
        demand = self._make_demand(exchange.peer, offer, request, speed)
        # A slot may be free here while the backend is busy with others.
        wait_s = backend.admission.predict_wait(demand) or predict_wait(speed, self._lengths.get_usual(model))
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
        length = watch_length(self._lengths, request)
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
            length,
            tap,
            others,
            find_backends,
        )
        return job, decision is Decision.QUEUE or not may_start

    def _find_backends(self, model: str) -> list[ScheduledBackend]:
        """The backends of ``model`` in the order in which to ask them. What is broken is not offered to others.

        Raises:
            _Declined: none works.
        """
        now, found = trio.current_time(), self._backend_pool.order(model)
        if not found:
            raise _Declined("the model is not served here at the moment")
        if found[0].breaker.is_open(now):
            raise _decline_busy(min(each.breaker.get_rest(now) for each in found))
        return found

    def _make_demand(self, payer: bytes, offer: Offer, request: Request, speed: ServiceSpeed) -> Demand:
        """What the request of an offer asks of admission: a slot while its originator waits and its hold is good."""
        settings = self._settings
        service_s = predict_service(speed, expect_size(self._lengths, request))
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
            _Declined: it is none, the terms of the offer do not suit it, or too many bodies are on their way.
            NetworkError: it does not have the size that was offered, or is too slow.
        """
        has_paid = self._payee.history.get_paid(exchange.peer) > 0
        with self._bodies.receive(exchange.peer, has_paid) as received:
            body = await self._receive_body(exchange, offer, received)
            if len(body) <= LOOP_BODY_BYTES:
                return body, *self._read_request(offer, body)
            async with self._reading:
                return body, *await self._context.runtime.run_sync(self._read_request, offer, body)
        raise _Declined("busy", BUSY_RETRY_MS)

    async def _receive_body(self, exchange: Exchange, offer: Offer, received: OfferedBody) -> bytes:
        """The request that was offered. If it does not come, that is an offer left unpaid.

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
            _Declined: it is one.
        """
        availability = self._availability.check()
        if not availability.is_open:
            raise _Declined("closed", min(MAX_RETRY_AFTER_MS, math.ceil(1000 * availability.retry_after_s)))
        if not self._policy.parameters.accepts(model):
            raise _Declined("the model is not served to other nodes")

    def _validate_terms(self, payer: bytes, offer: Offer) -> None:
        """Decline unacceptable terms.

        Raises:
            _Declined: they are.
        """
        hold, engine, me = offer.hold, self._context.engine, self._context.key.public_key
        parameters, state = engine.genesis.parameters, engine.state
        suspension = self._payee.history.get_suspension(payer, trio.current_time())
        if suspension:
            raise _Declined("you did not pay for what was accepted", math.ceil(1000 * suspension))
        endpoint = ENDPOINTS.get(offer.path)
        if endpoint is None:
            raise _Declined("unknown path")
        if hold.payee != me:
            raise _Declined("the hold pays another node")
        least = parameters.get_price(hold.model).compute(Usage(offer.size, 0 if endpoint.is_priced_by_prompt else 1))
        if hold.amount < max(least, 1):
            raise _Declined("the hold does not cover the request")
        if hold.attempt >= parameters.max_attempts:  # before the draw, whose cost grows with it
            raise _Declined("not drawn for this request")
        if get_executor(state, hold.round, payer, hold.seq, hold.attempt, hold.model) != me:
            raise _Declined("not drawn for this request")
        if self._payee.is_in_use(payer, hold) or not state.replay_window(payer).is_usable(hold.seq, hold.attempt):
            raise _Declined("the hold number is used")
        if not state.account(me).models:
            raise _Declined("this node is leaving the lottery")
        rest = hold.deadline - engine.chain_time()
        if not 1000 * self._settings.min_hold_time_s <= rest <= parameters.max_hold_time_ms:
            raise _Declined("the deadline is too near or too far")

    def _read_request(self, offer: Offer, body: bytes) -> tuple[Request, AnswerTap | None]:
        """The request in ``body``, and the tap on its answer.

        Raises:
            _Declined: it is none, or the terms of the offer do not suit it.
        """
        hold = offer.hold
        if compute_digest(offer.salt, body) != hold.request_digest:
            raise _Declined("the request digest is not that of the request")
        try:
            request = read_request(offer.path, body)
        except ApiError as error:
            raise _Declined(f"not a request: {error}") from None
        if request.model != hold.model:
            raise _Declined("the hold is for another model")
        if hold.amount < self._compute_price(request, body):
            raise _Declined("the hold does not cover the request")
        most = self._policy.parameters.get_max_tokens(request.model)
        if request.max_tokens > most * request.choices:
            raise _Declined(f"at most {most} tokens of an answer are served here")
        return request, self._context.make_tap(request)

    def _compute_price(self, request: Request, body: bytes) -> int:
        """The most that the answer may cost, in micro-credits."""
        usage = Usage(len(body), request.max_completion_bytes)
        return self._context.engine.genesis.parameters.get_price(request.model).compute(usage)
