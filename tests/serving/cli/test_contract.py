"""What every command promises, asked of all of them: help, an example, JSON, an exit code for each kind of error."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from chain.cli.contract import ExitCode
from chain.cli.options import DATA_DIR_VARIABLE
from chain.cli.tree import EXAMPLES
from serving.cli.app import build_wwwserve_app
from tests.support.commands import run_cli

HEAVY = ("trio", "libp2p", "pydantic", "httpx", "pytest", "rich", "nacl", "node")
"""What takes long to import, and no help needs."""
ADDRESS = "12D3KooWQvTxaoyGqNKYT9hek1DhLxZJzC8ykN71NWKJREaB5oXb"
WRONG = [("status", "--fast"), ("wallet", "transfer"), ("nothing",), ("chain", "show", "-x")]


async def run_nothing(*_: object) -> None:
    """Stands for running a node."""


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group of commands."""
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from walk(each, (*path, name))


TREE = dict(walk(get_command(build_wwwserve_app(run_nothing))))
LEAVES = {path: command for path, command in TREE.items() if not hasattr(command, "commands")}
GROUPS = {path: command for path, command in TREE.items() if hasattr(command, "commands")}


def get_examples(command: Any) -> list[list[str]]:
    lines = (command.epilog or "").partition(EXAMPLES)[2].splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def find_option(command: Any, name: str) -> Any:
    return next((each for each in command.params if name in each.opts), None)


def run(*arguments: object) -> Any:
    return run_cli(build_wwwserve_app(run_nothing), *arguments)


def test_there_are_all_commands() -> None:
    assert len(LEAVES) > 35 and {("status",), ("wallet", "transfer"), ("chain", "prove", "balance")} <= set(LEAVES)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_a_command_takes_json_and_has_help_and_an_example_that_it_understands(path: tuple[str, ...]) -> None:
    command = LEAVES[path]
    assert command.help and find_option(command, "--json") is not None
    examples = get_examples(command)
    assert examples, f"{' '.join(path)} shows no example"
    for words in examples:
        own = path[1:] if path[0] == "chain" else ("wwwserve", *path)
        assert tuple(words[: len(own)]) == own or tuple(words[: len(path)]) == path, words
        named = [word.partition("=")[0] for word in words if word.startswith("-")]
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        assert set(named) <= known, words
    shown = run(*path, "--help")
    assert shown.code == 0 and EXAMPLES in shown.stdout and "Traceback" not in shown.stderr


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_the_summary_in_a_group_is_the_beginning_of_the_help(path: tuple[str, ...]) -> None:
    entries = getattr(GROUPS[path], "entries", {})
    shown = re.sub(r"\s+", " ", run(*path, "--help").stdout)
    for name, entry in entries.items():
        command = GROUPS[path].commands[name]
        assert re.sub(r"\s+", " ", command.help).startswith(entry.summary), (path, name)
        assert f"{name} {entry.summary}" in shown


WATCHING = ("status", "peers", "models", "top", "ping", "netcheck")
ASKING = [path for path in LEAVES if path[0] in (*WATCHING, "duels", "wallet", "policy", "reload")]


@pytest.mark.parametrize("path", ASKING, ids=" ".join)
def test_without_a_node_a_command_says_so_in_its_own_code_and_as_json(path: tuple[str, ...], tmp_path: Path) -> None:
    given = {
        "recipient": "12D3KooWQvTxaoyGqNKYT9hek1DhLxZJzC8ykN71NWKJREaB5oXb",
        "amount": "1",
        "peer": "12D3KooWQvTxaoyGqNKYT9hek1DhLxZJzC8ykN71NWKJREaB5oXb",
        "changes": "max_queue=1",
    }
    arguments = [
        given[each.name] for each in LEAVES[path].params if each.param_type_name == "argument" and each.required
    ]
    for extra in ((), ("--json",)):
        outcome = run(*path, *arguments, "-d", tmp_path, *extra)
        assert outcome.code == ExitCode.NO_NODE, outcome
        if extra:
            error = json.loads(outcome.stdout)["error"]
            assert (error["code"], set(error)) == (3, {"code", "message", "hint"}) and "wwwserve init" in error["hint"]
        else:
            assert outcome.stdout == "" and outcome.stderr.splitlines()[-1].startswith("error: no node runs in ")


@pytest.mark.parametrize(
    "arguments", [("status", "--fast"), ("wallet", "transfer"), ("nothing",), ("chain", "show", "-x")]
)
def test_a_wrong_command_line_is_usage_and_one_json_value(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).code == ExitCode.USAGE
    outcome = run(*arguments, "--json")
    assert outcome.code == ExitCode.USAGE and outcome.stderr == ""
    assert json.loads(outcome.stdout)["error"]["code"] == ExitCode.USAGE


@pytest.mark.parametrize("amount", ["-5", "0", "1e3", "0.0000001", "lots"])
def test_an_amount_that_is_none_is_refused_in_credits(amount: str, tmp_path: Path) -> None:
    outcome = run("wallet", "transfer", ADDRESS, amount, "-d", tmp_path)
    assert outcome.code == ExitCode.USAGE and "credits" in outcome.stderr and "micro" not in outcome.stderr


def test_the_environment_names_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path / "named"))
    assert str(tmp_path / "named") in run("status").stderr
    assert str(tmp_path / "other") in run("status", "-d", tmp_path / "other").stderr


def test_version_and_panels() -> None:
    assert re.fullmatch(r"wwwserve \d+\.\d+\.\d+\S*\n", run("--version").stdout)
    shown = run("--help").stdout
    assert [line.rstrip(":") for line in re.findall(r"^(?!Usage|Options)\w+:$", shown, re.MULTILINE)] == [
        "Start", "Look", "Money", "Network", "Ledger",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["nothing", "file/in/the/way"])
def test_init_where_nothing_can_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" / "under" if name != "nothing" else tmp_path / "file"
    outcome = run("init", "-d", directory, "--new-chain", "mine")
    assert outcome.code == ExitCode.FAILED and outcome.stderr.count("\n") == 1 and "cannot write" in outcome.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("chain", "--help"), ("wallet", "--help"), ("chain", "verify", "--help")]
)
def test_help_imports_nothing_that_takes_long(arguments: tuple[str, ...]) -> None:
    heavy = HEAVY if len(arguments) < 3 and arguments != ("wallet", "--help") else ("libp2p", "httpx", "pytest", "node")
    command = [sys.executable, "-X", "importtime", "-m", "serving.cli.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported and not imported & set(heavy)


def test_a_completion_imports_nothing_that_takes_long() -> None:
    environment = {"_WWWSERVE_COMPLETE": "complete_bash", "COMP_WORDS": "wwwserve st", "COMP_CWORD": "1"}
    program = "import sys; sys.argv[0] = 'wwwserve'; from serving.cli.main import main; main()"
    command = [sys.executable, "-X", "importtime", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert done.stdout.split() == ["status"] and not imported & set(HEAVY)


def test_asking_a_node_how_it_is_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "serving.cli.main", "status", "-d", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert done.returncode == ExitCode.NO_NODE and not imported & set(HEAVY)
