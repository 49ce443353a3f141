"""Eight keys hold all streams of a DHT server by a PING now and then: are the requests of others answered?"""

from __future__ import annotations

from typing import Any

import trio

from p2p.dht.kademlia import Kind, Message, get_provider_key
from p2p.dht.messages import WireMessage, encode
from p2p.dht.provider_store import ProviderStore
from p2p.dht.routing_table import RoutingTable
from p2p.dht.server import MAX_DHT_STREAMS, MAX_DHT_STREAMS_PER_PEER, READ_TIMEOUT_S, DhtServer
from p2p.length_prefixed import MessageStream
from p2p.network import NetworkError
from p2p.simulation.runtime import run_simulation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_peer

KEY = get_provider_key(bytes(32))
REQUESTS = 50
HOLDERS = [make_peer(number) for number in range(1, 1 + MAX_DHT_STREAMS // MAX_DHT_STREAMS_PER_PEER)]


class _Network:
    """The holders are at one address, every other peer at its own."""

    me = make_peer(0)

    def can_be_dialled(self) -> bool:
        return True

    def get_remote_host(self, peer: bytes) -> str:
        return "198.51.100.7" if peer in HOLDERS else f"203.0.113.{peer[0]}"


class _Pipe:
    """One end of a stream that goes nowhere but to its other end."""

    def __init__(self, peer: bytes, source: Any, target: Any) -> None:
        self.peer, self._source, self._target = peer, source, target

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data: bytes = await self._source.receive()
        except trio.EndOfChannel:
            return b""
        return data

    async def send(self, data: bytes) -> None:
        await self._target.send(data)


async def hold_streams() -> int:
    """Requests of others that are not answered."""
    network: Any = _Network()
    table, records = RoutingTable(network.me), ProviderStore(KEY)
    server = DhtServer(network, table, records, KEY, lambda: ("/ip4/203.0.113.9/tcp/4001",), lambda peer: None)
    unanswered = 0
    async with trio.open_nursery() as nursery:

        def call(peer: bytes) -> MessageStream:
            here, there = trio.open_memory_channel[bytes](9), trio.open_memory_channel[bytes](9)

            async def serve() -> None:
                try:
                    await server.serve(_Pipe(peer, there[1], here[0]))  # type: ignore[arg-type]
                except NetworkError:
                    here[0].close()

            nursery.start_soon(serve)
            return MessageStream(_Pipe(network.me, here[1], there[0]), 1 << 16)  # type: ignore[arg-type]

        async def hold(peer: bytes) -> None:
            stream = call(peer)
            while True:
                try:
                    await stream.send_message(encode(Message(Kind.PING)))
                    await stream.receive_message(WireMessage)
                    await trio.sleep(READ_TIMEOUT_S - 1)
                except NetworkError:  # it has lost this one and takes another
                    stream = call(peer)

        for number in range(MAX_DHT_STREAMS):
            nursery.start_soon(hold, HOLDERS[number % len(HOLDERS)])
        await trio.sleep(1.0)
        for number in range(REQUESTS):
            stream = call(make_peer(100 + number))
            with trio.move_on_after(1.0) as waiting:
                try:
                    await stream.send_message(encode(Message(Kind.GET_PROVIDERS, KEY)))
                    await stream.receive_message(WireMessage)
                except NetworkError:
                    unanswered += 1
            unanswered += waiting.cancelled_caught
            await trio.sleep(18.0)
        nursery.cancel_scope.cancel()
    return unanswered


def run() -> Outcome:
    unanswered = run_simulation(1, hold_streams)
    return Outcome(0, unanswered, unanswered, f"of {REQUESTS}", "requests unanswered")


ATTACK = Attack(
    "streams of the DHT held by a PING",
    Outcome(0, 50, 50, "all, for 25 KB an hour", "requests unanswered"),
    run,
)
