"""``wwwserve network create`` and ``invite``, and ``join`` without running anything."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from chain.cli.contract import ExitCode
from chain.genesis import load_genesis
from chain.parameters.parameters import CREDIT
from serving.cli.app import build_wwwserve_app
from serving.cli.setup.network import plan_places
from serving.config.file import load_config
from tests.support.commands import Outcome, run_cli


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


def run(*arguments: object) -> Outcome:
    return run_cli(build_wwwserve_app(run_nothing), *arguments)


def test_a_network_on_one_machine(tmp_path: Path) -> None:
    home = tmp_path / "market"
    shown = run("network", "create", home, "--validators", 3, "--stake", 2000, "--grant", "5", "--json")
    assert shown.code == 0, shown
    made = json.loads(shown.stdout)
    assert sorted(path.name for path in home.iterdir()) == ["invitation.txt", "node1", "node2", "node3"]
    genesis = load_genesis(home / "node1" / "genesis.json")
    assert (genesis.name, genesis.chain_id.hex()) == ("market", made["chain_id"])
    assert [account.bonded for account in genesis.accounts] == [2_000 * CREDIT] * 3
    assert genesis.parameters.register_grant == 5 * CREDIT and len(genesis.validators) == 3
    ports = set()
    for number in (1, 2, 3):
        directory = home / f"node{number}"
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert load_genesis(directory / "genesis.json") == genesis and (directory / "votes.journal").exists()
        config = load_config(directory / "config.yaml")
        others = [node["peers"] for node in made["nodes"] if node["directory"] != str(directory)]
        assert list(config.bootstrap) == others
        assert config.listen == (made["nodes"][number - 1]["peers"].partition("/p2p/")[0],)
        ports |= {config.api.port, config.admin.port, int(config.listen[0].rpartition("/")[2])}
    assert len(ports) == 9
    again = run("network", "create", home)
    assert again.code == ExitCode.FAILED and "not empty" in again.stderr


def test_a_network_of_machines() -> None:
    hosts = ["192.0.2.1", "2001:db8::1", "node.example.org"]
    places = plan_places(None, hosts)
    assert [place.multiaddress for place in places] == [
        "/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/4001", "/dns/node.example.org/tcp/4001",
    ]  # fmt: skip
    config = places[0].make_config(())
    assert config.listen == ("/ip4/0.0.0.0/tcp/4001",) and config.announce == ("/ip4/192.0.2.1/tcp/4001",)
    assert len(plan_places(None, ["127.0.0.1"])) == 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--validators", "3", "--host", "192.0.2.1", "--host", "192.0.2.2"), "2 hosts for 3 validators"),
        (("--host", "a b"), "not a host name"),
        (("--host", "0.0.0.0"), "cannot dial"),
        (("--stake", "1"), "credits at least"),
        (("--validators", "0"), "validators"),
        (("--grant", "much"), "not an amount"),
    ],
)
def test_what_makes_no_network_is_refused_before_anything_is_written(
    arguments: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    refused = run("network", "create", tmp_path / "new", *arguments)
    assert refused.code == ExitCode.USAGE and reason in refused.stderr, refused
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["text", "file", "invite"])
def test_a_node_joins_by_an_invitation(form: str, tmp_path: Path) -> None:
    made = json.loads(run("network", "create", tmp_path / "market", "--json").stdout)
    file = tmp_path / "market" / "invitation.txt"
    invited = run("network", "invite", "-d", tmp_path / "market" / "node2").stdout.strip()
    given = {"text": made["invitation"], "file": file, "invite": invited}[form]
    joined = run("join", given, "-d", tmp_path / "guest", "--no-run", "--json")
    assert joined.code == 0, joined
    assert json.loads(joined.stdout)["chain_id"] == made["chain_id"]
    config = load_config(tmp_path / "guest" / "config.yaml")
    assert set(config.bootstrap) == {node["peers"] for node in made["nodes"]}
    assert load_genesis(tmp_path / "guest" / "genesis.json").chain_id.hex() == made["chain_id"]
    again = run("join", given, "-d", tmp_path / "guest", "--no-run")
    assert again.code == ExitCode.FAILED and "exists already" in again.stderr


def test_a_bad_invitation_is_one_line_and_makes_nothing(tmp_path: Path) -> None:
    made = json.loads(run("network", "create", tmp_path / "market", "--validators", "1", "--json").stdout)
    for given in ("hello", made["invitation"][:-9], made["invitation"].replace("e", "f", 1)):
        refused = run("join", given, "-d", tmp_path / "guest", "--no-run")
        assert refused.code == ExitCode.FAILED and refused.stderr.count("\n") == 1, refused
        assert refused.stderr.startswith("error: this ") and "invitation" in refused.stderr
    missing = run("join", tmp_path / "nothing.txt", "-d", tmp_path / "guest", "--no-run")
    assert missing.code == ExitCode.FAILED and missing.stderr.startswith("error: there is no file ")
    assert not (tmp_path / "guest").exists()
    (tmp_path / "empty").write_text("")
    assert "no invitation" in run("join", tmp_path / "empty", "-d", tmp_path / "guest").stderr
