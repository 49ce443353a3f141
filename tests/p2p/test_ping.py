"""Pings: the right bytes come back, the path is told, and neither side is taken in or overrun."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from p2p.network import NetworkError
from p2p.ping import MAX_PINGS_PER_PEER, PING_PROTOCOL, PING_RATE, Ping, Pinger, Pong
from p2p.runtime import RealRuntime
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.streams.exchange import Exchange, ExchangeHandler
from p2p.streams.exchanges import Streams
from tests.support.keys import make_peer

pytestmark = pytest.mark.trio


@asynccontextmanager
async def running_pair(handler: ExchangeHandler | None = None) -> AsyncIterator[tuple[Pinger, bytes]]:
    """One who pings, and the peer that answers, with ``handler`` if it is given."""
    async with trio.open_nursery() as nursery:
        hub = SimulatedInternet(1)
        await nursery.start(hub.run)
        networks = [SimulatedNetwork(hub, make_peer(number)) for number in (1, 2)]
        streams = [Streams(network) for network in networks]
        for each in streams:
            await nursery.start(each.run)
        pingers = [Pinger(network, stream, RealRuntime()) for network, stream in zip(networks, streams, strict=True)]
        streams[1].handle(PING_PROTOCOL, handler or pingers[1].serve, MAX_PINGS_PER_PEER)
        hub.connect_all()
        yield pingers[0], networks[1].me
        nursery.cancel_scope.cancel()


async def test_a_round_trip_is_measured_and_the_own_address_learned(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimulatedNetwork, "get_remote_host", lambda network, peer: "192.0.2.7")
    async with running_pair() as (pinger, peer):
        found = await pinger.ping(peer, 5)
        again = await pinger.ping(peer, 5)
    assert 0 < again.seconds < 5 and not found.is_relayed
    assert found.seen_as == "192.0.2.7"


async def test_the_answer_to_another_ping_and_nonsense_are_none(autojump_clock: MockClock) -> None:
    answers = [Pong(bytes(32), "192.0.2.1").encode(), b"nonsense"]

    async def lie(exchange: Exchange) -> None:
        await exchange.receive()
        await exchange.send(answers.pop(0), end=True)

    async with running_pair(lie) as (pinger, peer):
        for reason in ("another ping", "malformed"):
            with pytest.raises(NetworkError, match=reason):
                await pinger.ping(peer, 5)


async def test_a_peer_that_keeps_silent_and_a_stranger_are_errors_in_time(autojump_clock: MockClock) -> None:
    async def keep_silent(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with running_pair(keep_silent) as (pinger, peer):
        began = trio.current_time()
        with pytest.raises(NetworkError, match="within 5 s"):
            await pinger.ping(peer, 5)
        assert trio.current_time() - began == pytest.approx(5)
        with pytest.raises(NetworkError):
            await pinger.ping(make_peer(9), 5)


async def test_who_pings_too_often_or_sends_something_else_is_not_answered(autojump_clock: MockClock) -> None:
    async with running_pair() as (pinger, peer):
        answered = 0
        with pytest.raises(NetworkError, match="too many pings"):
            while answered < 1_000:
                await pinger.ping(peer, 5)
                answered += 1
        assert answered <= 2 * PING_RATE.items * PING_RATE.burst
        await trio.sleep(60)
        await pinger.ping(peer, 5)
        with pytest.raises(NetworkError):
            await pinger._streams.request(peer, PING_PROTOCOL, Ping(bytes(32)).encode()[:-1], 5)
