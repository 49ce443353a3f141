"""The clock and the chance of simulations: time passes only while nothing can run, and signatures stay honest."""

from __future__ import annotations

from random import Random

import pytest
import trio
from nacl import bindings

from chain import crypto
from chain.exceptions import CodecError
from chain.state.beacon import Beacon
from p2p.simulation.runtime import SimulatedClock, SimulatedRuntime, run_simulation
from tests.support.keys import make_key

CHAIN = bytes(32)


def test_the_clock_jumps_exactly_to_what_is_due_and_stands_still_for_whoever_runs() -> None:
    woken: list[float] = []

    async def wake(due: float) -> None:
        await trio.sleep_until(due)
        woken.append(trio.current_time())
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert trio.current_time() == due

    async def main() -> None:
        dues = [0.1, 0.1 + 0.2, 1e6 + 0.7, 1e6 + 0.7]
        async with trio.open_nursery() as nursery:
            for due in dues:
                nursery.start_soon(wake, due)
        assert woken == dues
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, SimulatedClock)
        clock.jump(2.0)
        assert trio.current_time() == 1e6 + 2.7
        runtime = SimulatedRuntime(1, skew=5)
        assert runtime.now() == SimulatedRuntime.EPOCH_MS + 1_000_002_705

    run_simulation(1, main)


def test_nodes_that_share_verdicts_believe_no_forged_signature() -> None:
    key = make_key(1)
    signature = key.sign("test", CHAIN, b"message")
    before = bindings.crypto_sign_open

    async def main() -> None:
        for _ in range(2):
            assert crypto.verify(key.public_key, "test", CHAIN, b"message", signature)
            assert not crypto.verify(key.public_key, "test", CHAIN, b"another", signature)
            assert not crypto.verify(make_key(2).public_key, "test", CHAIN, b"message", signature)
        await trio.lowlevel.checkpoint()
        assert bindings.crypto_sign_open is not before

    run_simulation(1, main)
    assert bindings.crypto_sign_open is before


def play_sleepers(seed: int, is_own: bool) -> list[tuple[int, float, bool]]:
    """Tasks that sleep, and are cancelled at times, by the clock or (not ``is_own``) as trio does it."""
    events: list[tuple[int, float, bool]] = []

    async def sleep(number: int, random: Random) -> None:
        for _ in range(20):
            limit, length = random.choice([0.5, 1.0, 3.0]), random.choice([0.0, 0.25, 0.5, 1.0, random.random()])
            with trio.move_on_after(limit) as scope:
                for _ in range(random.randrange(1, 4)):
                    await (trio.sleep(length) if is_own else trio.sleep_until(trio.current_time() + length))
            events.append((number, trio.current_time(), scope.cancelled_caught))

    async def main() -> None:
        with trio.move_on_after(9.0):
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(sleep, number, Random(f"{seed}/{number}"))

    run_simulation(seed, main)
    return events


@pytest.mark.parametrize("seed", range(10))
def test_sleepers_wake_as_they_would_under_trios_own_sleep(seed: int) -> None:
    """In the same order too, and what ends at the same moment as a limit has been cut off by it."""
    events = play_sleepers(seed, True)
    assert events == play_sleepers(seed, False)
    assert {was_cut for _, _, was_cut in events} == {False, True}


def test_who_sleeps_wakes_when_time_is_let_pass_and_no_sooner() -> None:
    async def main() -> None:
        clock, woken = trio.lowlevel.current_clock(), trio.Event()
        assert isinstance(clock, SimulatedClock)

        async def sleep() -> None:
            await trio.sleep(2.0)
            woken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            await trio.lowlevel.checkpoint()
            clock.jump(1.5)
            await trio.lowlevel.checkpoint()
            assert not woken.is_set()
            clock.jump(0.5)
            await woken.wait()
            assert trio.current_time() == 2.0
        with pytest.raises(ValueError, match="non-negative"):
            await trio.sleep(-1.0)

    before = trio.sleep
    run_simulation(1, main)
    assert trio.sleep is before


def test_nodes_share_what_bytes_decode_to() -> None:
    raw = Beacon(1, bytes(32), bytes(32), bytes(32)).encode()

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        assert Beacon.decode(raw) is Beacon.decode(bytes(bytearray(raw)))
        for _ in range(2):
            with pytest.raises(CodecError):
                Beacon.decode(raw[:-1])

    run_simulation(1, main)
    assert Beacon.decode(raw) is not Beacon.decode(raw)


def test_alarms_ring_in_order_with_deadlines_and_once() -> None:
    events: list[tuple[str, float]] = []

    async def main() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, SimulatedClock)

        def ring() -> None:
            events.append(("one", trio.current_time()))

        clock.set_alarm(5.0, ring)
        clock.set_alarm(2.0, ring)
        clock.set_alarm(3.0, lambda: events.append(("other", trio.current_time())))
        for _ in range(4):
            await trio.sleep(1.5)
            events.append(("deadline", trio.current_time()))

    run_simulation(1, main)
    assert events == [
        ("deadline", 1.5), ("one", 2.0), ("other", 3.0), ("deadline", 3.0), ("deadline", 4.5), ("deadline", 6.0)
    ]  # fmt: skip
