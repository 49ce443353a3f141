"""An anonymous validator among public ones, as processes: it serves, is paid and votes, over its relays alone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.support.cluster import Cluster, ClusterNode, offload_at_entry, request, run_cluster
from tests.support.waiting import wait_until

MAX_REQUESTS = 60


def get_remote_ports(node: ClusterNode) -> set[int]:
    """The ports at which the process has TCP connections, as the kernel says."""
    assert node.process is not None
    place = Path(f"/proc/{node.process.pid}")
    inodes = set()
    for descriptor in place.joinpath("fd").iterdir():
        with suppress(OSError):
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in place.joinpath("net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].split(":")[1], 16) for row in rows if row[9] in inodes and row[3] == "01"}


def configure(cluster: Cluster, node: ClusterNode, relays: list[ClusterNode]) -> None:
    node.write_config(
        {
            "listen": [],
            "anonymous": True,
            "bootstrap": [relay.multiaddress for relay in relays],
            "models": [cluster.model_config],
            "policy": {"accept_frequency": 1.0},
        }
    )


def test_an_anonymous_validator_serves_is_paid_and_votes(tmp_path: Path) -> None:
    with run_cluster(tmp_path, config=offload_at_entry) as cluster:
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
