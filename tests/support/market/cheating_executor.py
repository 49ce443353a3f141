"""An executor that lies: in place of that of a member of a market in memory, it answers as a test says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import trio

from chain.crypto import KeyPair
from chain.types.operations import (
    Capture,
    CaptureItem,
    Delivery,
    Usage,
    compute_digest,
    compute_hold_id,
    sign_operation,
)
from p2p.streams.exchange import Exchange
from serving.offload.protocol import (
    CHUNK_BYTES,
    OFFLOAD_PROTOCOL,
    Accepted,
    Completed,
    Message,
    Offer,
    Payment,
    ResponseChunk,
    ResponseHead,
    encode_message,
    sign_delivery,
)
from tests.support.market.offers_by_hand import receive
from tests.support.market.scripted_backend import Script, compute_stream, compute_whole
from tests.support.market_world import Member, World
from tests.support.waiting import eventually

SALT = bytes(16)
TOKEN_BYTES = len("liar-0 ")
"""Completion bytes of a token of the liar."""
TOKENS = Script().tokens
"""Of an honest answer."""


@dataclass
class Deal:
    """One exchange, from the liar's side."""

    world: World
    liar: Member
    exchange: Exchange
    offer: Offer
    body: bytes
    hold_id: bytes

    @property
    def answer(self) -> bytes:
        """What an honest executor would have answered."""
        if json.loads(self.body).get("stream"):
            return compute_stream("liar-", Script())
        return compute_whole("liar-", Script())

    async def send(self, *messages: Message | bytes) -> None:
        for message in messages:
            await self.exchange.send(message if isinstance(message, bytes) else encode_message(message))

    async def send_answer(self, answer: bytes | None = None, salt: bytes = SALT) -> None:
        kind = "text/event-stream" if json.loads(self.body).get("stream") else "application/json"
        await self.send(ResponseHead(200, kind, salt))
        await self.send_body(self.answer if answer is None else answer)

    async def send_body(self, data: bytes) -> None:
        """Send more of the body."""
        for at in range(0, len(data), CHUNK_BYTES):
            await self.send(ResponseChunk(data[at : at + CHUNK_BYTES]))

    def make_delivery(self, answer: bytes | None = None, count: int = TOKENS * TOKEN_BYTES) -> Delivery:
        """A delivery of ``count`` completion bytes in ``answer``, by default the honest one of both."""
        usage = Usage(len(self.body), count)
        price = self.world.genesis.parameters.get_price(self.offer.hold.model).compute(usage)
        digest = compute_digest(SALT, self.answer if answer is None else answer)
        return Delivery(self.hold_id, min(price, self.offer.hold.amount), digest, usage, "stop")

    def make_completed(self, delivery: Delivery, key: KeyPair | None = None) -> Completed:
        return Completed(delivery, sign_delivery(key or self.liar.key, self.world.genesis.chain_id, delivery))


async def deliver_nothing(deal: Deal) -> None:
    """What an executor does that accepts and never answers."""
    await trio.sleep_forever()


Lie = Callable[[Deal], Awaitable[None]]


def plant(world: World, liar: Member, lie: Lie) -> list[Deal]:
    """Replace a member's executor by one that lies; returns the deals that it will have made."""
    deals: list[Deal] = []

    async def handle(exchange: Exchange) -> None:
        offer = await receive(exchange)
        assert isinstance(offer, Offer)
        body = b""
        while len(body) < offer.size:
            body += await exchange.receive() or b""
        hold_id = compute_hold_id(exchange.peer, offer.hold)
        deal = Deal(world, liar, exchange, offer, body, hold_id)
        await deal.send(Accepted(False))
        payment = await receive(exchange)
        assert isinstance(payment, Payment)
        deals.append(deal)
        liar.node.payments.payee._served.add((exchange.peer, offer.hold.seq, offer.hold.attempt))
        await lie(deal)

    liar.node.streams.handle(OFFLOAD_PROTOCOL, handle, 64)
    return deals


def give_back(liar: Member, deals: list[Deal]) -> None:
    """Have the liar's own node refund what was not captured, as it does after a restart."""
    liar.node.payments.payee._served.clear()
    for deal in deals:
        liar.node.payments.payee.on_start(deal.hold_id)


async def capture_all(deal: Deal, amount: int | None = None) -> None:
    """Capture the whole hold, or ``amount``, as soon as it is final, without a receipt."""
    engine = deal.liar.node.engine
    await eventually(lambda: engine.state.hold(deal.hold_id) is not None)
    delivery = replace(deal.make_delivery(count=1_000_000), amount=deal.offer.hold.amount if amount is None else amount)
    capture = Capture((CaptureItem(delivery, None),))
    await engine.submit(sign_operation(deal.liar.key, deal.world.genesis.chain_id, capture))
