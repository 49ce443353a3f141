"""Real node processes in the lab: public ones, and private ones behind boxes, each as its owner would start it.

``relay`` and ``entry`` are public and serve no model: the first relays for the others, and users of the second are
answered by the private nodes, each of which has a backend beside it. All are validators with equal stake.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from chain.genesis import Genesis, make_genesis, make_validator
from chain.keyfile import create_identity
from chain.parameters.parameters import CREDIT, Parameters
from consensus.voting.disk import JOURNAL_FILE
from consensus.voting.journal import Journal
from p2p.runtime import RealRuntime
from serving.cli.demo.node_process import HTTP
from tests.nat.box import NatType
from tests.nat.lab import Home, Host, Lab
from tests.support.cluster import ENVIRONMENT, ROOT, ClusterNode, chat
from tests.support.fake_backend import MODEL
from tests.support.waiting import PATIENCE, wait_until

PEER_PORT, API_PORT, ADMIN_PORT, BACKEND_PORT = 4001, 8000, 8001, 9000
"""The same for all: each has a network stack of its own."""

OFFLOADS = {"target_utilization": 0.0, "offload_frequency": 1.0, "accept_frequency": 1.0, "queue_frequency": 1.0}
"""A policy that has others answer the own users, and answers others'."""
QUESTIONS = count()
"""Numbers of all questions."""
AS_DRAWN = {"choices": 1}
"""Whom the draw names is asked, not the fastest: so that each path is used."""

Settings = dict[str, Any]


@dataclass
class PlacedNode(ClusterNode):
    """A node on a machine of the lab."""

    host: Host = field(kw_only=True)

    @property
    def listen_address(self) -> str:
        """Where others dial it, if it is public."""
        return f"/ip4/{self.host.address}/tcp/{self.peer_port}"

    @property
    def home(self) -> Home:
        """Its machine, if that is private."""
        assert isinstance(self.host, Home)
        return self.host

    def start(self) -> None:
        with self.host.namespace:
            self.start_installed()

    def ask(self, path: str, method: str = "GET", content: Any = None) -> Any:
        with self.host.namespace:
            return super().ask(path, method, content)

    def has_peers(self, peers: Iterable[ClusterNode]) -> bool:
        """Whether it runs, and is connected to all ``peers``."""
        try:
            connected = {peer["address"] for peer in self.ask("/peers")["peers"] if peer["connected"]}
        except (OSError, httpx.HTTPError):
            return False
        return connected >= {peer.address for peer in peers}

    def request(self, prompt: str, tokens: int = 8) -> Answer:
        """Ask it as a user would, and read the stream to its end."""
        answer = Answer()
        self.fill(answer, prompt, tokens)
        return answer

    def fill(self, answer: Answer, prompt: str, tokens: int) -> None:
        """As :meth:`request`, for those who want to watch."""
        with ExitStack() as closing:
            with self.host.namespace:  # the socket stays in there
                body = chat(prompt, True, tokens)
                response = closing.enter_context(HTTP.stream("POST", self.completions_url, json=body))
            if response.status_code != httpx.codes.OK:
                answer.error = response.read().decode()
                return
            answer.id = response.headers["x-request-id"]
            answer.executor = response.headers["x-wwwserve-executor"]
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    answer.is_whole = True
                elif line:
                    event = json.loads(line.removeprefix("data: "))
                    answer.error = str(event["error"]) if "error" in event else answer.error
                    for choice in event.get("choices", ()):
                        answer.text += choice["delta"].get("content") or ""


@dataclass
class Answer:
    """What a user sees, as it comes."""

    id: str = ""
    executor: str = ""
    text: str = ""
    is_whole: bool = False
    error: str = ""

    def check(self, tokens: int) -> None:
        """AssertionError unless it is whole."""
        assert self.is_whole and not self.error and self.text == "word " * tokens, self


@dataclass
class Network:
    """The nodes of one chain in a lab."""

    genesis: Genesis
    relay: PlacedNode
    entry: PlacedNode
    private: list[PlacedNode]

    @property
    def nodes(self) -> list[PlacedNode]:
        return [self.relay, self.entry, *self.private]

    def wait_connected(self, nodes: Sequence[PlacedNode] | None = None, timeout: float = 2 * PATIENCE) -> None:
        """Wait until each of ``nodes`` (default: all) is connected to every other."""
        wanted = self.nodes if nodes is None else nodes

        def are_connected() -> bool:
            for node in wanted:
                if not node.is_running:
                    raise AssertionError(f"a node ended:\n{node.log[-3000:]}")
            return all(node.has_peers(peer for peer in wanted if peer is not node) for node in wanted)

        wait_until(are_connected, "the nodes are not connected to each other", timeout)

    def ask_until_each_answered(self, user: PlacedNode, executors: Sequence[PlacedNode], tries: int = 40) -> list[str]:
        """Have users of one node ask until each of ``executors`` has answered. Returns the ids of the requests."""
        missing = {node.address for node in executors}
        ids = []
        for _ in range(tries):
            # A question that was asked before would go to where it was answered.
            answer = user.request(f"request {next(QUESTIONS)} to {user.directory.name}")
            answer.check(8)
            ids.append(answer.id)
            missing.discard(answer.executor)
            if not missing:
                return ids
        raise AssertionError(f"{sorted(missing)} answered none of {tries} requests")

    def check_paid(self, user: PlacedNode, ids: Iterable[str]) -> None:
        """Wait until the payments of requests that others answered are final, for all nodes."""
        wanted = set(ids)

        def find_rows() -> list[dict[str, Any]]:
            rows = user.ask("/requests?limit=1024")["requests"]
            return [row for row in rows if row["id"] in wanted and row["executor"] != "local"]

        wait_until(lambda: all(row["settled_height"] for row in find_rows()), "payments are not final")
        rows = find_rows()
        assert rows and all(row["outcome"] == "completed" and row["amount"] > 0 for row in rows)
        height = max(row["settled_height"] for row in rows)
        wait_until(lambda: all(node.height >= height for node in self.nodes), "payments are not final for all")


@dataclass
class Load:
    """Requests that run beside a test."""

    answers: list[Answer] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, user: PlacedNode, tokens: int) -> Answer:
        """Begin a request, and return its answer once the first words have come."""
        answer = Answer()

        def run() -> None:
            try:
                user.fill(answer, f"long answer {next(QUESTIONS)}", tokens)
            except httpx.HTTPError as error:
                answer.error = f"lost: {error!r}"

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        self.answers.append(answer)
        thread.start()
        wait_until(lambda: bool(answer.text or answer.error), "a request did not begin")
        assert not answer.error, answer
        return answer

    def start_until_served_by(self, user: PlacedNode, executor: PlacedNode, tokens: int, tries: int = 40) -> None:
        """Begin requests until one is being answered by ``executor``."""
        for _ in range(tries):
            if self.start(user, tokens).executor == executor.address:
                return
        raise AssertionError(f"{executor.address} took none of {tries} requests")

    def wait_last(self) -> Answer:
        """Wait until the one begun last is over."""
        self._threads[-1].join(2 * PATIENCE)
        assert not self._threads[-1].is_alive(), "a request hangs"
        return self.answers[-1]

    def wait(self) -> list[Answer]:
        """Wait until all are over."""
        for thread in self._threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive(), "a request hangs"
        return self.answers


@contextmanager
def run_network(
    lab: Lab,
    directory: Path,
    nat_types: Sequence[NatType],
    configure: Callable[[Network, PlacedNode], Settings] = lambda network, node: {},
) -> Iterator[Network]:
    """A network with one private node behind each type of NAT, all connected. ``configure`` adds to their settings."""
    with ExitStack() as closing:
        places: dict[str, Host] = {name: lab.add_host(name) for name in ("relay", "entry")}
        for number, nat_type in enumerate(nat_types):
            name = f"private{number}"
            places[name] = lab.add_home(name, nat_type)
        nodes = [_make_node(directory / name, host) for name, host in places.items()]
        network = Network(_make_genesis(nodes), nodes[0], nodes[1], nodes[2:])
        for node in nodes:
            (node.directory / "genesis.json").write_text(network.genesis.to_json())
            Journal.open(node.directory / JOURNAL_FILE, network.genesis.chain_id, node.key.public_key).close()
            node.write_config({**_settings(network, node), **configure(network, node)})
            if node in network.private:
                closing.enter_context(_run_backend(node.host))
        closing.callback(_end, nodes)
        for node in nodes:
            node.start()
        network.wait_connected()
        yield network


def _make_node(directory: Path, host: Host) -> PlacedNode:
    directory.mkdir(parents=True)
    key = create_identity(directory / "key")
    return PlacedNode(directory, key, PEER_PORT, API_PORT, ADMIN_PORT, host=host)


def _make_genesis(nodes: Sequence[PlacedNode]) -> Genesis:
    parameters, beacon = Parameters(epoch_heights=20, round_heights=4), os.urandom(32)
    accounts = []
    for node in nodes:
        models = (MODEL,) if isinstance(node.host, Home) else ()
        accounts.append(make_validator(node.key, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT, models))
    return make_genesis("test", RealRuntime().now(), beacon, accounts, parameters)


def _settings(network: Network, node: PlacedNode) -> Settings:
    """What their owners write into their files; fewer blocks leave the processor to what these tests are about."""
    listen = {"listen": ["/ip4/0.0.0.0/tcp/4001"], "block_spacing_ms": 600}
    bootstrap = {"bootstrap": [other.multiaddress for other in (network.relay, network.entry) if other is not node]}
    if node is network.relay:
        return {**listen, **bootstrap, "announce": [node.listen_address], "models": []}
    if node is network.entry:  # the one relay is the other: tests take it away
        return {**listen, **bootstrap, "models": [], "policy": OFFLOADS, "offload": AS_DRAWN, "relay": {"serve": False}}
    backend = {"kind": "openai", "base_url": f"http://127.0.0.1:{BACKEND_PORT}", "load": "none"}
    return {**listen, **bootstrap, "models": [backend], "policy": OFFLOADS, "offload": AS_DRAWN}


@contextmanager
def _run_backend(host: Host) -> Iterator[None]:
    with host.namespace:
        fake = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.fake_backend", "--port", str(BACKEND_PORT)),
                # It takes longer than a relay does, so that no executor is passed over for its path.
                *("--first-token-delay", "1", "--token-delay", "0.1"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=ENVIRONMENT,
        )
    try:
        assert fake.stdout is not None and fake.stdout.readline()
        yield
    finally:
        fake.kill()
        fake.wait()


def _end(nodes: Sequence[ClusterNode]) -> None:
    for node in nodes:
        if node.is_running:
            node.kill()
