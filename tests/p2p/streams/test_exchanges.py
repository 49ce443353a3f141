"""Pooled exchanges: reuse, credit, ends, aborts, losses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from p2p.network import Misbehaviour, NetworkError, RawStream
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedClock
from p2p.simulation.stream import SimulatedStream
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import (
    ACCEPTED_IDLE_TIMEOUT_S,
    EXCHANGE_LINGER_TIMEOUT_S,
    MAX_STREAMS_PER_PEER,
    REAP_INTERVAL_S,
    STREAM_IDLE_TIMEOUT_S,
    Streams,
)
from p2p.streams.frames import MAX_FRAME_BYTES, WINDOW_BYTES, Frame, Kind
from p2p.streams.pooled_stream import FRAME_TIMEOUT_S, MAX_LATE_FRAMES
from p2p.streams.unread_bytes import MAX_UNREAD_STREAM_BYTES, MAX_UNREAD_TOTAL_BYTES
from tests.support.keys import make_peer

PROTOCOL = "/test/1"
pytestmark = pytest.mark.trio


class Pair:
    """Two connected nodes; ``a`` opens, ``b`` answers."""

    def __init__(self, hub: SimulatedInternet, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.nursery = nursery
        self.a, self.b = (SimulatedNetwork(hub, make_peer(number)) for number in (1, 2))
        self.opener, self.answerer = Streams(self.a), Streams(self.b)
        self.opened = 0
        open_stream = self.a.open_stream

        async def counted(peer: bytes, protocol: str) -> RawStream:
            self.opened += 1
            return await open_stream(peer, protocol)

        self.a.open_stream = counted  # type: ignore[assignment, method-assign]

    def open(self) -> object:
        return self.opener.open(self.b.me, PROTOCOL)

    async def request(self, payload: bytes, timeout: float = 10.0) -> bytes:
        return await self.opener.request(self.b.me, PROTOCOL, payload, timeout)


@asynccontextmanager
async def running_pair() -> AsyncIterator[Pair]:
    async with trio.open_nursery() as nursery:
        hub = SimulatedInternet(1)
        await nursery.start(hub.run)
        pair = Pair(hub, nursery)
        await nursery.start(pair.opener.run)
        await nursery.start(pair.answerer.run)
        hub.connect_all()
        yield pair
        assert not hub.errors
        nursery.cancel_scope.cancel()


@pytest.fixture
async def pair(simulated_clock: SimulatedClock) -> AsyncIterator[Pair]:
    async with running_pair() as pair:
        yield pair


async def echo(exchange: Exchange) -> None:
    while (payload := await exchange.receive()) is not None:
        await exchange.send(payload)


async def answer(exchange: Exchange) -> None:
    payload = await exchange.receive()
    assert payload is not None
    await exchange.send(payload, end=True)


async def test_request(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, answer)
    assert await pair.request(b"question") == b"question"
    assert await pair.request(bytes(MAX_FRAME_BYTES)) == bytes(MAX_FRAME_BYTES)


async def test_frames_that_are_sent_together_take_one_write_as_far_as_the_window_admits(
    pair: Pair, simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.answerer.handle(PROTOCOL, echo)
    writes: list[int] = []
    send = SimulatedStream.send

    async def count(self: SimulatedStream, data: bytes) -> None:
        if self.peer == pair.b.me:
            writes.append(len(data))
        await send(self, data)

    monkeypatch.setattr(SimulatedStream, "send", count)
    small, large = [b"one", b"", b"three"], [bytes(WINDOW_BYTES // 2)] * 5
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(*small)
        assert len(writes) == 1
        assert [await exchange.receive() for _ in small] == small
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(exchange.send, *large, end=True))
            assert [await exchange.receive() for _ in large] == large
            assert exchange.can_send is False, "this side has ended"
            assert await exchange.receive() is None
    assert max(writes) < 2 * WINDOW_BYTES, "never more than the window and a frame"


async def test_frames_pass_both_ways_until_both_have_ended(pair: Pair, simulated_clock: SimulatedClock) -> None:
    peers = []

    async def handler(exchange: Exchange) -> None:
        peers.append(exchange.peer)
        await echo(exchange)

    pair.answerer.handle(PROTOCOL, handler)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        assert exchange.peer == pair.b.me
        for number in range(3):
            await exchange.send(bytes([number]))
            assert await exchange.receive() == bytes([number])
        await exchange.send(b"")
        await exchange.end()
        await exchange.end()
        assert [await exchange.receive(), await exchange.receive(), await exchange.receive()] == [b"", None, None]
        with pytest.raises(RuntimeError):
            await exchange.send(b"late")
    assert peers == [pair.a.me]


async def test_a_frame_is_awaited_until_it_is_due_and_no_longer(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.receive()
        for number in range(100):
            await trio.sleep(1.0)
            await exchange.send(bytes([number]))
        await trio.sleep_forever()

    pair.answerer.handle(PROTOCOL, drip)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"go")
        for number in range(100):
            assert await exchange.receive(trio.current_time() + 15.0) == bytes([number])
            assert len(pair.opener._alarms) <= 1, "a wait that is over in time sets no alarm of its own"
        started = trio.current_time()
        for seconds in (20.0, 3.0, 0.0, -1.0):  # later and earlier than the alarm that is set
            with pytest.raises(trio.TooSlowError):
                await exchange.receive(trio.current_time() + seconds)
        assert trio.current_time() - started == pytest.approx(23.0)


async def test_a_wait_for_a_frame_can_be_given_up(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, answer)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange, trio.open_nursery() as nursery:
        exchange.give_up()  # nobody waits, so that this means nothing

        async def give_up() -> None:
            await trio.sleep(1.0)
            exchange.give_up()
            await exchange.send(b"question")

        nursery.start_soon(give_up)
        started = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            await exchange.receive(started + 60.0)
        assert trio.current_time() == pytest.approx(started + 1.0)
        assert await exchange.receive(trio.current_time() + 60.0) == b"question", "the exchange goes on"


async def test_room_for_frames_is_what_can_be_sent_without_a_wait(pair: Pair, simulated_clock: SimulatedClock) -> None:
    release = trio.Event()

    async def read_late(exchange: Exchange) -> None:
        await release.wait()
        await echo(exchange)

    pair.answerer.handle(PROTOCOL, read_late)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        sent, part = 0, bytes(10_000)
        while exchange.has_room(part):
            started = trio.current_time()
            await exchange.send(part)
            assert trio.current_time() == started
            sent += 1
        assert WINDOW_BYTES - 25_000 < sent * len(part) < WINDOW_BYTES
        release.set()
        for _ in range(sent):
            assert await exchange.receive() == part
        await exchange.end()
        assert not exchange.has_room(b"")


async def test_streams_are_reused(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, answer)
    for number in range(10):
        assert await pair.request(bytes([number])) == bytes([number])
    assert pair.opened == 1


async def test_concurrent_exchanges_have_streams_of_their_own(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, echo)
    async with pair.opener.open(pair.b.me, PROTOCOL) as one, pair.opener.open(pair.b.me, PROTOCOL) as other:
        await one.send(b"one")
        await other.send(b"other")
        assert [await one.receive(), await other.receive()] == [b"one", b"other"]
    await trio.sleep(1)
    for _ in range(2):
        async with pair.opener.open(pair.b.me, PROTOCOL) as one, pair.opener.open(pair.b.me, PROTOCOL) as other:
            pass
    assert pair.opened == 2


async def test_late_frames_never_reach_the_next_exchange(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def flood(exchange: Exchange) -> None:
        question = await exchange.receive()
        assert question is not None
        for number in range(100):
            await exchange.send(question + bytes([number]))

    pair.answerer.handle(PROTOCOL, flood)
    for question in (b"a", b"b", b"c"):
        with pytest.raises(KeyError):
            async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
                await exchange.send(question, end=True)
                for number in range(3):
                    assert await exchange.receive() == question + bytes([number])
                raise KeyError
    assert pair.opened == 1


async def test_a_slow_reader_stalls_the_sender_and_not_the_link(pair: Pair, simulated_clock: SimulatedClock) -> None:
    sent = 0

    async def pour(exchange: Exchange) -> None:
        nonlocal sent
        for _ in range(1000):
            await exchange.send(bytes(1024))
            sent += 1024

    pair.answerer.handle(PROTOCOL, pour)
    pair.answerer.handle("/echo", answer)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.end()
        assert await exchange.receive() == bytes(1024)
        await trio.sleep(60)
        assert WINDOW_BYTES - 65536 < sent <= WINDOW_BYTES
        assert await pair.opener.request(pair.b.me, "/echo", b"free", 1.0) == b"free"
        count = 1
        while await exchange.receive() is not None:
            count += 1
        assert count == 1000


async def test_a_cancelled_receive_loses_no_frame(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def trickle(exchange: Exchange) -> None:
        for number in range(500):
            await exchange.send(number.to_bytes(2, "big") + bytes(2048))
            if number % 7 == 0:
                await trio.sleep(0.003)

    pair.answerer.handle(PROTOCOL, trickle)
    received: list[int] = []
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.end()
        while True:
            with trio.move_on_after(0.001):
                frame = await exchange.receive()
                if frame is None:
                    break
                received.append(int.from_bytes(frame[:2], "big"))
    assert received == list(range(500))


@pytest.mark.parametrize("ended", [False, True])
async def test_leaving_by_cancellation_cancels_the_handler(
    pair: Pair, simulated_clock: SimulatedClock, ended: bool
) -> None:
    cancelled = trio.Event()

    async def work(exchange: Exchange) -> None:
        await exchange.receive()
        await exchange.send(b"started")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    pair.answerer.handle(PROTOCOL, work)
    with trio.CancelScope() as scope:
        async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
            await exchange.send(b"go", end=ended)
            assert await exchange.receive() == b"started"
            scope.cancel()
            await exchange.receive()
    with trio.fail_after(1):
        await cancelled.wait()
    # The abort cost no stream.
    pair.answerer.handle(PROTOCOL, answer)
    async with pair.opener.open(pair.b.me, PROTOCOL):
        pass
    assert pair.opened == 1


async def test_a_lost_peer_cancels_the_handler_and_fails_the_opener(
    pair: Pair, simulated_clock: SimulatedClock
) -> None:
    started, cancelled = trio.Event(), trio.Event()

    async def work(exchange: Exchange) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    pair.answerer.handle(PROTOCOL, work)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"go")
        await started.wait()
        await pair.a.disconnect(pair.b.me)
        with pytest.raises(NetworkError):
            await exchange.receive()
        with pytest.raises(NetworkError):
            await exchange.send(b"anyone?")
        await cancelled.wait()
    with pytest.raises(NetworkError, match="not connected"):
        await pair.request(b"x")


async def test_a_failing_handler_aborts_its_exchange_after_what_it_sent(
    pair: Pair, simulated_clock: SimulatedClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(exchange: Exchange) -> None:
        await exchange.receive()
        await exchange.send(b"half")
        raise ValueError("broken on purpose")

    pair.answerer.handle(PROTOCOL, fail)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"go", end=True)
        assert await exchange.receive() == b"half"
        with pytest.raises(NetworkError, match="handler failed"):
            await exchange.receive()
    assert "broken on purpose" in caplog.text
    pair.answerer.handle("/other", answer)
    assert await pair.opener.request(pair.b.me, "/other", b"alive", 1.0) == b"alive"


async def test_a_handler_may_refuse_with_a_reason(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def refuse(exchange: Exchange) -> None:
        await exchange.abort("not today")

    pair.answerer.handle(PROTOCOL, refuse)
    with pytest.raises(NetworkError, match="not today"):
        await pair.request(b"x")


async def test_a_handler_that_returns_early_frees_a_stalled_sender(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def enough(exchange: Exchange) -> None:
        await exchange.receive()
        await exchange.send(b"enough")

    pair.answerer.handle(PROTOCOL, enough)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        with pytest.raises(NetworkError, match="the handler has ended"):
            for _ in range(10):
                await exchange.send(bytes(WINDOW_BYTES))
        assert [await exchange.receive(), await exchange.receive()] == [b"enough", None]


async def test_leaving_without_waiting_lets_the_handler_finish(pair: Pair, simulated_clock: SimulatedClock) -> None:
    seen: list[bytes] = []

    async def slow(exchange: Exchange) -> None:
        await trio.sleep(1)
        payload = await exchange.receive()
        assert payload is not None
        seen.append(payload)

    pair.answerer.handle(PROTOCOL, slow)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"fire and forget")
    await trio.sleep(2)
    assert seen == [b"fire and forget"]
    async with pair.opener.open(pair.b.me, PROTOCOL):
        pass
    assert pair.opened == 1


async def test_a_peer_that_never_ends_is_given_up(pair: Pair, simulated_clock: SimulatedClock) -> None:
    cancelled = trio.Event()

    async def stuck(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    pair.answerer.handle(PROTOCOL, stuck)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"x")
    with trio.fail_after(2 * EXCHANGE_LINGER_TIMEOUT_S):
        await cancelled.wait()


async def test_idle_streams_are_closed(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, answer)
    await pair.request(b"x")
    await trio.sleep(2 * STREAM_IDLE_TIMEOUT_S)
    await pair.request(b"x")
    assert pair.opened == 2


async def test_streams_that_a_peer_opens_and_does_not_use_are_closed(
    pair: Pair, simulated_clock: SimulatedClock
) -> None:
    pair.answerer.handle(PROTOCOL, answer)
    streams = [await pair.a.open_stream(pair.b.me, PROTOCOL) for _ in range(5)]
    await trio.sleep(ACCEPTED_IDLE_TIMEOUT_S / 2)
    await streams[0].send(Frame(Kind.DATA, 1, b"x").encode())
    await trio.sleep(ACCEPTED_IDLE_TIMEOUT_S / 2 + REAP_INTERVAL_S + 1)
    assert pair.answerer._accepted.total() == 1, "all but the one that was used"
    await trio.sleep(ACCEPTED_IDLE_TIMEOUT_S)
    assert not pair.answerer._accepted and not len(pair.answerer._unused)


async def test_an_exchange_may_last(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, echo)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"1")
        await trio.sleep(3 * ACCEPTED_IDLE_TIMEOUT_S)
        assert await exchange.receive() == b"1"


async def test_unused_streams_of_all_peers_have_a_bound(
    simulated_clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address with most gives way, and nobody loses a stream that is used."""
    monkeypatch.setattr("p2p.streams.exchanges.MAX_UNUSED_STREAMS", 20)
    hub = SimulatedInternet(1)
    networks = [SimulatedNetwork(hub, make_peer(number)) for number in range(1, 9)]
    answerer = Streams(networks[0])
    hosts = {network.me: f"203.0.113.{min(number, 2)}" for number, network in enumerate(networks)}
    networks[0].get_remote_host = hosts.get  # type: ignore[method-assign, assignment]
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        await nursery.start(answerer.run)
        hub.connect_all()
        answerer.handle(PROTOCOL, echo)
        me = networks[0].me
        honest = await networks[1].open_stream(me, PROTOCOL)
        used = await networks[2].open_stream(me, PROTOCOL)
        await used.send(Frame(Kind.DATA, 1, b"x").encode())
        await trio.sleep(1)
        for network in networks[2:]:
            for _ in range(10):
                await network.open_stream(me, PROTOCOL)
        await trio.sleep(1)
        assert len(answerer._unused) == 20 and answerer._accepted.total() == 21
        for stream in (honest, used):
            await stream.send(Frame(Kind.DATA, 1 + (stream is used), b"x").encode())
            assert await stream.receive()
        nursery.cancel_scope.cancel()


async def test_frames_of_an_exchange_that_is_over_have_a_bound(pair: Pair, simulated_clock: SimulatedClock) -> None:
    blamed: list[Misbehaviour] = []
    pair.b.report_misbehaviour = lambda peer, fault: blamed.append(fault)  # type: ignore[method-assign]
    pair.answerer.handle(PROTOCOL, answer)
    stream = await pair.a.open_stream(pair.b.me, PROTOCOL)
    late = Frame(Kind.DATA, 1).encode()
    for number in range(1, 4):
        await stream.send(Frame(Kind.DATA, number, b"x").encode())
        await trio.sleep(1)
        await stream.send(late * (MAX_LATE_FRAMES // 2) + late * (MAX_LATE_FRAMES // 2))
        await trio.sleep(1)
    assert not blamed, "an honest peer may have sent a window full before it knew"
    await stream.send(late)
    await trio.sleep(1)
    assert blamed == [Misbehaviour.GARBAGE] and not pair.answerer._accepted


async def test_exchanges_beyond_the_limit_are_busy(pair: Pair, simulated_clock: SimulatedClock) -> None:
    release = trio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        await answer(exchange)

    pair.answerer.handle(PROTOCOL, wait, max_exchanges_per_peer=2)
    outcomes: list[bytes] = []

    async def ask() -> None:
        try:
            outcomes.append(await pair.request(b"done", timeout=60))
        except NetworkError as error:
            outcomes.append(str(error).encode())

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask)
        await trio.sleep(5)
        assert outcomes == [b"busy", b"busy"]
        release.set()
    assert sorted(outcomes) == [b"busy", b"busy", b"done", b"done"]
    assert await pair.request(b"again") == b"again"


async def test_streams_to_one_peer_are_limited(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, echo, max_exchanges_per_peer=MAX_STREAMS_PER_PEER)
    refused = 0

    async def stay() -> None:
        nonlocal refused
        try:
            async with pair.opener.open(pair.b.me, PROTOCOL):
                await trio.sleep(30)
        except NetworkError:
            refused += 1

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_STREAMS_PER_PEER + 3):
            nursery.start_soon(stay)
    assert refused == 3


async def test_a_request_times_out(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def silent(exchange: Exchange) -> None:
        await trio.sleep_forever()

    pair.answerer.handle(PROTOCOL, silent)
    with pytest.raises(NetworkError, match="within 5 s"):
        await pair.request(b"x", timeout=5)


async def test_an_ended_exchange_without_an_answer_is_an_error(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def end(exchange: Exchange) -> None:
        await exchange.receive()

    pair.answerer.handle(PROTOCOL, end)
    with pytest.raises(NetworkError, match="without an answer"):
        await pair.request(b"x")


async def test_oversize_frames_are_refused_at_both_ends(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, answer)
    with pytest.raises(ValueError, match="longer"):
        await pair.request(bytes(MAX_FRAME_BYTES + 1))
    raw = await pair.a.open_stream(pair.b.me, PROTOCOL)
    await raw.send(b"\xff" * 9)
    with pytest.raises(NetworkError, match="reset"):
        await raw.receive()


async def test_a_flood_of_exchanges_on_one_stream_is_cut_off(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def wait(exchange: Exchange) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    pair.answerer.handle(PROTOCOL, wait, max_exchanges_per_peer=4)
    raw = await pair.a.open_stream(pair.b.me, PROTOCOL)
    await raw.send(b"".join(Frame(Kind.END, number).encode() for number in range(1, 100)))
    with pytest.raises(NetworkError, match="reset"):
        while True:
            await raw.receive()


async def break_pooled(pair: Pair, after: Callable[[RawStream], Awaitable[None]]) -> None:
    """Leave a stream in ``a``'s pool whose other end does ``after`` once it is used again."""

    async def once(raw: RawStream) -> None:
        await raw.receive()
        await raw.send(Frame(Kind.DATA, 1, b"first").encode() + Frame(Kind.END, 1).encode())
        await raw.receive()
        await after(raw)

    pair.b.handle(PROTOCOL, once)
    assert await pair.request(b"x") == b"first"


async def reset(raw: RawStream) -> None:
    await raw.reset()


async def test_a_dead_pooled_stream_is_retried_once_on_a_fresh_one(pair: Pair, simulated_clock: SimulatedClock) -> None:
    await break_pooled(pair, reset)
    pair.answerer.handle(PROTOCOL, answer)
    assert await pair.request(b"second") == b"second"
    assert pair.opened == 2


async def test_a_second_dead_stream_is_not_retried(pair: Pair, simulated_clock: SimulatedClock) -> None:
    await break_pooled(pair, reset)

    async def dead(raw: RawStream) -> None:
        await raw.reset()

    pair.b.handle(PROTOCOL, dead)
    with pytest.raises(NetworkError):
        await pair.request(b"second")
    assert pair.opened == 2


async def test_nothing_is_retried_once_something_came_back(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def answer_and_die(raw: RawStream) -> None:
        await raw.send(Frame(Kind.DATA, 2, b"partial").encode())
        await trio.sleep(1)
        await raw.reset()

    await break_pooled(pair, answer_and_die)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"second")
        assert await exchange.receive() == b"partial"
        with pytest.raises(NetworkError):
            await exchange.receive()
    assert pair.opened == 1


async def test_a_retry_sends_all_frames_again_in_order(pair: Pair, simulated_clock: SimulatedClock) -> None:
    async def linger(raw: RawStream) -> None:
        await trio.sleep(1)
        await raw.reset()

    await break_pooled(pair, linger)
    pair.answerer.handle(PROTOCOL, echo)
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"one")
        await exchange.send(b"two")
        await exchange.end()
        assert [await exchange.receive() for _ in range(3)] == [b"one", b"two", None]


async def test_a_write_cut_short_gives_up_the_stream(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, echo)
    with trio.move_on_after(0.05):
        async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
            await exchange.send(bytes(MAX_FRAME_BYTES))
    assert await fresh_request(pair) == b"fresh"
    assert pair.opened == 2


async def fresh_request(pair: Pair) -> bytes:
    async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
        await exchange.send(b"fresh", end=True)
        received = await exchange.receive()
        assert received is not None
        return received


async def test_nothing_works_or_remains_after_run(simulated_clock: SimulatedClock) -> None:
    ended: list[str] = []

    async def work(exchange: Exchange) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append("handler")

    async with trio.open_nursery() as nursery:
        hub = SimulatedInternet(1)
        await nursery.start(hub.run)
        pair = Pair(hub, nursery)
        hub.connect_all()
        pair.answerer.handle(PROTOCOL, work)
        with pytest.raises(NetworkError, match="not running"):
            await pair.request(b"x")
        await nursery.start(pair.opener.run)
        async with trio.open_nursery() as services:
            await services.start(pair.answerer.run)
            async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
                await exchange.send(b"go")
                await trio.sleep(1)
                services.cancel_scope.cancel()
                with pytest.raises(NetworkError):
                    await exchange.receive()
        assert ended == ["handler"]
        with pytest.raises(NetworkError):
            await pair.request(b"x")
        nursery.cancel_scope.cancel()


# What waits


async def begin_frame(network: SimulatedNetwork, peer: bytes, size: int) -> RawStream:
    """A stream with a frame on it that lacks its last byte."""
    stream = await network.open_stream(peer, PROTOCOL)
    await stream.send(Frame(Kind.DATA, 1, bytes(size)).encode()[:-1])
    return stream


async def ended(stream: RawStream) -> bool:
    try:
        return await stream.receive() == b""
    except NetworkError:
        return True


async def test_a_frame_has_to_come_to_its_end(pair: Pair, simulated_clock: SimulatedClock) -> None:
    blamed: list[tuple[bytes, Misbehaviour]] = []
    pair.b.report_misbehaviour = lambda *fault: blamed.append(fault)  # type: ignore[method-assign]
    pair.answerer.handle(PROTOCOL, echo)
    stream = await pair.a.open_stream(pair.b.me, PROTOCOL)
    whole = Frame(Kind.DATA, 1, b"whole").encode()
    for _ in range(3):
        await trio.sleep(2 * FRAME_TIMEOUT_S)  # between frames there is time
        await stream.send(whole)
    began = trio.current_time()
    for byte in whole[:-1]:
        await stream.send(bytes([byte]))
        await trio.sleep(1)
    while not await ended(stream):
        pass
    assert trio.current_time() - began == pytest.approx(FRAME_TIMEOUT_S, abs=1)
    assert blamed == [(pair.a.me, Misbehaviour.RATE)] and pair.answerer._unread.size == 0


async def test_a_slow_frame_may_follow_another_without_a_pause(pair: Pair, simulated_clock: SimulatedClock) -> None:
    pair.answerer.handle(PROTOCOL, echo)
    stream = await pair.a.open_stream(pair.b.me, PROTOCOL)
    raw = Frame(Kind.DATA, 1, bytes(87)).encode() * 6
    step = len(raw) // 12 + 1  # from the middle of a frame to the middle of the next, and so on
    for start in range(0, len(raw), step):
        await stream.send(raw[start : start + step])
        await trio.sleep(FRAME_TIMEOUT_S / 3)
    assert pair.answerer._served


async def test_unfinished_frames_of_all_peers_have_a_bound(simulated_clock: SimulatedClock) -> None:
    """The peer with most unread bytes is cut off, not the latest."""
    hub = SimulatedInternet(1)
    networks = [SimulatedNetwork(hub, make_peer(number)) for number in range(1, 9)]
    answerer = Streams(networks[0])
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        await nursery.start(answerer.run)
        hub.connect_all()
        answerer.handle(PROTOCOL, echo)
        me = networks[0].me
        honest = await begin_frame(networks[1], me, 1 << 20)
        for network in networks[2:]:
            for _ in range(14):
                await begin_frame(network, me, 1 << 20)
        await trio.sleep(10)
        assert 0 < answerer._unread.size <= MAX_UNREAD_TOTAL_BYTES
        assert answerer._unread.get(networks[1].me) >= 1 << 20
        await honest.send(b"\0")
        assert (await honest.receive()) != b""
        nursery.cancel_scope.cancel()


async def test_what_no_handler_takes_counts_too(pair: Pair, simulated_clock: SimulatedClock) -> None:
    """Each exchange may have a quarter of a megabyte on the way, and a frame of one more."""
    blamed: list[Misbehaviour] = []
    pair.b.report_misbehaviour = lambda peer, fault: blamed.append(fault)  # type: ignore[method-assign]
    goal = trio.Event()

    async def wait_and_echo(exchange: Exchange) -> None:
        await goal.wait()
        await echo(exchange)

    pair.answerer.handle(PROTOCOL, wait_and_echo)
    failures = 0

    async def fill() -> None:
        nonlocal failures
        try:
            async with pair.opener.open(pair.b.me, PROTOCOL) as exchange:
                await exchange.send(bytes(WINDOW_BYTES - 1000))
                await exchange.send(bytes(MAX_FRAME_BYTES), end=True)
                for size in (WINDOW_BYTES - 1000, MAX_FRAME_BYTES):
                    assert await exchange.receive() == bytes(size)
        except NetworkError:
            failures += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(fill)
        await trio.sleep(5)
        assert pair.answerer._unread.size > 5 * MAX_FRAME_BYTES
        goal.set()
    await trio.sleep(1)
    assert failures == 0 and pair.answerer._unread.size == 0 and not blamed
    goal = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(fill)
        await trio.sleep(20)
        assert pair.answerer._unread.size <= MAX_UNREAD_STREAM_BYTES
        goal.set()
    assert failures > 0 and Misbehaviour.OVERSIZE in blamed and pair.answerer._unread.size == 0
