"""Four node processes over real libp2p: they finalize, answer, pay, take in a late one, and can be audited."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chain.audit.sources import StoreSource
from chain.parameters.parameters import CREDIT
from serving.cli.app import build_wwwserve_app
from serving.config.data_directory import OTHERS
from serving.config.file import load_config
from serving.logs.file import LOG_FILE
from tests.support.cluster import (
    ENTRY,
    SHORT_EPOCHS,
    Cluster,
    ClusterNode,
    offload_at_entry,
    request,
    run_cluster,
)
from tests.support.commands import run_cli, run_here
from tests.support.fake_backend import MODEL
from tests.support.ledgers import check_agreement, fetch_ledger, read_ledger
from tests.support.ports import reserve_ports
from tests.support.waiting import wait_until

OFFLOADED = 6
MAX_REQUESTS = 60


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nodes for the tests that leave them as they find them; the first is started as a user starts it."""
    directory = tmp_path_factory.mktemp("network")

    def start(node: ClusterNode) -> None:
        if node.directory.name == f"node{ENTRY}":
            node.start_installed()
        else:
            node.start()

    with run_cluster(directory, config=offload_at_entry, parameters=SHORT_EPOCHS, start=start) as cluster:
        yield cluster


@pytest.fixture
def calm_cluster(started: Cluster) -> Cluster:
    """Four validators that are shown to be whole."""
    started.wait_whole()
    return started


def test_what_running_nodes_keep_is_accessible_to_their_owner_alone(calm_cluster: Cluster) -> None:
    for node in calm_cluster.nodes:
        kept = [node.directory, *node.directory.rglob("*")]
        assert len(kept) > 10
        assert not [path for path in kept if path.exists() and path.stat().st_mode & OTHERS]
        assert "the data directory was open to other users" in node.log, "the cluster makes it as any program would"


def test_requests_through_each_node_are_answered_and_offloaded_ones_paid(calm_cluster: Cluster) -> None:
    entry, *others = calm_cluster.nodes
    before = {node.address: node.ask("/wallet")["earned"] for node in others}
    offloaded: list[tuple[str, str, str]] = []
    for number in range(MAX_REQUESTS):  # on a busy machine no node may accept in time, and the entry serves it itself
        answered = request(entry, f"offload {number}", stream=number % 2 == 0)
        assert answered[1] in {*before, "local"} and answered[2] == "word " * 8
        if answered[1] != "local":
            offloaded.append(answered)
        if len(offloaded) == OFFLOADED:
            break
    assert len(offloaded) == OFFLOADED
    local = [request(node, "serve", stream) for node in others for stream in (True, False)]
    assert {(executor, text) for _, executor, text in local} == {("local", "word " * 8)}

    def find_rows() -> list[dict[str, Any]]:
        rows = {row["id"]: row for row in entry.ask("/requests?limit=1024")["requests"]}
        return [rows[name] for name, _, _ in offloaded]

    wait_until(lambda: all(row["settled_height"] for row in find_rows()), "payments are not final")
    rows = find_rows()
    assert all(row["outcome"] == "completed" and row["completion_tokens"] == 8 for row in rows)
    price = calm_cluster.genesis.parameters.get_price(MODEL)
    assert all(price.per_request < row["amount"] <= row["held"] for row in rows)
    owed = {node.address: sum(row["amount"] for row in rows if row["executor"] == node.address) for node in others}
    wait_until(
        lambda: {node.address: node.ask("/wallet")["earned"] - before[node.address] for node in others} == owed,
        "the executors were not paid what the payer says",
    )
    ledger = fetch_ledger(entry, calm_cluster.genesis, calm_cluster.directory)
    assert all(len(ledger.deliveries[bytes.fromhex(row["hold"])]) == 1 for row in rows)


def test_the_owner_watches_a_node_by_commands(calm_cluster: Cluster) -> None:
    entry, other = calm_cluster.nodes[0], calm_cluster.nodes[1]

    def ask(*arguments: object) -> Any:
        outcome = run_cli(build_wwwserve_app(), *arguments, "-d", entry.directory, "--json")
        assert outcome.code == 0, outcome
        return json.loads(outcome.stdout)

    pinged = ask("ping", other.address[-6:], "--count", 1)
    assert (pinged["address"], pinged["answered"], pinged["pings"][0]["path"]) == (other.address, 1, "direct")
    check = ask("netcheck")
    assert check["connected"] >= 3 and check["clock_ms"] is not None and check["seen_as"] == ["127.0.0.1"]
    assert ask("top")["status"]["verdict"] == "ready"
    for number in range(MAX_REQUESTS):
        if request(entry, f"never logged {number}", stream=False)[1] != "local":
            break
    rows = ask_settled(entry)
    history = ask("wallet", "history", "--limit", 0)["entries"]
    captured = -sum(each["change"] for each in history if each["cause"] == "capture")
    assert captured == sum(row["amount"] for row in rows) > 0
    wait_until(
        lambda: len(ask("logs", "-n", 0, "--event", "payment final")["events"]) == len(rows), "nothing is logged"
    )
    expected = {"ready", "peer joined", "request ended", "payment final"}  # it looks for peers some seconds apart
    wait_until(lambda: expected <= {each["event"] for each in ask("logs", "-n", 0)["events"]}, "not all is logged")
    log = (entry.directory / LOG_FILE).read_text()
    assert not any(words in log for words in ("never logged", "word word", entry.key.seed.hex()))


def ask_settled(node: ClusterNode) -> list[dict[str, Any]]:
    """The offloaded requests of a node's users, once all of them are paid."""

    def find_rows() -> list[dict[str, Any]]:
        return [row for row in node.ask("/requests?limit=1024")["requests"] if row["hold"] is not None]

    wait_until(lambda: all(row["settled_height"] for row in find_rows()), "payments are not final")
    return find_rows()


@pytest.mark.long
def test_a_frozen_node_catches_up(cluster: Cluster) -> None:
    frozen, *others = reversed(cluster.nodes)
    others[0].transfer(others[1], CREDIT)
    frozen.send(signal.SIGSTOP)
    try:
        wait_until(lambda: all(not node.sees([frozen]) for node in others), "the others did not notice")
        for number in range(5):
            height = others[0].transfer(others[1], CREDIT + number)
    finally:
        frozen.send(signal.SIGCONT)
    wait_until(lambda: frozen.height >= height, "the node did not catch up")
    cluster.wait_ready()
    assert frozen.transfer(others[0], CREDIT) > height


def test_a_late_node_without_a_past_catches_up_and_serves(cluster: Cluster, tmp_path: Path) -> None:
    height = cluster.nodes[1].transfer(cluster.nodes[2], CREDIT)
    guest = cluster.add_guest("late", {})
    guest.start()
    cluster.wait_ready([guest])
    wait_until(lambda: guest.height >= height, "the late node did not catch up")
    status = guest.ask("/status")
    assert (status["is_validator"], status["chain_id"]) == (False, cluster.genesis.chain_id.hex())
    assert request(guest, "hello", stream=True)[1:] == ("local", "word " * 8)
    cluster.nodes[1].transfer(guest, 5 * CREDIT)
    wait_until(lambda: guest.ask("/wallet")["available"] == 5 * CREDIT, "the late node does not follow the chain")
    assert guest.stop() == 0
    audit = run_here("verify", guest.directory, "--json", command="chain")
    assert json.loads(audit.output)["height"] >= height
    assert "Traceback" not in guest.log


def test_the_owners_commands(calm_cluster: Cluster) -> None:
    node, other = calm_cluster.nodes[1], calm_cluster.nodes[2]

    def command(*arguments: object) -> str:
        return run_here(*arguments, "-d", node.directory).output

    status = json.loads(command("status", "--json"))
    assert (status["address"], status["chain"]) == (node.address, "test")
    assert status["is_validator"] and status["connected_peers"] >= 3
    assert f"/ip4/127.0.0.1/tcp/{node.peer_port}" in command("status")
    peers = command("peers")
    assert all(peer.address in peers for peer in calm_cluster.nodes if peer is not node)
    served = json.loads(command("models", "--json"))["models"]
    assert [entry["id"] for entry in served] == [MODEL] and MODEL in command("models")
    available = node.ask("/wallet")["available"]
    assert f"{available / CREDIT:,.6f}" in command("wallet", "show")
    sent = command("wallet", "transfer", other.address, "2.5")
    assert sent.startswith("final at height ")
    fee = available - node.ask("/wallet")["available"] - 2_500_000
    assert 0 < fee < 1_000
    changed = command("policy", "set", "accept_frequency=0.5", "prioritize_own=false", "--json")
    assert json.loads(changed) == json.loads(command("policy", "show", "--json"))
    policy = node.ask("/policy")
    assert (policy["accept_frequency"], policy["prioritize_own"]) == (0.5, False)
    node.ask("/policy", "PUT", {"accept_frequency": 1.0, "prioritize_own": True})
    file = node.directory / "config.yaml"
    before = file.read_text()
    assert str(file) in command("policy", "set", "max_queue=9", f"models.{MODEL}.max_own=7", "--save")
    assert load_config(file).policy.models[MODEL].max_own == 7
    file.write_text(file.read_text().replace("max_queue: 9", "max_queue: 10"))
    assert json.loads(command("reload", "--json"))["max_queue"] == 10
    file.write_text(before)
    node.send(signal.SIGHUP)
    wait_until(lambda: node.ask("/policy")["models"] == {}, "the policy was not read again")


def test_api_dashboard_and_commands_say_the_same_at_one_height(calm_cluster: Cluster) -> None:
    node, other = calm_cluster.nodes[2], calm_cluster.nodes[3]
    height = node.transfer(other, CREDIT)

    def run(*arguments: object, command: str = "chain") -> Any:
        return json.loads(run_here(*arguments, "-d", node.directory, "--json", command=command).output)

    head = node.ask("/chain/head")
    while True:
        page, account = node.read_dashboard(), node.ask(f"/chain/accounts/{node.address}")
        commands = run("account", node.address), run("wallet", "show", command="wwwserve")
        before, head = head, node.ask("/chain/head")
        if before["height"] == head["height"] == page["chain"]["height"]:  # which follows within a second
            break
    assert commands == (account, page["wallet"]) and account["height"] == head["height"]
    shared = account.keys() & page["wallet"].keys() - {"unbonding"}  # which is a list of parts in the one
    assert shared >= {"available", "held", "bonded", "deposit", "nonce"}
    assert {key: account[key] for key in shared} == {key: page["wallet"][key] for key in shared}
    assert page["chain"]["block"] == head["block_id"]
    assert {key: page["chain"][key] for key in ("supply", "treasury", "epoch")}.items() <= head.items()
    block = node.ask(f"/chain/blocks/{height}")
    assert block == run("show", height)
    (row,) = node.ask(f"/chain/blocks?before={height + 1}&limit=1")["blocks"]
    assert [row] == run("blocks", "--before", height + 1, "--limit", 1)["blocks"]
    shown = next(each for each in page["blocks"] if each["height"] == height)
    names = {"block_id": "id", "timestamp": "at", "epoch": "epoch", "proposer": "proposer", "operations": "operations"}
    assert {key: row[key] for key in names} == {key: shown[name] for key, name in names.items()}
    assert (block["id"], len(block["operations"])) == (row["block_id"], row["operations"])
    assert shown["signed"] == round(block["final_by"]["share"], 4)


def test_a_running_node_is_audited_from_afar(calm_cluster: Cluster) -> None:
    node = calm_cluster.nodes[3]
    genesis = calm_cluster.nodes[0].directory / "genesis.json"
    audit = run_here("verify", node.multiaddress, "--genesis", genesis, command="chain")
    assert "ok, confirmed by" in audit.output
    here = run_here("verify", node.directory, command="chain")  # of the node that runs there
    assert here.code == 0 and "ok, confirmed by" in here.stdout


def test_a_running_node_is_audited_through_a_proxy_alone(calm_cluster: Cluster, tmp_path: Path) -> None:
    node, log, (port,) = calm_cluster.nodes[3], tmp_path / "proxy.log", reserve_ports(1)
    what = ("verify", node.multiaddress, "--genesis", calm_cluster.nodes[0].directory / "genesis.json")
    through = ("--socks5", f"127.0.0.1:{port}")
    with log.open("wb") as output:
        proxy = subprocess.Popen([sys.executable, "-m", "tests.nat.proxy", "127.0.0.1", str(port)], stdout=output)
    try:
        wait_until(lambda: log.read_text().startswith("listening"), "the proxy does not start")
        assert "ok, confirmed by" in run_here(*what, *through, command="chain").output
        wait_until(lambda: f"[('127.0.0.1', {node.peer_port})]" in log.read_text(), "the proxy was not used")
    finally:
        proxy.kill()
        proxy.wait()
    without = run_here(*what, *through, command="chain")
    assert without.code == 1 and without.stderr.startswith("error: ") and without.stderr.count("\n") == 1


def test_after_stopping_all_ledgers_agree_and_can_be_read(cluster: Cluster, tmp_path: Path) -> None:
    height = cluster.nodes[1].transfer(cluster.nodes[2], CREDIT)
    wait_until(lambda: all(node.height >= height for node in cluster.nodes), "not final everywhere")
    cluster.nodes[1].send(signal.SIGINT)
    assert cluster.stop() == [0, 0, 0, 0]
    ledgers = []
    for node in cluster.nodes:
        assert "Traceback" not in node.log
        with node.blocks() as blocks:
            ledgers.append(read_ledger(StoreSource(blocks._store)))
    check_agreement(ledgers)
    heights = [ledger.head.height for ledger in ledgers]
    assert min(heights) >= height
    node, ledger = cluster.nodes[0], ledgers[0]

    def command(*arguments: object) -> str:
        return run_here(*arguments, command="chain").output

    export = tmp_path / "chain.export"
    command("export", export, "-d", node.directory)
    report = json.loads(command("verify", export, "--json"))
    assert report["ok"] and report["block_id"] == ledger.head.id.hex()
    assert report["supply"] == cluster.genesis.supply
    assert f"block {ledger.head.id.hex()[:16]}" in command("verify", node.directory)
    shown = json.loads(command("show", height, "-d", node.directory))
    assert shown["id"] == ledger.blocks[height].id.hex()
    assert [operation["kind"] for operation in shown["operations"]] == ["transfer"]
    assert json.loads(command("show", shown["operations"][0]["id"], "-d", node.directory))["height"] == height
    account = json.loads(command("account", cluster.nodes[2].address, "-d", node.directory, "--json"))
    assert account["available"] == ledger.state.account(cluster.nodes[2].key.public_key).available
