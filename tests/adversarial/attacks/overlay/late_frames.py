"""A stranger sends frames of 9 bytes of an exchange that is over: how many does a node look at?"""

from __future__ import annotations

from contextlib import suppress

import trio

from p2p.network import NetworkError
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import run_simulation
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from p2p.streams.frames import Frame, FrameReader, Kind
from p2p.streams.pooled_stream import MAX_LATE_FRAMES
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_peer

PROTOCOL = "/test/1"
LATE = Frame(Kind.END, 1).encode()
WRITES, FRAMES = 64, 1024


async def answer(exchange: Exchange) -> None:
    await exchange.receive()


async def flood() -> int:
    """How many of the frames are read."""
    hub = SimulatedInternet(1)
    victim, stranger = (SimulatedNetwork(hub, make_peer(number)) for number in (1, 2))
    streams = Streams(victim)
    taken = 0
    feed = FrameReader.feed

    def count(reader: FrameReader, data: bytes) -> list[Frame]:
        nonlocal taken
        frames = feed(reader, data)
        taken += sum(frame.exchange == 1 and frame.kind is Kind.END for frame in frames)
        return frames

    FrameReader.feed = count  # type: ignore[method-assign]
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            await nursery.start(streams.run)
            hub.connect_all()
            streams.handle(PROTOCOL, answer)
            stream = await stranger.open_stream(victim.me, PROTOCOL)
            await stream.send(Frame(Kind.DATA, 1).encode() + LATE)
            await trio.sleep(1.0)
            with suppress(NetworkError):
                for _ in range(WRITES):
                    await stream.send(LATE * FRAMES)
            await trio.sleep(10.0)
            nursery.cancel_scope.cancel()
    finally:
        FrameReader.feed = feed  # type: ignore[method-assign]
    return taken


def run() -> Outcome:
    taken = run_simulation(1, flood)
    beyond = max(0, taken - MAX_LATE_FRAMES - 2 * FRAMES)
    return Outcome(0, beyond, beyond, f"{taken:,} of {WRITES * FRAMES:,} read, then the stream is reset", "frames read")


ATTACK = Attack(
    "frames of an exchange that is over (gained: frames read beyond a window full)",
    Outcome(0, 65_536, 65_536, "all of 576 KiB, and so on without end", "frames read"),
    run,
)
