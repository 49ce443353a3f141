"""``wwwserve ask`` and ``chat``: answers in the terminal, through the node that runs in a data directory."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from chain.amounts import format_credits
from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import AsJson, DataDir
from chain.cli.text import print_line, print_part
from serving.cli.running.admin_client import ask_node, open_answer
from serving.cli.running.suggestions import suggest_models
from serving.openai.answers import EVENT_STREAM
from serving.openai.endpoints import CHAT
from serving.openai.requests import LOCAL_ONLY

ANSWER_TIMEOUT_S = 120.0
"""How long the node may send nothing of an answer."""
SETTLE_TIMEOUT_S = 10.0
"""How long to wait for the record of a payment to name its price."""
LISTED_REQUESTS = 20
"""Requests of the node's record among which the own one is looked for."""
STATUS_CODES = {402: ExitCode.REFUSED, 504: ExitCode.TIMEOUT}

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Which model answers (default: the first that is served here).",
        autocompletion=suggest_models,
    ),
]
System = Annotated[str | None, typer.Option("--system", help="What the model is told to be.")]
LocalOnly = Annotated[bool, typer.Option("--local-only", help="Only this node's own backends, and no payment.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer.")]


@dataclass(slots=True)
class Answer:
    """What came of a question; times in seconds."""

    request_id: str = ""
    executor: str = ""
    text: str = ""
    pieces: int = 0
    first_token: float | None = None
    duration: float = 0.0


def ask(
    question: Annotated[
        list[str] | None, typer.Argument(help="The question; '-' or none: what comes on standard input.")
    ] = None,
    model: Model = None,
    system: System = None,
    local_only: LocalOnly = False,
    max_tokens: MaxTokens = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model, and print its answer as it comes; who served it and what it cost stands below, on stderr."""
    text = " ".join(question or ())
    if text in ("", "-"):
        if sys.stdin.isatty():
            raise CommandError('ask something: wwwserve ask "Why is the sky blue?"', code=ExitCode.USAGE)
        text = sys.stdin.read().strip()
    messages = [*_make_system(system), {"role": "user", "content": text}]
    name = model or _choose_model(data_dir)
    answer = Answer()
    _complete(answer, data_dir, name, messages, local_only, max_tokens, quiet=as_json)
    record = _find_record(data_dir, answer)
    if as_json:
        content = {
            "model": name,
            "text": answer.text,
            "served_by": answer.executor,
            "first_token_s": answer.first_token,
            "duration_s": answer.duration,
            "request": record,
        }
        print_result(content, as_json)
        return
    print_line("")
    print_line(_describe(answer, record), to_stderr=True)


def chat(
    model: Model = None,
    system: System = None,
    local_only: LocalOnly = False,
    max_tokens: MaxTokens = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Talk with a model, a line at a time, until Ctrl-D. With --json each answer is a JSON value on a line.

    On a terminal, Ctrl-C stops an answer, and what fails ends that answer alone.
    """
    name = model or _choose_model(data_dir)
    messages: list[dict[str, str]] = [*_make_system(system)]
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print_line(f"{name}; Ctrl-C stops an answer, Ctrl-D ends", to_stderr=True)
    while True:
        if is_terminal:
            print_part("> ")
        line = sys.stdin.readline()
        if not line:
            return
        if not line.strip():
            continue
        messages.append({"role": "user", "content": line.strip()})
        answer = Answer()
        try:
            _complete(answer, data_dir, name, messages, local_only, max_tokens, quiet=as_json)
        except (KeyboardInterrupt, CommandError) as error:
            is_over = isinstance(error, CommandError) and error.failure.code is ExitCode.NO_NODE
            if not is_terminal or is_over:
                raise
            print_line("")
            print_line(f"error: {error}" if isinstance(error, CommandError) else "stopped", to_stderr=True)
            if not answer.text:
                messages.pop()  # as if it had not been said
                continue
        messages.append({"role": "assistant", "content": answer.text})
        if as_json:
            print_result({"model": name, "text": answer.text, "served_by": answer.executor}, as_json)
        else:
            print_line("")


def _make_system(system: str | None) -> Iterator[dict[str, str]]:
    if system is not None:
        yield {"role": "system", "content": system}


def _choose_model(data_dir: Path | None) -> str:
    """The first model that is served here, or else by another node."""
    models: list[dict[str, Any]] = ask_node(data_dir, "GET", "/models")["models"]
    if not models:
        raise CommandError("there is no model: no backend answers, and no node serves one", hint="see wwwserve status")
    return str(min(models, key=lambda entry: not entry["local"])["id"])


def _complete(
    answer: Answer,
    data_dir: Path | None,
    model: str,
    messages: Sequence[dict[str, str]],
    local_only: bool,
    max_tokens: int | None,
    *,
    quiet: bool,
) -> None:
    """Ask, and put the answer into ``answer`` as it comes; print it unless ``quiet``.

    Raises:
        CommandError: there is no answer, or it broke off.
    """
    content: dict[str, Any] = {"model": model, "messages": list(messages), "stream": True}
    if max_tokens is not None:
        content["max_tokens"] = max_tokens
    headers = {LOCAL_ONLY: "true"} if local_only else {}
    started = time.monotonic()
    with open_answer(data_dir, "POST", CHAT.path, content, ANSWER_TIMEOUT_S, headers) as response:
        if response.status != 200:
            raise _make_error(response.status, json.loads(response.read() or b"{}"))
        answer.request_id = response.headers.get("x-request-id", "")
        answer.executor = response.headers.get("x-wwwserve-executor", "")
        for event in _read_events(response):
            if "error" in event:
                raise _make_error(502, event)
            for choice in event.get("choices", ()):
                piece = (choice.get("delta") or choice.get("message") or {}).get("content")
                if not piece:
                    continue
                answer.first_token = answer.first_token or time.monotonic() - started
                answer.text += piece
                answer.pieces += 1
                if not quiet:
                    print_part(piece)
        answer.duration = time.monotonic() - started


def _read_events(response: Any) -> Iterator[dict[str, Any]]:
    """The events of a stream (server-sent events with JSON); of a backend that streams nothing, its whole answer."""
    if not response.headers.get("content-type", "").startswith(EVENT_STREAM):
        yield json.loads(response.read())
        return
    for line in response:
        data = line.decode(errors="replace").removeprefix("data:").strip()
        if line.startswith(b"data:") and data != "[DONE]":
            event: dict[str, Any] = json.loads(data)
            yield event


def _make_error(status: int, content: dict[str, Any]) -> CommandError:
    error = content.get("error", {})
    message = error.get("message", "") if isinstance(error, dict) else str(error)
    return CommandError(message or f"the node answered {status}", code=STATUS_CODES.get(status, ExitCode.FAILED))


def _find_record(data_dir: Path | None, answer: Answer) -> dict[str, Any] | None:
    """What the node says of the request, with the price as soon as there is one."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        rows = ask_node(data_dir, "GET", f"/requests?limit={LISTED_REQUESTS}")["requests"]
        row: dict[str, Any] | None = next((row for row in rows if row["id"] == answer.request_id), None)
        is_open = row is not None and row["hold"] is not None and row["settled_height"] is None
        if not is_open or time.monotonic() > deadline:
            return row
        time.sleep(0.2)


def _describe(answer: Answer, record: dict[str, Any] | None) -> str:
    parts = ["served here" if answer.executor == "local" else f"served by {answer.executor}"]
    if answer.first_token is not None:
        parts.append(f"first token after {1000 * answer.first_token:.0f} ms")
    tokens = answer.pieces if record is None else record["completion_tokens"] or answer.pieces
    if answer.duration > 0:
        parts.append(f"{tokens / answer.duration:.0f} tokens/s")
    if record is not None and record["hold"] is not None:
        if record["amount"] is None:
            parts.append(f"{format_credits(record['held'] or 0)} credits held, the payment is not final yet")
        else:
            parts.append(f"{format_credits(record['amount'])} credits, final at height {record['settled_height']:,}")
    return "(" + ", ".join(parts) + ")"
