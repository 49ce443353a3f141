"""What the originator's and the executor's side of an offload share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from chain.crypto import KeyPair
from chain.transition.rounds import get_period
from consensus.engine import Engine
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams.exchange import Exchange
from serving.accounting.payments import Payments
from serving.offload.protocol import DIGEST_SALT_BYTES, Message, decode_message
from serving.openai.requests import Request

NO_SALT = bytes(DIGEST_SALT_BYTES)
"""Stands for the salt of a missing text."""


@dataclass(frozen=True, slots=True)
class DeliveredTexts:
    """A request that was paid for and its answer, as they went over the wire, each with the salt of its digest.

    ``response`` is empty if it did not come whole. ``transcript`` is what the executor committed to beside it, and is
    empty if there is none. ``deadline`` is that of the hold, in ms of chain time.
    """

    hold: bytes
    is_executor: bool
    deadline: int
    request_salt: bytes
    request: bytes
    response_salt: bytes
    response: bytes
    transcript_salt: bytes = NO_SALT
    transcript: bytes = b""


class AnswerTap(Protocol):
    """Watches the answer of a backend, and makes a transcript of the log-probabilities in it."""

    @property
    def asked(self) -> bytes:
        """The request with which to ask the backend."""

    def begin(self, is_stream: bool) -> None:
        """The answer begins."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of it; returns those to pass on now."""

    def finish(self) -> bytes:
        """It is over; returns what is left to pass on."""

    def make_transcript(self, passed: int) -> bytes | None:
        """The transcript of the first ``passed`` bytes that were passed on; None if there is none."""


@dataclass(frozen=True, slots=True)
class OffloadContext:
    """The parts of the node that both sides use.

    ``keep`` takes the texts that a duel may be about, if there are any on this chain. ``make_tap`` makes the tap on an
    answer that others may check; it may run in a thread.
    """

    key: KeyPair
    engine: Engine
    payments: Payments
    runtime: Runtime
    keep: Callable[[DeliveredTexts], None] | None = None
    make_tap: Callable[[Request], AnswerTap | None] = lambda request: None

    @property
    def chain_id(self) -> bytes:
        """The chain that deliveries and receipts are signed for."""
        return self.engine.genesis.chain_id

    @property
    def first_round(self) -> int:
        """The first round of the serving period of the last final block.

        The next block may be in another period, but a node that is one block behind does not know the draws of that.
        """
        engine = self.engine
        return get_period(engine.genesis.parameters, engine.state, engine.header.height).first_round

    def make_salt(self) -> bytes:
        """A fresh salt for the digest of a body."""
        return self.runtime.random.randbytes(DIGEST_SALT_BYTES)


async def receive_message(exchange: Exchange, timeout: float) -> Message:
    """The peer's next message.

    Raises:
        NetworkError, CodecError, trio.TooSlowError: there is none within ``timeout`` seconds.
    """
    frame = await exchange.receive(trio.current_time() + timeout)
    if frame is None:
        raise NetworkError("the peer ended the exchange")
    return decode_message(frame)
