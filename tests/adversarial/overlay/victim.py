"""The node that the tests of abuse attack: a whole one, in a process of its own, as its owner would run it.

It relays, serves the OpenAI API and its owner's listener, and keeps a chain. What it says of itself (tasks, refusals,
bans) is in a file, written several times a second; what it costs is looked at from outside, by another process. What a
node lets expire after seconds or minutes expires sooner here, and a peer may open fewer streams, unless it is asked to
be as it is shipped.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import trio

import p2p.host.connection_gater
import p2p.host.workarounds.host
import p2p.host.workarounds.yamux
import p2p.limits.peer_score
import p2p.streams.exchanges
from chain.crypto import KeyPair, format_address
from chain.genesis import Genesis, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from consensus.voting.disk import JOURNAL_FILE
from consensus.voting.journal import Journal
from node import Node, run_node
from p2p.backoff import Backoff
from p2p.discovery.service import Discovery
from p2p.host.network import Libp2pNetwork
from p2p.limits.rate_limit import Rate
from p2p.network import NetworkError, RawStream
from p2p.streams.exchange import Exchange
from serving.admin.service_manager import ServiceManager
from serving.config.schema import AdminConfig, ApiConfig, LimitsConfig, NodeConfig
from serving.daemon import lifecycle
from serving.logs.console import configure_logs
from tests.support.forked import FORKSERVER
from tests.support.waiting import PATIENCE, wait_until

ASK = "/test/ask/1"
"""Answers each exchange with its first frame."""
UNREAD = "/test/unread/1"
"""Raw streams that are not read."""
TOPIC = "abuse"
KEY = KeyPair(bytes([200]) * 32)
WRITE_INTERVAL = 0.1
CONTROL_INTERVAL = 0.1

SHORT_BAN = Backoff(5.0, 3600.0)
SHORTENED = {
    p2p.host.connection_gater: {"UPGRADE_TIMEOUT_S": 2.0, "PATIENT_UPGRADE_TIMEOUT_S": 4.0},
    # Less than a victim on a busy machine takes in: slower than that, a flood would be none.
    p2p.host.workarounds.host: {"STREAM_RATE": Rate(items=4, size=math.inf, burst=20.0)},
    # Longer, not shorter: all its peers are in one process, and one that stands still is not gone. But a victim that
    # reads a flood slowly notices only by silence that the sender has gone.
    p2p.host.workarounds.yamux: {"KEEPALIVE_TIMEOUT_S": 15.0},
    p2p.limits.peer_score: {"BAN_BACKOFF": SHORT_BAN},
    p2p.streams.exchanges: {"STREAM_IDLE_TIMEOUT_S": 5.0, "EXCHANGE_LINGER_TIMEOUT_S": 3.0, "REAP_INTERVAL_S": 1.0},
}


def make_chain() -> Genesis:
    """A chain whose only validator is the victim."""
    account = make_validator(KEY, bytes(32), Parameters(), 10_000 * CREDIT, 1_000 * CREDIT)
    return make_genesis("abuse", 1_700_000_000_000, bytes(32), [account])


CHAIN = make_chain().chain_id


@dataclass
class Report:
    """What the witness has seen since it was asked the last time."""

    answered: int = 0
    slowest: float = 0.0
    """Seconds for the slowest answer."""
    failures: list[str] = field(default_factory=list)
    peak: int = 0
    """Most resident memory, in bytes."""
    descriptors: int = 0
    """Open ones, at the end."""


@dataclass
class Victim:
    """The process, as the tests see it."""

    state_file: Path
    process: BaseProcess
    shipped: bool
    _witness: Connection

    def read(self) -> dict[str, Any]:
        """Its state: address, rss and fds and tasks, peers and view (hex), refusals and bans."""
        state: dict[str, Any] = json.loads(self.state_file.read_text())
        return state

    async def get_report(self) -> Report:
        """What its users have met since the last time: they ask all the time, from a process of their own."""

        def ask() -> Report:
            self._witness.send(None)
            return Report(**self._witness.recv())

        return await trio.to_thread.run_sync(ask)

    @property
    def address(self) -> str:
        return str(self.read()["address"])

    @property
    def port(self) -> int:
        return int(self.address.rsplit("/", 1)[1])

    @property
    def ban(self) -> float:
        """Seconds of the first ban."""
        return (p2p.limits.peer_score.BAN_BACKOFF if self.shipped else SHORT_BAN).first_s


@contextmanager
def running_victim(
    directory: Path, bootstrap: list[tuple[bytes, str]], limits: dict[str, Any], shipped: bool = False
) -> Iterator[Victim]:
    """A victim that runs inside, whatever happens to it."""
    state_file = directory / "state.json"
    process = FORKSERVER.Process(target=_run_victim, args=(bootstrap, limits, str(directory), shipped), daemon=True)
    process.start()
    ours, theirs = FORKSERVER.Pipe()
    witness = FORKSERVER.Process(target=_watch, args=(str(state_file), theirs), daemon=True)
    try:
        wait_until(lambda: state_file.exists() or process.exitcode is not None, "the victim does not start")
        assert state_file.exists(), "the victim ended"
        witness.start()
        yield Victim(state_file, process, shipped, ours)
    finally:
        for one in (witness, process):
            if one.pid is not None:
                one.terminate()
                one.join(PATIENCE)
                if one.is_alive():
                    one.kill()


# In the victim's process


def _run_victim(bootstrap: list[tuple[bytes, str]], limits: dict[str, Any], directory: str, shipped: bool) -> None:
    if not shipped:
        for module, values in SHORTENED.items():
            for name, value in values.items():
                pytest.MonkeyPatch().setattr(module, name, value)  # raises if there is no such constant any more
    configure_logs("warning", "text")
    genesis = make_chain()
    Journal.open(Path(directory) / JOURNAL_FILE, genesis.chain_id, KEY.public_key).close()
    config = NodeConfig(
        listen=("/ip4/127.0.0.1/tcp/0",),
        reachability="public",
        bootstrap=tuple(f"{address}/p2p/{format_address(peer)}" for peer, address in bootstrap),
        api=ApiConfig(port=0),
        admin=AdminConfig(port=0),
        limits=LimitsConfig(**limits),
        models=(),
    )
    start = lifecycle._start

    async def start_and_tell(
        node: Node,
        network: Any,
        front: Any,
        admin: Any,
        data_dir: Path,
        announce: lifecycle.Announce,
        manager: ServiceManager,
        nursery: trio.Nursery,
        is_running: trio.Event,
    ) -> None:
        await start(node, network, front, admin, data_dir, announce, manager, nursery, is_running)
        node.streams.handle(ASK, _answer)
        network.handle(UNREAD, _sleep)
        network.subscribe(TOPIC)
        nursery.start_soon(_write_state, network, node.discovery, data_dir / "state.json", front.address, admin.address)

    pytest.MonkeyPatch().setattr(lifecycle, "_start", start_and_tell)
    trio.run(run_node, Path(directory), config, KEY, genesis)


async def _answer(exchange: Exchange) -> None:
    payload = await exchange.receive()
    if payload is None:
        raise NetworkError("nothing was asked")
    await exchange.send(payload)


async def _sleep(stream: RawStream) -> None:
    await trio.sleep(10)


async def _write_state(
    network: Libp2pNetwork, discovery: Discovery, state_file: Path, api: tuple[str, int], admin: tuple[str, int]
) -> None:
    temporary = state_file.with_suffix(".new")
    pages = 4096
    while True:
        view = {known.peer.hex(): known.sequence for known in discovery.table.present()}
        state = {
            "address": network.listen_addresses[0],
            "pid": os.getpid(),
            "api": api,
            "admin": admin,
            "rss": int(Path("/proc/self/statm").read_text().split()[1]) * pages,
            "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "peers": sorted(peer.hex() for peer in network.peers()),
            "view": view,
            "refusals": dict(network.refusals()),
            "banned": network.gater.peers.ban_count,
            "banned_addresses": network.gater.addresses.ban_count,
            "half_open": network.gater.half_open,
            "topics": len(network._lifetime.running.pubsub.peer_topics) if network._lifetime.running is not None else 0,
        }
        temporary.write_text(json.dumps(state))
        temporary.replace(state_file)
        await trio.sleep(WRITE_INTERVAL)


# In the process of those that watch


def _watch(state_file: str, tests: Connection) -> None:
    """Ask the victim as its users and its owner do, look at what it costs, and report when asked to."""
    state = json.loads(Path(state_file).read_text())
    token = (Path(state_file).parent / "admin.token").read_text().strip()
    pid = state["pid"]
    questions = [
        (state["api"], "/v1/models", {}),
        (state["admin"], "/status", {"Authorization": f"Bearer {token}"}),
    ]
    # The owner's listener keeps what belongs to a connection for seconds after its end: it is asked on one that stays.
    owner = http.client.HTTPConnection(*state["admin"], timeout=PATIENCE)
    report, turn = Report(), 0
    while True:
        (host, port), path, headers = questions[turn % 2]
        turn += 1
        began = time.monotonic()
        try:
            user = http.client.HTTPConnection(host, port, timeout=PATIENCE)
            connection = owner if path == "/status" else user
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            response.read()
            user.close()
            if response.status != 200:
                report.failures.append(f"{path}: status {response.status}")
            report.answered += 1
        except (OSError, http.client.HTTPException) as error:
            report.failures.append(f"{path}: {error!r}")
            owner.close()
        report.slowest = max(report.slowest, time.monotonic() - began)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                report.peak = max(report.peak, int(line.split()[1]) << 10)
        if tests.poll(CONTROL_INTERVAL):
            tests.recv()
            report.descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
            tests.send(asdict(report))
            report = Report()
