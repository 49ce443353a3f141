"""The owner's commands: names that other nodes chose are shown, not obeyed by the terminal and not read as markup."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chain.amounts import CREDIT
from chain.genesis import load_genesis
from serving.cli.app import build_wwwserve_app
from tests.support.owner_answers import ANSWERS, CHECKED, UNMEASURED


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("command", ["peers", "models", "status", "wallet show", "policy show", "duels"])
def test_no_control_character_of_a_peer_reaches_the_terminal(
    command: str, as_json: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ask_node(data_dir: Path | None, method: str, path: str, *_: Any) -> Any:
        return ANSWERS[path]

    for module in ("owner", "policy", "wallet"):
        monkeypatch.setattr(f"serving.cli.running.{module}.ask_node", ask_node)
    arguments = [*command.split(), "-d", str(tmp_path), *(["--json"] if as_json else [])]
    result = CliRunner().invoke(build_wwwserve_app(run_nothing), arguments)
    assert result.exit_code == 0, result.exception
    assert all(character.isprintable() or character == "\n" for character in result.output)
    assert "all your peers are gone" in result.output
    assert not any(line.strip().startswith("forged") for line in result.output.splitlines())
    if as_json:
        path = f"/{command.split()[0]}"
        assert json.loads(result.output) == ANSWERS[path]


def test_duels_are_shown_with_role_opponent_and_what_they_moved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    common = {"executor": "E", "challenger": "C", "stage": None, "verdict": "executor won"}
    duels = [
        {"hold": "a" * 64, "role": "executor", "moved": 1_500, **common},
        {"hold": "b" * 64, "role": "judge", "moved": -20_000_000, **common},
        {"hold": "c" * 64, "role": "challenger", "moved": 0, **common, "stage": "waits for an answer", "verdict": None},
        {"hold": "d" * 64, "role": "executor", "moved": 0, **common, "challenger": None},
    ]

    def show(found: list[dict[str, Any]], benched_s: int = 0) -> list[str]:
        answer = {"duels": found, "judge": None, "benched_s": benched_s, "checks": [], "identities": []}
        return show_duels(answer, monkeypatch, tmp_path)

    assert show(duels)[1:] == [
        f"{'a' * 16} executor executor won C 0.001500",
        f"{'b' * 16} judge executor won E, C -20.000000",
        f"{'c' * 16} challenger waits for an answer E 0.000000",
        f"{'d' * 16} executor executor won - 0.000000",
    ]
    assert show([]) == ["no duel since this node started"]
    assert "does not judge for 23 h 59 min" in show([], 24 * 3_600 - 1)[0]


def test_peers_are_shown_with_their_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = {**ANSWERS["/peers"]["peers"][0], "address": "A", "models": [], "addresses": []}
    here = {**there, "connected": True, "relayed": True, "connected_s": 3_725.5, "round_trip_ms": 1_234.56}
    monkeypatch.setattr("serving.cli.running.owner.ask_node", lambda *_: {"peers": [there, here]})
    result = CliRunner().invoke(build_wwwserve_app(run_nothing), ["peers", "-d", str(tmp_path)])
    assert [" ".join(line.split()) for line in result.output.splitlines()][1:] == [
        "A - not connected - - 0 % 0.000000 -",
        "A - relayed 1 h 2 min 1,234.6 ms 0 % 0.000000 -",
    ]


def show_duels(answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch, directory: Path) -> list[str]:
    """The lines of the command for an answer of the node."""
    monkeypatch.setattr("serving.cli.running.owner.ask_node", lambda *_: answer)
    result = CliRunner().invoke(build_wwwserve_app(run_nothing), ["duels", "-d", str(directory)])
    assert result.exit_code == 0, result.exception
    return [" ".join(line.split()) for line in result.output.splitlines()]


def test_checks_are_shown_with_what_they_found_and_the_identities_of_this_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    common = {"executor": "E", "stage": None, "outcome": "failed", **UNMEASURED}
    measured = {"shortfall": -1_250, "distance": 42_000}
    checks = [
        {"hold": "a" * 64, "role": "executor", **common, **measured, "moved": -20_000_000, "is_substitution": True},
        {"hold": "b" * 64, "role": "checker", **common, **measured, "moved": 80},
        {"hold": "c" * 64, "role": "checker", **common, "outcome": None, "stage": "waits for reports"},
    ]
    identities = [{"model": "m", "digest": "d" * 64, **CHECKED}]
    answer = {"duels": [], "judge": None, "benched_s": 0, "checks": checks, "identities": identities}
    assert show_duels(answer, monkeypatch, tmp_path) == [
        "no duel since this node started",
        f"m is declared as {'d' * 16}: 3 checks, failed 1 by shortfall, 0 by distance",
        "check role stage or outcome executor shortfall distance credits",
        f"{'a' * 16} executor failed: another model E -1.250 0.042000 -20.000000",
        f"{'b' * 16} checker failed E -1.250 0.042000 0.000080",
        f"{'c' * 16} checker waits for reports E - - 0.000000",
    ]


def test_a_new_chain_has_as_many_duels_as_was_said(tmp_path: Path) -> None:
    def init(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(build_wwwserve_app(run_nothing), ["init", *arguments])
        return result.exit_code, str(result.exception)

    home, other = str(tmp_path / "home"), str(tmp_path / "other")
    assert init("-d", home, "--new-chain", "mine", "--duel-rate", "100")[0] == 0
    assert load_genesis(tmp_path / "home" / "genesis.json").parameters.duels.rate == 100
    assert init("-d", str(tmp_path / "rare"), "--new-chain", "mine", "--duel-rate", "10")[0] == 0
    rare = load_genesis(tmp_path / "rare" / "genesis.json").parameters
    assert (rare.duels.fraud, rare.min_service_bond) == (100_000, 5 * CREDIT), "five times as much"
    assert init("-d", str(tmp_path / "plain"), "--new-chain", "mine")[0] == 0
    assert load_genesis(tmp_path / "plain" / "genesis.json").parameters.duels.rate == 0
    assert "more than was captured" in init("-d", other, "--new-chain", "mine", "--duel-rate", "900")[1]
    assert "goes with --new-chain" in init("-d", other, "--genesis", f"{home}/genesis.json", "--duel-rate", "1")[1]
    assert not Path(other).exists()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """What the commands send to the node: method, path and content."""
    requests: list[tuple[str, str, Any]] = []

    def ask_node(data_dir: Path | None, method: str, path: str, content: Any = None) -> Any:
        requests.append((method, path, content))
        return {"max_queue": 5}

    monkeypatch.setattr("serving.cli.running.policy.ask_node", ask_node)
    return requests


def run(*arguments: str) -> tuple[str, BaseException | None]:
    """What a command prints, and how it ended."""
    result = CliRunner().invoke(build_wwwserve_app(run_nothing), arguments)
    return result.output, result.exception


def test_changes_of_the_policy_are_sent_as_they_are_meant(sent: list[tuple[str, str, Any]], tmp_path: Path) -> None:
    changes = ["max_queue=5", "max_wait_s=null", "time_zone=Europe/Berlin", "schedule=Mon-Fri 18:00-08:00; Sat-Sun"]
    quotas = ["models.Qwen/Qwen2.5-7B.max_own=2", "models.Qwen/Qwen2.5-7B.accept=false"]
    output, error = run("policy", "set", *changes, *quotas, "-d", str(tmp_path))
    assert error is None and "until the node stops; --save" in output
    content = {
        "max_queue": 5,
        "max_wait_s": None,
        "time_zone": "Europe/Berlin",
        "schedule": ["Mon-Fri 18:00-08:00", "Sat-Sun"],
        "models": {"Qwen/Qwen2.5-7B": {"max_own": 2, "accept": False}},
    }
    assert sent == [("PUT", "/policy", content)]
    for bad in ("max_queue", "=5", "models.m=3", "models..max_own=3", "policy.max_queue=3", ".x=1"):
        _, error = run("policy", "set", bad, "-d", str(tmp_path))
        assert "is not of the form name=value" in str(error), bad
    assert "max_queue is given twice" in str(run("policy", "set", "max_queue=1", "max_queue=2", "-d", str(tmp_path))[1])
    assert len(sent) == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_sent_as_it_was_written(
    number: str, sent: list[tuple[str, str, Any]], tmp_path: Path
) -> None:
    assert run("policy", "set", f"credit_price_s={number}", "-d", str(tmp_path))[1] is None
    assert sent == [("PUT", "/policy", {"credit_price_s": number})], "so that the node can say what is wrong with it"


def test_a_change_that_is_saved_is_written_to_the_file_and_a_bad_one_not_even_sent(
    sent: list[tuple[str, str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("policy:\n  max_queue: 9  # enough\n")
    _, error = run("policy", "set", "max_queue=-1", "--save", "-d", str(tmp_path))
    assert "config.yaml:2: policy.max_queue: must be at least 0" in str(error) and sent == []
    output, error = run("policy", "set", "max_queue=5", "stake=7", "--save", "-d", str(tmp_path))
    assert error is None and f"saved in {file}" in "".join(output.splitlines())
    assert file.read_text() == "policy:\n  max_queue: 5  # enough\n  stake: 7\n"
    assert sent == [("PUT", "/policy", {"max_queue": 5, "stake": 7})]
    file.unlink()
    _, error = run("policy", "set", "max_queue=5", "--save", "-d", str(tmp_path))
    assert f"cannot read {file}" in str(error) and len(sent) == 1


def test_reload_asks_the_node_to_read_its_file(sent: list[tuple[str, str, Any]], tmp_path: Path) -> None:
    assert run("reload", "-d", str(tmp_path))[1] is None
    assert sent == [("POST", "/policy/reload", None)]
