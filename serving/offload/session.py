"""An execution: one offer that this node has accepted, from the backend's first word to the payment.

It works and secures the payment side by side, and settles whatever the end is. It runs in a task of its own, and is
*followed* by the handlers of the exchanges that carry it: an originator that aborts ends it. An originator that is lost
in the middle of an answer, because a relay died or an address changed, has a while to come back on another exchange and
say how much it has; the answer goes on from there. Meanwhile nothing more is asked of the backend.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from chain.crypto import format_address, hash_bytes
from chain.exceptions import CodecError, InvalidOperation
from chain.types.operations import Delivery, SignedOperation, Usage, compute_digest, compute_hold_id
from p2p.network import NetworkError, is_network_error
from p2p.runtime import Runtime
from p2p.streams.exchanges import Exchange
from serving.accounting.payments import make_refund
from serving.accounting.receipts import is_receipt
from serving.backends.backend import BackendError
from serving.offload.protocol import (
    CHUNK_BYTES,
    MAX_ANSWER_BYTES,
    RELAYED_STATUSES,
    Completed,
    Failed,
    KeepAlive,
    Message,
    Offer,
    Payment,
    Receipt,
    ResponseChunk,
    ResponseHead,
    cut_reason,
    decode_message,
    encode_message,
    sign_delivery,
)
from serving.openai.answers import AnswerInspector
from serving.scheduling.admission import Origin, QueueFull
from serving.scheduling.backend_pool import ScheduledBackend

if TYPE_CHECKING:
    from serving.offload.executor import Executor

log = structlog.get_logger(__name__)

FINISH_CANCELLED = "cancelled"
MAX_RESUMPTIONS = 16
"""Times that one answer may be resumed: each may ask for all of it again."""


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """Times in seconds, amounts in micro-credits."""

    hold_grace: float = 8.0
    payment_timeout: float = 10.0
    """For the body of the request, and for the hold."""
    receipt_timeout: float = 10.0
    send_timeout: float = 60.0
    """An originator that reads nothing for so long is taken for gone."""
    resume_timeout: float = 50.0
    """One that is lost in the middle of an answer may come back for so long."""
    min_hold_time: float = 300.0
    capture_time: float = 60.0
    """A hold must be good for ``min_hold_time``, and an answer is stopped ``capture_time`` before the hold's end."""
    coalescing: float = 0.03
    keep_alive_interval: float = 5.0
    halt_after: float = 10.0
    """Without a final block for so long the chain has halted, and the grace rule is waived within the next two."""
    halt_credit: int = 10_000_000
    halt_share: int = 10
    """Unpaid credit in a halt: at most ``halt_credit``, and the payer's last final balance over ``halt_share``."""


class PaymentFailed(Exception):
    """The hold did not come, is not what was offered, or did not become final in time."""


class OffloadSession:
    """One accepted offer."""

    def __init__(
        self, executor: Executor, exchange: Exchange, offer: Offer, body: bytes, service: ScheduledBackend
    ) -> None:
        self.hold_id = compute_hold_id(exchange.peer, offer.hold.seq, offer.hold.attempt)
        self.payer = exchange.peer
        self._executor = executor
        self._offer = offer
        self._body = body
        self._service = service
        self._settings = executor._settings
        self._chain_id = executor._engine.genesis.chain_id
        self._hold: SignedOperation | None = None
        self._inspector = AnswerInspector(stream=False)
        self._answered = bytearray()
        self._sent = trio.Event()
        """Set once there is something of the answer to send."""
        self._payment_received = trio.Event()
        """Until then nothing is sent and the next frame is the payment; afterwards it is the receipt."""
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        # The exchange that carries it at present, how much of the answer went into it, and how often it was replaced.
        self._exchange = exchange
        self._position = 0
        self._resumptions = 0
        self._resumed = trio.Event()

    async def run(self) -> None:
        """Work to the end, whatever it is. Never raises but for a cancellation from outside."""
        try:
            with self._scope:
                await self._run()
        except Exception as error:
            if not is_network_error(error):
                raise
            await self._exchange.abort("the answer broke off")
        finally:
            self._over.set()

    async def follow(self, exchange: Exchange) -> None:
        """Wait until it is over. Whoever is cancelled in here ends it, unless the originator may yet resume it."""
        try:
            await self._over.wait()
        finally:
            if exchange is self._exchange and not (exchange.is_lost and self._position):
                self._scope.cancel()

    async def resume(self, exchange: Exchange, received: int) -> None:
        """Go on in ``exchange`` after the first ``received`` bytes of the answer, and :meth:`follow` it.

        Raises:
            NetworkError: the originator cannot have received so much, or has come back too often.
        """
        if received > self._position or self._resumptions >= MAX_RESUMPTIONS:
            raise NetworkError("the answer cannot be resumed there")
        former, self._exchange = self._exchange, exchange
        self._position = received
        self._resumptions += 1
        self._resumed.set()
        self._resumed = trio.Event()
        await former.abort("the answer goes on elsewhere")
        await self.follow(exchange)

    async def _run(self) -> None:
        """Work and secure the payment side by side; settle whatever the end is.

        Raises:
            NetworkError, Cancelled: the originator left. Any other failure it is told of.
        """
        delivery: Delivery | None = None
        receipt: bytes | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._secure_payment)
                nursery.start_soon(self._send_keep_alives)
                nursery.start_soon(self._watch_deadline)
                final = await self._answer()
                delivery = final.delivery
                receipt = await self._hand_over(final)
                self._executor.served += 1
                nursery.cancel_scope.cancel()  # an unfinished payment goes on in the payments
        except BaseException as error:
            reason = _describe(error)
            if reason is None:  # cancelled: what was delivered is owed
                if delivery is None and self._inspector.completion_tokens:
                    delivery = self._make_delivery(FINISH_CANCELLED, _make_salt(self._executor._runtime))
                self._settle(delivery or make_refund(self.hold_id), None)
                raise
            self._settle(delivery or make_refund(self.hold_id), None)
            await self._tell_failure(reason)
            return
        self._settle(delivery, receipt)

    async def _tell_failure(self, reason: str) -> None:
        log.info("execution failed", payer=format_address(self.payer), reason=reason)
        with trio.move_on_after(1.0), suppress(NetworkError):
            await self._exchange.send(encode_message(Failed(cut_reason(reason))), end=True)

    def _settle(self, delivery: Delivery, receipt: bytes | None) -> None:
        if self._hold is not None:
            self._executor._payments.collect(self._hold, delivery, receipt)

    # The payment

    async def _secure_payment(self) -> None:
        """Receive the hold and see it final, or stop everything."""
        executor, offer = self._executor, self._offer
        message = await receive_message(self._exchange, self._settings.payment_timeout)
        if not isinstance(message, Payment):
            raise PaymentFailed("expected the payment")
        signed = message.hold
        if signed.operation != offer.hold or signed.signer != self.payer:
            raise PaymentFailed("the payment is not the one that was offered")
        try:
            await executor._engine.submit(signed)
        except InvalidOperation as error:
            raise PaymentFailed(f"the payment is refused: {error}") from error
        self._hold = signed
        self._payment_received.set()
        await self._wait_final(signed)

    async def _wait_final(self, signed: SignedOperation) -> None:
        """Wait until the hold is final, for as long as blocks become final.

        When none does, the chain has halted or this node is cut off from it; it goes on as long as there is credit.
        """
        executor, settings, amount = self._executor, self._settings, self._offer.hold.amount
        engine, since = executor._engine, trio.current_time()
        patience, credited, was_overdue = settings.hold_grace, 0, False
        try:
            while True:
                try:
                    _, failure = await engine.wait_final(signed.id, patience)
                except trio.TooSlowError:
                    silence = trio.current_time() - engine.last_final_at
                    is_overdue = engine.is_overdue(signed.id, settings.hold_grace / 4)
                    patience = settings.hold_grace
                    if silence > settings.halt_after:
                        if not credited and not executor.can_extend_credit(signed.signer, amount):
                            raise PaymentFailed("the chain is halted, and so much is not given on credit") from None
                        executor.count_credit(signed.signer, amount - credited)
                        credited = amount
                    elif is_overdue or engine.last_final_at < since:  # this may be a halt
                        patience = settings.halt_after - silence + 0.1
                    elif not was_overdue:
                        raise PaymentFailed("the payment is not final in time") from None
                    was_overdue = is_overdue
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

    async def _hand_over(self, final: Completed) -> bytes | None:
        """Send the end of the answer, and return the receipt for it, if one comes."""
        while True:
            exchange = self._exchange
            try:
                await self._send_rest()
                await self._send(exchange, final)
                message = await receive_message(exchange, self._settings.receipt_timeout)
            except NetworkError:
                if await self._is_back(exchange):
                    continue
                return None
            except (trio.TooSlowError, CodecError):
                return None
            signature = message.signature if isinstance(message, Receipt) else b""
            if is_receipt(self.payer, self._chain_id, final.delivery, signature):
                return signature
            log.info("no valid receipt", payer=format_address(self.payer))
            return None

    # The answer

    async def _answer(self) -> Completed:
        """Ask the backend and pass its answer on."""
        offer = self._offer
        try:
            async with self._service.complete(offer.path, self._body, Origin.DELEGATED) as response:
                if response.status != 200 and response.status not in RELAYED_STATUSES:
                    raise BackendError(f"the backend answered {response.status}")
                self._inspector = AnswerInspector(stream=response.content_type.startswith("text/event-stream"))
                await self._payment_received.wait()
                await self._send(self._exchange, ResponseHead(response.status, response.content_type[:128]))
                async with coalesce(response.body, self._settings.coalescing, CHUNK_BYTES) as parts:
                    async for part in parts:
                        await self._send_chunk(self._inspector.feed(part))
        except (QueueFull, BackendError) as error:
            await self._payment_received.wait()  # to be refunded, it must be known
            raise BackendError(str(error)) from error
        await self._send_chunk(self._inspector.finish())
        salt = _make_salt(self._executor._runtime)
        if response.status != 200:
            delivery = make_refund(self.hold_id, compute_digest(salt, bytes(self._answered)))
        elif not self._inspector.complete:
            raise BackendError(self._inspector.error or "the backend broke off")
        else:
            delivery = self._make_delivery(self._inspector.finish_reason or "stop", salt)
        return Completed(salt, delivery, sign_delivery(self._executor._key, self._chain_id, delivery))

    def _make_delivery(self, finish_reason: str, salt: bytes) -> Delivery:
        hold = self._offer.hold
        usage = Usage(len(self._body), self._inspector.completion_tokens)
        price = self._executor._engine.genesis.parameters.get_price(hold.model).compute(usage)
        digest = compute_digest(salt, bytes(self._answered))
        return Delivery(self.hold_id, min(price, hold.amount), digest, usage, finish_reason)

    @property
    def _hold_id(self) -> bytes:
        return compute_hold_id(self.payer, self._offer.hold.seq, self._offer.hold.attempt)

    async def _send_chunk(self, part: bytes) -> None:
        """Pass on whole events of a stream (any bytes, else); an error event is told as a failure instead."""
        if self._inspector.error is not None:
            raise BackendError(self._inspector.error)
        if len(self._answered) + len(part) > MAX_ANSWER_BYTES:
            raise BackendError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        self._answered += part
        if part:
            self._sent.set()
            await self._send_rest()

    async def _send_rest(self) -> None:
        """Send what the originator lacks of the answer.

        Raises:
            NetworkError: it is gone for good.
        """
        while self._position < len(self._answered):
            exchange = self._exchange
            part = bytes(self._answered[self._position : self._position + CHUNK_BYTES])
            self._position += len(part)
            try:
                await self._send(exchange, ResponseChunk(part))
            except NetworkError:
                if not await self._is_back(exchange):
                    raise

    async def _send(self, exchange: Exchange, message: Message) -> None:
        with trio.move_on_after(self._settings.send_timeout):
            await exchange.send(encode_message(message))
            return
        raise NetworkError("the originator reads nothing any more")

    async def _is_back(self, failed: Exchange) -> bool:
        """Whether the originator goes on in another exchange than ``failed``; if it was lost, it is waited for."""
        if failed is self._exchange and failed.is_lost:
            with trio.move_on_after(self._settings.resume_timeout):
                await self._resumed.wait()
        return failed is not self._exchange

    async def _send_keep_alives(self) -> None:
        while not self._sent.is_set():
            with trio.move_on_after(self._settings.keep_alive_interval):
                await self._sent.wait()
                return
            queued = self._service.admission.waiting(Origin.DELEGATED) > 0
            await self._exchange.send(encode_message(KeepAlive(queued)))


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


async def receive_message(exchange: Exchange, timeout: float) -> Message:
    """The peer's next message.

    Raises:
        NetworkError, CodecError, trio.TooSlowError: there is none within ``timeout`` seconds.
    """
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
