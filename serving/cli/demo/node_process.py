"""A node in a process of its own on this machine, started as a user starts it: for the demonstration and for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from chain.crypto import KeyPair
from chain.genesis import Genesis
from consensus.voting.disk import JOURNAL_FILE
from consensus.voting.journal import Journal
from serving.config.data_directory import ADMIN_TOKEN_FILE, CONFIG_FILE, GENESIS_FILE

_PROGRAM = "import sys; sys.path.insert(0, {!r}); sys.argv[0] = 'wwwserve'; from serving.cli.main import main; main()"
WWWSERVE = (sys.executable, "-P", "-c", _PROGRAM.format(str(Path(__file__).resolve().parents[3])))
"""The ``wwwserve`` command, whatever directory its packages are in; ``-P``: never modules of the current one."""
OUTPUT_FILE = "node.log"
"""Standard output and standard error of the process, in the data directory."""
HTTP_TIMEOUT_S = 90.0
"""How long an answer of the admin listener may take; it may wait for an operation to be final."""
NODE_STOP_TIMEOUT_S = 30.0
"""How long a node may take to end when it is told to. It takes one or two seconds."""

HTTP = httpx.Client(trust_env=False, timeout=HTTP_TIMEOUT_S, limits=httpx.Limits(max_keepalive_connections=0))
"""One client for every request, because making one reads all root certificates, which takes longer than a request.
It keeps no connection, because the process at the other end may be killed at any moment."""


@dataclass
class NodeProcess:
    """One node: its data directory, its key, its ports and, once it is started, its process."""

    directory: Path
    key: KeyPair
    peer_port: int
    api_port: int
    admin_port: int
    command: Sequence[str] = field(default=WWWSERVE, kw_only=True)
    """What is started; ``run`` and its arguments are added."""
    options: Sequence[str] = field(default=(), kw_only=True)
    """More arguments of ``run``."""
    ends_with_parent: bool = field(default=False, kw_only=True)
    """Whether it ends in order when this process ends, however that ends."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), kw_only=True)
    """The environment of the process."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def address(self) -> str:
        """The node's address, which is its public key as text."""
        return self.key.address

    @property
    def listen_address(self) -> str:
        """Multiaddress that it listens on for other nodes."""
        return f"/ip4/127.0.0.1/tcp/{self.peer_port}"

    @property
    def multiaddress(self) -> str:
        """Multiaddress that other nodes dial, with the key that they must find there."""
        return f"{self.listen_address}/p2p/{self.address}"

    @property
    def api_url(self) -> str:
        """Base URL of the OpenAI API."""
        return f"http://127.0.0.1:{self.api_port}/v1"

    @property
    def log(self) -> str:
        """Everything that the process wrote on stdout and stderr."""
        return (self.directory / OUTPUT_FILE).read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether its process was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def write_chain(self, genesis: Genesis) -> None:
        """Write the genesis file, and a vote journal without votes."""
        (self.directory / GENESIS_FILE).write_text(genesis.to_json(), encoding="utf-8")
        Journal.open(self.directory / JOURNAL_FILE, genesis.chain_id, self.key.public_key).close()

    def write_config(self, content: Mapping[str, Any]) -> None:
        """Write the configuration: the node's own ports, and the keys in ``content``. Told to end, it ends at once."""
        config = {
            "listen": [self.listen_address],
            "admin": {"port": self.admin_port},
            "limits": {"exempt_loopback": True},
            "drain_timeout_s": 0,
            **content,
            "api": {"port": self.api_port, **content.get("api", {})},
        }
        (self.directory / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    def start(self) -> None:
        """Start the process; its output is appended to the log."""
        with (self.directory / OUTPUT_FILE).open("ab") as log:
            watched = ["--stop-with-stdin"] if self.ends_with_parent else []
            self.process = subprocess.Popen(
                [*self.command, "run", "--data-dir", str(self.directory), *watched, *self.options],
                stdin=subprocess.PIPE if self.ends_with_parent else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = NODE_STOP_TIMEOUT_S) -> int:
        """Wait until the process ends, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended after ``timeout`` seconds.
        """
        assert self.process is not None
        return self.process.wait(timeout)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the process to end, and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """End the process as ``kill -9`` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, path: str, method: str = "GET", content: Any = None) -> Any:
        """The JSON answer of the admin listener to a request with the owner's token.

        Raises:
            OSError: there is no token, since the node has never run.
            httpx.HTTPError: it does not answer, or it refuses.
        """
        token = (self.directory / ADMIN_TOKEN_FILE).read_text().strip()
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        response = HTTP.request(method, url, headers={"Authorization": f"Bearer {token}"}, json=content)
        response.raise_for_status()
        return response.json()


def stop_nodes(nodes: Iterable[NodeProcess]) -> None:
    """Ask every process to end, all at the same time; kill those that have not ended in time."""
    running = [node for node in nodes if node.is_running]
    for node in running:
        node.send(signal.SIGTERM)
    deadline = time.monotonic() + NODE_STOP_TIMEOUT_S
    for node in running:
        try:
            node.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            node.kill()
