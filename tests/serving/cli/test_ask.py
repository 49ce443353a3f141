"""``ask`` and ``chat`` against a node's socket that plays answers: what is printed where, and how errors end."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chain.files import short_path
from serving.cli.app import build_wwwserve_app
from serving.cli.running import ask
from tests.support.commands import Outcome, run_cli

MODELS = {"models": [{"id": "far", "local": False}, {"id": "near", "local": True}]}
ROW = {"id": "r1", "hold": "ab", "settled_height": 7, "amount": 1_500, "held": 2_000, "completion_tokens": 2}
Reply = tuple[int, str, bytes]


def stream(*pieces: str, error: dict[str, Any] | None = None) -> Reply:
    events = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    lines = [f"data: {json.dumps(event)}\n\n" for event in [*events, *([error] if error else [])]]
    return 200, "text/event-stream", ("".join(lines) + "data: [DONE]\n\n").encode()


def as_json(content: Any, status: int = 200) -> Reply:
    return status, "application/json", json.dumps(content).encode()


@contextmanager
def playing(directory: Path, reply: Callable[[str, bytes], Reply]) -> Iterator[list[tuple[str, bytes]]]:
    """A node's socket; what was asked is appended to the list."""
    listener, asked = socket.socket(socket.AF_UNIX), []
    with short_path(directory / "admin.sock") as path:
        listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as file:
                line, size = file.readline().decode().split(), 0
                while (header := file.readline()) != b"\r\n":
                    if header.lower().startswith(b"content-length:"):
                        size = int(header.partition(b":")[2])
                body = file.read(size)
                asked.append((line[1], body))
                status, kind, content = reply(line[1], body)
                head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n"
                head += "x-request-id: r1\r\nx-wwwserve-executor: 12D3KooWexecutor\r\nconnection: close\r\n\r\n"
                connection.sendall(head.encode() + content)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def run(directory: Path, answer: Reply, *arguments: str) -> tuple[Outcome, list[dict[str, Any]]]:
    def reply(path: str, body: bytes) -> Reply:
        if path == "/models":
            return as_json(MODELS)
        return as_json({"requests": [ROW]}) if path.startswith("/requests") else answer

    with playing(directory, reply) as asked:
        outcome = run_cli(build_wwwserve_app(), *arguments, "-d", directory)
    return outcome, [json.loads(body) for path, body in asked if path == "/v1/chat/completions"]


def test_an_answer_is_on_stdout_and_what_it_cost_on_stderr(tmp_path: Path) -> None:
    outcome, (asked,) = run(tmp_path, stream("Hel", "lo\x1b[2J\n"), "ask", "Say", "hello", "--max-tokens", "9")
    assert outcome.code == 0 and outcome.stdout == "Hello\\u001b[2J\n\n"
    assert asked["model"] == "near" and asked["messages"] == [{"role": "user", "content": "Say hello"}]
    assert (asked["max_tokens"], asked["stream"]) == (9, True)
    assert outcome.stderr.startswith("(served by 12D3KooWexecutor, first token after ")
    assert "0.001500 credits, final at height 7)" in outcome.stderr


def test_an_answer_as_json_is_one_value(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, stream("Hello"), "ask", "Hi", "-m", "far", "--json")
    content = json.loads(outcome.stdout)
    assert (content["model"], content["text"], content["request"]["amount"]) == ("far", "Hello", 1_500)
    assert outcome.stderr == ""


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (as_json({"error": {"message": "0.1 credits are needed"}}, 402), 4, "0.1 credits are needed"),
        (as_json({"error": {"message": "no such model"}}, 404), 1, "no such model"),
        (as_json({}, 504), 7, "the node answered 504"),
        (stream("Hel", error={"error": {"message": "broke off"}}), 1, "broke off"),
    ],
)
def test_a_refusal_ends_in_one_line_and_a_code(tmp_path: Path, answer: Reply, code: int, message: str) -> None:
    outcome, _ = run(tmp_path, answer, "ask", "Hi")
    assert outcome.code == code and outcome.stderr == f"error: {message}\n"


def test_a_chat_sends_what_was_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("first\n\nsecond\n"))
    outcome, asked = run(tmp_path, stream("yes"), "chat", "--system", "Be brief.")
    assert outcome == (0, "yes\nyes\n", "")
    assert [message["content"] for message in asked[1]["messages"]] == ["Be brief.", "first", "yes", "second"]


def test_a_question_may_come_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a file\n"))
    _, (asked,) = run(tmp_path, stream("yes"), "ask")
    assert asked["messages"][0]["content"] == "from a file"


class Keyboard(io.StringIO):
    """Lines that somebody types at a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_chat_goes_on_after_an_answer_that_failed_or_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ask.print_part

    def press_ctrl_c(text: str) -> None:
        shown(text)
        if text == "on and on":
            raise KeyboardInterrupt

    monkeypatch.setattr(ask, "print_part", press_ctrl_c)
    replies = {
        "first": as_json({"error": {"message": "the backend broke"}}, 502),
        "second": stream("on and on", "and on"),
        "third": stream("yes"),
    }
    bodies = []

    def reply(path: str, body: bytes) -> Reply:
        if path != "/v1/chat/completions":
            return as_json(MODELS)
        bodies.append(json.loads(body)["messages"])
        return replies[bodies[-1][-1]["content"]]

    monkeypatch.setattr("sys.stdin", Keyboard("first\nsecond\nthird\n"))
    with playing(tmp_path, reply):
        outcome = run_cli(build_wwwserve_app(), "chat", "-d", tmp_path)
    assert outcome.code == 0 and outcome.stdout.endswith("yes\n> ")
    assert "error: the backend broke" in outcome.stderr and "stopped" in outcome.stderr
    assert [message["content"] for message in bodies[-1]] == ["second", "on and on", "third"]


def test_an_answer_that_is_not_streamed_is_shown_as_well(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, as_json({"choices": [{"message": {"content": "Hello"}}]}), "ask", "Hi")
    assert outcome.code == 0 and outcome.stdout == "Hello\n"


def test_without_a_node_it_says_so(tmp_path: Path) -> None:
    outcome = run_cli(build_wwwserve_app(), "ask", "Hi", "-d", tmp_path)
    assert outcome.code == 3 and "make one with: wwwserve init" in outcome.stderr
