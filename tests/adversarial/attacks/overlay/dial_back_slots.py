"""Strangers ask a dial-back server to dial ports that accept and then say nothing: do others get a report?"""

from __future__ import annotations

from typing import Any

import trio

from p2p.length_prefixed import receive_record, send_record
from p2p.nat.dial_back import REPORT_TIMEOUT_S, DialBack, DialBackReport, Reachability
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_peer

STRANGERS, REQUESTS = 4, 60
SILENT_DIAL_S = 5.0


class _Pipe:
    """One end of a stream that goes nowhere but to its other end."""

    def __init__(self, peer: bytes, source: Any, target: Any) -> None:
        self.peer, self._source, self._target = peer, source, target

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data: bytes = await self._source.receive()
        return data

    async def send(self, data: bytes) -> None:
        await self._target.send(data)


class _Network:
    """Strangers are at one address and never answer; every other peer has an address of its own and answers."""

    def __init__(self, strangers: list[bytes]) -> None:
        self.me = make_peer(0)
        self._strangers = strangers

    def get_remote_host(self, peer: bytes) -> str:
        return "198.51.100.7" if peer in self._strangers else f"203.0.113.{peer[0]}"

    def get_remote_endpoint(self, peer: bytes) -> tuple[str, int]:
        return self.get_remote_host(peer), 4001

    async def answers(self, peer: bytes, host: str, port: int) -> bool:
        await trio.sleep(SILENT_DIAL_S if peer in self._strangers else 0.1)
        return peer not in self._strangers


async def ask_all() -> int:
    """Honest requests without a report."""
    strangers = [make_peer(number) for number in range(1, 1 + STRANGERS)]
    network: Any = _Network(strangers)
    server = Reachability(network, SimulatedRuntime(1))
    unserved = 0
    async with trio.open_nursery() as nursery:

        def call(peer: bytes) -> Any:
            here, there = trio.open_memory_channel[bytes](9), trio.open_memory_channel[bytes](9)
            nursery.start_soon(server.serve, _Pipe(peer, there[1], here[0]))
            return _Pipe(network.me, here[1], there[0])

        async def flood(peer: bytes) -> None:
            while True:
                await send_record(call(peer), DialBack((1, 2, 3, 4)))
                await trio.sleep(10.0)

        for stranger in strangers:
            nursery.start_soon(flood, stranger)
        await trio.sleep(60.0)
        for number in range(REQUESTS):
            stream = call(make_peer(100 + number))
            await send_record(stream, DialBack((4001,)))
            report = None
            with trio.move_on_after(REPORT_TIMEOUT_S):
                report = DialBackReport.decode(await receive_record(stream))
            unserved += report is None or not report.ports
            await trio.sleep(10.0)
        nursery.cancel_scope.cancel()
    return unserved


def run() -> Outcome:
    unserved = run_simulation(1, ask_all)
    return Outcome(0, unserved, unserved, f"of {REQUESTS} while {STRANGERS} keys ask", "requests unserved")


ATTACK = Attack(
    "dials back to ports that say nothing",
    Outcome(0, 60, 60, "all of 60, for 10 KB in 12 minutes", "requests unserved"),
    run,
)
