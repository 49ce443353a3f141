"""An answer, and its inspector: tokens, finish reason and errors are read while the bytes pass by unparsed.

Only the few events of a stream that can hold what is wanted are parsed as JSON. Where a backend reports no usage, the
events that carry content are counted instead and the figure is marked as estimated.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

EVENT_STREAM = "text/event-stream"
"""How the content type of a streamed answer begins."""

MAX_PARSED_BYTES = 16 << 20
"""Most bytes of an unstreamed answer, or of one event of a stream, that are kept for parsing."""

MAX_REPORTED_TOKENS = 1 << 32
"""A usage of more tokens is not believed."""
MAX_ERROR_CHARS = 500
"""Most of an error message that is kept."""
MAX_FINISH_REASON_CHARS = 32
"""Most of a finish reason that is kept."""

_DONE = re.compile(rb"^data:[ \t]*\[DONE\]", re.MULTILINE)
_ERROR = re.compile(rb'^data:[ \t]*\{\s*"error"\s*:(?!\s*null)', re.MULTILINE)
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"([a-z_]{1,32})"')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_CONTENT = re.compile(rb'"(?:content|text|reasoning|reasoning_content|arguments)"\s*:\s*"[^"]')
_BREAK = re.compile(rb"\r?\n\r?\n")
_LONGEST_BREAK = 4
"""Bytes of the longest match of ``_BREAK``."""


@dataclass(slots=True)
class Answer:
    """Head of an answer, and its body after transfer decoding, wherever it comes from.

    ``body`` may be iterated once; it raises :class:`~serving.backends.backend.BackendError` if the answer breaks off.
    """

    status: int
    content_type: str
    body: AsyncIterator[bytes]

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.content_type.startswith(EVENT_STREAM)


class AnswerInspector:
    """Watches one answer.

    ``withhold_usage`` keeps the usage event of a stream from a user who did not ask for it. ``error`` is the message of
    an error event, or why the answer broke off.
    """

    def __init__(self, stream: bool, withhold_usage: bool = False) -> None:
        self.is_stream = stream
        self._withhold = withhold_usage
        self._buffer = bytearray()
        self._reported: int | None = None
        self._events = 0
        self._done = False
        self.finish_reason = ""
        self.error: str | None = None

    def feed(self, chunk: bytes) -> bytes:
        """Watch the next bytes; returns those to pass on now (whole events, in a stream)."""
        if not self.is_stream:
            if len(self._buffer) + len(chunk) <= MAX_PARSED_BYTES:
                self._buffer += chunk
            return chunk
        searched = max(0, len(self._buffer) - _LONGEST_BREAK + 1)  # a long event is not searched anew with every chunk
        self._buffer += chunk
        end = 0
        kept: list[bytes] = []
        for match in _BREAK.finditer(self._buffer, searched):
            event = bytes(self._buffer[end : match.end()])
            end = match.end()
            if self._watch(event):
                kept.append(event)
        del self._buffer[:end]
        if len(self._buffer) > MAX_PARSED_BYTES:
            kept.append(bytes(self._buffer))
            self._buffer.clear()
        return b"".join(kept)

    def finish(self) -> bytes:
        """The answer is over; returns what is left to pass on.

        Of a stream that can be a last event without its blank line. An event that was cut off is dropped, as clients
        would drop it: an error event may have to follow.
        """
        if self.is_stream:
            rest = bytes(self._buffer).rstrip(b"\r\n")
            self._buffer.clear()
            whole = _DONE.search(rest) or _parse(_data(rest)) is not None
            return rest + b"\n\n" if whole and self._watch(rest) else b""
        content = _parse(bytes(self._buffer))
        if content is not None:
            self._read_usage(content)
            choices = content.get("choices")
            self._done = isinstance(choices, list)
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, dict) and isinstance(choice.get("finish_reason"), str):
                    self.finish_reason = _clean(choice["finish_reason"], MAX_FINISH_REASON_CHARS)
        return b""

    def _watch(self, event: bytes) -> bool:
        """Read one event; returns whether the user may see it."""
        if _DONE.search(event):
            self._done = True
            return True
        if _ERROR.search(event):
            content = _parse(_data(event))
            error = content.get("error") if content else "an error event that is not JSON"
            self.error = _clean(str(error.get("message", error) if isinstance(error, dict) else error), MAX_ERROR_CHARS)
            return True
        finish = _FINISH.search(event)
        if finish is not None:
            self.finish_reason = finish[1].decode()
        if _USAGE.search(event):
            content = _parse(_data(event))
            if content is not None:
                self._read_usage(content)
                if not content.get("choices"):
                    return not self._withhold
        self._events += _CONTENT.search(event) is not None
        return True

    def _read_usage(self, content: dict[str, Any]) -> None:
        usage = content.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if type(tokens) is int and 0 <= tokens < MAX_REPORTED_TOKENS:
            self._reported = tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens of the answer so far, as reported or (``is_estimated``) as counted."""
        return self._events if self._reported is None else self._reported

    @property
    def is_over(self) -> bool:
        """Whether the closing event of a stream has passed; clients hang up on it."""
        return self.is_stream and self._done

    @property
    def is_estimated(self) -> bool:
        """Whether the backend reported no usage."""
        return self._reported is None

    @property
    def is_complete(self) -> bool:
        """Whether the answer ended as it should, without an error."""
        return self.error is None and (self._done or bool(self.finish_reason))


def _clean(text: str, limit: int) -> str:
    """Text from elsewhere, short and encodable: JSON can spell half of a surrogate pair."""
    return text[:limit].encode("utf-8", "replace").decode()


def _data(event: bytes) -> bytes:
    return b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
