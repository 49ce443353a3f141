"""A stranger opens streams of a node and sends nothing over them: how many stay?"""

from __future__ import annotations

import trio

from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import run_simulation
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import ACCEPTED_IDLE_TIMEOUT_S, REAP_INTERVAL_S, Streams
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_peer

PROTOCOLS = {f"/test/{limit}": limit for limit in (64, 8, 4, 1)}
STREAMS = 255


async def answer(exchange: Exchange) -> None:
    await exchange.receive()


def run() -> Outcome:
    opened, kept = run_simulation(1, hold_streams)
    assert opened == STREAMS
    detail = f"{opened} opened; the side that answers closes them after {ACCEPTED_IDLE_TIMEOUT_S:g} s"
    return Outcome(0, kept, kept, detail, "streams kept")


async def hold_streams() -> tuple[int, int]:
    """The numbers of streams accepted at first, and later."""
    hub = SimulatedInternet(1)
    victim, stranger = (SimulatedNetwork(hub, make_peer(number)) for number in (1, 2))
    streams = Streams(victim)
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        await nursery.start(streams.run)
        hub.connect_all()
        for protocol, limit in PROTOCOLS.items():
            streams.handle(protocol, answer, limit)
        for number in range(STREAMS):
            await stranger.open_stream(victim.me, list(PROTOCOLS)[min(number // 72, 3)])
        await trio.sleep(1.0)
        opened = streams._accepted.total()
        await trio.sleep(ACCEPTED_IDLE_TIMEOUT_S + REAP_INTERVAL_S)
        kept = streams._accepted.total()
        nursery.cancel_scope.cancel()
    return opened, kept


ATTACK = Attack(
    "streams that are opened and never used",
    Outcome(0, 255, 255, "on each connection; 20 KB each, for as long as it lasts", "streams kept"),
    run,
)
