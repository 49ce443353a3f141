"""A payer asks for so many log probabilities that its answers break off for their length, after their text was sent."""

from __future__ import annotations

import trio

from chain.types.operations import Usage
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted, Message, Payment, encode_message
from serving.openai.answers import MAX_EVENT_BYTES
from serving.openai.content import MAX_UNSTREAMED_BYTES
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer, read_answer
from tests.support.market.offers_by_hand import send_offer
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import MODEL, Options, World, get_name, get_script, make_request, simulate

TOKENS = 100
ANSWERS = 8


async def take(payer: CheatingPayer, seq: int, stream: bool) -> tuple[bytes, Message | None]:
    """Buy one answer, and give no receipt."""
    body = make_request(stream=stream, max_tokens=TOKENS, logprobs=True, top_logprobs=20).body
    hold = payer.make_hold(seq, body, payer.compute_price(body, TOKENS), payer.world.members[1])
    async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
        reply = await send_offer(exchange, hold, body, SALT)
        if not isinstance(reply, Accepted):
            return b"", reply
        await exchange.send(encode_message(Payment(payer.sign(hold))))
        return await read_answer(exchange)


def run() -> Outcome:
    spent = gained = captured = 0

    async def play(world: World) -> None:
        nonlocal spent, gained, captured
        victim = world.members[1]
        script, price = get_script(victim), world.genesis.parameters.get_price(MODEL)
        payer = await CheatingPayer.join(world, 1, 2_000_000)
        before = payer.balance
        script.tokens = TOKENS
        words = compute_text(get_name(victim), TOKENS).encode().split()
        for seq in range(ANSWERS):
            is_stream = seq % 2 > 0
            script.padding = MAX_EVENT_BYTES if is_stream else MAX_UNSTREAMED_BYTES // TOKENS
            script.padding_after = TOKENS // 2
            answer, _ = await take(payer, seq, is_stream)
            read = sum(len(word) + 1 for word in words if word in answer)
            gained += price.compute(Usage(0, read)) * (read > 0)
            await trio.sleep(90)
        spent = before - payer.balance
        captured = sum(item.delivery.amount for item in world.captured)

    simulate(play, Options(executors=1, parameters={"capture_grace_ms": 5_000}))
    return Outcome(spent, gained, max(0, gained - captured), f"{ANSWERS} asked for; what was sent of them is paid")


ATTACK = Attack(
    "answers that break off for their length once their text was sent",
    Outcome(1_544, 931_880, 933_360, "8 of 8 answers whole, each refunded"),
    run,
)
