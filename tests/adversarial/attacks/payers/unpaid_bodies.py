"""A stranger without an account offers the longest bodies: how many of their bytes does an executor parse?"""

from __future__ import annotations

import json
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import trio

from p2p.network import NetworkError
from serving.offload.protocol import CHUNK_BYTES, MAX_REQUEST_BYTES, OFFLOAD_PROTOCOL, Declined, Offer, encode_message
from serving.openai.requests import CHAT_COMPLETIONS
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.market.cheating_payer import SALT, CheatingPayer
from tests.support.market.offers_by_hand import receive
from tests.support.market_world import MODEL, Options, World, simulate

OFFERS = 64
HEAD = b'{"model":"%s","x":[' % MODEL.encode()
BODY = HEAD + b"0.1," * ((MAX_REQUEST_BYTES - len(HEAD) - 3) // 4) + b"0]}"


def run() -> Outcome:
    parsed = turned_away = 0

    def loads(raw: bytes, **options: Any) -> object:
        nonlocal parsed
        parsed += len(raw)
        return json.loads(raw, **options)

    async def play(world: World) -> None:
        victim, stranger = world.members[1], await CheatingPayer.join(world, 1)

        async def offer(seq: int) -> None:
            nonlocal turned_away
            hold = stranger.make_hold(seq, BODY, 0, victim)
            try:
                async with stranger.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
                    await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, len(BODY), SALT, hold)))
                    with suppress(NetworkError):
                        for start in range(0, len(BODY), CHUNK_BYTES):
                            await exchange.send(BODY[start : start + CHUNK_BYTES])
                    answer = await receive(exchange)
                    turned_away += isinstance(answer, Declined)
            except NetworkError:
                turned_away += 1

        async with trio.open_nursery() as nursery:
            for seq in range(OFFERS):
                nursery.start_soon(offer, seq)

    counting = SimpleNamespace(loads=loads, dumps=json.dumps)
    with patch("serving.openai.requests.json", counting):
        simulate(play, Options(executors=1))
    assert turned_away == OFFERS
    return Outcome(0, parsed, parsed, f"{OFFERS} offers turned away", "bytes parsed")


ATTACK = Attack(
    "bodies of a stranger without credit",
    Outcome(0, 64 * MAX_REQUEST_BYTES, 64 * MAX_REQUEST_BYTES, "64 bodies of 4 MiB parsed", "bytes parsed"),
    run,
)
