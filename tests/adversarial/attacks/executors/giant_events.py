"""An executor answers with events of many megabytes: how many bytes does the payer decode for those that are sent?"""

from __future__ import annotations

from unittest import mock

from serving.offload.protocol import CHUNK_BYTES
from serving.openai import answers
from serving.openai.content import AnswerForm
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_executor import Deal, give_back, plant
from tests.support.market.scripted_backend import make_token
from tests.support.market_world import World, ask, simulate

EVENT_BYTES = 16 << 20
HEAD, TAIL = b'data: {"usage":{"completion_tokens":1},"choices":[{"delta":{"content":"hi"}}],"x":[', b"0]}\n\n"
EVENT = HEAD + b"0.1," * ((EVENT_BYTES - len(HEAD) - len(TAIL)) // 4) + TAIL
UNIT = "bytes"


def run() -> Outcome:
    decoded: list[int] = []
    sent = 0
    decode = answers.decode_event

    def watch(data: bytes, form: AnswerForm) -> object:
        decoded.append(len(data))
        return decode(data, form)

    async def play(world: World) -> None:
        async def flood(deal: Deal) -> None:
            nonlocal sent
            await deal.send_answer(make_token("liar-", 0))
            for at in range(0, len(EVENT), CHUNK_BYTES):
                await deal.send_body(EVENT[at : at + CHUNK_BYTES])
                sent += CHUNK_BYTES

        liar = world.drawn()[0]
        deals = plant(world, liar, flood)
        await ask(world.gateway)
        give_back(liar, deals)
        await world.settle()

    with mock.patch.object(answers, "decode_event", watch):
        simulate(play)
    assert decoded
    return Outcome(
        sent,
        sum(decoded),
        sum(decoded),
        f"broken off after {sent:,} bytes; {max(decoded):,} decoded at most in one go",
        UNIT,
    )


ATTACK = Attack(
    "an event of 16 MiB in a stream",
    Outcome(EVENT_BYTES, 2 * EVENT_BYTES, 2 * EVENT_BYTES, "decoded in one go by two parts of the payer", UNIT),
    run,
)
