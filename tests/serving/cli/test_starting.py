"""A node that is still starting: what it does is known, and no command says that there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chain.cli.contract import ExitCode
from serving.cli.app import build_wwwserve_app
from serving.config.data_directory import lock_data_dir
from serving.config.start_note import START_FILE, Start, end_start, note_start, read_start
from tests.support.commands import keep_logs, run_cli, run_here


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The data directory of a node."""
    directory = tmp_path / "home"
    assert run_here("init", "-d", directory, "--new-chain", "mine").code == ExitCode.OK
    return directory


def test_a_note_counts_while_the_directory_is_locked(home: Path) -> None:
    with lock_data_dir(home):
        assert read_start(home) is None
        note_start(home, "opening its ledger")
        start = read_start(home)
        assert start is not None and start.doing == "opening its ledger"
        note_start(home, "joining the network")
        assert read_start(home) == Start(start.since_ms, "joining the network")
        (home / START_FILE).write_text('{"doing": []')
        assert read_start(home) is None
        note_start(home, "joining the network")
    assert read_start(home) is None, "it ended in its start"
    with lock_data_dir(home):
        end_start(home)
        assert read_start(home) is None


def test_status_and_doctor_say_what_a_node_does_that_starts(home: Path) -> None:
    with lock_data_dir(home):
        note_start(home, "waiting for its model servers")
        status = run_here("status", "-d", home)
        assert (status.code, status.stderr) == (ExitCode.NO_NODE, "")
        assert status.stdout.startswith("○ starting for ") and "waiting for its model servers" in status.stdout
        answer = json.loads(run_here("status", "-d", home, "--json").stdout)
        assert (answer["verdict"], answer["doing"]) == ("starting", "waiting for its model servers")
        other = run_here("ask", "-d", home, "Hello!")
        assert other.code == ExitCode.NO_NODE and "has been starting for " in other.stderr
        found = json.loads(run_here("doctor", "-d", home, "--json").stdout)
        assert "starting" in json.dumps(found) and "does not run" not in json.dumps(found)
        assert '"port"' not in json.dumps(found), "some of its ports it has, others not yet"
    after = run_here("status", "-d", home)
    assert after.code == ExitCode.NO_NODE and "no node runs in" in after.stderr


@pytest.mark.parametrize("fails", [False, True])
def test_the_note_of_run_goes_with_it(home: Path, fails: bool) -> None:
    seen: list[Start | None] = []

    async def run_node(directory: Path, *_: Any) -> None:
        seen.append(read_start(directory))
        if fails:
            raise OSError("the disk failed")

    with keep_logs():
        outcome = run_cli(build_wwwserve_app(run_node), "run", "-d", home)
    assert outcome.code == (ExitCode.FAILED if fails else ExitCode.OK)
    (start,) = seen
    assert start is not None and start.doing == "loading its program"
    assert not (home / START_FILE).exists()
