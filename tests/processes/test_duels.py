"""Duels between node processes over real libp2p: one runs to its verdict, and its parties say the same of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chain.parameters.checks import CheckParameters
from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import Parameters
from serving.cli.demo.node_process import HTTP
from tests.support.cluster import ENTRY, Cluster, offload_at_entry, request, run_cluster
from tests.support.commands import run_here
from tests.support.fake_backend import MODEL, FakeOptions, serve_forked
from tests.support.forked import ForkedServer
from tests.support.waiting import wait_until

DUELS = DuelParameters(
    rate=1_000,
    probation_rate=1_000,
    judges=1,
    challenger=300,
    challenger_lost=200,
    judge=300,
    executor_won=100,
    executor_lost=250,
    levy=1_000,
)
PARAMETERS = Parameters(
    epoch_heights=16_384,
    round_heights=4,
    missed_lead_fee=0,
    idle_beat_ms=250,
    duels=DUELS,
    checks=CheckParameters(checkers=0),
)
"""Blocks come quickly, since a draw takes up to 40 of them."""
GOOD = 3
"""The node whose answers are better, as every judge says."""
MAX_REQUESTS = 60


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The first node offloads; the others have a backend each, and judge."""
    with ExitStack() as stack:
        backends = []
        for number in range(4):
            options = FakeOptions(word="good " if number == GOOD else "plain ", prefers="good")
            backend = ForkedServer(serve_forked, options)
            stack.callback(backend.kill)
            backends.append(backend)

        def configure(number: int) -> dict[str, Any]:
            model = {"kind": "openai", "base_url": backends[number].told, "names": [MODEL]}
            judge = {"enabled": number != ENTRY, "form": "letter"}
            return {**offload_at_entry(number), "models": [model], "judge": judge}

        yield stack.enter_context(run_cluster(tmp_path / "cluster", parameters=PARAMETERS, config=configure))


def list_duels(cluster: Cluster, number: int) -> list[dict[str, Any]]:
    duels: list[dict[str, Any]] = cluster.nodes[number].ask("/duels")["duels"]
    return duels


def test_a_duel_runs_to_its_verdict_and_all_parties_say_the_same_of_it(cluster: Cluster) -> None:
    entry = cluster.nodes[ENTRY]
    wait_until(
        lambda: all(node.ask("/duels")["judge"] for node in cluster.nodes if node is not entry), "judges declared"
    )

    def find_verdict() -> dict[str, Any] | None:
        return next((duel for duel in list_duels(cluster, ENTRY) if duel["challenger"] and duel["verdict"]), None)

    for _ in range(MAX_REQUESTS):
        request(entry, "why?", stream=True)
        if find_verdict():
            break
    wait_until(find_verdict, "a duel with a challenger is settled")
    duel = find_verdict()
    assert duel is not None and duel["role"] == "originator" and duel["moved"] == 0
    good = cluster.nodes[GOOD].address
    parties = {duel["executor"]: "executor won", duel["challenger"]: "executor lost"}
    verdict = parties.get(good, "tie")
    assert duel["verdict"] == verdict or (verdict == "tie" and duel["verdict"] == "identical answers")
    roles = {}
    for number, node in enumerate(cluster.nodes):
        wait_until(lambda number=number: any(is_same(duel, each) for each in list_duels(cluster, number)), "all know")
        roles[node.address] = next(each["role"] for each in list_duels(cluster, number) if is_same(duel, each))
    assert sorted(roles.values()) == ["challenger", "executor", "judge", "originator"]
    assert roles[duel["executor"]] == "executor" and roles[duel["challenger"]] == "challenger"

    shown = run_here("duels", "-d", entry.directory).output
    assert duel["hold"][:16] in shown and duel["verdict"] in shown
    metrics = HTTP.get(f"http://127.0.0.1:{entry.admin_port}/metrics").text
    assert 'wwwserve_duels_total{role="originator"}' in metrics
    assert cluster.stop() == [0] * len(cluster.nodes)
    for node in cluster.nodes:
        ledger = json.loads(run_here("chain", "show", "--duels", "-d", node.directory, "--json").output)
        assert duel["verdict"] == next(each["verdict"] for each in ledger if each["hold"] == duel["hold"])


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["hold"] == other["hold"] and one["verdict"] == other["verdict"])
