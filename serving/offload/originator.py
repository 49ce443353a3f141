"""The router: finds an executor for a request, and replaces it while the user has seen nothing of it.

Candidates come in the order of the executor lottery; those out of reach are skipped, and of the next two the less
loaded goes first (power of two choices, Mitzenmacher 2001). Each attempt pays with a hold of its own. Once a byte of a
stream has gone to the user the executor is not replaced: another one would contradict it. If it is lost then, because a
relay died or an address changed, it is sought again by every path there is, and the answer goes on where it was.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from chain.crypto import KeyPair, format_address
from chain.exceptions import CodecError, InvalidOperation
from chain.state.lottery import compute_lottery_seed
from chain.types.operations import Hold, compute_digest, compute_hold_id
from consensus.engine import Engine
from p2p.addresses import get_addresses
from p2p.network import NetworkError
from p2p.peers.announcement import Announcement
from p2p.runtime import Runtime
from p2p.streams.exchanges import Exchange, Streams
from serving.accounting.payments import Payments
from serving.backends.backend import BackendError
from serving.offload.protocol import (
    CHUNK_BYTES,
    MAX_ANSWER_BYTES,
    PROTOCOL,
    RELAYED_STATUSES,
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
    decode_message,
    encode_message,
    is_signed_delivery,
)
from serving.openai.answers import AnswerInspector
from serving.openai.requests import Request

log = structlog.get_logger(__name__)

IN_FLIGHT_TOKENS = 64
"""Completion tokens that may be on their way when a user leaves; a capture of so many more is not disputed."""
CONTENT_TYPES = ("application/json", "text/event-stream")
MAX_CONTENT_TYPE_CHARS = 64


@dataclass(frozen=True, slots=True)
class OriginatorSettings:
    """Times in seconds; ``hold_time_ms`` is chain time in ms.

    ``first_chunk`` is the patience for the beginning of an answer, ``stall`` for each next message. Signs of life renew
    the patience while the request waits in a queue, up to ``queue_timeout``, and for an answer that is not streamed, up
    to ``hold_time_ms``. An executor that is lost in the middle of a stream is sought for ``resume``.
    """

    accept_timeout: float = 5.0
    first_chunk: float = 30.0
    queue_timeout: float = 120.0
    stall: float = 15.0
    resume: float = 45.0
    hold_time_ms: int = 600_000


FindPeer = Callable[[bytes], Announcement | None]
"""Looks up what a peer says of itself; None if it is not present."""


CLOSING = b"data: [DONE]"
"""How the closing event of a stream begins."""

RESUME_INTERVAL_S = 0.5
"""Seconds between two tries to find a lost executor again."""
MAX_RESUMPTIONS = 8
"""Times that one answer is resumed."""

FULL_PERMILLE = 1000
"""Utilization, in permille, of a peer that is not present."""


class NoExecutor(Exception):
    """Nobody who was drawn took the request; the message says what each one answered."""


class _AttemptFailed(Exception):
    """One candidate did not deliver."""


@dataclass(slots=True)
class Answer:
    """An executor's answer. ``body`` may be iterated once and raises BackendError if the executor breaks off."""

    status: int
    content_type: str
    body: AsyncIterator[bytes]
    executor: bytes
    attempt: int
    hold_id: bytes


class Originator:
    """Offloads requests of this node."""

    def __init__(
        self,
        key: KeyPair,
        engine: Engine,
        streams: Streams,
        payments: Payments,
        find_peer: FindPeer,
        has_left: Callable[[bytes], bool],
        runtime: Runtime,
        settings: OriginatorSettings | None = None,
    ) -> None:
        self._key = key
        self._engine = engine
        self._streams = streams
        self._payments = payments
        self._find_peer = find_peer
        self._has_left = has_left
        self._runtime = runtime
        self._settings = settings or OriginatorSettings()

    def has_executors(self, model: str) -> bool:
        """Whether anybody else stands behind ``model`` in this epoch."""
        table = self._engine.state.serving_table(self._get_epoch())
        return table is not None and any(
            model in entry.models and entry.public_key != self._key.public_key for entry in table.entries
        )

    def get_models(self) -> set[str]:
        """Every model that somebody stands behind in this epoch."""
        table = self._engine.state.serving_table(self._get_epoch())
        return {model for entry in table.entries for model in entry.models} if table is not None else set()

    def _get_epoch(self) -> int:
        return self._engine.header.epoch

    @asynccontextmanager
    async def complete(self, request: Request) -> AsyncIterator[Answer]:
        """Offload a request. Leaving the context early cancels the work of the executor.

        Raises:
            CannotAfford: this node cannot pay for it.
            TooManyPayments: too many of its payments are on their way.
            NoExecutor: nobody takes it.
        """
        amount = self._payments.compute_price(request.model, len(request.body), request.max_tokens)
        self._payments.check_affordable(amount)
        epoch, seq = self._get_epoch(), self._payments.take_seq()
        answers: list[str] = []
        async with AsyncExitStack() as stack:
            stack.callback(self._payments.give_back, seq)
            for attempt, payee in self._draw(request.model, epoch, seq):
                terms = AttemptTerms(request, amount, epoch, seq, attempt, payee)
                try:
                    answer = await stack.enter_async_context(self._attempt(terms))
                except _AttemptFailed as error:
                    log.info("executor did not deliver", executor=format_address(payee), reason=str(error))
                    answers.append(str(error))
                    continue
                yield answer
                return
        raise NoExecutor("; ".join(answers) or "no executor is in reach")

    def _draw(self, model: str, epoch: int, seq: int) -> list[tuple[int, bytes]]:
        """Positions and keys of the candidates in reach, in the order in which to ask them."""
        state = self._engine.state
        table, source = state.serving_table(epoch), state.beacon.get_source(epoch)
        if table is None or source is None:
            return []
        seed = compute_lottery_seed(source, self._key.public_key, seq)
        limit = self._engine.genesis.parameters.max_attempts
        order = zip(range(limit), table.lottery(model).order(seed, self._key.public_key), strict=False)
        candidates = [(attempt, payee) for attempt, payee in order if self._is_present(payee, model)]
        if len(candidates) >= 2 and self._load(candidates[1][1]) < self._load(candidates[0][1]):
            candidates[0], candidates[1] = candidates[1], candidates[0]
        return candidates

    def _is_present(self, payee: bytes, model: str) -> bool:
        """Whether a peer is in reach and its backend of ``model`` alive, by what it says."""
        announcement = self._find_peer(payee)
        return announcement is not None and model in announcement.models

    def _load(self, payee: bytes) -> int:
        announcement = self._find_peer(payee)
        return announcement.load.utilization if announcement is not None else FULL_PERMILLE

    async def _connect(self, payee: bytes) -> None:
        announcement, network = self._find_peer(payee), self._streams.network
        if announcement is not None and payee not in network.peers():
            with trio.fail_after(self._settings.accept_timeout):
                await network.connect(payee, get_addresses(announcement))

    @asynccontextmanager
    async def _attempt(self, terms: AttemptTerms) -> AsyncIterator[Answer]:
        """Offer to one candidate and wait until its answer begins (in a stream) or is whole.

        Raises:
            _AttemptFailed: it declined, failed or fell silent before that.
        """
        async with AsyncExitStack() as stack:
            attempt = OffloadAttempt(self, terms, stack)
            try:
                await self._connect(terms.payee)
                answer = await attempt.begin()
            except (NetworkError, CodecError, trio.TooSlowError, BackendError) as error:
                attempt.reject()
                raise _AttemptFailed(str(error) or "no answer in time") from error
            yield answer
            if not attempt.is_over:
                await attempt.exchange.abort("the answer is no longer wanted")


@dataclass(frozen=True, slots=True)
class AttemptTerms:
    """One attempt at one request."""

    request: Request
    amount: int
    epoch: int
    seq: int
    attempt: int
    payee: bytes


class OffloadAttempt:
    """The originator's side of one execution. Its exchanges end with ``stack``."""

    exchange: Exchange
    """The one that carries it at present."""

    def __init__(self, router: Originator, terms: AttemptTerms, stack: AsyncExitStack) -> None:
        self._router = router
        self._terms = terms
        self._stack = stack
        self._resumptions = 0
        self._settings = router._settings
        self._payments = router._payments
        self._hold_id = compute_hold_id(router._key.public_key, terms.seq, terms.attempt)
        self._inspector = AnswerInspector(stream=False)
        self._received = bytearray()
        self._status = 0
        self._deadline = self._latest = 0.0
        """Until when the answer must begin, and how far signs of life may put that off."""
        self.is_over = False
        """Whether the whole answer came, and was found right."""

    async def begin(self) -> Answer:
        """Offer, pay, and wait for the beginning of the answer (all of it, if it is not a stream)."""
        settings, terms = self._settings, self._terms
        self.exchange = await self._open()
        await self._offer()
        await self._pay()
        now = trio.current_time()
        self._deadline = now + settings.first_chunk
        self._latest = now + (settings.queue_timeout if terms.request.stream else settings.hold_time_ms / 1000)
        head = await self._receive_head()
        self._status = head.status
        self._inspector = AnswerInspector(stream=head.content_type.startswith("text/event-stream"))
        parts = await self._stack.enter_async_context(aclosing(self._receive_chunks()))
        if terms.request.stream and head.status == 200:
            first = await anext(parts, b"")
            if self._inspector.error is not None:  # nobody has seen it yet: another executor may do better
                raise BackendError(self._inspector.error)
            body = await self._stack.enter_async_context(aclosing(_prepend(first, parts)))
        else:
            body = _prepend(b"".join([part async for part in parts]), _nothing())
        return Answer(head.status, head.content_type, body, terms.payee, terms.attempt, self._hold_id)

    async def _open(self) -> Exchange:
        return await self._stack.enter_async_context(self._router._streams.open(self._terms.payee, PROTOCOL))

    async def _offer(self) -> None:
        router, terms = self._router, self._terms
        salt = router._runtime.random.randbytes(16)
        request = terms.request
        self._hold = Hold(
            payee=terms.payee,
            amount=terms.amount,
            epoch=terms.epoch,
            seq=terms.seq,
            attempt=terms.attempt,
            model=request.model,
            request_digest=compute_digest(salt, request.body),
            deadline=router._engine.chain_time() + self._settings.hold_time_ms,
        )
        with trio.fail_after(self._settings.accept_timeout):
            await self.exchange.send(encode_message(Offer(request.path, len(request.body), salt, self._hold)))
            for start in range(0, len(request.body), CHUNK_BYTES):
                await self.exchange.send(request.body[start : start + CHUNK_BYTES])
            reply = await _receive(self.exchange)
        if isinstance(reply, Declined):
            raise NetworkError(f"declined: {reply.reason}")
        if not isinstance(reply, Accepted):
            raise NetworkError("expected an answer to the offer")

    async def _pay(self) -> None:
        signed = self._payments.sign_hold(self._hold)
        self._payments.set_max_capture(self._hold_id, self._compute_owed(IN_FLIGHT_TOKENS))
        await self.exchange.send(encode_message(Payment(signed)))
        try:
            await self._router._engine.submit(signed)
        except InvalidOperation as error:
            raise BackendError(f"the hold was refused: {error}") from error

    async def _receive_head(self) -> ResponseHead:
        head = await self._next()
        if not isinstance(head, ResponseHead):
            raise _unexpected(head)
        if head.status != 200 and head.status not in RELAYED_STATUSES:
            raise BackendError(f"the executor answered {head.status}")
        kind, size = head.content_type, len(head.content_type)
        if (
            not kind.startswith(CONTENT_TYPES)
            or size > MAX_CONTENT_TYPE_CHARS
            or not (kind.isascii() and kind.isprintable())
        ):
            raise BackendError("the executor answered with an unusable content type")
        return head

    async def _next(self) -> Message:
        """The next message but signs of life.

        Raises:
            BackendError: the executor broke off, fell silent, or was lost for good.
        """
        settings = self._settings
        if self._received:
            self._deadline = trio.current_time() + settings.stall
        try:
            while True:
                try:
                    with trio.fail_at(self._deadline), trio.fail_after(settings.stall):
                        message = await _receive(self.exchange)
                except NetworkError:
                    if not (self._received and self._terms.request.stream and self.exchange.is_lost):
                        raise
                    await self._resume()
                    self._deadline = trio.current_time() + settings.stall
                    continue
                if not isinstance(message, KeepAlive):
                    return message
                if not self._received and (message.queued or not self._terms.request.stream):
                    self._deadline = min(trio.current_time() + settings.first_chunk, self._latest)
        except (NetworkError, CodecError) as error:
            raise BackendError(f"the executor broke off: {error}") from error
        except trio.TooSlowError:
            raise BackendError("the executor sent nothing for too long") from None

    async def _resume(self) -> None:
        """Find a lost executor again, and ask it for the rest.

        Raises:
            NetworkError: it cannot be found.
        """
        payee, failure = self._terms.payee, NetworkError("it was lost too often")
        self._resumptions += 1
        with trio.move_on_after(self._settings.resume if self._resumptions <= MAX_RESUMPTIONS else 0):
            while True:
                try:
                    await self._router._connect(payee)
                    exchange = await self._open()
                    await exchange.send(encode_message(Resume(self._hold_id, len(self._received))))
                    self.exchange = exchange
                    log.info("resumed an answer", executor=format_address(payee), received=len(self._received))
                    return
                except (NetworkError, trio.TooSlowError) as error:
                    failure = NetworkError(str(error) or "no answer in time")
                if self._router._has_left(payee):
                    raise failure
                await trio.sleep(RESUME_INTERVAL_S)
        raise failure

    async def _receive_chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, part by part; ends when the delivery was checked and receipted.

        The closing event of a stream is passed on only then: users hang up on it, which would cancel the receipt.

        Raises:
            BackendError: the executor broke off, fell silent, or claims what it did not deliver.
        """
        closing = b""
        try:
            while True:
                message = await self._next()
                if isinstance(message, Completed):
                    await self._receipt(message)
                    if closing:
                        yield closing
                    return
                if not isinstance(message, ResponseChunk):
                    raise _unexpected(message)
                if len(self._received) + len(message.data) > MAX_ANSWER_BYTES:
                    raise BackendError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
                self._received += message.data
                self._inspector.feed(message.data)
                self._payments.set_max_capture(self._hold_id, self._compute_owed(IN_FLIGHT_TOKENS))
                data = message.data
                if self._inspector.is_over:
                    start = 0 if closing else max(0, data.rfind(CLOSING))
                    data, closing = data[:start], closing + data[start:]
                if data:
                    yield data
        except BackendError:
            self.reject()
            raise

    def reject(self) -> None:
        """The executor is at fault: whatever it captures is disputed."""
        self._payments.set_max_capture(self._hold_id, 0)

    def _compute_owed(self, in_flight: int = 0) -> int:
        """Price of what has been received so far, and ``in_flight`` tokens. No token is shorter than a byte."""
        request = self._terms.request
        tokens = min(self._inspector.completion_tokens, len(self._received)) + in_flight
        return min(self._payments.compute_price(request.model, len(request.body), tokens), self._terms.amount)

    async def _receipt(self, final: Completed) -> None:
        """Check the executor's claim against what arrived, and sign a receipt for it."""
        self._inspector.finish()
        fault = self._find_fault(final)
        if fault is not None:
            raise BackendError(f"the executor's delivery is wrong: {fault}")
        self.is_over = True
        self._payments.set_max_capture(self._hold_id, final.delivery.amount)
        if final.delivery.amount:
            receipt = Receipt(self._payments.sign_receipt(final.delivery))
            try:
                await self.exchange.send(encode_message(receipt), end=True)
            except NetworkError:
                log.info("the receipt was not taken", executor=format_address(self._terms.payee))

    def _find_fault(self, final: Completed) -> str | None:
        delivery, terms = final.delivery, self._terms
        owed = self._compute_owed() if self._status == 200 else 0
        if not is_signed_delivery(terms.payee, self._router._engine.genesis.chain_id, final):
            return "not signed by the executor"
        if delivery.hold != self._hold_id:
            return "for another hold"
        if delivery.amount > owed:
            return f"asks {delivery.amount} micro-credits for what is worth {owed}"
        if delivery.amount and delivery.response_digest != compute_digest(final.salt, bytes(self._received)):
            return "the digest is not that of the answer"
        if self._status == 200 and not self._inspector.complete:
            return "the answer is not complete"
        return None


async def _receive(exchange: Exchange) -> Message:
    frame = await exchange.receive()
    if frame is None:
        raise NetworkError("the executor ended without an answer")
    return decode_message(frame)


def _unexpected(message: Message) -> BackendError:
    if isinstance(message, Failed):
        return BackendError(f"the executor failed: {message.reason}")
    return BackendError(f"unexpected {type(message).__name__.lower()}")


async def _prepend(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if first:
        yield first
    async for part in rest:
        yield part


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
