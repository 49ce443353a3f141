"""Holds and offers of a payer without manners, made and sent by hand."""

from __future__ import annotations

from typing import Any

import trio

from chain.types.operations import Hold, SignedOperation, compute_digest, compute_hold_id, sign_operation
from p2p.network import NetworkError
from p2p.streams.exchange import Exchange
from serving.offload.protocol import Message, Offer, decode_message, encode_message
from serving.openai.requests import CHAT_COMPLETIONS, HELD_BYTES_PER_TOKEN
from tests.support.market_world import MODEL, Member, World


def make_hold(world: World, payer: int, body: bytes, salt: bytes, **changes: Any) -> Hold:
    """The hold that an honest payer would make for its next request, of :func:`make_body`."""
    node = world.members[payer].node
    seq = changes.pop("seq") if "seq" in changes else node.payments.payer.next_seq
    first_round = node.originator._context.first_round
    attempt = changes.pop("attempt", 0)
    draw = [(number, key) for number, key, *_ in node.originator.directory.draw(MODEL, first_round, seq)]
    terms: dict[str, Any] = {
        "payee": draw[attempt][1],
        "amount": node.payments.payer.compute_price(
            MODEL, len(body), changes.pop("tokens", 100) * HELD_BYTES_PER_TOKEN
        ),
        "round": first_round,
        "seq": seq,
        "attempt": attempt,
        "model": MODEL,
        "request_digest": compute_digest(salt, body),
        "deadline": node.engine.chain_time() + 600_000,
    }
    return Hold(**{**terms, **changes})


def sign_hold_by_hand(member: Member, hold: Hold) -> SignedOperation:
    """A hold of a member that its own node did not make. As a payer that is silent would, it disputes nothing of it."""
    hold_id = compute_hold_id(member.public_key, hold)
    member.node.payments.payer._max_captures.put(hold_id, hold.amount, hold.deadline)
    return sign_operation(member.key, member.node.engine.genesis.chain_id, hold)


async def send_offer(exchange: Exchange, hold: Hold, body: bytes, salt: bytes) -> Message:
    """Offer by hand; returns the answer."""
    await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, len(body), salt, hold)))
    await exchange.send(body)
    return await receive(exchange)


async def receive(exchange: Exchange, timeout: float = 60.0) -> Message:
    """The next message.

    Raises:
        NetworkError: none comes.
    """
    with trio.fail_after(timeout):
        frame = await exchange.receive()
    if frame is None:
        raise NetworkError("ended")
    return decode_message(frame)
