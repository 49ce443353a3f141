"""Membership over real libp2p: twelve processes, killed, stopped, continued and restarted, agree on who is there.

Each change happens to all that run at the time; then every living process comes to list exactly the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from chain.crypto import KeyPair
from tests.processes.overlay_node import run_overlay_node
from tests.support.forked import FORKSERVER
from tests.support.ports import reserve_ports
from tests.support.waiting import PATIENCE

COUNT = 12
BOOTSTRAP = 2


class OverlayProcess:
    """One node, which may be started again with the same key and port."""

    def __init__(self, number: int, port: int, directory: Path) -> None:
        self.seed = hashlib.sha256(f"overlay {number}".encode()).digest()
        self.peer = KeyPair(self.seed).public_key
        self.port = port
        self.view_file = directory / f"view{number}.json"
        self.process: BaseProcess | None = None
        self.is_listed = False

    def start(self, bootstrap: list[tuple[bytes, str]]) -> None:
        self.view_file.unlink(missing_ok=True)
        self.process = FORKSERVER.Process(
            target=run_overlay_node, args=(self.seed, self.port, bootstrap, str(self.view_file)), daemon=True
        )
        self.process.start()
        self.is_listed = True

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None and self.process.pid is not None
        os.kill(self.process.pid, number)
        self.is_listed = number == signal.SIGCONT

    def sees(self) -> set[str]:
        return set(json.loads(self.view_file.read_text())) if self.view_file.exists() else set()


class Overlay:
    """All of them."""

    def __init__(self, directory: Path) -> None:
        ports = reserve_ports(COUNT)
        self.nodes = [OverlayProcess(number, port, directory) for number, port in enumerate(ports)]
        self.bootstrap = [(node.peer, f"/ip4/127.0.0.1/tcp/{node.port}") for node in self.nodes[:BOOTSTRAP]]

    def start(self, node: OverlayProcess) -> None:
        node.start([(peer, address) for peer, address in self.bootstrap if peer != node.peer])

    def wait_agreed(self, what: str) -> None:
        """Wait until each living node lists exactly the other living ones."""
        started = time.monotonic()
        while True:
            living = [node for node in self.nodes if node.is_listed]
            expected = {node.peer.hex() for node in living}
            wrong = {node.port: node.sees() ^ (expected - {node.peer.hex()}) for node in living}
            wrong = {port: difference for port, difference in wrong.items() if difference}
            took = time.monotonic() - started
            if not wrong:
                print(f"{what}: all agree after {took:.1f} s")
                return
            assert took < PATIENCE, f"{what}: after {took:.0f} s {len(wrong)} of {len(living)} views are wrong: {wrong}"
            time.sleep(0.2)

    def end(self) -> None:
        for node in self.nodes:
            if node.process is not None and node.process.is_alive():
                node.process.kill()
        for node in self.nodes:
            if node.process is not None:
                node.process.join()


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    overlay = Overlay(tmp_path)
    try:
        for node in overlay.nodes:
            overlay.start(node)
        overlay.wait_agreed("start")
        yield overlay
    finally:
        overlay.end()


@pytest.mark.long
def test_views_agree_after_every_kind_of_change(overlay: Overlay) -> None:
    first, killed, stopped, leaving, restarted, last = (overlay.nodes[number] for number in (0, 3, 4, 5, 6, 11))
    killed.send(signal.SIGKILL)
    last.send(signal.SIGKILL)
    overlay.wait_agreed("two killed")

    overlay.start(killed)
    overlay.wait_agreed("one restarted with the same key")

    stopped.send(signal.SIGSTOP)
    overlay.wait_agreed("one stopped")

    stopped.send(signal.SIGCONT)
    leaving.send(signal.SIGTERM)
    overlay.wait_agreed("one continued, one left")

    restarted.send(signal.SIGKILL)
    assert restarted.process is not None
    restarted.process.join()
    overlay.start(restarted)  # at once, before another node has noticed
    first.send(signal.SIGKILL)  # a bootstrap node
    overlay.wait_agreed("one restarted at once, a bootstrap node killed")
