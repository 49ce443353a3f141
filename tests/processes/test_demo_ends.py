"""The nodes of the demonstration end with it, however it ends, and it leaves no directory behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.commands import run_here
from tests.support.forked import run_command
from tests.support.ports import reserve_ports
from tests.support.waiting import PATIENCE

NODES = 4


def find_nodes(directory: Path) -> list[int]:
    """Processes of nodes in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"run" in arguments and any(argument.startswith(os.fsencode(directory)) for argument in arguments):
            found.append(int(path.parent.name))
    return found


def test_a_node_stops_in_order_when_its_standard_input_ends(tmp_path: Path) -> None:
    """As it does when whoever held the other end was killed. A command that is forked here has none."""
    home, (peers, api, admin) = tmp_path / "home", reserve_ports(3)
    assert run_here("init", "-d", home, "--new-chain", "test").code == 0
    config = {"listen": [f"/ip4/127.0.0.1/tcp/{peers}"], "api": {"port": api}, "admin": {"port": admin}, "models": []}
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    run_command("run", "-d", home, "--stop-with-stdin")  # which would not end otherwise
    assert not (home / "admin.address").exists()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_no_node_outlives_the_demo(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "serving.cli.main", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as demo:
        deadline = time.monotonic() + PATIENCE
        while len(find_nodes(tmp_path)) < NODES:
            assert demo.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        demo.send_signal(number)
        demo.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while find_nodes(tmp_path):
        assert time.monotonic() < deadline, "a node is still there"
        time.sleep(0.1)
    if number is not signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
