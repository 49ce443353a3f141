"""What ``status`` and the start of ``run`` say: the verdict first, every trouble with what to do, in a screenful."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from chain.cli.contract import ExitCode
from consensus.stall import MIN_STALL_S
from node import Node
from serving.admin.health.diagnosis import CONNECTING_S, Verdict, judge
from serving.admin.health.health import find_node_troubles
from serving.admin.reports import report_status
from serving.cli.app import build_wwwserve_app
from serving.cli.running.status import describe_start, describe_status
from tests.serving.admin.client import expect, with_admin
from tests.support.commands import run_cli
from tests.support.keys import make_key
from tests.support.owner_answers import ANSWERS
from tests.support.solo_node import make_node

HERE = "/home/me/.local/share/wwwserve"


def show(node: Node) -> list[str]:
    return describe_status(report_status(node), HERE)


@with_admin
async def test_a_node_that_is_well_says_so_in_a_screenful(node: Node, client: httpx.AsyncClient) -> None:
    (alone,) = find_node_troubles(node)
    assert alone.code == "alone" and judge([alone]) is Verdict.READY
    lines = show(node)
    assert lines[0].startswith("● ready ") and HERE in lines[0] and len(lines) <= 24
    text = "\n".join(lines)
    assert "validator with 100 % of stake" in text and "parrot · 0 running, 0 waiting, 2 slots" in text
    assert "1,000.000000 credits available" in text and "micro" not in text
    assert (await client.get("/healthz")).status_code == 200


@with_admin
async def test_a_backend_that_is_down_is_named_with_what_to_do(node: Node, client: httpx.AsyncClient) -> None:
    backend: Any = node.backend_pool.scheduled[0].backend
    backend.is_alive, backend.place, backend.fault = lambda: False, "http://127.0.0.1:9000/v1", "connection refused"
    trouble, _ = found = find_node_troubles(node)
    assert (judge(found), trouble.code) == (Verdict.DEGRADED, "backend")
    lines = show(node)
    assert lines[0].startswith("! serving, but not all is well")
    assert lines[1:3] == [
        "  ✗ backend http://127.0.0.1:9000/v1 (parrot): connection refused",
        "    → start its server, or take it out of 'models' in config.yaml",
    ]
    answer = await expect(client, "GET", "/healthz")
    assert (answer["status"], answer["reasons"]) == ("degraded", ["backend"])  # where it is is for the owner
    assert "9000" not in str(answer)
    (reported,) = (await expect(client, "GET", "/models"))["backends"]
    assert (reported["is_alive"], reported["fault"]) == (False, "connection refused")


@pytest.mark.trio
async def test_a_node_that_has_not_begun_to_follow_its_ledger_is_not_stalled() -> None:
    node, _ = make_node()
    assert not node.engine.is_stalled and node.engine.status().final_age == 0.0


@with_admin
async def test_a_chain_that_stands_still_is_stalled_and_unavailable(node: Node, client: httpx.AsyncClient) -> None:
    node.engine.last_final_at -= MIN_STALL_S + 10 * node.engine.genesis.parameters.idle_beat_ms / 1000
    answer = await expect(client, "GET", "/healthz", 503)
    assert (answer["status"], answer["reasons"]) == ("stalled", ["stalled"])
    assert show(node)[0].startswith("✗ stalled") and "no block became final for" in show(node)[1]
    assert await expect(client, "GET", "/livez") == {"status": "alive"}


@with_admin
async def test_a_node_that_ends_says_what_it_waits_for_and_takes_no_orders(
    node: Node, client: httpx.AsyncClient
) -> None:
    node.take_nothing_new(20.0)
    status = await expect(client, "GET", "/status")
    ending = status["ending"]
    assert status["verdict"] == "ending" and (ending["requests"], ending["payments"]) == (0, 0)
    assert ending["since_s"] >= 0 and ending["left_s"] <= 20
    verdict, trouble, *_ = show(node)
    assert verdict.startswith("○ ending ") and "it waits for its goodbye to be sent, " in trouble
    assert (await expect(client, "GET", "/healthz", 503))["reasons"] == ["ending"]
    for method, path in (("POST", "/policy/reload"), ("PUT", "/policy"), ("POST", "/wallet/transfer")):
        assert "ending" in (await expect(client, method, path, 503))["error"]


def test_the_command_says_of_a_node_that_ends_that_none_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ending = {"since_s": 1.0, "left_s": 19.0, "requests": 1, "payments": 0}
    status = {**ANSWERS["/status"], "verdict": "ending", "ending": ending}
    monkeypatch.setattr("serving.cli.running.owner.ask_node", lambda *_: status)
    outcome = run_cli(build_wwwserve_app(), "status", "-d", tmp_path, "--json")
    assert (outcome.code, json.loads(outcome.stdout)) == (ExitCode.NO_NODE, status)


@with_admin
async def test_bootstrap_peers_that_do_not_answer_are_named(node: Node, client: httpx.AsyncClient) -> None:
    node.bootstrap = ((make_key("peer").public_key, "/ip4/192.0.2.1/tcp/4001"),)
    (trouble,) = found = find_node_troubles(node)
    assert (judge(found), trouble.code) == (Verdict.READY, "connecting")
    node.engine._started_at -= CONNECTING_S
    (trouble,) = found = find_node_troubles(node)
    assert (judge(found), trouble.code) == (Verdict.DEGRADED, "bootstrap") and "192.0.2.1" in trouble.text


@with_admin
async def test_a_node_that_starts_says_who_and_where_it_is_in_few_lines(node: Node, client: httpx.AsyncClient) -> None:
    status = report_status(node)
    for needs_key, said in ((False, "every program on this machine may use it"), (True, "programs need a key")):
        lines = describe_start(status, "http://127.0.0.1:8000/v1", needs_key, "http://127.0.0.1:8001", ["/ip4/1"])
        assert len(lines) <= 10 and said in lines[1]
        assert lines[0].startswith("wwwserve ") and node.key.address in lines[0]


def test_the_tree_of_commands_has_the_watch_for_people_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run_cli(build_wwwserve_app(), "status", "--watch", "--json", "-d", tmp_path)
    assert outcome.code == 2
