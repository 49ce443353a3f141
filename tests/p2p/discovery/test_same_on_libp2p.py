"""What the simulated network promises, the real one keeps: exchanges and discovery over libp2p on loopback."""

from __future__ import annotations

import pytest
import trio

from chain.crypto import KeyPair
from p2p.discovery.service import Discovery
from p2p.network import NetworkError
from p2p.peers.table import ChangeKind, PeerState
from p2p.runtime import RealRuntime
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from p2p.streams.frames import MAX_FRAME_BYTES
from tests.support.hosts import network, running
from tests.support.keys import make_key
from tests.support.waiting import eventually

PROTOCOL = "/test/1"
pytestmark = pytest.mark.trio


async def answer(exchange: Exchange) -> None:
    payload = await exchange.receive()
    assert payload is not None
    await exchange.send(payload, end=True)


async def test_exchanges(nursery: trio.Nursery) -> None:
    a, b = network(1), network(2)
    opener, answerer = Streams(a), Streams(b)
    cancelled = trio.Event()

    async def work(exchange: Exchange) -> None:
        await exchange.receive()
        try:
            while True:
                await exchange.send(b"token")
                await trio.sleep(0.01)
        except trio.Cancelled:
            cancelled.set()
            raise

    async def pour(exchange: Exchange) -> None:
        await exchange.receive()
        for _ in range(3):
            await exchange.send(bytes(MAX_FRAME_BYTES))

    answerer.handle(PROTOCOL, answer)
    answerer.handle("/work", work)
    answerer.handle("/pour", pour)
    with trio.fail_after(60):
        async with running(a, b):
            await nursery.start(opener.run)
            await nursery.start(answerer.run)
            await a.connect(b.me, b.listen_addresses)
            assert await opener.request(b.me, PROTOCOL, b"small", 10) == b"small"
            assert await opener.request(b.me, PROTOCOL, bytes(MAX_FRAME_BYTES), 10) == bytes(MAX_FRAME_BYTES)

            with trio.CancelScope() as user:
                async with opener.open(b.me, "/work") as exchange:
                    await exchange.send(b"go", end=True)
                    assert await exchange.receive() == b"token"
                    user.cancel()
                    await exchange.receive()
            await cancelled.wait()

            async with opener.open(b.me, "/pour") as exchange:
                await exchange.send(b"go", end=True)
                assert await opener.request(b.me, PROTOCOL, b"not held up", 10) == b"not held up"
                assert [len(await exchange.receive() or b"") for _ in range(4)] == [MAX_FRAME_BYTES] * 3 + [0]

            with pytest.raises(NetworkError):
                await opener.request(b.me, "/unknown", b"x", 10)
            await b.disconnect(a.me)
            with pytest.raises(NetworkError):
                await opener.request(b.me, PROTOCOL, b"x", 10)
        nursery.cancel_scope.cancel()


async def test_discovery(nursery: trio.Nursery) -> None:
    networks = [network(number) for number in (1, 2, 3)]
    runtime, chain = RealRuntime(), bytes(32)
    with trio.fail_after(60):
        async with running(*networks):
            bootstrap = [(networks[0].me, networks[0].listen_addresses[0])]
            services = []
            for number, one in enumerate(networks, 1):
                streams = Streams(one)
                await nursery.start(streams.run)
                pair: KeyPair = make_key(number)
                services.append(Discovery(one, streams, runtime, pair, chain, bootstrap=bootstrap))
                await nursery.start(services[-1].run)
            await eventually(lambda: all(len(service.table) == 2 for service in services))
            events = services[0].events()
            await services[2].leave()
            while (change := await events.receive()).kind is not ChangeKind.LEFT:
                pass
            assert change.peer == networks[2].me
            await eventually(lambda: services[1].table.state(networks[2].me) is PeerState.LEFT)
            nursery.cancel_scope.cancel()
