"""A network of real node processes on loopback, each beside a fake backend, for tests that need the real thing.

The processes are started as a user starts them (``wwwserve run``), stopped by signals, and looked at through their
admin listener and their data directories. Every process is ended when the cluster is left, whatever happened.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count as count_from
from pathlib import Path
from typing import Any

import httpx
import yaml

from chain.crypto import KeyPair, parse_address
from chain.genesis import CREDIT, Genesis, GenesisAccount, Parameters, make_genesis, make_validator
from chain.keyfile import create_identity
from chain.store.kv import LevelStore
from chain.store.reader import load_stored_genesis
from chain.store.writer import BlockStore
from consensus.voting.disk import JOURNAL_FILE
from consensus.voting.journal import Journal
from node import chain_main, main
from p2p.runtime import RealRuntime
from tests.fakes.backend import MODEL

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = Path(sys.executable).parent
"""Where ``wwwserve`` and ``chain`` are installed."""
PATIENCE = 90.0
"""Seconds that anything may take before a test gives up; only a failure waits that long."""
STOP_PATIENCE = 30.0
"""Seconds that a node may take to end when it is told to; it takes one or two."""

HTTP = httpx.Client(trust_env=False, timeout=PATIENCE, limits=httpx.Limits(max_keepalive_connections=0))
"""One client for all questions: making one reads every root certificate, which takes longer than the question. It keeps
no connection, since the other end may be killed at any moment."""

# Without compiled modules each process would compile libp2p and all that it imports anew: four seconds of work.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT["WWWSERVE_TESTING"] = "1"

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["node", "p2p.host.network", "serving.admin.server", "serving.backends.openai_compatible"]
)


@dataclass
class ProcessNode:
    """One node: its directory, ports and process."""

    directory: Path
    key: KeyPair
    peer_port: int
    api_port: int
    admin_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self.key.address

    @property
    def listen_address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.peer_port}"

    @property
    def multiaddress(self) -> str:
        return f"{self.listen_address}/p2p/{self.address}"

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}/v1"

    @property
    def completions_url(self) -> str:
        return f"{self.api_url}/chat/completions"

    @property
    def log(self) -> str:
        """Everything the process wrote on stdout and stderr."""
        return (self.directory / "node.log").read_text(errors="replace")

    @property
    def height(self) -> int:
        """Height of its last final block."""
        return int(self.ask("/status")["height"])

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the process; see :meth:`Cluster.wait_ready`."""
        with (self.directory / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(COMMANDS / "wwwserve"), "run", "--data-dir", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the process to end and return its exit code."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until the process ends and return its exit code."""
        assert self.process is not None
        return self.process.wait(STOP_PATIENCE)

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, path: str, method: str = "GET", content: Any = None) -> Any:
        """Ask the admin listener with the owner's token."""
        token = (self.directory / "admin.token").read_text().strip()
        response = HTTP.request(
            method,
            f"http://127.0.0.1:{self.admin_port}{path}",
            headers={"Authorization": f"Bearer {token}"},
            json=content,
        )
        response.raise_for_status()
        return response.json()

    def transfer(self, recipient: ProcessNode, amount: int) -> int:
        """Move credits and return the height at which that is final."""
        order = {"recipient": recipient.address, "amount": amount, "wait": 60}
        answer = self.ask("/wallet/transfer", "POST", order)
        assert answer["height"] is not None and answer["failure"] is None, answer
        return int(answer["height"])

    def cut_off(self, peers: Iterable[ProcessNode]) -> None:
        """Have nothing to do with ``peers`` from now on; with none, partitions are over."""
        self.ask("/testing/partition", "PUT", {"peers": [peer.address for peer in peers]})

    def is_healthy(self) -> bool:
        """Whether ``/healthz`` answers."""
        try:
            return HTTP.get(f"http://127.0.0.1:{self.admin_port}/healthz").is_success
        except httpx.HTTPError:
            return False

    def sees(self, peers: Iterable[ProcessNode]) -> bool:
        """Whether it serves the model, and is connected to all ``peers`` and knows that they serve it too."""
        try:
            present = [peer for peer in self.ask("/peers")["peers"] if peer["connected"]]
            known = {peer["address"] for peer in present if MODEL in peer["models"]}
            return known >= {peer.address for peer in peers} and MODEL in self.ask("/status")["models"]
        except (OSError, httpx.HTTPError):
            return False

    def write_config(self, content: dict[str, Any]) -> None:
        """Write ``config.yaml``: the node's own ports, and ``content``."""
        config = {
            "listen": [self.listen_address],
            "api": {"port": self.api_port},
            "admin": {"port": self.admin_port},
            "limits": {"exempt_loopback": True},
            **content,
        }
        (self.directory / "config.yaml").write_text(yaml.safe_dump(config))

    @contextmanager
    def blocks(self) -> Iterator[BlockStore]:
        """The ledger of a node that is stopped."""
        store = LevelStore(self.directory / "chain", create=False)
        try:
            yield BlockStore(store, load_stored_genesis(store))
        finally:
            store.close()


@dataclass
class Cluster:
    """Nodes of one chain, and the fake backend that all of them use."""

    directory: Path
    genesis: Genesis
    nodes: list[ProcessNode]
    """The validators."""
    users: list[KeyPair]
    """Accounts of genesis without a node, 1,000 credits each."""
    backend_url: str
    guests: list[ProcessNode] = field(default_factory=list)
    """Nodes that are not in genesis."""

    def wait_ready(self, nodes: Sequence[ProcessNode] | None = None) -> None:
        """Wait until ``nodes`` (default: all validators) serve, and see every validator that runs."""
        wanted = self.nodes if nodes is None else nodes
        alive = [node for node in self.nodes if node.is_running]

        def are_ready() -> bool:
            for node in wanted:
                if not node.is_running:
                    raise AssertionError(f"a node ended:\n{node.log[-3000:]}")
            return all(node.sees(peer for peer in alive if peer is not node) for node in wanted)

        wait_until(are_ready, "the nodes are not ready")

    def restore(self) -> None:
        """Start again whatever an earlier test has stopped."""
        for node in self.nodes:
            if not node.is_running:
                node.start()
        self.wait_ready()

    def add_guest(self, name: str, config: dict[str, Any]) -> ProcessNode:
        """Make the data directory of a node that joins the chain as a user's would: ``wwwserve init``."""
        directory = self.directory / name
        genesis = self.nodes[0].directory / "genesis.json"
        assert "wwwserve run -d" in run_command("init", "-d", directory, "--genesis", genesis).output
        key = (directory / "key").read_text().splitlines()
        seed = next(line.removeprefix("seed: ") for line in key if line.startswith("seed: "))
        peer_port, api_port, admin_port = free_ports(3)
        node = ProcessNode(directory, KeyPair(bytes.fromhex(seed)), peer_port, api_port, admin_port)
        node.write_config(
            {"bootstrap": [other.multiaddress for other in self.nodes], "models": [self.model_config], **config}
        )
        self.guests.append(node)
        return node

    @property
    def model_config(self) -> dict[str, Any]:
        """The entry of ``models`` in a node's configuration."""
        return {"kind": "openai", "base_url": self.backend_url, "load": "none"}

    def find(self, address: str) -> ProcessNode:
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


@contextmanager
def run_cluster(
    directory: Path,
    count: int = 4,
    *,
    users: int = 0,
    backend: Sequence[str] = (),
    config: Callable[[int], dict[str, Any]] = lambda number: {},
) -> Iterator[Cluster]:
    """``count`` equal validators; ``backend`` are arguments of the fake one, ``config`` adds to each node's file."""
    fake = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.backend", "--port", "0", *backend],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    cluster: Cluster | None = None
    try:
        assert fake.stdout is not None
        ports = free_ports(3 * count)
        nodes: list[ProcessNode] = []
        for number in range(count):
            home = directory / f"node{number}"
            home.mkdir(parents=True)
            peer_port, api_port, admin_port = ports[3 * number : 3 * number + 3]
            nodes.append(ProcessNode(home, create_identity(home / "key"), peer_port, api_port, admin_port))
        user_keys = [KeyPair(bytes([number + 1]) * 32) for number in range(users)]
        parameters, beacon = Parameters(epoch_heights=20), os.urandom(32)
        accounts = [
            *(make_validator(n.key, beacon, parameters, 10_000 * CREDIT, 1_000 * CREDIT, (MODEL,)) for n in nodes),
            *(GenesisAccount(key.public_key, 1_000 * CREDIT, 0, (), None) for key in user_keys),
        ]
        genesis = make_genesis("test", RealRuntime().now(), beacon, accounts, parameters)
        cluster = Cluster(directory, genesis, nodes, user_keys, fake.stdout.readline().decode().strip())
        for number, node in enumerate(nodes):
            (node.directory / "genesis.json").write_text(genesis.to_json())
            Journal.open(node.directory / JOURNAL_FILE, genesis.chain_id, node.key.public_key).close()
            others = [other.multiaddress for other in nodes if other is not node]
            node.write_config({"bootstrap": others, "models": [cluster.model_config], **config(number)})
        for node in nodes:
            node.start()
        cluster.wait_ready()
        yield cluster
    finally:
        for node in (*cluster.nodes, *cluster.guests) if cluster is not None else ():
            if node.is_running:
                node.send(signal.SIGCONT)
                node.kill()
        fake.kill()
        fake.wait()


def run_command(*arguments: object, command: str = "wwwserve") -> Result:
    """Run ``wwwserve`` or ``chain`` to its end, in a process of its own.

    The process is forked from one that has imported the program already, which takes a second or two.
    """
    with tempfile.TemporaryDirectory() as directory:
        argv = (command, *map(str, arguments))
        process = FORKSERVER.Process(target=_run_main, args=(argv, directory))
        process.start()
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{argv} has not ended after {PATIENCE:.0f} s")
        stdout, stderr = (Path(directory, name).read_text() for name in ("stdout", "stderr"))
        return Result(argv, process.exitcode, stdout, stderr)


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """What it printed. AssertionError unless it ended well, without a word on stderr."""
        assert (self.code, self.stderr) == (0, ""), self
        return self.stdout


def _run_main(argv: tuple[str, ...], directory: str) -> None:
    """What a forked process does: its own standard streams, then what the installed command does."""
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, f"{directory}/stdout", os.O_WRONLY | os.O_CREAT),
        (2, f"{directory}/stderr", os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(name, flags, 0o600), number)
    sys.argv = list(argv)
    main() if argv[0] == "wwwserve" else chain_main()


def wait_until(condition: Callable[[], bool], message: str, timeout: float = PATIENCE) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{message} after {timeout:.0f} s")
        time.sleep(0.1)


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
PORTS = range(12_000 + 10_000 * WORKER, 22_000 + 10_000 * WORKER)
"""Below those that the system gives to whoever asks for any: it may give the same one again at once."""
_ports = (PORTS[place % len(PORTS)] for place in count_from(os.getpid()))


def free_ports(number: int) -> list[int]:
    """Ports that are free at this moment, and given to nobody else by these tests."""
    found: list[int] = []
    while len(found) < number:
        port = next(_ports)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
    return found


def chat(prompt: str, stream: bool = True, tokens: int = 8) -> dict[str, Any]:
    """Body of a chat completion."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": MODEL, "stream": stream, "max_tokens": tokens, "messages": messages}


def read_text(lines: Iterable[str]) -> str:
    """The text of a whole stream. AssertionError if it ends in any other way than ``[DONE]``."""
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events and events[-1] == "[DONE]", events[-1:]
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
