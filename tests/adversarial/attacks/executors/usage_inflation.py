"""An executor pads its answers, and asks for the whole hold: does the honest payer sign for the padding?"""

from __future__ import annotations

import trio

from chain.types.operations import Capture, CaptureItem, sign_operation
from p2p.network import NetworkError
from serving.offload.protocol import Receipt
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import Deal, capture_all, give_back, plant
from tests.support.market.offers_by_hand import receive
from tests.support.market.scripted_backend import Script, make_end
from tests.support.market_world import Options, World, ask, make_request, simulate
from tests.support.waiting import eventually

MAX_TOKENS = 4_096
CLAIMED_BYTES = 8 * MAX_TOKENS
"""As many as the hold covers."""
BLANKS = b" " * CLAIMED_BYTES


def _pad(deal: Deal, is_stream: bool) -> bytes:
    """The honest answer, with as much of everything that could be counted as is claimed."""
    honest = deal.answer
    tokens = b'"completion_tokens": '
    if not is_stream:
        return honest.replace(tokens + b"6", tokens + b"%d" % CLAIMED_BYTES)[:-1] + BLANKS + b',"x":"' + BLANKS + b'"}'
    events = honest.removesuffix(make_end(Script()))
    comment = b": " + BLANKS + b"\n\n"
    unknown = b'data: {"choices":[{"delta":{"x":"' + BLANKS + b'"}}]}\n\n'
    return events + comment + unknown + make_end(Script(tokens=CLAIMED_BYTES))


def run() -> Outcome:
    earned: list[int] = []
    receipts: list[bytes] = []
    worth: list[int] = []

    async def play_once(world: World, is_stream: bool) -> None:
        liar = world.drawn()[0]
        engine, chain_id = liar.node.engine, world.genesis.chain_id

        async def claim(deal: Deal) -> None:
            answer = _pad(deal, is_stream)
            delivery = deal.make_delivery(answer, CLAIMED_BYTES)
            assert delivery.amount == deal.offer.hold.amount
            worth.append(deal.make_delivery().amount)
            await deal.send_answer(answer)
            await deal.send(deal.make_completed(delivery))
            try:
                receipt = await receive(deal.exchange, 5.0)
            except NetworkError:
                await capture_all(deal)
                return
            assert isinstance(receipt, Receipt)
            receipts.append(receipt.signature)
            await eventually(lambda: engine.state.hold(deal.hold_id) is not None)
            await engine.submit(
                sign_operation(liar.key, chain_id, Capture((CaptureItem(delivery, receipt.signature),)))
            )

        deals = plant(world, liar, claim)
        before = world.account(liar.number).total
        await ask(world.gateway, make_request(stream=is_stream, max_tokens=MAX_TOKENS))
        await trio.sleep(10.0)
        give_back(liar, deals)
        await world.settle(60)
        earned.append(world.account(liar.number).total - before)

    for is_stream in (True, False):

        async def play(world: World, is_stream: bool = is_stream) -> None:
            await play_once(world, is_stream)

        simulate(play, Options(parameters={"capture_grace_ms": 5_000}))
    gained = max(0, *earned)
    detail = f"{len(receipts)} receipts for two padded answers, one streamed"
    return Outcome(worth[0], gained, max(0, gained - worth[0]), detail)


ATTACK = Attack(
    "an answer padded with blanks, claimed at the price of the whole hold",
    Outcome(2_128, 83_671, 81_543, "39 times the price, with the payer's receipt"),
    run,
)
