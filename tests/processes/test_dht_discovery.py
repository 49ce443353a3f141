"""Processes that know the genesis file and a server of a foreign DHT, and nothing more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.processes.dht_server import run_dht_server
from tests.support.cluster import run_cluster
from tests.support.waiting import wait_until


@pytest.mark.long
def test_a_node_without_bootstrap_peers_joins_through_a_foreign_dht(tmp_path: Path) -> None:
    with run_dht_server() as server:
        known: dict[str, Any] = {"bootstrap": [], "dht": {"bootstrap": [server]}}
        with run_cluster(tmp_path, 2, config=lambda _: {**known, "reachability": "public"}) as cluster:
            first, _ = cluster.nodes  # which have found each other in the same way
            guest = cluster.add_guest("late", known)
            guest.start()
            wait_until(lambda: guest.is_healthy() and guest.sees(cluster.nodes), "it finds no peer")
            height = first.transfer(guest, 1_000_000)
            wait_until(lambda: guest.height >= height, "it does not follow")
            assert guest.ask("/wallet")["available"] == 1_000_000
            peers = {peer["address"] for node in cluster.nodes for peer in node.ask("/peers")["peers"]}
            assert server.rpartition("/")[2] not in peers, "the server is no peer"
            assert cluster.stop() == [0, 0]
