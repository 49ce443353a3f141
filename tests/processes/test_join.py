"""A network from one command, and a further node from one line: as an owner does it, with real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chain.keyfile import load_identity
from serving.cli.demo.node_process import stop_nodes
from serving.config.edit import edit_config
from serving.config.file import load_config
from serving.config.yaml_marks import KeyPath
from tests.support.cluster import ClusterNode, request
from tests.support.fake_backend import FakeOptions, serve_forked
from tests.support.forked import ForkedServer, run_command
from tests.support.ports import reserve_ports
from tests.support.waiting import wait_until


def take(directory: Path, changes: dict[KeyPath, object]) -> ClusterNode:
    """The node in a directory, with some changes of its configuration."""
    path = directory / "config.yaml"
    path.write_text(edit_config(path.read_text(), {("limits", "exempt_loopback"): True, **changes}))
    config = load_config(path)
    port = int(config.listen[0].rpartition("/")[2])
    return ClusterNode(directory, load_identity(directory / "key"), port, config.api.port, config.admin.port)


@pytest.mark.long  # who may serve follows from the round before the last: it takes half a minute until one may
def test_a_network_is_made_and_joined_and_asked(tmp_path: Path) -> None:
    fake = ForkedServer(serve_forked, FakeOptions())
    nodes: list[ClusterNode] = []
    try:
        made = run_command("network", "create", tmp_path / "market", "--validators", 2, "--json")
        assert made.code == 0, made
        entry = {"kind": "openai", "base_url": fake.told, "load": "none"}
        homes = [Path(node["directory"]) for node in json.loads(made.stdout)["nodes"]]
        nodes = [take(home, {("models",): [entry]}) for home in homes]
        for node in nodes:
            node.start()
        wait_until(lambda: all(node.is_healthy() and node.ask("/peers")["peers"] for node in nodes), "they do not meet")
        invited = run_command("network", "invite", "-d", nodes[0].directory)
        assert invited.code == 0, invited
        joined = run_command("join", invited.stdout.strip(), "-d", tmp_path / "guest", "--no-run")
        assert joined.code == 0, joined
        peer_port, api_port, admin_port = reserve_ports(3)
        guest = take(
            tmp_path / "guest",
            {
                ("models",): [],
                ("listen",): [f"/ip4/127.0.0.1/tcp/{peer_port}"],
                ("api", "port"): api_port,
                ("admin", "port"): admin_port,
            },
        )
        nodes.append(guest)
        guest.start()
        wait_until(lambda: guest.is_healthy() and bool(guest.ask("/peers")["peers"]), "it meets nobody")
        height = nodes[0].transfer(guest, 100_000_000)
        wait_until(lambda: guest.height >= height and bool(guest.ask("/models")["models"]), "it does not follow")
        _, executor, text = request(guest, "Hello!", stream=True)
        assert text and executor in {node.address for node in nodes[:2]}
    finally:
        stop_nodes(nodes)
        fake.kill()
