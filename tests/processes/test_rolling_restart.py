"""An upgrade of a whole network: one validator after the other is down for half a minute, and blocks go on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from serving.cli.demo.demo import PARAMETERS
from tests.support.cluster import Cluster, ClusterNode, run_cluster
from tests.support.waiting import wait_until

DOWN_S = 30.0


def pay_for(cluster: Cluster, seconds: float, absent: ClusterNode) -> int:
    """Make payments final, one after the other, for so long at least. Returns how many."""
    sender, recipient = [node for node in cluster.nodes if node is not absent][:2]
    count, until = 0, time.monotonic() + seconds
    while count < 3 or time.monotonic() < until:
        sender.transfer(recipient, 1)
        count += 1
    return count


@pytest.mark.long
def test_all_four_validators_of_the_demo_are_restarted_one_after_the_other(tmp_path: Path) -> None:
    with run_cluster(tmp_path / "cluster", parameters=PARAMETERS) as cluster:
        began = cluster.nodes[0].ask("/status")["epoch"]
        for node in cluster.nodes:
            assert node.stop() == 0
            pay_for(cluster, DOWN_S, absent=node)
            node.start()
            cluster.wait_ready()
            watcher = next(other for other in cluster.nodes if other is not node)
            wait_until(lambda node=node, height=watcher.height: node.height >= height, "it does not catch up")  # type: ignore[misc]
        while cluster.nodes[0].ask("/status")["epoch"] < began + 4:
            pay_for(cluster, 1.0, absent=cluster.nodes[0])
        cluster.wait_whole()
        for node in cluster.nodes:
            assert node.ask("/wallet")["validator"] == "enrolled"
            status = node.ask("/status")
            assert status["participation_votes"] >= status["participation_needed"]
