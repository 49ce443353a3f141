"""``doctor``: faults put in one by one, each named with the command or the key that mends it."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml

from chain.cli.contract import CommandError, ExitCode
from serving.admin.health import self_checks
from serving.admin.health.troubles import describe
from serving.cli.app import build_wwwserve_app
from serving.cli.doctor import backend_checks, checks
from tests.support.commands import run_cli
from tests.support.ports import reserve_ports

PEER = "12D3KooWQvTxaoyGqNKYT9hek1DhLxZJzC8ykN71NWKJREaB5oXb"
STATUS = {"height": 5, "troubles": [], "available": 1, "listening": [], "backends": []}


def say(code: str, **details: object) -> dict[str, Any]:
    """A trouble as a running node reports it."""
    return asdict(describe(code, **details))


class Sick(NamedTuple):
    """A node that is stopped, and a server that can be its backend."""

    home: Path
    url: str
    ports: list[int]

    def configure(self, **changes: Any) -> None:
        file = self.home / "config.yaml"
        content = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({**content, **changes}))


@contextmanager
def serving(
    status: int = 200, body: object = None, token: int = 200, delay: threading.Event | None = None
) -> Iterator[str]:
    """A server that answers ``status`` when asked for its models, and ``token`` to a chat, once ``delay`` is set."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(status, body or {"data": [{"id": "m"}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert self.path == "/v1/chat/completions" and (asked["model"], asked["max_tokens"]) == ("m", 1)
            if delay is not None:
                delay.wait()
            self.answer(token, {"choices": []} if token == 200 else {"error": {"message": "the engine is dead"}})

        def answer(self, status: int, content: object) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made") / "home"
    assert run_cli(build_wwwserve_app(), "init", "-d", home, "--new-chain", "test").code == 0
    return home


@pytest.fixture
def sick(made: Path, tmp_path: Path) -> Iterator[Sick]:
    home = Path(shutil.copytree(made, tmp_path / "home"))
    ports = reserve_ports(4)
    with serving() as url:
        found = Sick(home, url, ports)
        found.configure(
            models=[{"kind": "openai", "base_url": url}],
            listen=[f"/ip4/127.0.0.1/tcp/{ports[0]}"],
            api={"port": ports[1]},
            admin={"port": ports[2]},
        )
        yield found


@contextmanager
def listening(sick: Sick) -> Iterator[None]:
    """The ports for users and the owner are listened on, as by a node that runs."""
    with socket.create_server(("127.0.0.1", sick.ports[1])), socket.create_server(("127.0.0.1", sick.ports[2])):
        yield


def select(findings: list[dict[str, str]], severity: str) -> list[dict[str, str]]:
    return [each for each in findings if each["severity"] == severity]


def examine(sick: Sick) -> tuple[int, dict[str, str], list[dict[str, str]]]:
    outcome = run_cli(build_wwwserve_app(), "doctor", "-d", sick.home, "--json")
    findings = json.loads(outcome.stdout)["findings"]
    bad = {
        each["subject"]: f"{each['text']} → {each['mend']}: {each['command']}" for each in select(findings, "problem")
    }
    return outcome.code, bad, findings


def test_a_sound_node_that_is_stopped_has_no_problem(sick: Sick) -> None:
    code, bad, findings = examine(sick)
    assert (code, bad) == (0, {}), findings
    assert {each["subject"] for each in findings} == {"key", "genesis", "config", "disk", "node", "port", "backend 1"}
    text = run_cli(build_wwwserve_app(), "doctor", "-d", sick.home).stdout
    assert (
        "✓ backend 1" in text
        and "m: a token in " in text
        and "start it: wwwserve run -d" in text
        and text.endswith("0 problems, 1 advice\n")
    )


def take_port(sick: Sick) -> object:
    listener = socket.create_server(("127.0.0.1", sick.ports[1]))
    return listener.close


def have_backend(**changes: Any) -> Callable[[Sick], None]:
    def spoil(sick: Sick) -> None:
        sick.configure(models=[{"kind": "openai", "base_url": sick.url, **changes}])

    return spoil


def stop_backend(sick: Sick) -> None:
    sick.configure(models=[{"kind": "openai", "base_url": f"http://127.0.0.1:{sick.ports[3]}/v1"}])


def name_dead_peer(sick: Sick) -> None:
    sick.configure(bootstrap=[f"/ip4/127.0.0.1/tcp/{sick.ports[3]}/p2p/{PEER}"])


def mark_damage(sick: Sick) -> None:
    (sick.home / "chain").mkdir()
    (sick.home / "chain" / "DAMAGED").write_text("block 3")


def open_key(sick: Sick) -> None:
    (sick.home / "key").chmod(0o644)


FAULTS: list[tuple[str, Callable[[Sick], Any], str, str]] = [
    ("no node", lambda sick: (sick.home / "key").unlink(), "directory", "wwwserve init"),
    ("key open to others", open_key, "permissions", "chmod 600"),
    ("directory open to others", lambda sick: sick.home.chmod(0o755), "permissions", "chmod 700"),
    ("half a key", lambda sick: (sick.home / "key").write_text("{"), "key", "put back a copy"),
    ("no genesis", lambda sick: (sick.home / "genesis.json").unlink(), "genesis", "from another node"),
    ("bad key in config", lambda sick: sick.configure(modles=[]), "config", "edit "),
    ("backend down", stop_backend, "backend 1", "start its server"),
    ("model not listed", have_backend(names=["x"]), "backend 1", "correct 'names'"),
    ("key not set", have_backend(api_key_env="NOT_SET_HERE"), "backend 1", "export NOT_SET_HERE"),
    ("bootstrap does not answer", name_dead_peer, "bootstrap", "put it into 'bootstrap'"),
    ("port taken", take_port, "port", "api.port"),
    ("damaged database", mark_damage, "database", "start the node again"),
]


@pytest.mark.parametrize(("spoil", "subject", "mend"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_fault_is_named_with_what_mends_it(sick: Sick, spoil: Callable[[Sick], Any], subject: str, mend: str) -> None:
    undo = spoil(sick)
    code, bad, _ = examine(sick)
    if callable(undo):
        undo()
    assert code == 1 and set(bad) == {subject} and mend in bad[subject], bad


@pytest.mark.parametrize(
    ("status", "body", "said"), [(401, None, "refuses the API key"), (500, None, "answers 500"), (200, [], "no server")]
)
def test_a_backend_that_answers_wrongly_is_named(sick: Sick, status: int, body: object, said: str) -> None:
    with serving(status, body if body is None else {"x": body}) as url:
        sick.configure(models=[{"kind": "openai", "base_url": url}])
        code, bad, _ = examine(sick)
    assert code == 1 and said in bad["backend 1"]


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize(
    ("token", "features", "severity", "said"),
    [
        (200, (), "ok", "m: a token in "),
        (500, (), "problem", "the engine is dead"),
        (404, (), "problem", "the engine is dead"),
        (404, ("embeddings",), "ok", "m: takes no chat"),
        (429, (), "advice", "has no slot"),
        (None, (), "problem", "gave no token in "),
    ],
)
def test_a_backend_is_asked_for_one_token_through_the_node_if_it_runs(
    sick: Sick,
    monkeypatch: pytest.MonkeyPatch,
    runs: bool,
    token: int | None,
    features: tuple[str, ...],
    severity: str,
    said: str,
) -> None:
    """The server stands for the node, too, whose answers have the same form."""
    delay = threading.Event()
    monkeypatch.setattr(backend_checks, "TOKEN_TIMEOUT_S", 0.2 if token is None else 60)
    if token is not None:
        delay.set()
    with serving(token=token or 200, delay=delay) as url:
        sick.configure(models=[{"kind": "openai", "base_url": url, "features": list(features)}])
        if runs:
            backends = [{"place": "the place", "models": ["m", "other"], "is_alive": True}]
            backends += [{"place": "nobody", "models": ["dead"], "is_alive": False}, {**backends[0], "place": "again"}]
            answers = {"/status": {**STATUS, "backends": backends}, "/chain/head": {"timestamp": 0}}
            monkeypatch.setattr(checks, "ask_node", lambda directory, method, path: answers[path])
            stand_in_for_the_node(monkeypatch, url)
        with listening(sick) if runs else nullcontext():
            code, _, findings = examine(sick)
        delay.set()
    (found,) = [each for each in findings if each["subject"] == "backend 1"][1:]
    assert (found["severity"], code) == (severity, 1 if severity == "problem" else 0), findings
    assert said in found["text"] and (severity == "ok" or ("the place" if runs else url) in found["text"])
    if severity == "problem":
        assert found["command"] == f"wwwserve ask -m m --local-only Hi -d {sick.home}"


def stand_in_for_the_node(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Have a server answer what the node's socket is asked for."""

    def connect(connection: http.client.HTTPConnection) -> None:
        place = urlsplit(url)
        connection.sock = socket.create_connection((place.hostname, place.port), connection.timeout)

    monkeypatch.setattr("serving.cli.running.admin_client._Connection.connect", connect)


def test_a_model_is_looked_for_by_the_name_that_the_server_has_for_it(sick: Sick) -> None:
    sick.configure(models=[{"kind": "openai", "base_url": sick.url, "names": ["Q/q"], "aliases": {"Q/q": "m"}}])
    code, bad, _ = examine(sick)
    assert (code, bad) == (0, {})


@pytest.mark.parametrize(
    ("status", "ahead_ms", "subject", "mend"),
    [
        ({}, 60_000, "clock", "timedatectl"),
        ({"troubles": [say("stalled", age_s=90)]}, 0, "ledger", "wwwserve peers"),
        ({"troubles": [say("jailed", epoch=7)]}, 0, "validator", "keep the node running"),
    ],
)
def test_what_a_running_node_says_of_itself_is_passed_on(
    sick: Sick, monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], ahead_ms: int, subject: str, mend: str
) -> None:
    answers = {"/status": {**STATUS, **status}, "/chain/head": {"timestamp": int(time.time() * 1000) + ahead_ms}}
    monkeypatch.setattr(checks, "ask_node", lambda directory, method, path: answers[path])
    with listening(sick):
        code, bad, _ = examine(sick)
    assert code == 1 and set(bad) == {subject} and mend in bad[subject]


def test_a_node_that_hangs_and_a_full_disk(sick: Sick, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        raise CommandError("the node does not answer within 5 s", code=ExitCode.TIMEOUT)

    monkeypatch.setattr(checks, "ask_node", hang)
    monkeypatch.setattr(self_checks, "MIN_FREE_BYTES", 1 << 60)
    code, bad, _ = examine(sick)
    assert code == 1 and set(bad) == {"node", "disk"}
    assert "wwwserve run -d" in bad["node"] and "keep_epochs" in bad["disk"]


def test_advice_is_no_problem(sick: Sick, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "/status": {**STATUS, "troubles": [say("unreachable"), say("no_credit", address=PEER)], "available": 0},
        "/chain/head": {"timestamp": int(time.time() * 1000)},
    }
    monkeypatch.setattr(checks, "ask_node", lambda directory, method, path: answers[path])
    with listening(sick):
        code, bad, findings = examine(sick)
    advice = {each["subject"]: each["mend"] + each["command"] for each in select(findings, "advice")}
    assert (code, bad) == (0, {})
    assert "upnp: true" in advice["reachable"] and "wwwserve wallet register" in advice["credit"]
