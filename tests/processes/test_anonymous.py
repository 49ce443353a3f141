"""An anonymous validator among public ones, as processes: it serves, is paid and votes, over its relays alone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.processes.cluster import Cluster, ProcessNode, run_cluster, wait_until
from tests.processes.test_network import request

MAX_REQUESTS = 60


def get_remote_ports(node: ProcessNode) -> set[int]:
    """The ports at which the process has TCP connections, as the kernel says."""
    assert node.process is not None
    place = Path(f"/proc/{node.process.pid}")
    inodes = set()
    for descriptor in place.joinpath("fd").iterdir():
        with suppress(OSError):
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in place.joinpath("net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].split(":")[1], 16) for row in rows if row[9] in inodes and row[3] == "01"}


def configure(cluster: Cluster, node: ProcessNode, relays: list[ProcessNode]) -> None:
    node.write_config(
        {
            "listen": [],
            "anonymous": True,
            "bootstrap": [relay.multiaddress for relay in relays],
            "models": [cluster.model_config],
            "policy": {"accept_frequency": 1.0},
        }
    )


def policy_of(number: int) -> dict[str, Any]:
    if number == 0:
        return {"policy": {"target_utilization": 0.0, "offload_frequency": 1.0}}
    return {"policy": {"accept_frequency": 1.0}}


def test_an_anonymous_validator_serves_is_paid_and_votes(tmp_path: Path) -> None:
    with run_cluster(tmp_path, config=policy_of) as cluster:
        entry, *relays, hidden = cluster.nodes
        hidden.stop()
        configure(cluster, hidden, relays)
        hidden.start()
        cluster.wait_ready()
        earned = hidden.ask("/wallet")["earned"]
        for number in range(MAX_REQUESTS):  # one in three is drawn to it
            if request(entry, f"offload {number}", stream=True)[1] == hidden.address:
                break
        else:
            raise AssertionError("no request came to the anonymous node")
        wait_until(lambda: hidden.ask("/wallet")["earned"] > earned, "the anonymous node was not paid")
        # Without its vote there is no quorum of three.
        relays[1].stop()
        entry.transfer(hidden, 1_000_000)
        known = {peer["address"]: peer for peer in entry.ask("/peers")["peers"]}
        assert hidden.address in known and hidden.listen_address not in str(known[hidden.address])
        peers = {node.peer_port for node in cluster.nodes}
        assert get_remote_ports(hidden) & peers == {relays[0].peer_port}
