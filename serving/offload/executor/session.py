"""An offload session: one offer that this node has accepted, from the backend's first byte to the capture.

The session answers and secures the payment concurrently, and settles in any case. It runs in a task of its own and is
*followed* by the handlers of the exchanges that carry it: an originator that aborts its exchange ends the session. An
originator that is lost in the middle of an answer, because a relay died or an address changed, may come back for a
while on another exchange and say how much it has. The answer continues from there.

The backend works at once, but nothing of the answer is sent before the hold is final, except within the credit line of
the payer. Until then the answer (:mod:`serving.offload.executor.executor_answer`) waits in a buffer of bounded size.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from functools import partial

import structlog
import trio

from chain.crypto import format_address
from chain.exceptions import CodecError
from chain.types.operations import FINISH_CANCELLED, Delivery, Usage, compute_digest
from p2p.network import NetworkError, is_network_error
from p2p.streams.exchange import Exchange
from serving.accounting.credit_line import CreditLine
from serving.accounting.payee import make_refund
from serving.accounting.receipts import is_receipt
from serving.backends.backend import BackendError
from serving.offload.context import DeliveredTexts, OffloadContext, receive_message
from serving.offload.executor.executor_answer import ExecutorAnswer
from serving.offload.executor.job import Job
from serving.offload.executor.session_payment import PaymentFailed, SessionPayment
from serving.offload.protocol import (
    CHUNK_BYTES,
    MAX_ANSWER_BYTES,
    Completed,
    Failed,
    KeepAlive,
    Message,
    Receipt,
    ResponseChunk,
    ResponseHead,
    cut_reason,
    encode_message,
    sign_delivery,
)
from serving.offload.settings import ExecutorSettings
from serving.openai.requests import Request

log = structlog.get_logger(__name__)

MAX_UNPAID_BYTES = 4096
"""A stream is ended as too long after so many completion bytes beyond those that the hold covers."""
ANSWER_RESERVE_BYTES = 2 << 20
"""Room that a stream leaves below :data:`~serving.offload.protocol.MAX_ANSWER_BYTES`: for the buffered bytes, and for
its end."""
MAX_RESUMPTIONS_ALLOWED = 3
"""Most resumptions of one answer that the executor allows: each may ask for the whole answer again."""


class OffloadSession:
    """The executor's side of one offload."""

    def __init__(
        self,
        context: OffloadContext,
        settings: ExecutorSettings,
        credit_line: CreditLine,
        exchange: Exchange,
        job: Job,
    ) -> None:
        self.payer = exchange.peer
        self._context = context
        self._settings = settings
        self._job = job
        self._terms = job.offer.hold
        self._payment = SessionPayment(context, settings, credit_line, exchange.peer, job)
        self._answer = ExecutorAnswer(settings, job, partial(_note_written, context, job))
        """The output of the backends. Its inspector has seen the bytes that were sent."""
        self._salt = context.make_salt()
        """Of the answer's digest."""
        self._answered = bytearray()
        """The bytes of the answer that were sent, for an originator that may resume it."""
        self._transcript_salt = context.make_salt()
        self._transcript: bytes | None = None
        """The encoded transcript of the bytes that were sent."""
        self._sent_at = 0.0
        """When a message was sent last."""
        self._is_answered = False
        """Whether the whole answer was sent."""
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._is_late = False
        """Whether it was stopped because its hold ends."""
        self._exchange = exchange
        """The one that carries the answer at present."""
        self._head: ResponseHead | None = None
        """The head of the answer, until it is sent with the first bytes."""
        self._position = 0
        """Bytes of the answer that the originator has, or that were sent in the present exchange."""
        self._resumptions = 0
        self._patience = settings.resume_timeout_s
        """Seconds that are left for the originator to be away, in all."""
        self._resumed = trio.Event()
        """Set and replaced by each resumption."""

    @property
    def request(self) -> Request:
        """What was asked."""
        return self._job.request

    def note_length(self) -> None:
        """The whole answer was handed over."""
        is_cut_off = self._answer.inspector.finish_reason == "length"
        self._job.length.end(self._answer.inspector.completion_bytes, is_cut_off=is_cut_off)

    async def run(self) -> bool:
        """Run the session to its end. Returns whether the whole answer was handed over.

        Raises nothing but a cancellation from outside.
        """
        is_served = False
        try:
            with self._scope:
                is_served = await self._run()
        except Exception as error:
            if not is_network_error(error):
                raise
            await self._exchange.abort("the answer broke off")
        finally:
            self._over.set()
        return is_served

    async def follow(self, exchange: Exchange) -> None:
        """Wait until the session is over. A cancellation of this wait ends it, unless the originator may still resume
        it."""
        try:
            await self._over.wait()
        finally:
            if exchange is self._exchange and not (exchange.is_lost and self._position):
                self._scope.cancel()

    async def resume(self, exchange: Exchange, received: int) -> None:
        """Continue the answer in ``exchange`` after its first ``received`` bytes, and :meth:`follow` the session.

        Raises:
            NetworkError: the originator cannot have received so much, or has come back too often.
        """
        if received > self._position or self._resumptions >= MAX_RESUMPTIONS_ALLOWED:
            raise NetworkError("the answer cannot be resumed there")
        former, self._exchange = self._exchange, exchange
        self._position = received
        self._resumptions += 1
        self._resumed.set()
        self._resumed = trio.Event()
        await former.abort("the answer goes on elsewhere")
        await self.follow(exchange)

    async def _run(self) -> bool:
        """Answer and secure the payment concurrently; settle in any case.

        Raises:
            NetworkError, Cancelled: the originator left. Any other failure is sent to it.
        """
        delivery: Delivery | None = None
        receipt: bytes | None = None
        try:
            failure: Exception | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._payment.secure, self._exchange)
                nursery.start_soon(self._send_keep_alives)
                nursery.start_soon(self._watch_deadline)
                try:
                    completed = await self._pass_answer(nursery)
                    delivery = completed.delivery
                    receipt = await self._hand_over(completed)
                except Exception as error:
                    failure = error
                nursery.cancel_scope.cancel()  # the payee goes on with a hold that is not final yet
            if failure is not None:
                try:
                    raise failure
                finally:
                    failure = None  # it holds this frame, which must not hold it
        except BaseException as error:
            reason = _describe(error)
            if reason is None:  # cancelled: what was delivered is owed
                if delivery is None and self._answer.inspector.completion_bytes:
                    self._transcript = self._answer.make_transcript()
                    delivery = self._make_delivery(FINISH_CANCELLED)
                elif delivery is None:
                    self._note_left()
                self._settle(delivery, None)
                raise
            self._settle(delivery, None, _is_own_fault(error))
            await self._send_failure(reason)
            return False
        self._settle(delivery, receipt)
        return True

    def _note_left(self) -> None:
        """The originator left before any of the answer came: the work that it caused counts against it."""
        began_at = self._answer.began_at
        if self._payment.hold is not None and began_at is not None and not self._is_late:
            now = trio.current_time()
            self._context.payments.payee.history.note_left(self.payer, now - began_at, now)

    async def _send_failure(self, reason: str) -> None:
        log.info("offload failed", payer=format_address(self.payer), reason=reason)
        with trio.move_on_after(1.0), suppress(NetworkError):
            await self._exchange.send(encode_message(Failed(cut_reason(reason))), end=True)

    def _settle(self, delivery: Delivery | None, receipt: bytes | None, is_own_fault: bool = False) -> None:
        """Have the payment settled, and keep what is paid for."""
        inspector = self._answer.inspector
        has_content = inspector.completion_bytes > 0 or inspector.is_too_long
        if self._payment.hold is not None and delivery is not None and delivery.amount:
            self._keep_texts()
        self._payment.settle(delivery, receipt, is_own_fault=is_own_fault, has_content=has_content)

    def _keep_texts(self) -> None:
        """Keep request and answer, in case a duel is about them."""
        keep, job = self._context.keep, self._job
        if keep is not None:
            salt, answer, transcript = job.offer.salt, bytes(self._answered), self._transcript or b""
            deadline, own_salt = self._terms.deadline, self._transcript_salt
            keep(DeliveredTexts(job.hold_id, True, deadline, salt, job.body, self._salt, answer, own_salt, transcript))

    # The end of the payment

    async def _watch_deadline(self) -> None:
        """Stop in time to capture the delivered part: after the deadline the payer takes the hold back."""
        rest = (self._terms.deadline - self._context.engine.chain_time()) / 1000
        await trio.sleep(rest - self._settings.capture_time_s)
        self._is_late = True
        raise NetworkError("the hold's deadline is near")

    async def _hand_over(self, completed: Completed) -> bytes | None:
        """Send the end of the answer, and return the receipt for it, if one comes."""
        while True:
            exchange = self._exchange
            try:
                exchange = await self._send_rest(completed)
                message = await receive_message(exchange, self._settings.receipt_timeout_s)
            except NetworkError:
                if await self._is_back(exchange):
                    continue
                return None
            except (trio.TooSlowError, CodecError):
                return None
            signature = message.signature if isinstance(message, Receipt) else b""
            if is_receipt(self.payer, self._context.chain_id, completed.delivery, signature):
                return signature
            log.info("no valid receipt", payer=format_address(self.payer))
            return None

    # The answer

    async def _pass_answer(self, nursery: trio.Nursery) -> Completed:
        """Pass on the output of the backends, once it may be sent. They work in ``nursery``.

        Raises:
            BackendError: they refused, broke off, ended too early, or answered at more length than is paid.
            NetworkError: the originator is gone.
        """
        job, context, answer = self._job, self._context, self._answer
        try:
            head = await answer.begin(nursery, None if job.may_start else self._payment.covered)
        except BackendError:
            await self._payment.received.wait()  # a hold must be known to be refunded
            raise
        await self._payment.covered.wait()
        self._head = ResponseHead(head.status, head.content_type[:128], self._salt)
        async with aclosing(answer.read(head)) as body:
            await (self._send_stream(body) if head.is_stream else self._take_whole(body, head.status))
        self._is_answered = True
        if head.status != 200:
            delivery = make_refund(job.hold_id, compute_digest(self._salt, bytes(self._answered)))
        elif not answer.inspector.is_complete:
            await self._send_rest()
            raise BackendError(answer.inspector.error or "the backend broke off")
        else:
            answer.note_end()
            if job.tap is not None:
                self._transcript = await context.runtime.run_sync(answer.make_transcript)
            delivery = self._make_delivery(answer.inspector.finish_reason or "stop")
        return Completed(delivery, sign_delivery(context.key, context.chain_id, delivery))

    async def _send_stream(self, body: AsyncIterator[bytes]) -> None:
        """Pass a stream on, as far as it is paid."""
        async for chunk in body:
            inspector = self._answer.inspector
            await self._send_chunk(chunk)
            self._job.length.grow(inspector.completion_bytes)
            if inspector.is_too_long:
                return
            if not inspector.is_over and self._is_at_limit():
                await self._send_chunk(inspector.end())
                return

    async def _take_whole(self, body: AsyncIterator[bytes], status: int) -> None:
        """Take an answer that is not a stream: it is sent with the delivery."""
        async for chunk in body:
            if status == 200 and self._is_hold_used_up():
                raise BackendError("the answer is longer than the request allows")
            self._take(chunk)

    def _make_delivery(self, finish_reason: str) -> Delivery:
        usage = Usage(len(self._job.body), self._answer.inspector.completion_bytes)
        digest = compute_digest(self._salt, bytes(self._answered))
        amount = min(self._compute_price(usage), self._terms.amount)
        _back_only(self._context, self._job, amount)
        transcript = self._transcript
        transcript_digest = None if transcript is None else compute_digest(self._transcript_salt, transcript)
        return Delivery(self._job.hold_id, amount, digest, usage, finish_reason, transcript_digest)

    def _compute_price(self, usage: Usage) -> int:
        return _compute_price(self._context, self._job, usage)

    def _is_hold_used_up(self) -> bool:
        """Whether the hold pays for no more of the answer: the backend ignores the limit."""
        paid = max(0, self._answer.inspector.completion_bytes - MAX_UNPAID_BYTES)
        return self._compute_price(Usage(len(self._job.body), paid)) > self._terms.amount

    def _is_at_limit(self) -> bool:
        """Whether a stream must end, because the hold pays for no more of it or the next piece may not fit."""
        is_full = len(self._answered) > MAX_ANSWER_BYTES - ANSWER_RESERVE_BYTES
        return self._answer.inspector.completion_bytes > 0 and (is_full or self._is_hold_used_up())

    async def _send_chunk(self, chunk: bytes) -> None:
        """Pass on whole events of a stream, or any bytes of another answer. An error event becomes a failure message
        instead."""
        self._take(chunk)
        if chunk:
            await self._send_rest()

    def _take(self, chunk: bytes) -> None:
        """Take the next bytes of what the originator gets."""
        error_event = self._answer.inspector.error_event
        if error_event and error_event in chunk:
            raise BackendError(self._answer.inspector.error or "")
        if len(self._answered) + len(chunk) > MAX_ANSWER_BYTES:
            raise BackendError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        self._answered += chunk

    async def _send_rest(self, last: Completed | None = None) -> Exchange:
        """Send the bytes of the answer that the originator lacks, and the ``last`` message of this side. Returns the
        exchange.

        The head is sent together with the first bytes, and the end with the last ones.

        Raises:
            NetworkError: it is gone for good.
        """
        exchange, is_sent = self._exchange, last is None
        while not is_sent or self._position < len(self._answered):
            exchange, messages = self._exchange, list[Message]()
            if self._head is not None:
                messages.append(self._head)
                self._head = None
            if chunk := bytes(self._answered[self._position : self._position + CHUNK_BYTES]):
                messages.append(ResponseChunk(chunk))
                self._position += len(chunk)
            is_end = self._position == len(self._answered)
            if last is not None and is_end:
                messages.append(last)
            try:
                await self._send(exchange, messages, end=last is not None and is_end)
                is_sent = is_end
            except NetworkError:
                if not await self._is_back(exchange):
                    raise
        return exchange

    async def _send(self, exchange: Exchange, messages: Sequence[Message], *, end: bool) -> None:
        frames = list(map(encode_message, messages))
        if exchange.has_room(*frames):  # nearly always, and then it takes no time
            await exchange.send(*frames, end=end)
        else:
            with trio.move_on_after(self._settings.send_timeout_s) as limit:
                await exchange.send(*frames, end=end)
            if limit.cancelled_caught:
                raise NetworkError("the originator reads nothing any more")
        self._sent_at = trio.current_time()

    async def _is_back(self, failed: Exchange) -> bool:
        """Whether the originator continues in another exchange than ``failed``. If it was lost, this waits for it."""
        if failed is self._exchange and failed.is_lost:
            started = trio.current_time()
            self._answer.note_read(is_read=False)
            with trio.move_on_after(self._patience):
                await self._resumed.wait()
            self._answer.note_read(is_read=True)
            self._patience -= trio.current_time() - started
        return failed is not self._exchange

    async def _send_keep_alives(self) -> None:
        """Send a keep-alive whenever nothing was sent for a while."""
        self._sent_at = trio.current_time()
        while True:
            due = self._sent_at + self._settings.keep_alive_interval_s
            if trio.current_time() < due:
                await trio.sleep_until(due)
                continue
            if self._is_answered:
                return
            try:
                if self._exchange.can_send:  # else there is enough to read yet, and this side may end while it waits
                    await self._exchange.send(encode_message(KeepAlive(self._answer.is_queued)))
            except NetworkError:
                if not self._position:  # else it may be back when there is more of the answer to send
                    raise
            self._sent_at = trio.current_time()


def _note_written(context: OffloadContext, job: Job, written: int) -> None:
    """The backends are done: lower the backing to the price of ``written`` bytes, an upper bound of the content.

    It is no method of the session: the answer would refer to its session, which refers to the answer and to the body.
    """
    _back_only(context, job, _compute_price(context, job, Usage(len(job.body), written)))


def _back_only(context: OffloadContext, job: Job, price: int) -> None:
    """Reduce the bond behind a request to the cost of its answer."""
    context.payments.payee.lower_backing(job.hold_id, price)


def _compute_price(context: OffloadContext, job: Job, usage: Usage) -> int:
    return context.engine.genesis.parameters.get_price(job.offer.hold.model).compute(usage)


def _is_own_fault(error: BaseException) -> bool:
    """Whether this node failed, not the originator, its payment or the connection."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_own_fault, error.exceptions))
    return not isinstance(error, (trio.Cancelled, NetworkError, trio.TooSlowError, CodecError, PaymentFailed))


def _describe(error: BaseException) -> str | None:
    """What to tell the originator of a failure; None if it is a cancellation or the originator itself went away."""
    if isinstance(error, BaseExceptionGroup):
        described = [_describe(one) for one in error.exceptions]
        return next((reason for reason in described if reason is not None), None)
    if isinstance(error, (trio.Cancelled, NetworkError)):
        return None
    if isinstance(error, trio.TooSlowError):
        return "the payment did not come in time"
    if isinstance(error, (PaymentFailed, BackendError, CodecError)):
        return str(error) or type(error).__name__
    log.error("an offload session failed", exc_info=error)
    return "internal error"
