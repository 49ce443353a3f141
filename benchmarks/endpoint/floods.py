"""What floods of a node do to those that use it honestly: their p99 latency, with and without each flood.

The node is a process of its own, as a user starts it, over libp2p on loopback, with a fake backend. Eight honest
clients ask it to serve them itself, and eight more have their requests offloaded and paid: from another node to this
one, or, where the flood is made of an executor's answers, from this one to another.
:mod:`benchmarks.endpoint.flood_kinds` has the floods. Twice the p99 without the flood is the limit, but not of a quick
run, whose p99 is that of its slowest request.

In reality the attackers have machines of their own; here they share the processors of the node. So a flood is compared
with a round in which the same attackers do the same to a decoy: a node that none of the honest clients and nodes has
anything to do with. Attackers and decoy run at the lowest priority, in both cases. What the flooding itself takes of
this machine is in both rounds then, and the difference is what it does to the node that is flooded. Rounds without a
flood, with one of the decoy and with one of the node take turns, and the latencies of each kind are taken together.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from benchmarks.endpoint.flood_kinds import FLOODS
from benchmarks.endpoint.flooding import (
    LIAR_MODEL,
    MAX_FLOODS,
    Order,
    Target,
    lower_priority,
    make_accounts,
    run_attackers,
)
from benchmarks.endpoint.load import LoadResult, run_load
from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain.genesis import GenesisAccount
from chain.keyfile import create_identity
from chain.parameters.parameters import CREDIT
from serving.openai.requests import CHAT_COMPLETIONS, LOCAL_ONLY
from tests.support.cluster import ENTRY, LENIENT, Cluster, ClusterNode, offload_at_entry, run_cluster
from tests.support.fake_backend import MODEL, FakeOptions, serve_forked
from tests.support.forked import ForkedServer
from tests.support.ports import reserve_ports
from tests.support.waiting import wait_until

CLIENTS = 8
"""Honest clients of each kind."""
MAX_TOKENS = 20
BACKEND = FakeOptions(models=(MODEL, LIAR_MODEL), first_token_delay=0.05, token_delay=0.01)
DECOY_MODEL = "a-model-of-the-decoy"
DECOY_CREDIT = 1_000 * CREDIT
"""Micro-credits that the decoy has, and as many that it has bonded."""
USER_KEY = "a-key-of-some-user"
"""API key of every user, honest or not."""
WARM_UP_S = 5.0
"""Seconds of load before all measurements: the executor comes to know its payer."""
LIMIT = 2.0
"""Highest ratio of the p99 in a flood to the p99 in a flood of the decoy."""
FAILURES_LIMIT = 0.01
"""Share of the honest requests that may fail in a flood: the p99 is of those that were answered."""
BEGIN_TIMEOUT_S = 600.0
"""Seconds for a flood to begin: attackers get what all others leave of the processors."""
KINDS = ("direct", "offloaded")
SPAWN = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Measured:
    """What the clients of one kind saw in all rounds of one flood, by kind of round."""

    quiet: LoadResult = field(default_factory=lambda: LoadResult(0.0))
    decoy: LoadResult = field(default_factory=lambda: LoadResult(0.0))
    flood: LoadResult = field(default_factory=lambda: LoadResult(0.0))


class Attackers:
    """The process of the attackers, which follows the chain, and what it may flood."""

    def __init__(self, cluster: Cluster, decoy: ClusterNode) -> None:
        self.decoy = _make_target(decoy, DECOY_MODEL)
        self.payer, self.executor = (_make_target(cluster.nodes[number], MODEL) for number in (ENTRY, 1 - ENTRY))
        self._orders, theirs = SPAWN.Pipe()
        self._numbers = count()
        targets = [self.payer, self.executor, self.decoy]
        arguments = (theirs, cluster.genesis, targets, cluster.backend_url, USER_KEY, FLOODS)
        self.process = SPAWN.Process(target=run_attackers, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # so that its end is noticed
        self._receive()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()

    @contextmanager
    def flooding(self, name: str, target: Target) -> Iterator[list[int]]:
        """A flood of ``target``, which has begun. What was done in it is appended to the list at its end."""
        done: list[int] = []
        number = next(self._numbers)
        if number == MAX_FLOODS:
            raise SystemExit(f"at most {MAX_FLOODS} floods in one run")
        self._orders.send(Order(name, target, number))
        wait_until(self._has_begun, f"the flood {name} does not begin", BEGIN_TIMEOUT_S)
        yield done
        self._orders.send(False)
        done.append(self._receive())

    def _has_begun(self) -> bool:
        self._orders.send(None)
        return self._receive() > 0

    def _receive(self) -> int:
        try:
            return int(self._orders.recv())
        except (EOFError, ConnectionResetError):
            raise SystemExit("the attackers ended") from None


def _make_target(node: ClusterNode, model: str) -> Target:
    parts = urlsplit(node.api_url)
    return Target(node.key.public_key, node.listen_address, (parts.hostname or "", parts.port or 0), model)


def _configure(number: int) -> dict[str, Any]:
    """A node as it is shipped: with API keys, and without the exemption that tests have on loopback."""
    return {**offload_at_entry(number), "limits": {}, "api": {"keys": [{"key": USER_KEY}]}}


@contextmanager
def _run_network(directory: Path) -> Iterator[tuple[Cluster, ClusterNode]]:
    """The payer and its executor, and the decoy: an executor of a model of its own that has no vote."""
    home = directory / "decoy"
    home.mkdir()
    key = create_identity(home / "key")
    decoy_account = GenesisAccount(key.public_key, DECOY_CREDIT, DECOY_CREDIT, (DECOY_MODEL,), None)
    accounts = [decoy_account, *make_accounts()]
    backend = ForkedServer(serve_forked, replace(BACKEND, models=(DECOY_MODEL,)))
    try:
        with run_cluster(
            directory, 2, parameters=LENIENT, accounts=accounts, backend=BACKEND, config=_configure
        ) as cluster:
            decoy = ClusterNode(home, key, *reserve_ports(3))
            decoy.write_chain(cluster.genesis)
            decoy.write_config(
                {
                    **_configure(1 - ENTRY),
                    "bootstrap": [node.multiaddress for node in cluster.nodes],
                    "models": [{"kind": "openai", "base_url": backend.told, "load": "none"}],
                }
            )
            cluster.guests.append(decoy)
            decoy.start()
            wait_until(decoy.is_healthy, "the decoy is not ready")
            assert decoy.process is not None
            lower_priority(decoy.process.pid)
            yield cluster, decoy
    finally:
        backend.kill()


async def _run_clients(seconds: float, victim: Target, payer: Target) -> dict[str, LoadResult]:
    """All honest clients at once: those of ``victim`` itself, and those whose requests ``payer`` offloads."""
    body = {"model": MODEL, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": "hello"}]}
    key = {"Authorization": f"Bearer {USER_KEY}"}
    results: dict[str, LoadResult] = {}

    async def run(kind: str, node: Target, headers: dict[str, str]) -> None:
        url = f"http://{node.api[0]}:{node.api[1]}{CHAT_COMPLETIONS}"
        results[kind] = await run_load(url, body, CLIENTS, seconds, kind == "offloaded", {**key, **headers})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, "direct", victim, {LOCAL_ONLY: "1"})
        nursery.start_soon(run, "offloaded", payer, {})
    return results


def measure_flood(attackers: Attackers, name: str, seconds: float, rounds: int) -> tuple[dict[str, Measured], int]:
    """Run the clients in turns, ``seconds`` each. Returns what they saw, by kind, and what was done to the victim."""
    victim = attackers.payer if FLOODS[name].victim_pays else attackers.executor
    found, total = {kind: Measured() for kind in KINDS}, 0

    def run(part: str) -> None:
        for kind, result in trio.run(_run_clients, seconds, victim, attackers.payer).items():
            getattr(found[kind], part).add(result)

    for _ in range(rounds):
        run("quiet")
        with attackers.flooding(name, attackers.decoy):
            run("decoy")
        with attackers.flooding(name, victim) as done:
            run("flood")
        total += sum(done)
    return found, total


def measure(names: list[str], seconds: float, rounds: int, has_limit: bool) -> tuple[list[Figure], list[Chart]]:
    """Measure the floods that are named, one after the other. ``has_limit``: a p99 beyond the limit is a failure."""
    with (
        tempfile.TemporaryDirectory() as directory,
        _run_network(Path(directory)) as (cluster, decoy),
        closing(Attackers(cluster, decoy)) as attackers,
    ):
        trio.run(_run_clients, WARM_UP_S, attackers.executor, attackers.payer)
        measured = {}
        for name in names:
            measured[name], done = measure_flood(attackers, name, seconds, rounds)
            print(f"{name}: {done / rounds / seconds:,.1f} a second", flush=True)
            for node in (*cluster.nodes, decoy):
                assert node.is_running, f"a node ended in the flood {name}:\n{node.log[-3000:]}"
    figures = []
    for name, found in measured.items():
        figures += _get_figures(FLOODS[name].title, found, has_limit)
    return figures, [_make_chart(measured)]


def _get_figures(title: str, found: dict[str, Measured], has_limit: bool) -> list[Figure]:
    figures = []
    for kind in KINDS:
        measured = found[kind]
        for percent in (50, 99):
            value, usual = (part.get_percentile(percent) for part in (measured.flood, measured.decoy))
            limit = LIMIT * usual if has_limit and percent == 99 else None
            figures.append(Figure(f"{title}: {kind} p{percent}", value, "ms", usual, "decoy flooded", limit))
        usual = measured.quiet.get_percentile(99)
        figures.append(Figure(f"{title}: {kind} p99 without any flood", usual, "ms"))
    failed = sum(found[kind].flood.failures + found[kind].flood.local for kind in KINDS)
    share = failed / max(1, failed + sum(len(found[kind].flood.latencies) for kind in KINDS))
    limit = FAILURES_LIMIT if has_limit else None
    figures.append(Figure(f"{title}: share of requests that failed or were not offloaded", share, "", limit=limit))
    return figures


def _make_chart(measured: dict[str, dict[str, Measured]]) -> Chart:
    series = []
    for kind in KINDS:
        for part, when in (("quiet", "no flood"), ("decoy", "decoy flooded"), ("flood", "flooded")):
            loads = [getattr(found[kind], part) for found in measured.values()]
            series.append(Series(f"{kind}, {when}", (), tuple(load.get_percentile(99) for load in loads)))
    return Chart("Time of an honest request, p99", "", "ms", tuple(series), tuple(measured))


def main() -> None:
    """Command line."""
    run = Run(
        "floods",
        __doc__,
        Option("floods", tuple(FLOODS), ("unpaid_offers", "keyless_bodies", "tiny_events"), "which floods"),
        Option("seconds", 10.0, 0.5, "duration of each load"),
        Option("rounds", 4, 1, "loads of each kind, in turns, for each flood"),
    )
    names = list(run.values["floods"])
    if unknown := [name for name in names if name not in FLOODS]:
        raise SystemExit(f"no flood {unknown[0]}: there are {', '.join(FLOODS)}")
    run.finish(*measure(names, run.values["seconds"], run.values["rounds"], has_limit=not run.quick))


if __name__ == "__main__":
    main()
