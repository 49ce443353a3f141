"""An offload session: one offer that this node has accepted, from the backend's first byte to the capture.

The session works and secures the payment side by side, and settles whatever the end is. It runs in a task of its own
and is *followed* by the handlers of the exchanges that carry it: an originator that aborts its exchange ends the
session. An originator that is lost in the middle of an answer, because a relay died or an address changed, may come
back for a while on another exchange and say how much it has; the answer goes on from there.

The backend works at once, but nothing of the answer leaves before the hold is final, except within the credit line of
the payer. The backend writes into a buffer of bounded size: its slot is free as soon as it has finished, however slowly
the originator reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import structlog
import trio

from chain.crypto import format_address
from chain.exceptions import CodecError, InvalidOperation
from chain.types.operations import FINISH_CANCELLED, Delivery, SignedOperation, Usage, compute_digest
from p2p.network import NetworkError, is_network_error
from p2p.streams.exchanges import Exchange
from serving.accounting.credit_line import CreditExhausted, CreditLine
from serving.accounting.payee import make_refund
from serving.accounting.receipts import is_receipt
from serving.backends.backend import BackendError
from serving.failover.local import BackendsFailed, Tries, ask_backends
from serving.failover.rules import CLIENT_ERRORS
from serving.offload.answer_buffer import AnswerBuffer, BufferFull
from serving.offload.context import AnswerTap, DeliveredTexts, OffloadContext, receive_message
from serving.offload.protocol import (
    CHUNK_BYTES,
    MAX_ANSWER_BYTES,
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
    encode_message,
    sign_delivery,
)
from serving.offload.settings import ExecutorSettings
from serving.openai.answers import AnswerInspector
from serving.openai.requests import Request
from serving.scheduling.admission import Demand, NotAdmitted
from serving.scheduling.backend_pool import ScheduledBackend
from serving.scheduling.output_length import AnswerLength
from serving.scheduling.prediction import BYTES_PER_TOKEN, estimate_tokens
from serving.scheduling.speed import AnswerTimer

log = structlog.get_logger(__name__)

MAX_UNPAID_BYTES = 4096
"""Completion bytes beyond those that the hold covers, after which a stream is ended for its length."""
ANSWER_RESERVE_BYTES = 2 << 20
"""Room that a stream leaves below :data:`~serving.offload.protocol.MAX_ANSWER_BYTES`: for what the buffer holds, and
for its end."""
MAX_RESUMPTIONS_ALLOWED = 3
"""Most resumptions of one answer that the executor allows: each may ask for the whole answer again."""


class PaymentFailed(Exception):
    """The hold did not come, is not what was offered, or did not become final in time."""


@dataclass(frozen=True, slots=True)
class Job:
    """What was accepted: an offer, the request that came with it, and the backend that is to answer it.

    ``others`` are asked if that fails before there is content. ``body`` is the body as it was offered, which the
    request's digest and price count. ``unpaid`` is what counts as unpaid, and ends when the hold is final. Until then
    the answer is sent if the payer ``has_credit``, and the backend asked if the request ``may_start``. ``demand`` is
    for its slot. ``length`` is told of the answer. ``tap`` is that on an answer which others may check.
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
    length: AnswerLength
    tap: AnswerTap | None = None
    others: Sequence[ScheduledBackend] = ()


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
        self._credit_line = credit_line
        self._job = job
        self._accepted_at = trio.current_time()
        self._terms = job.offer.hold
        self._hold: SignedOperation | None = None
        self._buffer = AnswerBuffer(settings.buffer_bytes, settings.coalescing_s, CHUNK_BYTES)
        """What the backend has written and is not sent yet."""
        self._inspector = AnswerInspector(stream=False)
        """Has seen as much of the answer as was sent."""
        self._salt = context.make_salt()
        """Of the answer's digest."""
        self._answered = bytearray()
        """The answer as far as it was sent, for an originator that may resume it."""
        self._inspected = 0
        """Bytes that the inspector was given."""
        self._transcript_salt = context.make_salt()
        self._transcript: bytes | None = None
        """What the backend reported beside what was sent."""
        self._sent_at = 0.0
        """When a message was sent last."""
        self._is_answered = False
        """Whether the whole answer was sent."""
        self._payment_received = trio.Event()
        """Until then the next frame is the payment; afterwards it is the receipt."""
        self._covered = trio.Event()
        """Set once the hold is final, or within the credit line of the payer: until then nothing is sent."""
        self._scope = trio.CancelScope()
        self._work = trio.CancelScope()
        """That of the backend."""
        self._over = trio.Event()
        self._began_at: float | None = None
        """When the request got a slot of the backend."""
        self._timer: AnswerTimer | None = None
        """Of the backend's answer."""
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
        """Seconds for which the originator may yet be away, in all."""
        self._resumed = trio.Event()
        """Set and replaced by each resumption."""

    @property
    def request(self) -> Request:
        """What was asked."""
        return self._job.request

    def note_length(self) -> None:
        """The whole answer was handed over."""
        is_cut_off = self._inspector.finish_reason == "length"
        self._job.length.end(self._inspector.completion_bytes, is_cut_off=is_cut_off)

    async def run(self) -> bool:
        """Work to the end, whatever it is. Returns whether the whole answer was handed over.

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
        """Wait until the session is over. A cancellation in here ends it, unless the originator may yet resume it."""
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
        """Work and secure the payment side by side; settle whatever the end is.

        Raises:
            NetworkError, Cancelled: the originator left. Any other failure is sent to it.
        """
        delivery: Delivery | None = None
        receipt: bytes | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._secure_payment)
                nursery.start_soon(self._send_keep_alives)
                nursery.start_soon(self._watch_deadline)
                nursery.start_soon(self._ask_backend)
                completed = await self._answer()
                delivery = completed.delivery
                receipt = await self._hand_over(completed)
                nursery.cancel_scope.cancel()  # the payee goes on with a hold that is not final yet
        except BaseException as error:
            reason = _describe(error)
            if reason is None:  # cancelled: what was delivered is owed
                if delivery is None and self._inspector.completion_bytes:
                    self._make_transcript()
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
        """The originator left before anything of the answer came: what it made the backend work counts against it."""
        if self._hold is not None and self._began_at is not None and not self._is_late:
            now = trio.current_time()
            self._context.payments.payee.history.note_left(self.payer, now - self._began_at, now)

    async def _send_failure(self, reason: str) -> None:
        log.info("offload failed", payer=format_address(self.payer), reason=reason)
        with trio.move_on_after(1.0), suppress(NetworkError):
            await self._exchange.send(encode_message(Failed(cut_reason(reason))), end=True)

    def _settle(self, delivery: Delivery | None, receipt: bytes | None, is_own_fault: bool = False) -> None:
        """Have the hold captured for ``delivery``, or refunded if that earned nothing.

        An answer that failed after there was content, or by its length, counts as an offer that was left unpaid: a
        payer may choose requests whose answers fail at their end.
        """
        payee, inspector = self._context.payments.payee, self._inspector
        is_late = inspector.completion_bytes > 0 or inspector.is_too_long
        if self._hold is None or (is_own_fault and is_late):
            payee.history.note_unpaid(self.payer, trio.current_time(), self._accepted_at)
        if self._hold is None:
            payee.note_left(self._job.hold_id)
        elif delivery is not None and delivery.amount:
            self._keep_texts()
            payee.collect(self._hold, delivery, receipt)
        else:
            refund = delivery or make_refund(self._job.hold_id)
            payee.refund(self._hold, refund, is_own_fault and not is_late)

    def _keep_texts(self) -> None:
        """Keep what was asked and answered, in case that a duel is about it."""
        keep, job = self._context.keep, self._job
        if keep is not None:
            salt, answer, transcript = job.offer.salt, bytes(self._answered), self._transcript or b""
            deadline, own_salt = self._terms.deadline, self._transcript_salt
            keep(DeliveredTexts(job.hold_id, True, deadline, salt, job.body, self._salt, answer, own_salt, transcript))

    # The payment

    async def _secure_payment(self) -> None:
        """Receive the hold and see it final, or stop everything."""
        message = await receive_message(self._exchange, self._settings.payment_timeout_s)
        if not isinstance(message, Payment):
            raise PaymentFailed("expected the payment")
        signed = message.hold
        if signed.operation != self._terms or signed.signer != self.payer:
            raise PaymentFailed("the payment is not the one that was offered")
        try:
            await self._context.engine.submit(signed)
        except InvalidOperation as error:
            raise PaymentFailed(f"the payment is refused: {error}") from error
        self._hold = signed
        self._payment_received.set()
        if self._job.has_credit:
            self._covered.set()
        await self._wait_final(signed.id)
        self._job.unpaid.close()
        self._covered.set()

    async def _wait_final(self, operation_id: bytes) -> None:
        """Wait until the hold is final, for as long as blocks become final.

        When none does, the chain has halted or this node is cut off from it. Then the session goes on if there is
        credit.

        Raises:
            PaymentFailed: it is not final in time, or not valid, or there is no credit.
        """
        engine, settings, since = self._context.engine, self._settings, trio.current_time()
        patience, was_overdue = settings.hold_grace_s, False
        while True:
            try:
                _, failure = await engine.wait_final(operation_id, patience)
            except trio.TooSlowError:
                silence = trio.current_time() - engine.last_final_at
                is_overdue = engine.is_overdue(operation_id, settings.hold_grace_s / 4)
                patience = settings.hold_grace_s
                if silence > settings.halt_after_s:
                    try:
                        self._borrow()
                    except CreditExhausted:
                        raise PaymentFailed("the chain is halted, and this payer's credit is used up") from None
                elif is_overdue or engine.last_final_at < since:  # this may be a halt
                    patience = settings.halt_after_s - silence + 0.1
                elif not was_overdue:
                    self._context.payments.payee.note_bounced(self.payer, self._job.hold_id)
                    raise PaymentFailed("the payment is not final in time") from None
                was_overdue = is_overdue
                continue
            if failure is not None:
                self._context.payments.payee.note_bounced(self.payer, self._job.hold_id)
                raise PaymentFailed(f"the payment failed: {failure}")
            return

    def _borrow(self) -> None:
        """Let the answer leave before the hold is final.

        Raises:
            CreditExhausted: the credit line of the payer does not cover the hold.
        """
        if not self._covered.is_set():
            self._job.unpaid.enter_context(self._credit_line.lend(self.payer, self._terms.amount))
            self._covered.set()

    async def _watch_deadline(self) -> None:
        """Leave in time to capture what was delivered: after the deadline the payer takes the hold back."""
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

    async def _ask_backend(self) -> None:
        """Have the backend write its answer into the buffer. Its slot is free afterwards."""
        job, failure, written = self._job, None, 0
        if not job.may_start:
            await self._covered.wait()
        tap, slot_at = job.tap, self._accepted_at

        def note_slot() -> None:
            nonlocal slot_at
            slot_at = trio.current_time()
            if self._began_at is None:
                self._began_at = slot_at

        tries = Tries(job.request, job.body if tap is None else tap.asked, job.demand)
        try:
            with self._work:
                async with ask_backends((job.backend, *job.others), tries, note_slot) as begun:
                    answer = begun.answer
                    self._buffer.begin(answer)
                    if tap is not None:
                        tap.begin(answer.is_stream)
                    prompt, meter = estimate_tokens(len(job.body)), begun.backend.meter
                    timer = meter.start_timer(job.request.model, prompt, slot_at, is_stream=answer.is_stream)
                    self._timer = timer
                    async for piece in begun.read():
                        now = trio.current_time()
                        passed = piece if tap is None else tap.feed(piece)
                        written += len(passed)
                        timer.feed(now, len(passed))
                        await self._buffer.put(passed)
                        timer.note_taken(trio.current_time(), trio.current_time() - now)
                    if tap is not None:
                        passed = tap.finish()
                        written += len(passed)
                        await self._buffer.put(passed)
        except BufferFull as error:
            raise NetworkError("the originator is away, and its answer is long") from error
        except BackendsFailed as error:
            if error.answer is None or error.answer.status not in CLIENT_ERRORS:
                failure = BackendError(str(error))
            else:
                self._buffer.begin(error.answer)
                async for piece in error.answer.body:
                    await self._buffer.put(piece)
        except (NotAdmitted, BackendError) as error:
            failure = BackendError(str(error))
        # However long the originator takes to read it: an answer has no more content than bytes.
        self._back_only(self._compute_price(Usage(len(job.body), written)))
        self._buffer.close(failure)

    async def _answer(self) -> Completed:
        """Pass the backend's answer on, once it may leave.

        Raises:
            BackendError: the backend refused, broke off, ended too early, or answered at more length than is paid.
            NetworkError: the originator is gone.
        """
        job, context = self._job, self._context
        try:
            head = await self._buffer.get_head()
        except BackendError:
            await self._payment_received.wait()  # a hold must be known to be refunded
            raise
        await self._covered.wait()
        request = job.request
        self._inspector = inspector = AnswerInspector(
            head.is_stream,
            form=request.endpoint.form,
            choices=request.choices,
            has_tools=request.has_tools,
            cut_long=True,
        )
        self._head = ResponseHead(head.status, head.content_type[:128], self._salt)
        while piece := await self._buffer.get():
            self._inspected += len(piece)
            await self._send_chunk(inspector.feed(piece))
            job.length.grow(inspector.completion_bytes)
            if inspector.is_too_long:
                break
            if head.is_stream and not inspector.is_over and self._is_at_limit():
                await self._send_chunk(inspector.end())
                break
        self._work.cancel()
        rest = inspector.finish()
        if head.status == 200 and not head.is_stream and self._is_hold_used_up():
            raise BackendError("the answer is longer than the request allows")
        self._take(rest)  # it is sent with the delivery
        self._is_answered = True
        if head.status != 200:
            delivery = make_refund(job.hold_id, compute_digest(self._salt, bytes(self._answered)))
        elif not self._inspector.is_complete:
            await self._send_rest()
            raise BackendError(self._inspector.error or "the backend broke off")
        else:
            if self._timer is not None:
                self._timer.finish(inspector.completion_bytes / BYTES_PER_TOKEN)
            if job.tap is not None:
                await context.runtime.run_sync(self._make_transcript)
            delivery = self._make_delivery(self._inspector.finish_reason or "stop")
        return Completed(delivery, sign_delivery(context.key, context.chain_id, delivery))

    def _make_transcript(self) -> None:
        """Make the transcript of what was sent; may run in a thread."""
        if self._job.tap is not None:
            self._transcript = self._job.tap.make_transcript(self._inspected)

    def _make_delivery(self, finish_reason: str) -> Delivery:
        usage = Usage(len(self._job.body), self._inspector.completion_bytes)
        digest = compute_digest(self._salt, bytes(self._answered))
        amount = min(self._compute_price(usage), self._terms.amount)
        self._back_only(amount)
        transcript = self._transcript
        transcript_digest = None if transcript is None else compute_digest(self._transcript_salt, transcript)
        return Delivery(self._job.hold_id, amount, digest, usage, finish_reason, transcript_digest)

    def _back_only(self, price: int) -> None:
        """Have no more of the bond stand behind this request than what its answer costs."""
        self._context.payments.payee.lower_backing(self._job.hold_id, price)

    def _compute_price(self, usage: Usage) -> int:
        return self._context.engine.genesis.parameters.get_price(self._terms.model).compute(usage)

    def _is_hold_used_up(self) -> bool:
        """Whether so much was delivered that the hold pays no more of it: the backend keeps to no limit."""
        paid = max(0, self._inspector.completion_bytes - MAX_UNPAID_BYTES)
        return self._compute_price(Usage(len(self._job.body), paid)) > self._terms.amount

    def _is_at_limit(self) -> bool:
        """Whether a stream has to end, because no more of it is paid or the next piece may not fit."""
        is_full = len(self._answered) > MAX_ANSWER_BYTES - ANSWER_RESERVE_BYTES
        return self._inspector.completion_bytes > 0 and (is_full or self._is_hold_used_up())

    async def _send_chunk(self, chunk: bytes) -> None:
        """Pass on whole events of a stream (any bytes, else); an error event becomes a failure message instead."""
        self._take(chunk)
        if chunk:
            await self._send_rest()

    def _take(self, chunk: bytes) -> None:
        """Take the next bytes of what the originator gets."""
        if self._inspector.error is not None:
            raise BackendError(self._inspector.error)
        if len(self._answered) + len(chunk) > MAX_ANSWER_BYTES:
            raise BackendError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        self._answered += chunk

    async def _send_rest(self, last: Completed | None = None) -> Exchange:
        """Send what the originator lacks of the answer, and the ``last`` message of this side. Returns the exchange.

        What belongs together goes out together: the head with the first bytes, and the end with the last ones.

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
        with trio.move_on_after(self._settings.send_timeout_s):
            await exchange.send(*map(encode_message, messages), end=end)
            self._sent_at = trio.current_time()
            return
        raise NetworkError("the originator reads nothing any more")

    async def _is_back(self, failed: Exchange) -> bool:
        """Whether the originator goes on in another exchange than ``failed``; if it was lost, it is waited for."""
        if failed is self._exchange and failed.is_lost:
            started = trio.current_time()
            self._buffer.is_read = False
            with trio.move_on_after(self._patience):
                await self._resumed.wait()
            self._buffer.is_read = True
            self._patience -= trio.current_time() - started
        return failed is not self._exchange

    async def _send_keep_alives(self) -> None:
        """Say that the work goes on, whenever there was nothing of the answer to send for a while."""
        self._sent_at = trio.current_time()
        while True:
            due = self._sent_at + self._settings.keep_alive_interval_s
            if trio.current_time() < due:
                await trio.sleep_until(due)
                continue
            if self._is_answered:
                return
            queued = self._began_at is None or self._job.backend.is_backlogged
            try:
                if self._exchange.can_send:  # else there is enough to read yet, and this side may end while it waits
                    await self._exchange.send(encode_message(KeepAlive(queued)))
            except NetworkError:
                if not self._position:  # else it may be back when there is more of the answer to send
                    raise
            self._sent_at = trio.current_time()


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
