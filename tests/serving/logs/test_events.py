"""The catalogue of events against the code: every call of a logger has its entry, and every entry a call."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from serving.logs.events import EVENTS

ROOT = Path(__file__).resolve().parents[3]
METHODS = {**{name: name for name in ("debug", "info", "warning", "error")}, "exception": "error"}


class Call(NamedTuple):
    """A call of a logger; ``names`` are what its event may be called, empty if that is not written out."""

    place: str
    names: tuple[str, ...]
    level: str
    fields: tuple[str | None, ...]


def find_calls(source: str, place: str) -> Iterator[Call]:
    """The calls of structlog's loggers in a module."""
    if "structlog.get_logger" not in source:
        return
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(ast.Attribute(ast.Name("log" | "logger"), method), arguments) if method in METHODS:
                fields = tuple(keyword.arg for keyword in node.keywords)
                yield Call(f"{place}:{node.lineno}", find_names(arguments[0]), METHODS[method], fields)


def find_names(node: ast.expr) -> tuple[str, ...]:
    match node:
        case ast.Constant(str(name)):
            return (name,)
        case ast.IfExp(_, one, other):
            return find_names(one) + find_names(other)
    return ()


def find_all_calls() -> list[Call]:
    files = [
        ROOT / "node.py",
        *(path for part in ("chain", "consensus", "p2p", "serving") for path in (ROOT / part).rglob("*.py")),
    ]
    return [call for path in files for call in find_calls(path.read_text(), str(path.relative_to(ROOT)))]


def test_every_call_has_its_entry_and_every_entry_a_call() -> None:
    calls = find_all_calls()
    assert len(calls) > 80
    assert [call.place for call in calls if not call.names or None in call.fields] == [], (
        "written out, or not searchable"
    )
    assert [call for call in calls for name in call.names if name not in EVENTS] == []
    assert [call for call in calls for name in call.names if EVENTS[name].level != call.level] == []
    fields = defaultdict(set)
    for call in calls:
        for name in call.names:
            fields[name] |= set(call.fields)
    assert {name: set(event.fields) for name, event in EVENTS.items()} == fields


def test_the_search_finds_what_is_not_written_out() -> None:
    source = (
        "log = structlog.get_logger()\nlog.info(text, a=1)\nlog.error('x' if y else 'z', **more)\nother.info('w')\n"
    )
    assert list(find_calls(source, "f")) == [Call("f:2", (), "info", ("a",)), Call("f:3", ("x", "z"), "error", (None,))]


def test_no_event_names_what_users_write_or_what_opens_an_account() -> None:
    words = {"prompt", "messages", "answer", "body", "secret", "key", "token", "passphrase"}
    assert {name for name, event in EVENTS.items() if words & set(event.fields)} == set()
