"""How many operations the ledger makes final per second, and how soon: four node processes on one machine.

Signed transfers of many accounts are gossiped to the network by a client in this process, at a fixed rate and then as
fast as the mempools take them. An operation counts from the moment it is handed to gossip until a node's admin
listener reports a height that contains it. The reference of the flood is one process that audits the blocks of the
flood again on one thread: all the checks that each of the four makes, without agreement, network and disk.
"""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from benchmarks.pictures import Chart, make_cumulative
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.audit.audit import audit_chain
from chain.audit.sources import StoreSource
from chain.crypto import KeyPair
from chain.genesis import Genesis
from chain.parameters.parameters import Parameters
from chain.store.kv import LevelStore
from chain.types.operations import Transfer, sign_operation
from consensus.network.gossip import Batch, get_topic
from p2p.host.network import Libp2pNetwork
from p2p.network import NetworkError
from p2p.runtime import RealRuntime
from tests.support.cluster import Cluster, ClusterNode, run_cluster

VALIDATORS = 4
USERS = 200
MAX_BATCH = 100
"""Most operations in one gossip message: about 20 KiB."""
MESSAGE_RATE = 10.0
"""Gossip messages per second, unless that needs larger ones than MAX_BATCH."""
FLOOD_RATE = 5_000.0
"""Operations offered per second in the flood: several times what four processes on two cores make final."""
POLL_S = 0.02
"""Seconds between looks at the height: the resolution of the times to finality."""
PATIENCE_S = 300.0
"""Most seconds until the client is connected, until its first transfer is final, and until the mempools are empty after
the last one."""
QUIET_S = 2.0
"""Seconds for which all mempools must be empty: what gossip is still carrying would fill them again."""
REPEAT_S = 1.0
"""Seconds between attempts to connect, and to hand over the first transfer."""


class Submitter:
    """Gossips signed transfers between ``users``, drawn by ``seed``, and remembers when each was handed over."""

    def __init__(self, genesis: Genesis, users: list[KeyPair], seed: int) -> None:
        self.genesis = genesis
        self.users = users
        self.submitted: dict[bytes, float] = {}
        self._random = random.Random(seed)
        self._nonces = [0] * len(users)
        self._topic = get_topic(genesis.chain_id, "ops")

    def make_batch(self, start: int, count: int) -> tuple[list[bytes], bytes]:
        """``count`` transfers, round robin over the accounts: their ids, and the gossip message."""
        ids, encoded = [], []
        for number in range(start, start + count):
            user = number % len(self.users)
            transfer = Transfer(self._nonces[user], self._random.choice(self.users).public_key, 1)
            signed = sign_operation(self.users[user], self.genesis.chain_id, transfer)
            self._nonces[user] += 1
            ids.append(signed.id)
            encoded.append(signed.encoded)
        return ids, Batch(tuple(encoded)).encode()

    async def run(self, cluster: Cluster, heights: Heights, count: int, rate: float) -> None:
        """Gossip ``count`` transfers at ``rate`` per second, and wait until no mempool has any left.

        Raises:
            trio.TooSlowError: they do not become final.
        """
        network = Libp2pNetwork(KeyPair(b"submitter".ljust(32)), (), RealRuntime())
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            with trio.fail_after(PATIENCE_S):
                for node in cluster.nodes:
                    await self._connect(network, node)
            await self._warm_up(network, cluster.nodes[0])
            size = max(1, min(MAX_BATCH, int(rate / MESSAGE_RATE)))
            batches = [self.make_batch(start, min(size, count - start)) for start in range(0, count, size)]
            started = trio.current_time()
            for index, (ids, message) in enumerate(batches):
                await trio.sleep_until(started + index * size / rate)
                self.submitted.update(dict.fromkeys(ids, time.time()))
                await network.publish(self._topic, message)
            with trio.fail_after(PATIENCE_S):
                await heights.wait_empty()
            nursery.cancel_scope.cancel()

    async def _connect(self, network: Libp2pNetwork, node: ClusterNode) -> None:
        """Connect to a node, which may be slow to answer while all start."""
        while True:
            with suppress(NetworkError):
                return await network.connect(node.key.public_key, [node.listen_address])
            await trio.sleep(REPEAT_S)

    async def _warm_up(self, network: Libp2pNetwork, node: ClusterNode) -> None:
        """Have one transfer made final, so that all that follows finds its way: gossip must learn who subscribes."""
        _, message = self.make_batch(0, 1)
        path = f"/chain/accounts/{self.users[0].address}"
        with trio.fail_after(PATIENCE_S):
            while (await trio.to_thread.run_sync(node.ask, path))["nonce"] == 0:
                await network.publish(self._topic, message)
                await trio.sleep(REPEAT_S)


class Heights:
    """When the first node reported each height final."""

    def __init__(self, cluster: Cluster) -> None:
        self.at: dict[int, float] = {}
        self.reached = 0
        self._cluster = cluster

    async def watch(self) -> None:
        """Ask for the height until cancelled."""
        url = f"http://127.0.0.1:{self._cluster.nodes[0].admin_port}/healthz"
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
            while True:
                height = (await client.get(url)).json()["height"]
                for new in range(self.reached + 1, height + 1):
                    self.at[new] = time.time()
                self.reached = max(self.reached, height)
                await trio.sleep(POLL_S)

    async def wait_empty(self) -> None:
        """Wait until all mempools stay empty, and all that is final by then has been seen."""
        since = trio.current_time()
        while trio.current_time() < since + QUIET_S:
            await trio.sleep(QUIET_S / 4)
            if not await trio.to_thread.run_sync(self._are_empty):
                since = trio.current_time()
        height = await trio.to_thread.run_sync(lambda: self._cluster.nodes[0].height)
        while self.reached < height:
            await trio.sleep(POLL_S)

    def _are_empty(self) -> bool:
        return all(node.ask("/status")["mempool_operations"] == 0 for node in self._cluster.nodes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the operations of one run. ``latencies`` in seconds; ``audited`` operations per second."""

    submitted: int
    latencies: list[float]
    rate: float
    audited: float


def measure(seed: int, count: int, rate: float) -> Outcome:
    """Offer ``count`` operations at ``rate`` per second to a new network."""
    with (
        tempfile.TemporaryDirectory() as directory,
        run_cluster(Path(directory), VALIDATORS, users=USERS, parameters=Parameters()) as cluster,
    ):
        submitter = Submitter(cluster.genesis, cluster.users, seed)
        heights = Heights(cluster)

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(heights.watch)
                await submitter.run(cluster, heights, count, rate)
                nursery.cancel_scope.cancel()

        trio.run(run)
        cluster.stop()
        with cluster.nodes[0].blocks() as blocks:
            located = {operation: blocks.find_operation(operation) for operation in submitter.submitted}
        audited = _measure_audit(cluster.nodes[0].directory / "chain")
    final = {
        operation: heights.at[place[0]]
        for operation, place in located.items()
        if place is not None and place[0] in heights.at
    }
    if not final:
        raise SystemExit("no operation has become final")
    latencies = [at - submitter.submitted[operation] for operation, at in final.items()]
    span = max(final.values()) - min(submitter.submitted.values())
    return Outcome(count, latencies, len(final) / span, audited)


def _measure_audit(directory: Path) -> float:
    """Operations per second of an audit with one thread."""
    store = LevelStore(directory, create=False)
    try:
        started = time.perf_counter()
        report = audit_chain(StoreSource(store), threads=1)
        elapsed = time.perf_counter() - started
    finally:
        store.close()
    assert report.ok, report.fault
    return report.operations / elapsed


def get_figures(steady: Outcome, steady_rate: float, flood: Outcome) -> list[Figure]:
    """The figures of both runs."""
    at = f"at {steady_rate:.0f} operations/s"
    return [
        Figure(f"finality p50 {at}", get_percentile(steady.latencies, 50), "s", headline=f"time to finality {at}, p50"),
        Figure(f"finality p99 {at}", get_percentile(steady.latencies, 99), "s", headline=f"time to finality {at}, p99"),
        Figure(f"final share {at}", len(steady.latencies) / steady.submitted, "", 1.0, "submitted"),
        Figure(
            "final when flooded",
            flood.rate,
            "/s",
            flood.audited,
            "one process that audits the same blocks, one thread",
            headline="operations made final by four processes, flooded",
        ),
        Figure("final share when flooded", len(flood.latencies) / flood.submitted, "", 1.0, "submitted"),
    ]


def main() -> None:
    """Command line."""
    run = Run(
        "ledger",
        __doc__,
        Option("rate", 100.0, 100.0, "operations per second of the steady run"),
        Option("steady", 30.0, 5.0, "seconds of the steady run"),
        Option("flood", 10_000, 2_000, "operations of the flood"),
    )
    rate = run.values["rate"]
    steady = measure(run.seed, int(rate * run.values["steady"]), rate)
    flood = measure(run.seed, run.values["flood"], FLOOD_RATE)
    curves = (
        make_cumulative(f"{rate:.0f} operations/s offered", steady.latencies),
        make_cumulative(f"flooded: {FLOOD_RATE:,.0f}/s offered", flood.latencies),
    )
    chart = Chart("Time to finality", "seconds", "share of the operations", curves, x_scale="log")
    run.finish(get_figures(steady, rate, flood), [chart])


if __name__ == "__main__":
    main()
