"""The node that the tests of abuse attack: a process of its own, so that its memory, descriptors and tasks are its own.

It has what anybody on the network can reach of a node below the ledger: host, streams and discovery. Its state is in a
file, written several times a second. What a node lets expire after seconds or minutes expires sooner here.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import trio

import p2p.bans
import p2p.door
import p2p.streams
from chain.crypto import KeyPair
from p2p.discovery import Discovery
from p2p.door import DoorLimits
from p2p.host import Libp2pNetwork
from p2p.network import NetworkError, RawStream
from p2p.runtime import RealRuntime
from p2p.streams import Exchange, Streams

CHAIN = b"abuse".ljust(32, b".")
ASK = "/test/ask/1"
"""Answers each exchange with its first frame."""
UNREAD = "/test/unread/1"
"""Raw streams that nobody reads."""
TOPIC = "abuse"
KEY = KeyPair(bytes([200]) * 32)
WRITE_INTERVAL = 0.1
PATIENCE = 30.0

FORKSERVER = multiprocessing.get_context("forkserver")


@dataclass
class Victim:
    """The process, as the tests see it."""

    state_file: Path
    process: BaseProcess

    def read(self) -> dict[str, Any]:
        """Its state: address, rss and fds and tasks, peers and view (hex), refusals and bans."""
        state: dict[str, Any] = json.loads(self.state_file.read_text())
        return state

    @property
    def address(self) -> str:
        return str(self.read()["address"])

    @property
    def port(self) -> int:
        return int(self.address.rsplit("/", 1)[1])


@contextmanager
def running_victim(directory: Path, bootstrap: list[tuple[bytes, str]], limits: dict[str, Any]) -> Iterator[Victim]:
    """A victim that runs inside, whatever happens to it."""
    state_file = directory / "state.json"
    process = FORKSERVER.Process(target=_run_victim, args=(bootstrap, limits, str(state_file)), daemon=True)
    process.start()
    try:
        for _ in range(600):
            process.join(0.05)
            if state_file.exists():
                break
        assert state_file.exists(), "the victim does not start"
        yield Victim(state_file, process)
    finally:
        process.terminate()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()


def _run_victim(bootstrap: list[tuple[bytes, str]], limits: dict[str, Any], state_file: str) -> None:
    vars(p2p.door).update(UPGRADE_TIMEOUT=2.0, PATIENT_UPGRADE_TIMEOUT=4.0)
    vars(p2p.bans).update(BAN=5.0)
    vars(p2p.streams).update(IDLE_TIMEOUT=5.0, LINGER_TIMEOUT=3.0, REAP_INTERVAL=1.0)
    trio.run(_main, bootstrap, DoorLimits(**limits), Path(state_file))


async def _main(bootstrap: list[tuple[bytes, str]], limits: DoorLimits, state_file: Path) -> None:
    runtime = RealRuntime()
    network = Libp2pNetwork(KEY, ["/ip4/127.0.0.1/tcp/0"], runtime, public=True, limits=limits)
    network.is_kept = lambda peer: peer in [key for key, _ in bootstrap]
    streams = Streams(network)
    discovery = Discovery(network, streams, runtime, KEY, CHAIN, bootstrap=bootstrap)
    streams.handle(ASK, _answer)
    network.handle(UNREAD, _sleep)
    network.subscribe(TOPIC)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            await nursery.start(streams.run)
            await nursery.start(discovery.run)
            nursery.start_soon(_write_state, network, discovery, state_file)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def _answer(exchange: Exchange) -> None:
    payload = await exchange.receive()
    if payload is None:
        raise NetworkError("nothing was asked")
    await exchange.send(payload)


async def _sleep(stream: RawStream) -> None:
    await trio.sleep(10)


async def _write_state(network: Libp2pNetwork, discovery: Discovery, state_file: Path) -> None:
    temporary = state_file.with_suffix(".new")
    pages = 4096
    while True:
        view = {known.peer.hex(): known.sequence for known in discovery.view.present()}
        state = {
            "address": network.listen_addresses[0],
            "rss": int(Path("/proc/self/statm").read_text().split()[1]) * pages,
            "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "peers": sorted(peer.hex() for peer in network.peers()),
            "view": view,
            "refusals": dict(network.refusals()),
            "banned": network.door.peers.pronounced,
            "banned_addresses": network.door.addresses.pronounced,
            "half_open": network.door.half_open,
            "topics": len(network._running.pubsub.peer_topics) if network._running is not None else 0,
        }
        temporary.write_text(json.dumps(state))
        temporary.replace(state_file)
        await trio.sleep(WRITE_INTERVAL)
