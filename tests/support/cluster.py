"""A network of real node processes on loopback, each beside a fake backend, for tests that need the real thing.

The processes are started as a user starts them (``wwwserve run``), stopped by signals, and looked at through their
admin listener and their data directories. Every process is ended when the cluster is left, whatever happened.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from chain.crypto import KeyPair, parse_address
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.keyfile import create_identity
from chain.parameters.parameters import CREDIT, Parameters
from chain.store.kv import LevelStore
from chain.store.reader import load_stored_genesis
from chain.store.writer import ChainStore
from p2p.runtime import RealRuntime
from serving.cli.demo.node_process import HTTP, OUTPUT_FILE, NodeProcess
from serving.config.data_directory import ADMIN_TOKEN_FILE
from tests.support.commands import run_here
from tests.support.fake_backend import MODEL, FakeOptions, serve_forked
from tests.support.forked import ForkedCommand, ForkedServer
from tests.support.ports import reserve_ports
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]

LENIENT = Parameters(epoch_heights=16_384, missed_lead_fee=0)
"""Slowness costs nothing, and no epoch ends during a test."""
SHORT_EPOCHS = Parameters(epoch_heights=20, round_heights=4, missed_lead_fee=0)
"""For tests of epochs."""

ENVIRONMENT = {**os.environ, "WWWSERVE_TESTING": "1", "PYTHONPATH": str(ROOT)}
"""The environment of a node under test."""
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process would compile all that it imports: four seconds


@dataclass
class ClusterNode(NodeProcess):
    """One node, forked from a process that has imported the program; the tests watch it as its owner could."""

    environment: Mapping[str, str] = field(default_factory=lambda: ENVIRONMENT, kw_only=True)

    @property
    def completions_url(self) -> str:
        return f"{self.api_url}/chat/completions"

    @property
    def height(self) -> int:
        """Height of its last final block."""
        return int(self.ask("/status")["height"])

    def start(self) -> None:
        """Start the process; see :meth:`Cluster.wait_ready`."""
        log = self.directory / OUTPUT_FILE
        argv = ("wwwserve", "run", "--data-dir", str(self.directory), *self.options)
        self.process = ForkedCommand(argv, log, log, self.environment)  # type: ignore[assignment]  # used as a Popen is

    def start_installed(self) -> None:
        """Start the process as a user does, which takes two seconds more."""
        super().start()

    def wait(self, timeout: float = PATIENCE) -> int:
        return super().wait(timeout)

    def transfer(self, recipient: ClusterNode, amount: int) -> int:
        """Move credits and return the height at which that is final."""
        order = {"recipient": recipient.address, "amount": amount, "wait": 60}
        answer = self.ask("/wallet/transfer", "POST", order)
        assert answer["height"] is not None and answer["failure"] is None, answer
        return int(answer["height"])

    def cut_off(self, peers: Iterable[ClusterNode]) -> None:
        """Have nothing to do with ``peers`` from now on; with none, partitions are over."""
        self.ask("/testing/partition", "PUT", {"peers": [peer.address for peer in peers]})

    def read_dashboard(self) -> Any:
        """What the dashboard shows its owner now: the first event of its live data."""
        token = (self.directory / ADMIN_TOKEN_FILE).read_text().strip()
        url = f"http://127.0.0.1:{self.admin_port}/dashboard/events"
        with HTTP.stream("GET", url, headers={"Authorization": f"Bearer {token}"}) as response:
            return json.loads(next(response.iter_lines()).removeprefix("data: "))

    def is_healthy(self) -> bool:
        """Whether ``/livez`` answers."""
        try:
            return HTTP.get(f"http://127.0.0.1:{self.admin_port}/livez").is_success
        except httpx.HTTPError:
            return False

    def sees(self, peers: Iterable[ClusterNode]) -> bool:
        """Whether it serves the model, and is connected to all ``peers`` and knows that they serve it too."""
        try:
            present = [peer for peer in self.ask("/peers")["peers"] if peer["connected"]]
            known = {peer["address"] for peer in present if MODEL in peer["models"]}
            return known >= {peer.address for peer in peers} and MODEL in self.ask("/status")["models"]
        except (OSError, httpx.HTTPError):
            return False

    @contextmanager
    def blocks(self) -> Iterator[ChainStore]:
        """The ledger of a node that is stopped."""
        store = LevelStore(self.directory / "chain", create=False)
        try:
            yield ChainStore(store, load_stored_genesis(store))
        finally:
            store.close()


@dataclass
class Cluster:
    """Nodes of one chain, and the fake backend that all of them use."""

    directory: Path
    genesis: Genesis
    nodes: list[ClusterNode]
    """The validators."""
    users: list[KeyPair]
    """Accounts of genesis without a node, 1,000 credits each."""
    backend_url: str
    capacity: int | None = None
    """Requests that each node has the backend work on at a time; None: as the configuration has it."""
    guests: list[ClusterNode] = field(default_factory=list)
    """Nodes that are not in genesis."""

    def wait_ready(self, nodes: Sequence[ClusterNode] | None = None) -> None:
        """Wait until ``nodes`` (default: all validators) serve, and see every validator that runs."""
        wanted = self.nodes if nodes is None else nodes
        alive = [node for node in self.nodes if node.is_running]

        def are_ready() -> bool:
            for node in wanted:
                if not node.is_running:
                    raise AssertionError(f"a node ended:\n{node.log[-3000:]}")
            return all(node.sees(peer for peer in alive if peer is not node) for node in wanted)

        wait_until(are_ready, "the nodes are not ready")

    def wait_whole(self) -> None:
        """Wait until every validator is in the committee, and what each signs is final everywhere, in equal ledgers."""
        self.wait_ready()
        assert all(node.ask("/status")["is_validator"] for node in self.nodes)
        for node, other in zip(self.nodes, reversed(self.nodes), strict=True):
            height = node.transfer(other, 1)
        wait_until(lambda: all(node.height >= height for node in self.nodes), "the ledgers are not equally high")
        totals = [node.ask("/ledger/total") for node in self.nodes]
        assert all(a == b for a in totals for b in totals if a["height"] == b["height"]), totals

    def add_guest(self, name: str, config: dict[str, Any]) -> ClusterNode:
        """Make the data directory of a node that joins the chain as a user's would: ``wwwserve init``."""
        directory = self.directory / name
        genesis = self.nodes[0].directory / "genesis.json"
        assert "wwwserve run -d" in run_here("init", "-d", directory, "--genesis", genesis).output
        key = (directory / "key").read_text().splitlines()
        seed = next(line.removeprefix("seed: ") for line in key if line.startswith("seed: "))
        peer_port, api_port, admin_port = reserve_ports(3)
        node = ClusterNode(directory, KeyPair(bytes.fromhex(seed)), peer_port, api_port, admin_port)
        node.write_config(
            {"bootstrap": [other.multiaddress for other in self.nodes], "models": [self.model_config], **config}
        )
        self.guests.append(node)
        return node

    def release_answers(self) -> None:
        """Have the answers of a gated backend end."""
        HTTP.post(f"{self.backend_url}/release").raise_for_status()

    @property
    def model_config(self) -> dict[str, Any]:
        """The entry of ``models`` in a node's configuration."""
        capacity = {} if self.capacity is None else {"capacity": self.capacity}
        return {"kind": "openai", "base_url": self.backend_url, "load": "none", **capacity}

    def find(self, address: str) -> ClusterNode:
        """The validator with an address."""
        return next(node for node in self.nodes if node.key.public_key == parse_address(address))

    def stop(self) -> list[int]:
        """Stop all nodes at the same moment. Returns the validators' exit codes."""
        running = [node for node in (*self.nodes, *self.guests) if node.is_running]
        for node in running:
            node.send(signal.SIGTERM)
        for node in running:
            node.wait()
        return [node.wait() for node in self.nodes]


ENTRY = 0
"""Number of the node that offloads the requests of its users under :func:`offload_at_entry`."""


def offload_at_entry(number: int) -> dict[str, Any]:
    """Configuration of clusters in which one node offloads every request, and the others accept every offer."""
    if number == ENTRY:
        return {"policy": {"target_utilization": 0.0, "offload_frequency": 1.0}}
    return {"policy": {"accept_frequency": 1.0, "queue_frequency": 1.0, "max_queue": 256}}


@contextmanager
def run_cluster(
    directory: Path,
    count: int = 4,
    *,
    users: int = 0,
    models: tuple[str, ...] = (MODEL,),
    parameters: Parameters = LENIENT,
    accounts: Sequence[GenesisAccount] = (),
    backend: FakeOptions | None = None,
    capacity: int | None = None,
    config: Callable[[int], dict[str, Any]] = lambda number: {},
    start: Callable[[ClusterNode], None] = ClusterNode.start,
) -> Iterator[Cluster]:
    """``count`` equal validators beside a fake backend, all of which see one another.

    ``models`` are what all of them serve by the genesis; ``accounts`` are in it beside theirs and the users';
    ``capacity`` is how many requests each has the backend work on; ``config`` adds to each node's file, by its number;
    ``start`` starts it.
    """
    fake = ForkedServer(serve_forked, backend or FakeOptions())
    nodes: list[ClusterNode] = []
    cluster: Cluster | None = None
    try:
        ports = iter(reserve_ports(3 * count))
        for number in range(count):
            home = directory / f"node{number}"
            home.mkdir(parents=True)
            nodes.append(ClusterNode(home, create_identity(home / "key"), next(ports), next(ports), next(ports)))
        user_keys = [KeyPair(bytes([number + 1]) * 32) for number in range(users)]
        beacon = os.urandom(32)
        everybody = [
            *(make_validator(n.key, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT, models) for n in nodes),
            *(GenesisAccount(key.public_key, 1_000 * CREDIT, 0, (), None) for key in user_keys),
            *accounts,
        ]
        genesis = make_genesis("test", RealRuntime().now(), beacon, everybody, parameters)
        cluster = Cluster(directory, genesis, nodes, user_keys, fake.told, capacity)
        for number, node in enumerate(nodes):
            node.write_chain(genesis)
            others = [other.multiaddress for other in nodes if other is not node]
            node.write_config({"bootstrap": others, "models": [cluster.model_config], **config(number)})
        for node in nodes:
            start(node)
        cluster.wait_ready()
        yield cluster
    finally:
        for node in (*nodes, *(cluster.guests if cluster is not None else ())):
            if node.is_running:
                node.kill()
        fake.kill()


def chat(prompt: str, stream: bool = True, tokens: int = 8) -> dict[str, Any]:
    """Body of a chat completion."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "stream": stream, "max_tokens": tokens, "messages": messages}


def request(node: ClusterNode, prompt: str, stream: bool) -> tuple[str, str, str]:
    """Send a prompt. Returns the request's id, who served it, and the text."""
    with HTTP.stream("POST", node.completions_url, json=chat(prompt, stream)) as response:
        assert response.status_code == httpx.codes.OK, response.read()
        if stream:
            text = read_text(response.iter_lines())
        else:
            text = json.loads(response.read())["choices"][0]["message"]["content"]
        return response.headers["x-request-id"], response.headers["x-wwwserve-executor"], text


def read_text(lines: Iterable[str]) -> str:
    """The text of a whole stream. AssertionError if it ends in any other way than ``[DONE]``."""
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events and events[-1] == "[DONE]", events[-1:]
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
