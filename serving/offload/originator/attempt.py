"""One attempt at an offload: the originator's side of the exchange with one executor.

The attempt offers, pays with a hold of its own, and passes the answer on as it comes. It signs a receipt once it has
found the executor's delivery correct (:mod:`serving.offload.originator.received_answer`). If an executor is lost in the
middle of a stream, because a relay died or an address changed, the attempt looks for it on every path, and the answer
continues from the same place.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial

import structlog
import trio

from chain.crypto import format_address
from chain.exceptions import CodecError, InvalidOperation
from chain.types.operations import Hold, compute_digest, compute_hold_id
from p2p.network import NetworkError
from p2p.streams.exchange import Exchange
from serving.backends.backend import BackendError, ErrorEventSent
from serving.failover.rules import CLIENT_ERRORS
from serving.offload.context import DeliveredTexts, OffloadContext, receive_message
from serving.offload.originator.attempt_terms import AttemptFailed, AttemptTerms, Outrun, SaidFailed, Stalled
from serving.offload.originator.decoding_share import DecodingShare
from serving.offload.originator.dialer import ExecutorDialer
from serving.offload.originator.hedging import Race
from serving.offload.originator.patience import Patience
from serving.offload.originator.received_answer import ReceivedAnswer
from serving.offload.originator.silence import PAUSE_S, Silences
from serving.offload.protocol import (
    CHUNK_BYTES,
    Accepted,
    Completed,
    Declined,
    Failed,
    KeepAlive,
    Message,
    Offer,
    Payment,
    Receipt,
    ResponseChunk,
    ResponseHead,
    Resume,
    encode_message,
)
from serving.offload.settings import OriginatorSettings
from serving.openai.answers import EVENT_STREAM, MAX_EVENT_BYTES, Answer, AnswerInspector
from serving.prediction.output_length import AnswerLength

log = structlog.get_logger(__name__)

IN_FLIGHT_BYTES = 512
"""Completion bytes that may be in flight when a user leaves: a capture of so many beyond those received is not
disputed."""
CONTENT_TYPES = ("application/json", EVENT_STREAM)
"""How the content type of an answer may begin."""
MAX_CONTENT_TYPE_CHARS = 64
"""Longest content type that is passed on."""
CLOSING = b"data: [DONE]"
"""How the closing event of a stream begins."""
RESUME_INTERVAL_S = 0.5
"""Seconds between attempts to reach a lost executor again."""
MAX_RESUMPTIONS_ASKED = 3
"""Most resumptions of one answer by the originator."""


class OffloadAttempt:
    """The originator's side of one offload. Its exchanges end with ``stack``."""

    exchange: Exchange
    """The one that carries it at present."""
    answer: Answer
    """The executor's answer, once :meth:`begin` has returned."""

    def __init__(
        self,
        context: OffloadContext,
        dialer: ExecutorDialer,
        settings: OriginatorSettings,
        decoding: DecodingShare,
        silences: Silences,
        note_silent: Callable[[], None],
        terms: AttemptTerms,
        length: AnswerLength,
        race: Race,
        is_late: trio.Event,
        stack: AsyncExitStack,
    ) -> None:
        self.terms = terms
        self.length = length
        """Of the answer; told what comes of it."""
        self.hold_id = b""
        """Empty until the hold is offered."""
        self.error_body = b""
        """Of an answer that is a client error."""
        self.is_over = False
        """Whether the whole answer came, and was found right."""
        self.is_queued = False
        """Whether the executor accepted it into its queue."""
        self.was_queued = False
        """Whether it was queued before its content came."""
        self.has_failed = False
        """Whether it did not, by the executor's fault."""
        self.has_stalled = False
        """Whether the executor fell silent in the middle of an answer, and may capture what it delivered."""
        self.begun_at = trio.current_time()
        self.first_token_s: float | None = None
        """How long the first content of a stream took."""
        self.ended_at: float | None = None
        """When the whole answer had come."""
        self.unread_s = 0.0
        """Seconds in which received bytes waited for the user."""
        self._handed_at: float | None = None
        """Since when received bytes have waited for the user; None: none wait."""
        self._context = context
        self._dialer = dialer
        self._settings = settings
        self._decoding = decoding
        self._silences = silences
        self._note_silent = note_silent
        self._race = race
        self._is_late = is_late
        """Set once its first content is late."""
        self._stack = stack
        self._payer = context.payments.payer
        self._offer_salt = context.make_salt()
        """Of the request's digest."""
        compute_price = partial(self._payer.compute_price, terms.request.model, len(terms.request.body))
        self._received = ReceivedAnswer(terms.request, terms.amount, compute_price, is_kept=context.keep is not None)
        self._resumptions = 0
        self._is_paid = False
        self._was_silent = False
        """Whether the executor has fallen silent since."""

    async def begin(self) -> None:
        """Offer, pay, and wait for the first content of the answer (all of it, if it is not a stream).

        The user has seen nothing until then, so that another executor can still take over.

        Raises:
            AttemptFailed: the executor declined, or this node could not pay in time.
            Outrun: another attempt at the request was first.
            NetworkError, CodecError, trio.TooSlowError, BackendError: it cannot be reached, or failed.
        """
        settings, request = self._settings, self.terms.request
        self.exchange = await self._open()
        await self._offer()
        await self._pay()
        now, tokens = trio.current_time(), request.max_tokens // request.choices
        within_s, late_s = self.terms.first_token_within_s, self.terms.late_after_s
        self._patience = Patience(
            settings,
            now,
            stream=request.stream,
            hold_s=self.terms.hold_time_ms / 1000,
            max_tokens=tokens,
            longest_s=self.terms.longest_s or 0.0,
            expected_by=None if within_s is None else self.begun_at + within_s,
            late_by=None if late_s is None else self.begun_at + late_s,
            is_queued=self.is_queued,
            predicted_s=self.terms.prediction.time.first_token,
        )
        self._is_paid = True
        head = await self._receive_head()
        chunks = await self._stack.enter_async_context(aclosing(self._receive_chunks()))
        self.answer = Answer(head.status, head.content_type, chunks)
        self._received.begin(head, is_stream=self.answer.is_stream)
        if request.stream and head.status == 200:
            first = await self._receive_first_content(chunks)
            self.first_token_s = trio.current_time() - self.begun_at
            if not self._race.claim(self.hold_id):
                raise Outrun
        else:
            first = b"".join([chunk async for chunk in chunks])
            self.error_body = b"" if head.status == 200 else first
        self.answer.body = await self._stack.enter_async_context(aclosing(_prepend(first, chunks)))

    @property
    def inspector(self) -> AnswerInspector:
        """Has seen as much of the answer as was received."""
        return self._received.inspector

    def compute_waited(self, now: float) -> float:
        """Seconds since the attempt began in which the user waited for more."""
        return (now if self._handed_at is None else self._handed_at) - self.begun_at - self.unread_s

    def give_up(self) -> None:
        """The executor has fallen silent: stop waiting if the request is queued there or late, and another can be
        asked."""
        if not self._is_paid or self._patience.has_content or self.terms.is_last:
            return
        is_late = trio.current_time() >= self.begun_at + self.terms.prediction.time.first_token
        if self._patience.is_queued or (is_late and self.terms.request.stream):
            self._was_silent = True
            self.exchange.give_up()

    def note_overdue(self) -> None:
        """Content is overdue. Has the executor fallen silent?"""
        executor, model, now = self.terms.executor, self.terms.request.model, trio.current_time()
        self._silences.note_overdue(executor, model, now)
        if self._silences.is_silent(executor, model, now):
            self._note_silent()

    @property
    def is_overdue(self) -> bool:
        """Whether the first content is waited for past its bound because another executor is asked as well."""
        return self._is_paid and self._patience.is_overdue

    @property
    def working_since(self) -> float | None:
        """When the executor began to work on the answer; None before that, and once some of the answer has come."""
        if not self._is_paid or self._patience.is_queued or self._patience.has_content:
            return None
        return self._patience.quiet_since

    @property
    def is_waiting(self) -> bool:
        """Whether it is queued, by the executor's last word."""
        return self._is_paid and self._patience.is_queued

    @property
    def _is_given_up(self) -> bool:
        return self._was_silent and not self._patience.has_content  # which may come in the same moment

    def reject(self) -> None:
        """The executor is at fault: dispute any capture of it."""
        self.has_failed = True
        self._payer.set_max_capture(self.hold_id, 0)

    def keep_texts(self) -> None:
        """Keep request and answer, in case a duel is about them: an executor may capture for any part of an answer."""
        keep = self._context.keep
        if keep is not None and self.inspector.completion_bytes:
            request, received = self.terms.request.body, self._received
            deadline, salt, answer = self._hold.deadline, self._offer_salt, received.body if self.is_over else b""
            keep(DeliveredTexts(self.hold_id, False, deadline, salt, request, received.salt, answer))

    # Offer and payment

    async def _open(self) -> Exchange:
        return await self._stack.enter_async_context(self._dialer.open(self.terms.executor))

    async def _offer(self) -> None:
        context, terms, request = self._context, self.terms, self.terms.request
        salt = self._offer_salt
        self._hold = Hold(
            payee=terms.executor,
            amount=terms.amount,
            round=terms.round,
            seq=terms.seq,
            attempt=terms.number,
            model=request.model,
            request_digest=compute_digest(salt, request.body),
            deadline=context.engine.chain_time() + terms.hold_time_ms,
        )
        self.hold_id = compute_hold_id(context.key.public_key, self._hold)
        with trio.fail_after(self._settings.accept_timeout_s):
            offer = encode_message(Offer(request.path, len(request.body), salt, self._hold))
            body = (request.body[start : start + CHUNK_BYTES] for start in range(0, len(request.body), CHUNK_BYTES))
            await self.exchange.send(offer, *body)
            reply = await receive_message(self.exchange, self._settings.accept_timeout_s)
        if isinstance(reply, Declined):
            raise AttemptFailed(f"declined: {reply.reason}", reply.retry_after / 1000)
        if not isinstance(reply, Accepted):
            raise NetworkError("expected an answer to the offer")
        self.is_queued = self.was_queued = reply.queued

    async def _pay(self) -> None:
        # A hold for a period that has ended may miss its last block, and the executor would take that for deceit.
        if self._context.first_round != self.terms.round:
            raise AttemptFailed("the serving period ended before the payment")
        signed = self._payer.sign_hold(self._hold)
        # If the user leaves now, no hold may remain that is reserved until its deadline and was never submitted.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._settings.accept_timeout_s):
            await self.exchange.send(encode_message(Payment(signed)))
            try:
                await self._context.engine.submit(signed)
            except InvalidOperation as error:
                self._payer.set_max_capture(self.hold_id, 0)
                raise AttemptFailed(f"the hold was refused: {error}") from error
        self._payment_id = signed.id

    # The answer

    async def _receive_head(self) -> ResponseHead:
        head = await self._receive_next()
        if not isinstance(head, ResponseHead):
            raise _unexpected(head)
        if head.status != 200 and head.status not in CLIENT_ERRORS:
            raise BackendError(f"the executor answered {head.status}")
        kind = head.content_type
        is_clean = len(kind) <= MAX_CONTENT_TYPE_CHARS and kind.isascii() and kind.isprintable()
        if not kind.startswith(CONTENT_TYPES) or not is_clean:
            raise BackendError("the executor answered with an unusable content type")
        if head.status == 200 and kind.startswith(EVENT_STREAM) != self.terms.request.stream:
            raise BackendError("the executor answered with a stream that was not asked for, or without one that was")
        return head

    async def _receive_next(self) -> Message:
        """The next message but keep-alives.

        Raises:
            Stalled: the executor fell silent, or sent no content for too long.
            BackendError: it broke off, or was lost for good.
        """
        patience = self._patience
        try:
            while True:
                try:
                    rest = -math.inf if self._is_given_up else patience.wakes_at - trio.current_time()
                    message = await receive_message(self.exchange, min(rest, self._settings.stall_timeout_s))
                except trio.TooSlowError:
                    if self._is_given_up:
                        raise
                    is_final = self._context.engine.is_final(self._payment_id)
                    is_late = patience.take_late(trio.current_time(), is_final=is_final)
                    if is_late:
                        self._is_late.set()
                    if is_late is not None:
                        continue
                    if patience.excuse_unpaid(trio.current_time(), is_final=is_final):
                        continue
                    is_hedged = self._race.is_hedged and not self.terms.is_hedge
                    if is_hedged and patience.excuse_overdue(trio.current_time()):
                        continue
                    raise
                except NetworkError:
                    if not (patience.has_content and self.exchange.is_lost):
                        raise
                    await self._resume()
                    patience.note_resumed(trio.current_time())
                    continue
                if not isinstance(message, KeepAlive):
                    return message
                if self._silences.is_silent(self.terms.executor, self.terms.request.model, trio.current_time()):
                    self.give_up()
                if message.queued:
                    seen_at = self._silences.get_content_at(self.terms.executor, self.terms.request.model)
                    patience.note_queued(trio.current_time(), seen_at)
                    self.was_queued |= not patience.has_content
                else:
                    patience.note_working(trio.current_time())
                    if patience.has_content and trio.current_time() >= patience.quiet_since + PAUSE_S:
                        self.note_overdue()
        except (NetworkError, CodecError) as error:
            raise BackendError(f"the executor broke off: {error}") from error
        except trio.TooSlowError:
            if self.terms.request.stream and not patience.is_queued and not self._is_given_up:
                self.note_overdue()
            raise Stalled("the executor sent nothing for too long") from None

    async def _resume(self) -> None:
        """Find a lost executor again, and ask it for the rest.

        Raises:
            NetworkError: it cannot be found.
        """
        executor, failure = self.terms.executor, NetworkError("the executor was lost too often")
        self._resumptions += 1
        is_allowed = self._resumptions <= MAX_RESUMPTIONS_ASKED
        with trio.move_on_at(self._patience.compute_resume_deadline(trio.current_time()) if is_allowed else -math.inf):
            while True:
                try:
                    await self._dialer.connect(executor, self._settings.accept_timeout_s)
                    exchange = await self._open()
                    await exchange.send(encode_message(Resume(self.hold_id, self._received.size)))
                    self.exchange = exchange
                    log.info("resumed an answer", executor=format_address(executor), received=self._received.size)
                    return
                except (NetworkError, trio.TooSlowError) as error:
                    failure = NetworkError(str(error) or "no answer in time")
                if self._dialer.has_left(executor):
                    raise failure
                await trio.sleep(RESUME_INTERVAL_S)
        raise failure

    async def _receive_first_content(self, chunks: AsyncIterator[bytes]) -> bytes:
        """A stream up to its first content.

        Raises:
            BackendError: it broke off before that, or ended without content.
        """
        first = bytearray()
        async for chunk in chunks:
            first += chunk
            if self.inspector.error is not None:
                raise BackendError(self.inspector.error)
            if self.inspector.completion_bytes:
                break
            if self.answer.is_stream and len(first) > MAX_EVENT_BYTES:
                raise BackendError(f"no content in the first {MAX_EVENT_BYTES} bytes of the answer")
        return bytes(first)

    async def _receive_chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the body for the user, as they come. It ends when the delivery was found correct and receipted.

        The closing event of a stream is passed on only then: users hang up on it, which would cancel the receipt. Bytes
        after it are dropped: clients read no further.

        Raises:
            BackendError: the executor broke off, fell silent, or charges for more than it delivered.
        """
        closing = b""
        try:
            while True:
                message = await self._receive_next()
                if isinstance(message, Completed):
                    closing = closing or self.inspector.finish()
                    await self._send_receipt(message)
                    if closing:
                        yield closing
                    return
                if not isinstance(message, ResponseChunk):
                    raise _unexpected(message)
                started = trio.current_time()
                data = self._take(message.data)
                now = trio.current_time()
                delay = self._decoding.charge(self.terms.executor, now - started, now)
                if self.inspector.is_over and not closing:
                    start = max(0, data.rfind(CLOSING))
                    data, closing = data[:start], data[start:]
                if data:
                    self._handed_at = now
                    yield data
                    self._handed_at = None
                    self._patience.excuse(trio.current_time() - now)
                    self.unread_s += trio.current_time() - now
                if self.inspector.error is not None:
                    raise ErrorEventSent(self.inspector.error)
                if delay:
                    await trio.sleep(delay)
        except Stalled:
            self.has_failed = True
            self.has_stalled = self.inspector.completion_bytes > 0
            raise
        except BackendError:
            self.reject()
            raise

    def _take(self, data: bytes) -> bytes:
        """Account for the next bytes of the body; returns those for the user.

        Raises:
            BackendError: the answer is too long.
        """
        inspector = self.inspector
        before, was_over = inspector.completion_bytes, inspector.is_over
        passed = self._received.take(data)
        if inspector.completion_bytes > before:
            self.length.grow(inspector.completion_bytes)
            self._patience.note_content(trio.current_time())
            self._silences.note_content(self.terms.executor, self.terms.request.model, trio.current_time())
            self._payer.set_max_capture(self.hold_id, self._received.compute_owed(IN_FLIGHT_BYTES))
        if inspector.is_over and not was_over:
            self._patience.note_closed(trio.current_time())
        return passed

    @property
    def owed(self) -> int:
        """Price of the content received so far, in micro-credits."""
        return self._received.compute_owed()

    async def _send_receipt(self, completed: Completed) -> None:
        """Compare the delivery with what arrived, and sign a receipt for it.

        Raises:
            BackendError: the delivery is wrong.
            Outrun: another attempt at the request was first.
        """
        fault = self._received.find_fault(completed, self.terms.executor, self._context.chain_id, self.hold_id)
        if fault is not None:
            raise BackendError(f"the executor's delivery is wrong: {fault}")
        if self.answer.status == 200 and not self._race.claim(self.hold_id):
            self._payer.set_max_capture(self.hold_id, completed.delivery.amount)  # it came whole all the same
            raise Outrun
        self.is_over = True
        self.ended_at = trio.current_time()
        delivery = completed.delivery
        self._payer.set_max_capture(self.hold_id, delivery.amount)
        if delivery.amount:
            receipt = Receipt(self._payer.sign_receipt(delivery))
            try:
                await self.exchange.send(encode_message(receipt), end=True)
            except NetworkError:
                log.info("the receipt was not taken", executor=format_address(self.terms.executor))


def _unexpected(message: Message) -> BackendError:
    if isinstance(message, Failed):
        return SaidFailed(f"the executor failed: {message.reason}")
    return BackendError(f"unexpected {type(message).__name__.lower()}")


async def _prepend(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if first:
        yield first
    async for chunk in rest:
        yield chunk
