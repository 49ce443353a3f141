"""Backends that fail in every way that a server can: each fault is a script of what comes from it, and when.

A fault is written for the wire, and :class:`FaultyBackend` does with it what the HTTP client of a node does: silence
beyond the timeouts, and a body that breaks off, are a ``BackendError``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from serving.backends.backend import BackendError
from serving.backends.openai_compatible import BackendTimeouts
from serving.openai.answers import Answer
from tests.support.market.scripted_backend import ScriptedBackend, compute_whole, make_end, make_token
from tests.support.market_world import MODEL
from tests.support.openai_answers import DONE, make_chunk, make_event

TIMEOUTS = BackendTimeouts()
SILENCE = float("inf")
JSON, STREAM, HTML = "application/json", "text/event-stream", "text/html"
CUT = None
"""The connection is lost."""
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
ROLE = make_chunk(MODEL, "").replace(b'"delta":{', b'"delta":{"role":"assistant",')

Step = bytes | float | None
"""Bytes of the body, seconds of silence, or :data:`CUT`."""


@dataclass(frozen=True)
class Reply:
    """What a faulty server does. ``delay_s`` comes before the head; without a head it never answers."""

    steps: Callable[[], Iterator[Step]] = lambda: iter(())
    status: int = 200
    content_type: str = JSON
    delay_s: float = 0.0
    has_head: bool = True
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class Fault:
    """One fault, streamed and not, and what a user must get of either.

    ``rescued``: the whole answer, of whoever it is; ``safe``: an error, and no text that is not of one answer;
    ``continued``: what the backend sent, and the rest of another; ``as sent``: what the backend sent, or rescued;
    ``withheld``: what it sent, and nobody else is asked. ``fields`` are those of the request.
    """

    name: str
    stream: Reply
    whole: Reply
    expects: tuple[str, str] = ("rescued", "rescued")
    fields: dict[str, Any] = field(default_factory=dict)


def _error(**fields: Any) -> bytes:
    return json.dumps({"error": {"message": "on purpose", "type": "server_error", "param": None, **fields}}).encode()


def _status(name: str, status: int, expects: str = "rescued", retry_after_s: float = 0.0, **fields: Any) -> Fault:
    reply = Reply(lambda: iter([_error(**fields)]), status, retry_after_s=retry_after_s)
    return Fault(name, reply, reply, (expects, expects))


def _tokens(count: int, delay_s: float = 0.02) -> list[Step]:
    steps: list[Step] = [ROLE]
    for number in range(count):
        steps += [delay_s, make_token("bad", number)]
    return steps


def _events(*steps: Step) -> Reply:
    return Reply(lambda: iter(steps), content_type=STREAM)


def _body(*steps: Step) -> Reply:
    return Reply(lambda: iter(steps))


def _flood(size: int, piece: bytes = b"x" * (1 << 18)) -> Iterator[Step]:
    yield b'data: {"choices":[{"index":0,"delta":{"content":"'
    for _ in range(size // len(piece)):
        yield piece


def _drip(head: bytes, seconds: float) -> Iterator[Step]:
    yield head
    for _ in range(int(seconds / 10)):
        yield 10.0
        yield b": still here\n\n" if head == ROLE else b" "
    yield CUT


def _call(arguments: str, name: str | None = None) -> bytes:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return make_event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": function}]}}]})


GOOD = compute_whole("bad", ScriptedBackend("bad").script)
"""An answer in one piece."""
HALF = len(GOOD) // 2
SILENT = Reply(has_head=False, delay_s=SILENCE)
RESET = Reply(has_head=False)
END = make_end(ScriptedBackend("bad").script)
CUT_LATE = _events(*_tokens(40), CUT)
STALL = _events(*_tokens(20), SILENCE)
BAD_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"torn\n\n'
HALF_CHARACTER = make_chunk(MODEL, "é").replace(b"\\u00e9", b"\xc3")

FAULTS = [
    # The sixteen of the Failover Bench, by its numbers.
    _status("S01 429 with Retry-After", 429, retry_after_s=2.0),
    _status("S02 429 for good", 429),
    _status("S03 500", 500),
    _status("S04 503 for good", 503),
    Fault("S05 connection reset", RESET, RESET),
    Fault("S06 no response", SILENT, SILENT),
    Fault(
        "S07 first token after 20 s",
        Reply(lambda: iter([*_tokens(6), END]), content_type=STREAM, delay_s=20.0),
        Reply(lambda: iter([GOOD]), delay_s=20.0),
        ("as sent", "as sent"),
    ),
    Fault("S08 cut after 40 tokens", CUT_LATE, _body(GOOD[:HALF], CUT), ("continued", "rescued")),
    Fault("S09 stall after 20 tokens", STALL, _body(GOOD[:HALF], SILENCE), ("continued", "rescued")),
    Fault(
        "S10 malformed event among others",
        _events(*_tokens(3), BAD_EVENT, END),
        _body(b"{not JSON"),
        ("as sent", "rescued"),
    ),
    Fault("S11 no [DONE]", _events(*_tokens(6), END.removesuffix(DONE)), _body(GOOD), ("as sent", "as sent")),
    _status("S12 context length", 400, code="context_length_exceeded"),
    _status("S13 content filter", 400, "withheld", code="content_filter"),
    Fault(
        "S14 cut where nobody can go on",
        _events(*_tokens(40), CUT),
        _body(CUT),
        ("safe", "rescued"),
        {"response_format": {"type": "json_object"}},
    ),
    _status("S15 503 while it flaps", 503, retry_after_s=1.0),
    _status("S16 503 with accounting", 503),
    # And more.
    Fault("half a character first", _events(ROLE, HALF_CHARACTER, END), _body(GOOD.replace(b"bad0", b"bad\xc3"))),
    Fault(
        "half a character later",
        _events(*_tokens(3), HALF_CHARACTER, END),
        _body(GOOD.replace(b"bad5", b"bad\xc3")),
        ("as sent", "rescued"),
    ),
    Fault("200 with an error in it", _events(make_event(json.loads(_error()))), _body(_error())),
    Fault("200 with an error body for a stream", _body(_error()), _body(_error())),
    Fault(
        "a line of 30 MB",
        Reply(lambda: _flood(30 << 20), content_type=STREAM),
        Reply(lambda: _flood(30 << 20)),
    ),
    Fault("headers, and nothing more", _events(SILENCE), _body(SILENCE)),
    Fault("headers, and the end", _events(), _body()),
    Fault("headers, and a cut", _events(CUT), _body(CUT)),
    Fault(
        "slow drip without content",
        Reply(lambda: _drip(ROLE, 900), content_type=STREAM),
        Reply(lambda: _drip(b"{", 900)),
    ),
    Fault("wrong content length", _events(ROLE, CUT), _body(GOOD, CUT)),
    Fault("role, then silence", _events(ROLE, SILENCE), _body(GOOD[:1], SILENCE)),
    Fault("role, then a clean end", _events(ROLE), _body(b"")),
    Fault("role, then an error event", _events(ROLE, make_event(json.loads(_error()))), _body(_error())),
    Fault(
        "tool call cut in its arguments",
        _events(ROLE, _call("", "find"), _call('{"where": "Par'), CUT),
        _body(b'{"choices":[{"message":{"tool_calls":[{"function":{"name":"find","arguments":"{', CUT),
        ("safe", "rescued"),
        {"tools": TOOLS},
    ),
    Fault(
        "cut before a tool is called",
        _events(*_tokens(3), CUT),
        _body(GOOD[:HALF], CUT),
        ("continued", "rescued"),
        {"tools": TOOLS},
    ),
    Fault(
        "cut in the middle of an event", _events(*_tokens(3), BAD_EVENT[:20], CUT), _body(CUT), ("continued", "rescued")
    ),
    Fault("cut without a finish reason", _events(*_tokens(10)), _body(GOOD[:-2]), ("continued", "rescued")),
    Fault(
        "error event in the middle",
        _events(*_tokens(5), make_event(json.loads(_error()))),
        _body(_error()),
        ("continued", "rescued"),
    ),
    Fault(
        "a page of a proxy with 200",
        Reply(lambda: iter([b"<html>"]), content_type=HTML),
        Reply(lambda: iter([b"<html>"]), content_type=HTML),
    ),
    Fault("JSON that is no answer", _body(b'{"ok":true}'), _body(b'{"ok":true}'), ("rescued", "as sent")),
    Fault(
        "a stream that nobody asked for", _events(*_tokens(6), END), _events(*_tokens(6), END), ("as sent", "rescued")
    ),
    _status("401 of its key", 401),
    _status("404 of its model", 404),
    _status("302 elsewhere", 302),
    _status("408", 408),
    _status("529 overloaded", 529),
    _status("another 400", 400, "as sent", type="invalid_request_error"),
]
"""All of them."""


@dataclass
class FaultyBackend(ScriptedBackend):
    """A scripted backend that has a fault while ``fault`` is set."""

    fault: Fault | None = None
    met: int = 0
    """Requests that met the fault."""
    sent: bytearray = field(default_factory=bytearray)
    """What the last of them was sent."""

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        if self.fault is None:
            async with super().complete(path, body, stream=stream) as answer:
                yield answer
            return
        self.requests += 1
        self.running += 1
        self.met += 1
        self.sent = bytearray()
        reply = self.fault.stream if stream else self.fault.whole
        try:
            first_byte_s = TIMEOUTS.first_byte_s if stream else TIMEOUTS.answer_s
            await trio.sleep(min(reply.delay_s, first_byte_s))
            if reply.delay_s > first_byte_s:
                raise BackendError("the server did not answer in time")
            if not reply.has_head:
                raise BackendError("the server closed the connection without an answer")
            pieces = self._send(reply, first_byte_s - reply.delay_s)
            yield Answer(reply.status, reply.content_type, pieces, reply.retry_after_s)
        finally:
            self.running -= 1

    async def _send(self, reply: Reply, first_byte_s: float) -> AsyncGenerator[bytes, None]:
        patience_s = max(first_byte_s, TIMEOUTS.stall_s)
        for step in reply.steps():
            if step is CUT:
                raise BackendError("the server broke off")
            if isinstance(step, float):
                await trio.sleep(min(step, patience_s))
                if step > patience_s:
                    raise BackendError("the server stopped in the middle of its answer")
                continue
            patience_s = TIMEOUTS.stall_s
            self.sent += step[: 1 << 16]
            yield step
