"""A process that comes back at another address, without bootstrap peers: it remembers whom it knew."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from serving.config.data_directory import PEERS_FILE
from tests.support.cluster import Cluster, ClusterNode, run_cluster
from tests.support.ports import reserve_ports
from tests.support.waiting import wait_until


def move(cluster: Cluster, node: ClusterNode) -> None:
    """Start a stopped node at another port, so that no peer can find it, and without bootstrap peers."""
    (node.peer_port,) = reserve_ports(1)
    node.write_config({"bootstrap": [], "models": [cluster.model_config]})
    node.start()
    wait_until(node.is_healthy, "it does not start")


@pytest.mark.long
def test_a_restart_needs_no_bootstrap_peer(tmp_path: Path) -> None:
    with run_cluster(tmp_path) as cluster:
        *others, node = cluster.nodes
        assert node.stop() == 0
        move(cluster, node)
        wait_until(lambda: node.sees(others), "it does not find those that it knew")
        height = others[0].transfer(node, 1_000_000)
        wait_until(lambda: node.height >= height, "it does not follow")

        assert node.stop() == 0  # the control: what it knew is all that it has
        (node.directory / PEERS_FILE).unlink()
        move(cluster, node)
        time.sleep(5)
        assert node.ask("/peers")["peers"] == []
