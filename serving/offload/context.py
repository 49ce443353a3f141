"""What the originator's and the executor's side of an offload share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from chain.crypto import KeyPair
from chain.transition.rounds import get_period
from consensus.engine import Engine
from p2p.network import NetworkError
from p2p.runtime import Runtime
from p2p.streams.exchanges import Exchange
from serving.accounting.payments import Payments
from serving.offload.protocol import DIGEST_SALT_BYTES, Message, decode_message


@dataclass(frozen=True, slots=True)
class DeliveredTexts:
    """A request that was paid for and its answer, as they went over the wire, each with the salt of its digest.

    ``response`` is empty if it did not come whole. ``deadline`` is that of the hold, in ms of chain time.
    """

    hold: bytes
    is_executor: bool
    deadline: int
    request_salt: bytes
    request: bytes
    response_salt: bytes
    response: bytes


@dataclass(frozen=True, slots=True)
class OffloadContext:
    """The parts of the node that both sides use. ``keep`` takes the texts that a duel may be about, if there are any
    on this chain."""

    key: KeyPair
    engine: Engine
    payments: Payments
    runtime: Runtime
    keep: Callable[[DeliveredTexts], None] | None = None

    @property
    def chain_id(self) -> bytes:
        """The chain that deliveries and receipts are signed for."""
        return self.engine.genesis.chain_id

    @property
    def first_round(self) -> int:
        """The first round of the serving period that the last final block is in.

        Not of the next block's, whose draws a node that is one block behind does not know.
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
    with trio.fail_after(timeout):
        frame = await exchange.receive()
    if frame is None:
        raise NetworkError("the peer ended the exchange")
    return decode_message(frame)
