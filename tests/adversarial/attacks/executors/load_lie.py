"""An executor announces that it has nothing to do and is a million times as fast: is it asked more often?"""

from __future__ import annotations

from dataclasses import replace

from p2p.peers.announcement import MAX_RATE, Announcement, ModelLoad, PeerLoad
from serving.backends.backend import FEATURES
from serving.offload.settings import OriginatorSettings
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market_world import MODEL, Options, World, ask, make_request, simulate

REQUESTS = 30
EXECUTORS = 4
UNIT = "answers"
LIE = ModelLoad(MODEL, 0, 0, 1_000_000, MAX_RATE, MAX_RATE, 0, (1 << len(FEATURES)) - 1)


def run() -> Outcome:
    honest, lying = count(is_lying=False), count(is_lying=True)
    gained = max(0, lying - honest)
    return Outcome(0, gained, gained, f"{lying} of {REQUESTS} instead of {honest}", UNIT)


def count(is_lying: bool) -> int:
    """How many requests of a payer the executor answers, as fast as the others, one after the other."""
    answered = 0

    async def play(world: World) -> None:
        nonlocal answered
        liar, originator = world.members[1].public_key, world.gateway.originator
        dialer = originator._dialer

        def find(peer: bytes) -> Announcement | None:
            announcement = dialer.find(peer)
            is_lie = is_lying and announcement is not None and peer == liar
            return replace(announcement, load=PeerLoad((LIE,))) if is_lie and announcement else announcement

        originator._dialer = originator.directory._dialer = replace(dialer, find=find)
        for number in range(REQUESTS):
            question = [{"role": "user", "content": f"question {number}"}]
            answered += (await ask(world.gateway, make_request(messages=question))).executor == liar

    simulate(play, Options(executors=EXECUTORS, spacing=1.0, originator=OriginatorSettings()))
    return answered


ATTACK = Attack(
    "an executor announces to be idle and of any speed",
    Outcome(0, 523, 523, "982 of 2,000 first offers instead of 459", UNIT),
    run,
    accepted="one or two requests go to it for each payer, until they have measured it",
)
