"""How many operations the ledger makes final per second, and how soon: four node processes on one machine.

Signed transfers of many accounts are gossiped to the network by a client in this process, at a fixed rate and then as
fast as the mempools take them. An operation counts from the moment it is handed to gossip until a node's admin
listener reports a height that contains it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import trio

from benchmarks.report import Claim, get_percentile, parse_options, report
from chain.crypto import KeyPair
from chain.genesis import Genesis
from chain.types.operations import Transfer, sign_operation
from consensus.network.gossip import Batch, get_topic
from p2p.host.network import Libp2pNetwork
from p2p.runtime import RealRuntime
from tests.processes.cluster import Cluster, run_cluster

USERS = 200
BATCH = 100
"""Operations in one gossip message, about 20 KiB."""
ANVIL = 1_149.0
"""Transfers per second of one anvil process with 1 s blocks and no agreement, measured on a machine of this size."""


class Submitter:
    """Gossips signed transfers, and remembers when each was handed over."""

    def __init__(self, genesis: Genesis, users: list[KeyPair]) -> None:
        self.genesis = genesis
        self.users = users
        self.submitted: dict[bytes, float] = {}
        self._nonces = [0] * len(users)

    def make_batches(self, count: int) -> Iterator[tuple[list[bytes], bytes]]:
        """``count`` transfers, round robin over the accounts: ids and the gossip message of each batch."""
        ids: list[bytes] = []
        encoded: list[bytes] = []
        for number in range(count):
            user = number % len(self.users)
            recipient = self.users[(user + 1) % len(self.users)].public_key
            transfer = Transfer(self._nonces[user], recipient, 1)
            signed = sign_operation(self.users[user], self.genesis.chain_id, transfer)
            self._nonces[user] += 1
            ids.append(signed.id)
            encoded.append(signed.encoded)
            if len(encoded) == BATCH or number == count - 1:
                yield ids, Batch(tuple(encoded)).encode()
                ids, encoded = [], []

    async def run(self, cluster: Cluster, count: int, rate: float, watch: trio.Nursery) -> None:
        """Gossip ``count`` transfers at ``rate`` per second."""
        network = Libp2pNetwork(KeyPair(b"submitter".ljust(32)), (), RealRuntime())
        topic = get_topic(self.genesis.chain_id, "ops")
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            for node in cluster.nodes:
                await network.connect(node.key.public_key, [f"/ip4/127.0.0.1/tcp/{node.peer_port}"])
            await trio.sleep(3)  # gossipsub learns of the peers' topics
            batches = list(self.make_batches(count))
            started = trio.current_time()
            for index, (ids, message) in enumerate(batches):
                await trio.sleep_until(started + index * BATCH / rate)
                now = time.time()
                self.submitted.update(dict.fromkeys(ids, now))
                await network.publish(topic, message)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()


async def _watch_height(cluster: Cluster, seen: dict[int, float]) -> None:
    """Note when each height is first reported final."""
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{cluster.nodes[0].admin_port}/healthz"
        reached = 0
        while True:
            height = (await client.get(url)).json()["height"]
            for new in range(reached + 1, height + 1):
                seen[new] = time.time()
            reached = max(reached, height)
            await trio.sleep(0.02)


def measure(count: int, rate: float) -> tuple[float, list[float], int]:
    """Final operations per second, seconds to finality of each, and the number submitted."""
    seen: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as directory, run_cluster(Path(directory), 4, users=USERS) as cluster:
        submitter = Submitter(cluster.genesis, cluster.users)

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_watch_height, cluster, seen)
                await submitter.run(cluster, count, rate, nursery)
                await _wait_quiet(seen)
                nursery.cancel_scope.cancel()

        trio.run(run)
        cluster.stop()
        with cluster.nodes[0].blocks() as blocks:
            located = {operation: blocks.find_operation(operation) for operation in submitter.submitted}
    final = {
        operation: seen[place[0]] for operation, place in located.items() if place is not None and place[0] in seen
    }
    latencies = [at - submitter.submitted[operation] for operation, at in final.items()]
    span = max(final.values()) - min(submitter.submitted.values())
    return len(final) / span, latencies, count


async def _wait_quiet(seen: dict[int, float]) -> None:
    """Wait until no block came for a while (the idle beat is slower than that)."""
    while time.time() - max(seen.values(), default=time.time()) < 4:
        await trio.sleep(0.2)


def main() -> None:
    """Command line."""
    options = parse_options(__doc__, rate=100.0)
    steady_rate, steady, _ = measure(int(options.rate * (5 if options.quick else 30)), options.rate)
    flood_rate, flood, submitted = measure(1_000 if options.quick else 10_000, 5_000.0)
    claims = [
        Claim(f"finality p50 at {options.rate:.0f} op/s", get_percentile(steady, 50), "s"),
        Claim(f"finality p99 at {options.rate:.0f} op/s", get_percentile(steady, 99), "s"),
        Claim(f"final at {options.rate:.0f} op/s offered", steady_rate, "op/s", options.rate, "offered rate"),
        Claim("final when flooded", flood_rate, "op/s", ANVIL, "anvil, one process, no agreement (noted earlier)"),
        Claim("final share when flooded", len(flood) / submitted, "of submitted"),
    ]
    report("ledger", claims, options.json)


if __name__ == "__main__":
    main()
