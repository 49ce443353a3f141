"""A node process under what stands for systemd: it says when it is ready, that it turns, and that it stops."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.support.cluster import ENVIRONMENT, ClusterNode, run_cluster
from tests.support.waiting import wait_until


def test_a_service_manager_hears_from_start_to_end(tmp_path: Path) -> None:
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)

        def has_heard(word: str) -> bool:
            try:
                while True:
                    heard.append(manager.recv(4096).decode())
            except BlockingIOError:
                return any(word in message for message in heard)

        def start(node: ClusterNode) -> None:
            node.environment = {**ENVIRONMENT, "NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "900000"}
            node.start()

        with run_cluster(tmp_path / "cluster", 1, start=start) as cluster:
            wait_until(lambda: has_heard("WATCHDOG=1"), "the watchdog hears nothing")
            assert heard[0].startswith("READY=1\nSTATUS="), "it is ready before anything else is said"
            assert cluster.nodes[0].stop() == 0
            assert has_heard("STOPPING=1")
