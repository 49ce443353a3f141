"""``ping``, ``netcheck`` and ``top``: what they ask the node, what they say, and how they end."""

from __future__ import annotations

import json
import os
import pty
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain.cli.contract import CommandError, ExitCode
from serving.cli.app import build_wwwserve_app
from serving.cli.running import ping, top
from tests.support.commands import Outcome, run_cli
from tests.support.keys import make_key
from tests.support.owner_answers import ANSWERS
from tests.support.waiting import PATIENCE

ONE, TWO = sorted(make_key(name).address for name in ("one", "two"))
OWN = make_key("own").address
FOUND: dict[str, Any] = {
    "can_be_dialled": False,
    "listening": ["/ip4/10.0.0.7/tcp/4001"],
    "seen_as": ["203.0.113.7"],
    "nat": "closed",
    "relays": [TWO],
    "connected": 2,
    "relayed": 1,
    "known": 5,
    "ipv4": 3,
    "ipv6": 0,
    "clock_ms": 400,
    "round_trip_ms": 12.5,
    "pings": [{"address": ONE, "path": "direct", "round_trip_ms": 12.5}, {"address": TWO, "path": None}],
}


def run(*arguments: str) -> Outcome:
    return run_cli(build_wwwserve_app(), *arguments)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A node with two peers, of which only the first answers; what it was asked to ping."""
    pinged: list[Any] = []

    def answer(directory: Path | None, method: str, path: str, content: Any = None, timeout: float = 0) -> Any:
        if path == "/network/ping":
            pinged.append(content["peer"])
            if content["peer"] == OWN:
                raise CommandError("peer: this is the node itself; name another")
            if content["peer"] != ONE:
                raise CommandError("it is not reached: no connection", code=ExitCode.REFUSED)
            return {"address": ONE, "path": "direct", "round_trip_ms": 10.0 * len(pinged), "was_connected": True}
        return FOUND if path == "/network/check" else {"peers": [{"address": ONE}, {"address": TWO}]}

    monkeypatch.setattr(ping, "ask_node", answer)
    monkeypatch.setattr(ping.time, "sleep", lambda seconds: None)
    return pinged


def test_a_ping_says_path_and_times(asked: list[Any]) -> None:
    outcome = run("ping", ONE, "-c", "3")
    assert outcome.code == 0 and asked == [ONE] * 3
    assert outcome.stdout.splitlines()[0] == f"{ONE}: direct, 10.0 ms"
    assert outcome.stdout.splitlines()[-1] == "3 of 3 answered, min / median / max 10.0 / 20.0 / 30.0 ms"
    content = json.loads(run("ping", ONE, "-c", "1", "--json").stdout)
    assert (content["sent"], content["answered"]) == (1, 1)


@pytest.mark.parametrize("name", [ONE[-6:], f"{ONE[:8]}…{ONE[-4:]}", ONE])
def test_a_known_peer_is_found_by_the_ends_of_its_address(asked: list[Any], name: str) -> None:
    assert run("ping", name, "-c", "1").code == 0 and asked == [ONE]


def test_who_does_not_answer_who_is_unknown_and_who_is_meant_twice(asked: list[Any]) -> None:
    outcome = run("ping", TWO, "-c", "2", "--json")
    assert outcome.code == ExitCode.FAILED and "not reached" in json.loads(outcome.stdout)["error"]["message"]
    assert len(asked) == 2
    assert "wwwserve peers --full" in run("ping", "nobody").stderr
    assert run("ping", "12D3").code == ExitCode.USAGE


def test_an_order_that_can_never_succeed_is_given_once(asked: list[Any]) -> None:
    outcome = run("ping", OWN)
    assert outcome.code == ExitCode.FAILED and asked == [OWN]
    assert outcome.stdout == "" and outcome.stderr.count("the node itself") == 1


def test_netcheck_has_a_line_for_each_subject(asked: list[Any]) -> None:
    outcome = run("netcheck")
    lines = {line[2:13].strip(): line for line in outcome.stdout.splitlines()[:7]}
    assert outcome.code == 0 and set(lines) == {"peers", "reachable", "nat", "seen as", "relays", "addresses", "clock"}
    assert lines["nat"].startswith("! nat") and "upnp: true" in lines["reachable"] and TWO in lines["relays"]
    assert "no answer" in outcome.stdout
    assert json.loads(run("netcheck", "--json").stdout) == FOUND


def test_a_node_that_listens_nowhere_is_not_told_to_forward_a_port() -> None:
    lines = ping.describe_check({**FOUND, "listening": [], "nat": "unknown"})
    assert "✓ reachable   through relays: this node listens nowhere" in lines
    assert not any("forward" in line or line.startswith("!") for line in lines)


@pytest.mark.parametrize(
    ("clock", "said"), [(None, "! clock"), (-2_000, "✗ clock       2.0 s behind"), (9_000, "! clock       9.0 s after")]
)
def test_a_wrong_clock_is_said(clock: int | None, said: str) -> None:
    assert any(line.startswith(said) for line in ping.describe_check({**FOUND, "clock_ms": clock}))


def test_a_node_that_reaches_nobody_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ping, "ask_node", lambda *_, timeout: {**FOUND, "connected": 0, "pings": []})
    assert run("netcheck").code == ExitCode.FAILED


STATUS = ANSWERS["/status"]
REQUEST = {
    "id": "req-1",
    "model": "m" * 40,
    "executor": ONE,
    "ttft_ms": 100.0,
    "duration_ms": None,
    "completion_tokens": 7,
}
PEER = {"address": ONE, "connected": True, "relayed": False, "utilization": 500, "bonded": 10**9, "models": ["m"]}
LOOK = {"status": STATUS, "requests": [{**REQUEST, "outcome": "running"}] * 50, "peers": [PEER] * 50}


def test_the_screen_is_as_high_as_the_terminal_and_has_all_parts() -> None:
    for height in (24, 40, 5):
        lines = top.draw(LOOK, "/home/me", height)
        assert len(lines) <= height
    lines = top.draw(LOOK, "/home/me", 40)
    assert top.HEAD_OF_REQUESTS in lines and top.HEAD_OF_PEERS in lines
    assert len(top.draw(LOOK, "/home/me", None)) > 100


def test_without_a_terminal_it_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "look", lambda directory: LOOK)
    outcome = run("top")
    assert outcome.code == 0 and top.HEAD_OF_PEERS in outcome.stdout and "\x1b" not in outcome.stdout
    assert json.loads(run("top", "--json").stdout)["peers"][0]["address"] == ONE


def test_on_a_terminal_it_waits_for_the_node_and_q_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([CommandError("no node runs in x", code=ExitCode.NO_NODE)])

    def look(directory: object) -> dict[str, Any]:
        if error := next(looks, None):
            raise error
        return LOOK

    monkeypatch.setattr(top, "look", look)
    leader, follower = pty.openpty()
    reader, writer = os.fdopen(follower, "r", closefd=False), os.fdopen(os.dup(follower), "w")
    monkeypatch.setattr(sys, "stdin", reader)
    monkeypatch.setattr(sys, "stdout", writer)
    ended = threading.Thread(target=lambda: top.top(None, 0.2, False))
    ended.start()
    shown, end = b"", b"\x1b[?25h\x1b[?1049l"

    def read_until(condition: Callable[[], bool]) -> None:
        """Read on meanwhile: a terminal that is full would hold up the command."""
        nonlocal shown
        deadline = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < deadline:
            if select.select([leader], [], [], 0.05)[0]:
                shown += os.read(leader, 65536)

    read_until(lambda: top.HEAD_OF_PEERS[:6].encode() in shown)
    os.write(leader, b"q")
    read_until(lambda: not ended.is_alive())
    writer.flush()
    read_until(lambda: shown.endswith(end))
    text = shown.decode(errors="replace")
    assert not ended.is_alive() and "waiting for it to come back" in text
    assert text.startswith("\x1b[?1049h\x1b[?25l") and shown.endswith(end)
    assert "req-1" in text
