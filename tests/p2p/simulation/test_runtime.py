"""The clock and the chance of simulations: time passes only while nothing can run, and signatures stay honest."""

from __future__ import annotations

import trio
from nacl import bindings

from chain import crypto
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
