"""The holder of an API key has answers made that are not streamed, and hangs up before they come and cost something."""

from __future__ import annotations

import trio

from chain.parameters.parameters import CREDIT
from serving.api import Api
from serving.keys.records import KeyLimits
from serving.scheduling.policy import PolicyParameters
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.api_calls import call
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import Options, World, ask, get_name, get_script, make_body, make_request, simulate

TOKENS, TOKEN_DELAY_S = 4_000, 0.02
REQUESTS = 24
BUDGET = CREDIT // 2
"""Of the key; what is made in all the requests costs more."""


def run() -> Outcome:
    outcome = Outcome(0, 0, 0, "")

    async def play(world: World) -> None:
        nonlocal outcome
        gateway, keys, script = world.gateway, world.gateway.keys, get_script(world.members[0])
        script.tokens, script.token_delay = TOKENS, TOKEN_DELAY_S
        assert (await ask(gateway, make_request(max_tokens=TOKENS))).status == 200  # the node knows how fast it is
        secret = await keys.create("attacker", KeyLimits(budget=BUDGET))
        api, authorization = Api(gateway.dispatcher, keys), f"Bearer {secret}".encode()
        begun, busy_s = 0, 0.0
        for _ in range(REQUESTS):
            since, error = trio.current_time(), None
            with trio.move_on_after(0.95 * TOKENS * TOKEN_DELAY_S):
                _, error = await call(api, body=make_body(max_tokens=TOKENS), authorization=authorization)
            if error is None:
                begun, busy_s = begun + 1, busy_s + trio.current_time() - since
        assert begun
        made_bytes = busy_s / (TOKENS * TOKEN_DELAY_S) * len(compute_text(get_name(world.members[0]), TOKENS))
        made = round(made_bytes) * world.genesis.parameters.price.per_completion_byte
        left = keys.get_left("attacker")
        assert left is not None
        outcome = Outcome(BUDGET - left, made, made, f"{begun} of {REQUESTS} requests, {busy_s:.0f} s of a slot")

    simulate(play, Options(own_backend=True, executors=0, policy=PolicyParameters(offload_frequency=0.0)))
    return outcome


ATTACK = Attack(
    "has answers made, and leaves before it is charged for them",
    Outcome(0, 3_521_460, 3_521_460, "24 of 24 requests, 1824 s of a slot"),
    run,
)
