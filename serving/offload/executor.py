"""The executor: answers offers of other nodes, and is paid for what it delivers.

It accepts or declines by the owner's policy, and starts at once; :mod:`serving.offload.session` does what was accepted.
"""

from __future__ import annotations

from typing import Any

import trio

from chain.crypto import KeyPair
from chain.exceptions import CodecError
from chain.transition.operations import get_executor
from chain.types.operations import Usage, compute_digest, compute_hold_id
from consensus.engine import Engine
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams.exchanges import Exchange
from serving.accounting.payments import Payments
from serving.offload.protocol import Accepted, Declined, Offer, Resume, cut_reason, encode_message
from serving.offload.session import ExecutorSettings, OffloadSession, receive_message
from serving.openai.errors import ApiError
from serving.openai.requests import MAX_TOKENS, PATHS, parse_request
from serving.scheduling.backend_pool import BackendPool
from serving.scheduling.policy import Decision, Policy


class Executor:
    """Serves the offers that come over ``/wwwserve/offer/1``."""

    def __init__(
        self,
        key: KeyPair,
        engine: Engine,
        services: BackendPool,
        payments: Payments,
        policy: Policy,
        runtime: Runtime,
        settings: ExecutorSettings | None = None,
    ) -> None:
        self._key = key
        self._engine = engine
        self._services = services
        self._payments = payments
        self._policy = policy
        self._runtime = runtime
        self._settings = settings or ExecutorSettings()
        self._credited: dict[bytes, int] = {}
        """Credit given to each payer, while the chain is halted, by executions under way."""
        self._executions: dict[bytes, OffloadSession] = {}
        """Those under way, by the id of their hold."""
        self._nursery: trio.Nursery | None = None
        self.served = 0
        self.declined = 0

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
        """Serve one offer, or the rest of an answer that was interrupted."""
        try:
            message = await receive_message(exchange, self._settings.payment_timeout)
        except (CodecError, trio.TooSlowError) as error:
            raise NetworkError(f"no offer: {error}") from error
        if isinstance(message, Resume):
            await self._resume(exchange, message)
        elif isinstance(message, Offer):
            await self._consider(exchange, message)
        else:
            raise NetworkError("expected an offer")

    async def _resume(self, exchange: Exchange, message: Resume) -> None:
        execution = self._executions.get(message.hold)
        if execution is None or execution.payer != exchange.peer:
            await self._decline(exchange, "there is no such answer any more")
        else:
            await execution.resume(exchange, message.received)

    async def _consider(self, exchange: Exchange, offer: Offer) -> None:
        """Decide on an offer, and serve it."""
        hold_id = compute_hold_id(exchange.peer, offer.hold.seq, offer.hold.attempt)
        reason = self._find_fault(exchange.peer, hold_id, offer)
        if reason is not None:
            await self._decline(exchange, reason)
            return
        self._payments.serving.add(hold_id)
        execution = None
        try:
            execution = await self._accept(exchange, offer)
        finally:
            if execution is None:
                self._payments.serving.discard(hold_id)
        if execution is not None:
            await execution.follow(exchange)

    async def _accept(self, exchange: Exchange, offer: Offer) -> OffloadSession | None:
        """Decide on an offer with acceptable terms, and begin with it."""
        service = await self._services.find(offer.hold.model)
        if service is None:
            await self._decline(exchange, "the model is not served here at the moment")
            return None
        body = await self._receive_body(exchange, offer)
        reason = self._find_body_fault(offer, body)
        if reason is not None:
            await self._decline(exchange, cut_reason(reason))
            return None
        load = await service.get_load_snapshot(offer.hold.model)
        decision = self._policy.decide_offer(load, self._runtime.random)
        if decision is Decision.DECLINE or self._nursery is None:
            await self._decline(exchange, "busy", retry_after=1000)
            return None
        await exchange.send(encode_message(Accepted(queued=decision is Decision.QUEUE)))
        execution = OffloadSession(self, exchange, offer, body, service)
        self._nursery.start_soon(self._execute, execution)
        return execution

    async def _execute(self, execution: OffloadSession) -> None:
        self._executions[execution.hold_id] = execution
        try:
            await execution.run()
        finally:
            del self._executions[execution.hold_id]
            self._payments.serving.discard(execution.hold_id)

    async def _decline(self, exchange: Exchange, reason: str, retry_after: int = 0) -> None:
        self.declined += 1
        await exchange.send(encode_message(Declined(reason, retry_after)), end=True)

    async def _receive_body(self, exchange: Exchange, offer: Offer) -> bytes:
        body = bytearray()
        with trio.move_on_after(self._settings.payment_timeout):
            while len(body) < offer.size:
                frame = await exchange.receive()
                if frame is None or len(body) + len(frame) > offer.size:
                    break
                body += frame
            else:
                return bytes(body)
        raise NetworkError("the body is not as long as offered, or too slow")

    def _find_fault(self, payer: bytes, hold_id: bytes, offer: Offer) -> str | None:
        """Why the terms are unacceptable, or None."""
        hold, engine = offer.hold, self._engine
        parameters, state = engine.genesis.parameters, engine.state
        if offer.path not in PATHS:
            return "unknown path"
        if hold.payee != self._key.public_key:
            return "the hold pays somebody else"
        if hold.attempt >= parameters.max_attempts:  # before the draw, whose cost grows with it
            return "not drawn for this request"
        if get_executor(state, hold.epoch, payer, hold.seq, hold.attempt, hold.model) != self._key.public_key:
            return "not drawn for this request"
        in_use = hold_id in self._payments.serving or self._payments.is_collecting(hold_id)
        if in_use or not state.window(payer).is_usable(hold.seq, hold.attempt):
            return "the hold number is used"
        if not state.account(self._key.public_key).models:
            return "this node is leaving the lottery"
        rest = hold.deadline - engine.chain_time()
        if not 1000 * self._settings.min_hold_time <= rest <= parameters.max_hold_time:
            return "the deadline is too near or too far"
        if state.account(payer).available < hold.amount:
            return "the payer cannot pay"
        return None

    def _find_body_fault(self, offer: Offer, body: bytes) -> str | None:
        """Why the terms do not suit the request, or None."""
        hold = offer.hold
        if compute_digest(offer.salt, body) != hold.request_digest:
            return "the request digest is not that of the request"
        try:
            request = parse_request(offer.path, body, MAX_TOKENS)
        except ApiError as error:
            return f"not a request: {error}"
        if request.model != hold.model:
            return "the hold is for another model"
        usage = Usage(len(body), request.max_tokens)
        if hold.amount < self._engine.genesis.parameters.get_price(hold.model).compute(usage):
            return "the hold does not cover the request"
        return None

    def can_extend_credit(self, payer: bytes, amount: int) -> bool:
        """Whether to serve although the chain is halted and no payment becomes final: up to a limit."""
        settings = self._settings
        balance = self._engine.state.account(payer).available
        unpaid = self._credited.get(payer, 0) + self._payments.get_unpaid(payer)
        return unpaid + amount <= min(settings.halt_credit, balance // settings.halt_share)

    def count_credit(self, payer: bytes, change: int) -> None:
        """Keep count of the credit in executions under way."""
        self._credited[payer] = self._credited.get(payer, 0) + change
        if not self._credited[payer]:
            del self._credited[payer]
