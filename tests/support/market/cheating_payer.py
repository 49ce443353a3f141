"""A payer without manners: an account that offers and pays by hand, beside the nodes of a market in memory."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from chain.crypto import KeyPair
from chain.state.lottery import compute_lottery_seed
from chain.types.operations import Hold, SignedOperation, Transfer, Usage, compute_digest, sign_operation
from p2p.network import NetworkError
from p2p.simulation.network import SimulatedNetwork
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from serving.offload.protocol import (
    OFFLOAD_PROTOCOL,
    Accepted,
    KeepAlive,
    Message,
    Payment,
    ResponseChunk,
    ResponseHead,
    encode_message,
)
from serving.openai.requests import HELD_BYTES_PER_TOKEN
from tests.support.market.offers_by_hand import receive, send_offer, sign_hold_by_hand
from tests.support.market_world import MODEL, Member, World
from tests.support.waiting import eventually

SALT = bytes(16)


async def read_answer(exchange: Exchange) -> tuple[bytes, Message | None]:
    """Everything up to Completed or Failed (None: the executor hung up)."""
    answer = b""
    while True:
        try:
            message = await receive(exchange)
        except NetworkError:
            return answer, None
        if isinstance(message, ResponseChunk):
            answer += message.data
        elif not isinstance(message, (ResponseHead, KeepAlive)):
            return answer, message


@dataclass
class CheatingPayer:
    """One account, with the streams that it uses."""

    world: World
    key: KeyPair
    streams: Streams

    @classmethod
    def of_gateway(cls, world: World) -> CheatingPayer:
        """The gateway's account, beside its own node."""
        return cls(world, world.gateway.key, world.gateway.streams)

    @classmethod
    async def join(cls, world: World, number: int, available: int = 0) -> CheatingPayer:
        """A stranger, connected with all members; the gateway gives it ``available`` micro-credits."""
        key = KeyPair(bytes([0x99, number]) * 16)
        streams = Streams(SimulatedNetwork(world.hub, key.public_key))
        await world.nursery.start(streams.run)
        world.hub.connect_all()
        if available:
            recipient = key.public_key
            await world.gateway.wallet.submit(lambda nonce: Transfer(nonce, recipient, available))
            nodes = [member.node for member in world.members]
            await eventually(lambda: all(node.engine.state.account(recipient).available for node in nodes))
        return cls(world, key, streams)

    @property
    def balance(self) -> int:
        """Everything that the account has, in micro-credits."""
        return self.world.gateway.engine.state.account(self.key.public_key).total

    def compute_price(self, body: bytes, tokens: int) -> int:
        """What an answer of so many tokens costs at most, in micro-credits."""
        usage = Usage(len(body), tokens * HELD_BYTES_PER_TOKEN)
        return self.world.genesis.parameters.get_price(MODEL).compute(usage)

    def make_hold(self, seq: int, body: bytes, amount: int, executor: Member | None = None) -> Hold:
        """A hold for ``executor`` (at whichever attempt it is drawn), or for the first one drawn."""
        engine = self.world.gateway.engine
        period = engine.state.serving_periods.current
        table, source = engine.state.serving_table(period.first_round), period.source
        assert table is not None and source is not None
        me = self.key.public_key
        order = list(table.lottery(MODEL).order(compute_lottery_seed(source, me, seq), me))
        payee = order[0] if executor is None else executor.public_key
        deadline = engine.chain_time() + 600_000
        attempt, digest = order.index(payee), compute_digest(SALT, body)
        return Hold(payee, amount, period.first_round, seq, attempt, MODEL, digest, deadline)

    def find_holds(self, seqs: range, body: bytes, amount: int) -> list[Hold]:
        """One hold for each executor that is drawn first for one of ``seqs``."""
        found: dict[bytes, Hold] = {}
        for seq in seqs:
            hold = self.make_hold(seq, body, amount)
            found.setdefault(hold.payee, hold)
        return list(found.values())

    def sign(self, hold: Hold) -> SignedOperation:
        if self.key.public_key == self.world.members[0].public_key:
            return sign_hold_by_hand(self.world.members[0], hold)
        return sign_operation(self.key, self.world.genesis.chain_id, hold)

    async def take(self, hold: Hold, body: bytes, pay_after: trio.Event | None = None) -> Message | None:
        """Offer, pay once ``pay_after`` is set, and read to the end: the last message, or None if it was hung up."""
        async with self.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            reply = await send_offer(exchange, hold, body, SALT)
            if not isinstance(reply, Accepted):
                return reply
            if pay_after is not None:
                await pay_after.wait()
            await exchange.send(encode_message(Payment(self.sign(hold))))
            _, end = await read_answer(exchange)
            return end
