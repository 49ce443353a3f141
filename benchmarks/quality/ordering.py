"""Whether duels order nodes as their quality does: real node processes, real models, strong and weak judges.

Seven nodes on loopback. The first sends requests and serves none; the others are two nodes each with all 30 layers of
the embedded model, with 26 and with 22 of them, which answer worse and worse. Every answer is paid on the ledger and
becomes a duel. One network has the *strong* judge, which is a stand-in for a judge that knows better than those whom it
judges: it compares two answers by their mean log-probability under the full model
(:mod:`benchmarks.quality.ordering_servers`). The other has the *weak* one, the full model itself with the judging
prompt of the program, in the one order that is drawn. The difference is what weak judges cost the ordering.

A win rate is over the duels between nodes of two classes, where a tie counts as half a win; its interval is Wilson's at
95 %. Credit is what a duel moved to its executor and its challenger, as a share of the price, on average over both
roles; what judges earn is left out. One judge decides a duel: judges with one model, asked in the same order, would
mostly cast the same vote. With the strong judge the win rates must be in the order of quality, and the intervals of 30
and of 22 layers disjoint; a quick run has too few duels for that, and shows that they are settled. The prompts follow
from the seed; the answers and the draws of the chain do not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx

from benchmarks.pictures import Chart, Series
from benchmarks.quality.duel_outcomes import (
    DuelOutcome,
    compute_all_moved,
    compute_mean_moved,
    count_abstentions,
    count_inversions,
    count_mismatches,
    count_wins,
    read_outcomes,
)
from benchmarks.quality.model_variants import get_variant
from benchmarks.quality.ordering_servers import ModelServer, serve_model
from benchmarks.report import Figure, Option, Run
from chain.audit.duels import DuelHistory, list_duels
from chain.audit.sources import StoreSource
from chain.parameters.checks import CheckParameters
from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import Parameters
from chain.store.kv import LevelStore
from serving.cli.demo.node_process import HTTP
from serving.quality.judging.measurement import Proportion
from serving.quality.same_model.prompts import draw_prompts
from tests.support.cluster import ENTRY, Cluster, ClusterNode, offload_at_entry, run_cluster
from tests.support.fake_backend import MODEL
from tests.support.forked import ForkedServer
from tests.support.waiting import wait_until

CLASSES = {"30 layers": "q4_1", "26 layers": "26 layers", "22 layers": "22 layers"}
"""The classes of nodes from the best to the worst, and the variant of the embedded model that each serves."""
BEST, *_, WORST = CLASSES
NODES_PER_CLASS = 2
JUDGE_MODEL = "judge"
"""Name of the model that judges; each node but the first has it beside its own."""
JUDGE_TIMEOUT_S = 240.0
"""Seconds that a ballot may take: all judges share one thread."""
STAGE_MS = 300_000
"""Milliseconds that each stage of a duel may take, so that none ends because the machine is slow."""
PARAMETERS = Parameters(
    epoch_heights=16_384,
    round_heights=4,
    missed_lead_fee=0,
    idle_beat_ms=250,
    duels=DuelParameters(
        rate=1_000,
        probation_rate=1_000,
        judges=1,
        answer_ms=STAGE_MS,
        commit_ms=STAGE_MS,
        reveal_ms=STAGE_MS,
        challenger=300,
        challenger_lost=200,
        judge=300,
        executor_won=100,
        executor_lost=250,
        levy=1_000,
        exposure_exponent=0,
        repeat_rate=300,
    ),
    checks=CheckParameters(checkers=0),
)
"""Every capture becomes a duel, for which its levy pays. All nodes are drawn equally often, whatever their rating."""
ANSWER_TOKENS = 32
"""Most completion tokens of an answer."""
TEMPERATURE = 0.7
"""Temperature of the answers."""
MAX_OPEN = 16
"""Answers whose duels are not settled at a time: judges get through as many in a part of a stage."""
END_TIMEOUT_S = 600.0
"""Seconds without a duel being settled after which those that are left count as without an end."""
POLL_S = 0.25
REQUEST_TIMEOUT_S = 600.0
"""Seconds that an answer may take: all servers of models share the machine with the judges."""


@dataclass(frozen=True, slots=True)
class Market:
    """What was seen of one network: answers that a duel must be about, all duels, and outcomes of those with two."""

    answers: int
    histories: list[DuelHistory]
    outcomes: list[DuelOutcome]

    @property
    def wins(self) -> dict[str, Proportion]:
        """Wins of each class against others."""
        return {name: count_wins(self.outcomes, name) for name in CLASSES}

    @property
    def moved(self) -> dict[str, float]:
        """Credit that a duel moved to each class on average, as a share of the price."""
        return {name: compute_mean_moved(self.outcomes, name) for name in CLASSES}

    @property
    def spread(self) -> float:
        """How much higher the win rate of the best class is than that of the worst."""
        return self.wins[BEST].share - self.wins[WORST].share


def get_class(number: int) -> str:
    """The class of a node by its number; the first node, which only sends requests, has the best model."""
    return list(CLASSES)[max(0, number - 1) // NODES_PER_CLASS]


def run_market(is_strong: bool, requests: int, seed: int) -> Market:
    """Run one network for ``requests`` requests, until the duels about their answers are settled."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def start_server(server: ModelServer) -> str:
            process = ForkedServer(serve_model, server)
            stack.callback(process.kill)
            return process.told

        urls = {name: start_server(ModelServer(variant, MODEL)) for name, variant in CLASSES.items()}
        judge_url = start_server(ModelServer(CLASSES[BEST], JUDGE_MODEL, is_strong))

        def configure(number: int) -> dict[str, Any]:
            models = [{"kind": "openai", "base_url": urls[get_class(number)], "names": [MODEL], "load": "none"}]
            config: dict[str, Any] = {**offload_at_entry(number), "models": models}
            if number == ENTRY:
                return config
            models.append({"kind": "openai", "base_url": judge_url, "names": [JUDGE_MODEL], "load": "none"})
            judge = {"enabled": True, "model": JUDGE_MODEL, "form": "letter", "timeout_s": JUDGE_TIMEOUT_S}
            return {**config, "judge": judge}

        count = 1 + NODES_PER_CLASS * len(CLASSES)
        cluster = stack.enter_context(run_cluster(directory, count, parameters=PARAMETERS, config=configure))
        judges = [node for node in cluster.nodes if node is not cluster.nodes[ENTRY]]
        wait_until(lambda: all(node.ask("/duels")["judge"] for node in judges), "not all judges are declared")
        answers = send_requests(cluster.nodes[ENTRY], requests, seed)
        cluster.stop()
        histories = read_duels(cluster.nodes[ENTRY])
        return Market(answers, histories, read_outcomes(histories, get_classes(cluster)))


def get_classes(cluster: Cluster) -> dict[bytes, str]:
    """The class of each account that serves."""
    return {node.key.public_key: get_class(number) for number, node in enumerate(cluster.nodes) if number != ENTRY}


def send_requests(entry: ClusterNode, count: int, seed: int) -> int:
    """Send ``count`` requests, with at most MAX_OPEN duels open, and wait for all duels to be settled.

    Returns how many answers came from other nodes, without those that are empty, which no duel is about.
    """
    answers, last_change = 0, time.monotonic()
    settled: set[str] = set()

    def wait_for(open_duels: int) -> None:
        """Wait until no more duels than this are open, or none was settled for long."""
        nonlocal last_change
        while answers - len(settled) > open_duels and time.monotonic() < last_change + END_TIMEOUT_S:
            time.sleep(POLL_S)
            found = {each["hold"] for each in entry.ask("/duels")["duels"] if each["verdict"] is not None}
            if not found <= settled:
                settled.update(found)  # the node lists the latest ones only
                last_change = time.monotonic()
                print(f"{len(settled)} duels settled, {answers} answers", file=sys.stderr, flush=True)

    for prompt in draw_prompts(seed, count):
        body = {
            "model": MODEL,
            "max_tokens": ANSWER_TOKENS,
            "temperature": TEMPERATURE,  # and no seed, or two nodes of one class would write the same
            "messages": [{"role": "user", "content": prompt}],
        }
        response = HTTP.post(entry.completions_url, json=body, timeout=REQUEST_TIMEOUT_S)
        if response.status_code != httpx.codes.OK:
            raise SystemExit(f"a request was refused: {response.status_code} {response.text}")
        is_of_other = response.headers["x-wwwserve-executor"] != "local"
        answers += is_of_other and response.json()["choices"][0]["message"]["content"] != ""
        last_change = time.monotonic()
        wait_for(MAX_OPEN)
    wait_for(0)
    return answers


def read_duels(node: ClusterNode) -> list[DuelHistory]:
    """All duels of the chain of a node that is stopped."""
    store = LevelStore(node.directory / "chain", create=False)
    try:
        return list_duels(StoreSource(store))
    finally:
        store.close()


def make_figures(kind: str, market: Market, is_limited: bool) -> Iterator[Figure]:
    """All figures of one network; those of a full run with the strong judge have limits."""
    limit = 0.0 if is_limited else None
    wins, moved = market.wins, market.moved
    unsettled = market.answers - sum(history.verdict is not None for history in market.histories)
    yield Figure(f"{kind}: answers of other nodes", market.answers, "")
    yield Figure(f"{kind}: duels with two answers", len(market.outcomes), "")
    yield Figure(f"{kind}: answers without a settled duel", unsettled, "", limit=0)
    for name, found in wins.items():
        yield _make_share(f"{kind}: win rate of {name}", found)
    for better, worse in combinations(CLASSES, 2):
        yield _make_share(f"{kind}: {better} against {worse}", count_wins(market.outcomes, better, worse))
    overlap = wins[WORST].interval[1] - wins[BEST].interval[0]
    yield Figure(f"{kind}: overlap of the intervals of {BEST} and {WORST}", overlap, "", limit=limit)
    inversions = count_inversions([found.share for found in wins.values()])
    yield Figure(f"{kind}: pairs of classes in wrong order by win rate", inversions, "of 3", limit=limit)
    for name, amount in moved.items():
        yield Figure(f"{kind}: credit that a duel moved to {name}, mean of both roles", amount, "of the price")
    for name in CLASSES:
        all_moved = compute_all_moved(market.outcomes, name)
        yield Figure(f"{kind}: credit that all duels moved to {name}", all_moved, "prices")
    inversions = count_inversions(list(moved.values()))
    yield Figure(f"{kind}: pairs of classes in wrong order by credit", inversions, "of 3")
    verdicts = Counter(history.verdict for history in market.histories if history.verdict is not None)
    for verdict, number in sorted(verdicts.items(), key=lambda item: (-item[1], item[0].value)):
        yield Figure(f"{kind}: verdict {verdict.value}", number, "")
    yield _make_share(f"{kind}: abstentions", count_abstentions(market.histories), "ballots")
    yield _make_share(f"{kind}: votes that differ when run again", count_mismatches(market.histories), "votes")


def _make_share(name: str, found: Proportion, cases: str = "duels") -> Figure:
    low, high = found.interval
    return Figure(name, found.share, "", against=f"95 % interval {low:.2f} to {high:.2f}, {found.cases} {cases}")


def make_charts(markets: dict[str, Market]) -> list[Chart]:
    """Win rates with their intervals for each judge, and credit, by class."""
    names = tuple(CLASSES)
    charts = []
    for kind, market in markets.items():
        found = market.wins.values()
        shares, intervals = tuple(wins.share for wins in found), tuple(wins.interval for wins in found)
        series = Series("with its 95 % interval", (), shares, intervals=intervals)
        charts.append(Chart(f"Win rate, {kind}", "", "share of duels with another class", (series,), names))
    credit = tuple(Series(kind, (), tuple(market.moved.values())) for kind, market in markets.items())
    return [*charts, Chart("Credit that a duel moved", "", "share of the price", credit, names)]


def main() -> None:
    """Command line."""
    run = Run(
        "ordering",
        __doc__,
        Option("strong", 150, 3, "requests to the network with the strong judge"),
        Option("weak", 90, 0, "requests to the network with the weak judge; 0: without it"),
        is_timed=False,
    )
    for variant in CLASSES.values():
        get_variant(variant)
    markets: dict[str, Market] = {}
    figures: list[Figure] = []
    for kind in ("strong", "weak"):
        if run.values[kind]:
            is_strong = kind == "strong"
            market = markets[f"{kind} judge"] = run_market(is_strong, run.values[kind], run.seed)
            figures += make_figures(f"{kind} judge", market, is_strong and not run.quick)
    if len(markets) > 1:
        strong, weak = markets.values()
        name = f"weak judge: win rate of {BEST} less that of {WORST}"
        figures.append(Figure(name, weak.spread, "", strong.spread, "strong judge"))
    run.finish(figures, make_charts(markets))


if __name__ == "__main__":
    main()
