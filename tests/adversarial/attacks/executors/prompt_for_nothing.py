"""An executor captures the price of the prompt at once, and then shows signs of life until it is paid."""

from __future__ import annotations

import trio

from chain.types.operations import Dispute
from serving.offload.protocol import KeepAlive
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import Deal, capture_all, plant
from tests.support.market_world import Options, World, ask, make_request, simulate

PROMPT_BYTES = 5_000


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        liar = world.members[1]

        async def show_life(deal: Deal) -> None:
            await capture_all(deal, deal.make_delivery(count=512).amount)
            for _ in range(17):
                await deal.send(KeepAlive(queued=True))
                await trio.sleep(5)
            await deal.exchange.abort("sorry")

        deals = plant(world, liar, show_life)
        before = [world.account(number).total for number in (0, 1)]
        prompt = {"role": "user", "content": "x" * PROMPT_BYTES}
        result = await ask(world.gateway, make_request(messages=[prompt], max_tokens=500))
        assert result.status != 200 and len(deals) == 1
        await trio.sleep(70)
        lost, spent = (total - world.account(number).total for number, total in enumerate(before))
        detail = f"nothing delivered; disputes: {len(world.operations(Dispute))}"
        outcome = Outcome(max(0, spent), max(0, -spent), lost, detail)
        liar.node.payments.payee._served.clear()

    simulate(play, Options(executors=1))
    return outcome


ATTACK = Attack(
    "is paid for the prompt alone",
    Outcome(0, 18_686, 19_071, "nothing delivered; disputes: 0"),
    run,
)
