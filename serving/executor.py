"""The executor: answers offers of other nodes, and is paid for what it delivers.

It accepts or declines by the owner's policy, starts at once, and stops if the payment is not final within the grace
time. An abort of the originator cancels the handler, and with it the request at the backend.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
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
    MAX_ANSWER,
    PART_SIZE,
    RELAYED_STATUSES,
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
    cut_reason,
    decode_message,
    encode_message,
    is_receipt,
    sign_delivery,
)
from serving.openai_errors import ApiError
from serving.payments import Payments, make_refund
from serving.policy import Decision, Policy
from serving.requests import MAX_TOKENS, PATHS, parse_request
from serving.service import Service, Services
from serving.usage import AnswerTap

log = structlog.get_logger(__name__)

FINISH_CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """Times in seconds, amounts in micro-credits."""

    hold_grace: float = 8.0
    payment_timeout: float = 10.0
    """For the body of the request, and for the hold."""
    receipt_timeout: float = 10.0
    send_timeout: float = 60.0
    """An originator that reads nothing for so long is taken for gone."""
    min_hold_time: float = 300.0
    capture_time: float = 60.0
    """A hold must be good for ``min_hold_time``, and an answer is stopped ``capture_time`` before the hold's end."""
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
        try:
            offer = await _receive(exchange, self._settings.payment_timeout)
        except (CodecError, trio.TooSlowError) as error:
            raise NetworkError(f"no offer: {error}") from error
        if not isinstance(offer, Offer):
            raise NetworkError("expected an offer")
        hold_id = compute_hold_id(exchange.peer, offer.hold.seq, offer.hold.attempt)
        reason = self._find_fault(exchange.peer, hold_id, offer)
        if reason is not None:
            await self._decline(exchange, reason)
            return
        self._payments.serving.add(hold_id)
        try:
            await self._consider(exchange, offer)
        finally:
            self._payments.serving.discard(hold_id)

    async def _consider(self, exchange: Exchange, offer: Offer) -> None:
        """Decide on an offer with acceptable terms, and serve it."""
        service = await self._services.find(offer.hold.model)
        if service is None:
            await self._decline(exchange, "the model is not served here at the moment")
            return
        body = await self._receive_body(exchange, offer)
        reason = self._find_body_fault(offer, body)
        if reason is not None:
            await self._decline(exchange, cut_reason(reason))
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
        """Set once there is something of the answer to send."""
        self._payment_received = trio.Event()
        """Until then nothing is sent and the next frame is the payment; afterwards it is the receipt."""

    async def run(self) -> None:
        """Work and secure the payment side by side; settle whatever the end is.

        Raises:
            NetworkError, Cancelled: the originator left. Any other failure it is told of.
        """
        delivery: Delivery | None = None
        receipt: bytes | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._secure_payment)
                nursery.start_soon(self._show_life)
                nursery.start_soon(self._watch_deadline)
                final = await self._answer()
                delivery = final.delivery
                await self._send(final)
                receipt = await self._receive_receipt(delivery)
                self._executor.served += 1
                nursery.cancel_scope.cancel()  # an unfinished payment goes on in the purse
        except BaseException as error:
            reason = _describe(error)
            if reason is None:  # cancelled: what was delivered is owed
                if delivery is None and self._tap.completion_tokens:
                    delivery = self._make_delivery(FINISH_CANCELLED, _make_salt(self._executor._runtime))
                self._settle(delivery or make_refund(self._hold_id), None)
                raise
            self._settle(delivery or make_refund(self._hold_id), None)
            await self._tell_failure(reason)
            return
        self._settle(delivery, receipt)

    async def _tell_failure(self, reason: str) -> None:
        log.info("execution failed", payer=format_address(self._exchange.peer), reason=reason)
        with trio.move_on_after(1.0), suppress(NetworkError):
            await self._exchange.send(encode_message(Failed(cut_reason(reason))), end=True)

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
        await self._wait_final(signed)

    async def _wait_final(self, signed: SignedOperation) -> None:
        """Wait until the hold is final; while the chain is halted, go on without as long as there is credit."""
        executor, settings, amount = self._executor, self._settings, self._offer.hold.amount
        engine, since = executor._engine, trio.current_time()
        patience, credited = settings.hold_grace, 0
        try:
            while True:
                try:
                    _, failure = await engine.wait_final(signed.id, patience)
                except trio.TooSlowError:
                    silence = trio.current_time() - engine.last_final_at
                    patience = settings.hold_grace
                    if silence > settings.halt_after:
                        if not credited and not executor.can_extend_credit(signed.signer, amount):
                            raise PaymentFailed("the chain is halted, and so much is not given on credit") from None
                        executor.count_credit(signed.signer, amount - credited)
                        credited = amount
                    elif engine.last_final_at < since:  # not one block since: this may be a halt
                        patience = settings.halt_after - silence + 0.1
                    else:
                        raise PaymentFailed("the payment is not final in time") from None
                    continue
                if failure is not None:
                    raise PaymentFailed(f"the payment failed: {failure}")
                return
        finally:
            executor.count_credit(signed.signer, -credited)

    async def _watch_deadline(self) -> None:
        """Leave in time to capture what was delivered: after the deadline the payer takes the hold back."""
        rest = (self._offer.hold.deadline - self._executor._engine.chain_time()) / 1000
        await trio.sleep(rest - self._settings.capture_time)
        raise NetworkError("the hold's deadline is near")

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
                await self._payment_received.wait()
                await self._send(Head(response.status, response.content_type[:128]))
                async with coalesce(response.body, self._settings.coalescing, PART_SIZE) as parts:
                    async for part in parts:
                        await self._send_part(self._tap.feed(part))
        except (QueueFull, BackendError) as error:
            await self._payment_received.wait()  # to be refunded, it must be known
            raise BackendError(str(error)) from error
        await self._send_part(self._tap.finish())
        salt = _make_salt(self._executor._runtime)
        if response.status != 200:
            delivery = make_refund(self._hold_id, compute_digest(salt, bytes(self._answered)))
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

    @property
    def _hold_id(self) -> bytes:
        return compute_hold_id(self._exchange.peer, self._offer.hold.seq, self._offer.hold.attempt)

    async def _send_part(self, part: bytes) -> None:
        """Pass on whole events of a stream (any bytes, else); an error event is told as a failure instead."""
        if self._tap.error is not None:
            raise BackendError(self._tap.error)
        if len(self._answered) + len(part) > MAX_ANSWER:
            raise BackendError(f"the answer is longer than {MAX_ANSWER} bytes")
        self._answered += part
        for start in range(0, len(part), PART_SIZE):
            self._sent.set()
            await self._send(Part(part[start : start + PART_SIZE]))

    async def _send(self, message: Message) -> None:
        with trio.move_on_after(self._settings.send_timeout):
            await self._exchange.send(encode_message(message))
            return
        raise NetworkError("the originator reads nothing any more")

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

    A message between nodes costs about the same whatever its length, and a token is a few dozen bytes. What came before
    the source fails is passed on before its BackendError is.
    """
    send, receive = trio.open_memory_channel[bytes](16)
    failures: list[BackendError] = []

    async def pump() -> None:
        async with send:
            try:
                async for chunk in source:
                    await send.send(chunk)
            except BackendError as error:
                failures.append(error)

    async def join() -> AsyncGenerator[bytes, None]:
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
        if failures:
            raise failures[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump)
        async with receive, aclosing(join()) as joined:
            yield joined
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
