"""The executor: answers offers of other nodes, and is paid for what it delivers.

It accepts or declines by the owner's policy, starts at once, and stops if the payment is not final within the grace
time. An abort of the originator cancels the handler, and with it the request at the backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog
import trio

from chain.crypto import KeyPair, format_address, hash_bytes
from chain.exceptions import CodecError, InvalidOperation
from chain.ledger import get_executor
from chain.operations import Delivery, SignedOperation, Usage, compute_digest, compute_hold_id
from consensus.engine import Engine
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams import Exchange
from serving.admission import Origin, QueueFull
from serving.backends.backend import BackendError
from serving.offers import (
    PART_SIZE,
    Accepted,
    Declined,
    Failed,
    Final,
    Head,
    Message,
    Offer,
    Part,
    Payment,
    Receipt,
    Working,
    decode_message,
    encode_message,
    is_receipt,
    sign_delivery,
)
from serving.payments import Payments
from serving.policy import Decision, Policy
from serving.requests import PATHS
from serving.service import Service, Services
from serving.usage import AnswerTap

log = structlog.get_logger(__name__)

RELAYED_STATUSES = (400, 413, 415, 422)
"""Errors of a backend that are the request's own fault, and that any executor would answer."""

FINISH_CANCELLED = "cancelled"
FINISH_ERROR = "error"


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """Times in seconds, amounts in micro-credits."""

    hold_grace: float = 8.0
    payment_timeout: float = 10.0
    receipt_timeout: float = 10.0
    coalescing: float = 0.03
    sign_of_life: float = 5.0
    halt_after: float = 10.0
    """Without a final block for so long the chain has halted, and the grace rule is waived within the next two."""
    halt_credit: int = 10_000_000
    halt_share: int = 10
    """Unpaid credit in a halt: at most ``halt_credit``, and the payer's last final balance over ``halt_share``."""


class PaymentFailed(Exception):
    """The hold did not come, is not what was offered, or did not become final in time."""


class Executor:
    """Serves the offers that come over ``/wwwserve/offer/1``."""

    def __init__(
        self,
        key: KeyPair,
        engine: Engine,
        services: Services,
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
        self.served = 0
        self.declined = 0

    async def handle(self, exchange: Exchange) -> None:
        """Serve one offer."""
        offer = await _receive(exchange, self._settings.payment_timeout)
        if not isinstance(offer, Offer):
            raise NetworkError("expected an offer")
        body = await self._receive_body(exchange, offer)
        reason = self._find_fault(exchange.peer, offer, body)
        service = None if reason else await self._services.find(offer.hold.model)
        if service is None:
            await self._decline(exchange, reason or "the model is not served here at the moment")
            return
        situation = await service.get_situation(offer.hold.model)
        decision = self._policy.decide_offer(situation, self._runtime.random)
        if decision is Decision.DECLINE:
            await self._decline(exchange, "busy", retry_after=1000)
            return
        await exchange.send(encode_message(Accepted(queued=decision is Decision.QUEUE)))
        await _Execution(self, exchange, offer, body, service).run()

    async def _decline(self, exchange: Exchange, reason: str, retry_after: int = 0) -> None:
        self.declined += 1
        await exchange.send(encode_message(Declined(reason, retry_after)), end=True)

    async def _receive_body(self, exchange: Exchange, offer: Offer) -> bytes:
        body = bytearray()
        while len(body) < offer.size:
            with trio.fail_after(self._settings.payment_timeout):
                frame = await exchange.receive()
            if frame is None or len(body) + len(frame) > offer.size:
                raise NetworkError("the body is not as long as offered")
            body += frame
        return bytes(body)

    def _find_fault(self, payer: bytes, offer: Offer, body: bytes) -> str | None:
        """Why the terms are unacceptable, or None."""
        hold, engine = offer.hold, self._engine
        parameters, state = engine.genesis.parameters, engine.state
        if offer.path not in PATHS:
            return "unknown path"
        if hold.payee != self._key.public_key:
            return "the hold pays somebody else"
        if compute_digest(offer.salt, body) != hold.request_digest:
            return "the request digest is not that of the request"
        expected = get_executor(state, engine.genesis, hold.epoch, payer, hold.seq, hold.attempt, hold.model)
        if expected != self._key.public_key or hold.attempt >= parameters.max_attempts:
            return "not drawn for this request"
        if not state.window(payer).is_usable(hold.seq, hold.attempt):
            return "the hold number is used"
        if not state.account(self._key.public_key).models:
            return "this node is leaving the lottery"
        if not engine.chain_time() < hold.deadline <= engine.chain_time() + parameters.max_hold_time:
            return "the deadline is too near or too far"
        if hold.amount < parameters.get_price(hold.model).compute(Usage(len(body), 1)):
            return "the hold does not cover the request"
        if state.account(payer).available < hold.amount:
            return "the payer cannot pay"
        return None

    def can_extend_credit(self, payer: bytes, amount: int) -> bool:
        """Whether to serve although the payment is not final: only while the chain is halted, and up to a limit."""
        settings = self._settings
        if trio.current_time() - self._engine.last_final_at <= settings.halt_after:
            return False
        balance = self._engine.state.account(payer).available
        unpaid = self._credited.get(payer, 0) + self._payments.get_unpaid(payer)
        return unpaid + amount <= min(settings.halt_credit, balance // settings.halt_share)

    def count_credit(self, payer: bytes, change: int) -> None:
        """Keep count of the credit in executions under way."""
        self._credited[payer] = self._credited.get(payer, 0) + change
        if not self._credited[payer]:
            del self._credited[payer]


class _Execution:
    """One accepted offer."""

    def __init__(self, executor: Executor, exchange: Exchange, offer: Offer, body: bytes, service: Service) -> None:
        self._executor = executor
        self._exchange = exchange
        self._offer = offer
        self._body = body
        self._service = service
        self._settings = executor._settings
        self._chain_id = executor._engine.genesis.chain_id
        self._hold: SignedOperation | None = None
        self._tap = AnswerTap(stream=False)
        self._answered = bytearray()
        self._sent = trio.Event()
        """Set once something but signs of life was sent."""
        self._payment_received = trio.Event()
        """Until then the next frame is the payment, afterwards it is the receipt."""

    async def run(self) -> None:
        """Work and secure the payment side by side; settle whatever the end is."""
        delivery: Delivery | None = None
        receipt: bytes | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._secure_payment)
                nursery.start_soon(self._show_life)
                final = await self._answer()
                await self._payment_received.wait()
                delivery = final.delivery
                await self._send(final)
                receipt = await self._receive_receipt(delivery)
                self._executor.served += 1
                nursery.cancel_scope.cancel()  # an unfinished payment goes on in the purse
        except BaseException as error:
            await self._fail(error, delivery)
            raise
        self._settle(delivery, receipt)

    async def _fail(self, error: BaseException, delivery: Delivery | None) -> None:
        """Tell the originator, and settle for what it had received when it left."""
        reason = _describe(error)
        if reason is None:  # cancelled: what was delivered is owed
            if delivery is None and self._tap.completion_tokens:
                delivery = self._make_delivery(FINISH_CANCELLED, _make_salt(self._executor._runtime))
        else:
            delivery = None
            with trio.CancelScope(deadline=trio.current_time() + 1.0, shield=True), suppress(NetworkError):
                await self._exchange.send(encode_message(Failed(reason[:200])), end=True)
        self._settle(delivery or self._refund(), None)

    def _settle(self, delivery: Delivery, receipt: bytes | None) -> None:
        if self._hold is not None:
            self._executor._payments.collect(self._hold, delivery, receipt)

    # The payment

    async def _secure_payment(self) -> None:
        """Receive the hold and see it final, or stop everything."""
        executor, offer = self._executor, self._offer
        message = await _receive(self._exchange, self._settings.payment_timeout)
        if not isinstance(message, Payment):
            raise PaymentFailed("expected the payment")
        signed = message.hold
        if signed.operation != offer.hold or signed.signer != self._exchange.peer:
            raise PaymentFailed("the payment is not the one that was offered")
        try:
            await executor._engine.submit(signed)
        except InvalidOperation as error:
            raise PaymentFailed(f"the payment is refused: {error}") from error
        self._hold = signed
        self._payment_received.set()
        payer, amount = signed.signer, offer.hold.amount
        credited = 0
        try:
            while True:
                try:
                    _, failure = await executor._engine.wait_final(signed.id, self._settings.hold_grace)
                except trio.TooSlowError:
                    if not credited and not executor.can_extend_credit(payer, amount):
                        raise PaymentFailed("the payment is not final in time") from None
                    if not credited:
                        credited = amount
                        executor.count_credit(payer, credited)
                    continue
                if failure is not None:
                    raise PaymentFailed(f"the payment failed: {failure}")
                return
        finally:
            if credited:
                executor.count_credit(payer, -credited)

    async def _receive_receipt(self, delivery: Delivery) -> bytes | None:
        try:
            message = await _receive(self._exchange, self._settings.receipt_timeout)
        except (NetworkError, trio.TooSlowError, CodecError):
            return None
        payer = self._exchange.peer
        if isinstance(message, Receipt) and is_receipt(payer, self._chain_id, delivery, message.signature):
            return message.signature
        log.info("no valid receipt", payer=format_address(payer))
        return None

    # The answer

    async def _answer(self) -> Final:
        """Ask the backend and pass its answer on."""
        offer = self._offer
        try:
            async with self._service.complete(offer.path, self._body, Origin.DELEGATED) as response:
                if response.status != 200 and response.status not in RELAYED_STATUSES:
                    raise BackendError(f"the backend answered {response.status}")
                self._tap = AnswerTap(stream=response.content_type.startswith("text/event-stream"))
                await self._send(Head(response.status, response.content_type[:128]))
                async with coalesce(response.body, self._settings.coalescing, PART_SIZE) as parts:
                    async for part in parts:
                        self._tap.feed(part)
                        self._answered += part
                        for start in range(0, len(part), PART_SIZE):
                            await self._send(Part(part[start : start + PART_SIZE]))
        except QueueFull as error:
            raise BackendError(str(error)) from error
        self._tap.finish()
        salt = _make_salt(self._executor._runtime)
        if response.status != 200:
            delivery = self._refund(compute_digest(salt, bytes(self._answered)))
        elif not self._tap.complete:
            raise BackendError(self._tap.error or "the backend broke off")
        else:
            delivery = self._make_delivery(self._tap.finish_reason or "stop", salt)
        return Final(salt, delivery, sign_delivery(self._executor._key, self._chain_id, delivery))

    def _make_delivery(self, finish_reason: str, salt: bytes) -> Delivery:
        hold = self._offer.hold
        usage = Usage(len(self._body), self._tap.completion_tokens)
        price = self._executor._engine.genesis.parameters.get_price(hold.model).compute(usage)
        digest = compute_digest(salt, bytes(self._answered))
        return Delivery(self._hold_id, min(price, hold.amount), digest, usage, finish_reason)

    def _refund(self, digest: bytes = bytes(32)) -> Delivery:
        return Delivery(self._hold_id, 0, digest, Usage(0, 0), FINISH_ERROR)

    @property
    def _hold_id(self) -> bytes:
        return compute_hold_id(self._exchange.peer, self._offer.hold.seq, self._offer.hold.attempt)

    async def _send(self, message: Message) -> None:
        self._sent.set()
        await self._exchange.send(encode_message(message))

    async def _show_life(self) -> None:
        while not self._sent.is_set():
            with trio.move_on_after(self._settings.sign_of_life):
                await self._sent.wait()
                return
            queued = self._service.admission.waiting(Origin.DELEGATED) > 0
            await self._exchange.send(encode_message(Working(queued)))


@asynccontextmanager
async def coalesce(source: AsyncIterator[bytes], interval: float, size: int) -> AsyncIterator[AsyncIterator[bytes]]:
    """Join what arrives within ``interval`` seconds into pieces of about ``size`` bytes; the first goes at once.

    A message between nodes costs about the same whatever its length, and a token is a few dozen bytes.
    """
    send, receive = trio.open_memory_channel[bytes](16)

    async def pump() -> None:
        async with send:
            async for chunk in source:
                await send.send(chunk)

    async def join() -> AsyncIterator[bytes]:
        first = True
        async for chunk in receive:
            joined = bytearray(chunk)
            if not first:
                with trio.move_on_after(interval):
                    async for more in receive:
                        joined += more
                        if len(joined) >= size:
                            break
            first = False
            yield bytes(joined)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump)
        async with receive:
            yield join()
        nursery.cancel_scope.cancel()


async def _receive(exchange: Exchange, timeout: float) -> Message:
    with trio.fail_after(timeout):
        frame = await exchange.receive()
    if frame is None:
        raise NetworkError("the peer ended the exchange")
    return decode_message(frame)


def _describe(error: BaseException) -> str | None:
    """What to tell the originator of a failure; None if it is a cancellation or the originator itself went away."""
    if isinstance(error, BaseExceptionGroup):
        described = [_describe(part) for part in error.exceptions]
        return next((reason for reason in described if reason is not None), None)
    if isinstance(error, (trio.Cancelled, NetworkError)):
        return None
    if isinstance(error, trio.TooSlowError):
        return "the payment did not come in time"
    if isinstance(error, (PaymentFailed, BackendError, CodecError)):
        return str(error) or type(error).__name__
    log.error("an execution failed", exc_info=error)
    return "internal error"


def _make_salt(runtime: Runtime) -> bytes:
    return hash_bytes("salt", runtime.random.randbytes(32))[:16]
