"""Checks of the model between node processes over real libp2p: one runs to its end, and its parties say the same of it;
and a node whose backend cannot be checked does not start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from chain.parameters.checks import CheckParameters
from chain.parameters.parameters import Parameters
from serving.cli.demo.node_process import HTTP
from tests.support.cluster import ENTRY, Cluster, offload_at_entry, request, run_cluster
from tests.support.commands import run_here
from tests.support.fake_backend import MODEL
from tests.support.forked import ForkedServer, run_command
from tests.support.market.check_world import DUELS
from tests.support.ports import reserve_ports
from tests.support.servers.scripted_model import ScriptedModel, serve_model_forked
from tests.support.waiting import wait_until

PARAMETERS = Parameters(
    epoch_heights=16_384,
    round_heights=4,
    missed_lead_fee=0,
    idle_beat_ms=250,
    duels=DUELS,
    checks=CheckParameters(checkers=1, levy=300),
)
"""Blocks come quickly, since a draw takes up to 40 of them."""
CHEAT = 3
"""The node whose backend has other weights than it declares."""
IDENTITY = {"model": MODEL, "weights": "0a" * 32, "quantization": "w16a16-kv16", "engine": "vllm"}
MAX_REQUESTS = 40


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The first node offloads; the others have a model each, and declare the same identity."""
    with ExitStack() as stack:
        servers = []
        for number in range(4):
            noise = 1.0 if number == CHEAT else 0.0
            server = ForkedServer(serve_model_forked, ScriptedModel("vllm", f"weights {number}", noise))
            stack.callback(server.kill)
            servers.append(server)

        def configure(number: int) -> dict[str, Any]:
            identity = None if number == ENTRY else IDENTITY
            model = {"kind": "openai", "base_url": servers[number].told, "names": [MODEL], "identity": identity}
            return {**offload_at_entry(number), "models": [model]}

        yield stack.enter_context(run_cluster(tmp_path / "cluster", parameters=PARAMETERS, config=configure))


def list_checks(cluster: Cluster, number: int) -> dict[str, dict[str, Any]]:
    """What a node says of the checks that are settled, by hold."""
    checks = cluster.nodes[number].ask("/duels")["checks"]
    return {check["hold"]: check for check in checks if check["outcome"]}


def test_a_check_runs_to_its_end_and_all_parties_say_the_same_of_it(cluster: Cluster) -> None:
    entry, cheat = cluster.nodes[ENTRY], cluster.nodes[CHEAT]
    others = [node for node in cluster.nodes if node is not entry]
    wait_until(lambda: all(node.ask("/duels")["identities"] for node in others), "identities declared")

    def find_check(is_cheat: bool) -> dict[str, Any] | None:
        checks = list_checks(cluster, ENTRY).values()
        return next((check for check in checks if (check["executor"] == cheat.address) == is_cheat), None)

    for number in range(MAX_REQUESTS):
        _, _, text = request(entry, f"why {number}?", stream=bool(number % 2))
        assert text
        if find_check(True) and find_check(False):
            break
    for is_cheat in (True, False):
        wait_until(lambda is_cheat=is_cheat: find_check(is_cheat), "a check is settled")
        check = find_check(is_cheat)
        assert check is not None and check["role"] == "originator" and check["moved"] == 0
        # An honest checker finds other weights; one with other weights takes an honest answer for theirs.
        assert check["outcome"] == "failed" or (not is_cheat and check["outcome"] == "passed")
        roles = {}
        for number, node in enumerate(cluster.nodes):
            found = find_settled(cluster, number, check["hold"])
            if found is not None:
                assert {**found, "role": "", "moved": 0} == {**check, "role": "", "moved": 0}
                roles[node.address] = found["role"]
        assert sorted(roles.values()) == ["checker", "executor", "originator"]
        assert roles[check["executor"]] == "executor"

    shown = run_here("duels", "-d", entry.directory).output
    assert check["hold"][:16] in shown and check["outcome"] in shown
    (model,) = HTTP.get(f"{entry.api_url}/models").json()["data"]
    (identity,) = model["wwwserve"]["identities"]
    assert identity["executors"] == 3
    assert 'wwwserve_checks_total{role="originator"}' in HTTP.get(f"http://127.0.0.1:{entry.admin_port}/metrics").text
    assert cluster.stop() == [0] * len(cluster.nodes)


def find_settled(cluster: Cluster, number: int, hold: str) -> dict[str, Any] | None:
    """What a node says of a settled check, once it knows; None if it had no part in it."""
    if all(check["hold"] != hold for check in cluster.nodes[number].ask("/duels")["checks"]):
        return None
    wait_until(lambda: hold in list_checks(cluster, number), "a party knows")
    return list_checks(cluster, number)[hold]


def test_a_node_whose_backend_cannot_be_checked_says_so_and_ends(tmp_path: Path) -> None:
    server = ForkedServer(serve_model_forked, ScriptedModel("plain"))
    try:
        home = tmp_path / "home"
        run_here("init", "-d", home, "--new-chain", "test", "--duel-rate", "100")
        config = yaml.safe_load((home / "config.yaml").read_text())
        port, api, admin = reserve_ports(3)
        model = {"kind": "openai", "base_url": server.told, "names": [MODEL], "identity": IDENTITY}
        config |= {"models": [model], "listen": [f"/ip4/127.0.0.1/tcp/{port}"]}
        config["api"]["port"], config["admin"]["port"] = api, admin
        (home / "config.yaml").write_text(yaml.safe_dump(config))
        result = run_command("run", "-d", home)
    finally:
        server.kill()
    assert result.code == 1
    message = f"the identity of model '{MODEL}' cannot be declared: the backend cannot score given tokens"
    assert message in result.stderr and "Traceback" not in result.stderr
