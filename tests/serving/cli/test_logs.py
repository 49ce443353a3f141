"""``logs``: the events of a data directory, by level and name, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.cli.app import build_wwwserve_app
from serving.cli.running import logs as command
from serving.logs.file import LogFile
from tests.support.commands import run_cli

EVENTS: list[dict[str, Any]] = [
    {"event": "ready", "level": "info", "timestamp": "2026-01-02T03:04:05.6Z", "logger": "node", "models": ["m"]},
    {"event": "peer joined", "level": "info", "timestamp": "2026-01-02T03:04:06Z", "peer": "\x1b[2J"},
    {"event": "trouble", "level": "warning", "timestamp": "2026-01-02T03:04:07Z", "text": "backend down"},
    {"event": "block dropped", "level": "debug", "timestamp": "2026-01-02T03:04:08Z", "height": 5},
    {"event": "request ended", "level": "info", "timestamp": "2026-01-02T03:04:09Z", "request": "req-7"},
    {"event": "payment final", "level": "debug", "timestamp": "2026-01-02T03:04:09Z", "request": "req-8"},
    {"event": "admin request failed", "level": "error", "timestamp": "x", "exception": "Traceback\n  line"},
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    file = LogFile(tmp_path, 1 << 20)
    for event in EVENTS:
        file.write(json.dumps(event))
    file.close()
    return tmp_path


def show(home: Path, *arguments: str) -> list[str]:
    outcome = run_cli(build_wwwserve_app(), "logs", "-d", home, *arguments)
    assert outcome.code == 0, outcome
    return outcome.stdout.splitlines()


def test_an_event_is_a_line_and_nothing_of_others_is_obeyed(home: Path) -> None:
    lines = show(home)
    assert len(lines) == 7 and lines[0].endswith('info     ready  models=["m"]')
    assert lines[-2:] == ["Traceback", "  line"]
    assert "\x1b" not in "".join(lines) and "block dropped" not in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["ready", "peer joined", "trouble", "request ended", "admin request failed"]),
        (("--level", "debug"), [event["event"] for event in EVENTS]),
        (("--level", "warning"), ["trouble", "admin request failed"]),
        (("--event", "peer"), ["peer joined"]),
        (("-n", "1"), ["admin request failed"]),
        (("--request", "req-7"), ["request ended"]),
        (("-n", "0", "--event", "r"), ["ready", "peer joined", "trouble", "request ended", "admin request failed"]),
    ],
)
def test_events_are_chosen_by_level_name_and_number(
    home: Path, arguments: tuple[str, ...], expected: list[str]
) -> None:
    (line,) = show(home, "--json", *arguments)
    assert [event["event"] for event in json.loads(line)["events"]] == expected


def test_what_is_logged_meanwhile_is_shown_until_ctrl_c(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter(["more", "other", None])

    def sleep(seconds: float) -> None:
        name = next(rounds)
        if name is None:
            raise KeyboardInterrupt
        file = LogFile(home, 1 << 20)
        file.write(json.dumps({"event": name, "level": "info"}))
        file.close()

    monkeypatch.setattr(command.time, "sleep", sleep)
    lines = show(home, "--follow", "--json", "-n", "1")
    assert [json.loads(line)["event"] for line in lines] == ["admin request failed", "more", "other"]


def test_without_a_log_and_with_a_wrong_level_it_says_what_to_do(tmp_path: Path) -> None:
    outcome = run_cli(build_wwwserve_app(), "logs", "-d", tmp_path)
    assert outcome.code == 3 and "log.file_mib" in outcome.stderr
    assert run_cli(build_wwwserve_app(), "logs", "--level", "loud").code == 2
