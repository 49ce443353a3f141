"""An answer, and its inspector: completion bytes, tokens, finish reason and errors are read while the bytes pass by.

Each event of a stream is decoded once on every node that it passes. An event too long for that is not passed on, so
that every byte sent has been counted. An answer that is not streamed is passed on as a whole. Where a backend reports
no usage, the events that carry content are counted as tokens, and the figure is marked as estimated.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from serving.openai.content import (
    MESSAGES,
    AnswerForm,
    AnyContent,
    ReportedUsage,
    VectorContent,
    count_completion_bytes,
    decode_body,
    decode_event,
    make_end,
)
from serving.openai.errors import bad_gateway
from serving.openai.written_text import WrittenText

EVENT_STREAM = "text/event-stream"
"""How the content type of a streamed answer begins."""

MAX_EVENT_BYTES = 256 << 10
"""Longest event of a stream, in which a long token has the log probabilities of a thousand candidates."""
TOO_LONG_EVENT = f"an event of the answer is longer than {MAX_EVENT_BYTES} bytes"
"""Error for such an event."""

FREE_EVENTS = 256
"""Events of a stream that may be as short as they like."""
LEAST_EVENT_BYTES = 16
"""Least average size of the events beyond them: even an empty event costs a microsecond or two."""
TOO_MANY_EVENTS = f"the answer has more than {FREE_EVENTS} events, and of less than {LEAST_EVENT_BYTES} bytes each"
"""Error for too many events."""

MAX_ERROR_CHARS = 500
"""Most of an error message that is kept."""

_CLOSING = re.compile(rb"\s*\[DONE\]")
"""How the data of the closing event of a stream begins; clients read no further."""
_ERROR = re.compile(rb'\s*\{\s*"error"\s*:')
_NO_ERROR = (b"", b"null", b"false", b"0", b'""', b"{}", b"[]")
"""Values of the field ``error`` that mean no error."""
_TOKENS = re.compile(rb"\d{1,9}")
"""A count of tokens; a larger one is not believed."""
_FINISH_REASON = re.compile(r"[a-z_]{1,32}")
_BREAK = re.compile(rb"\r?\n\r?\n")
_LONGEST_BREAK = 4
"""Bytes of the longest match of ``_BREAK``."""


@dataclass(slots=True)
class Answer:
    """Head of an answer, and its body after transfer decoding, wherever it comes from.

    ``body`` may be iterated once; it raises :class:`~serving.backends.backend.BackendError` if the answer breaks off.
    ``retry_after_s``: when the server expects to have time, as its header Retry-After says (0: it does not). After
    ``gather(seconds)``, all that comes until the next multiple of ``seconds`` of trio's clock comes as one piece. It
    returns whether the body can do that.
    """

    status: int
    content_type: str
    body: AsyncIterator[bytes]
    retry_after_s: float = 0.0
    gather: Callable[[float], bool] = lambda seconds: False

    @property
    def is_stream(self) -> bool:
        """Whether the body is a stream of server-sent events."""
        return self.content_type.startswith(EVENT_STREAM)

    def with_body(self, body: AsyncIterator[bytes]) -> Answer:
        """The same head with another body."""
        return Answer(self.status, self.content_type, body, self.retry_after_s)


class WholeBody:
    """A body of one piece; an empty one has no piece."""

    def __init__(self, body: bytes = b"") -> None:
        self._body = body

    def __aiter__(self) -> WholeBody:
        return self

    async def __anext__(self) -> bytes:
        body, self._body = self._body, b""
        if not body:
            raise StopAsyncIteration
        return body


class AnswerInspector:
    """Watches one answer, of ``form``, to a request for ``choices`` choices, in which calls count if it ``has_tools``.

    ``withhold_usage`` keeps the usage event of a stream from a user who did not ask for it. With ``cut_long``, a stream
    ends as too long before an event that is too long; otherwise such an event is an error. ``error`` is the message of
    an error event, or why the answer broke off; nothing after it counts.
    """

    def __init__(
        self,
        stream: bool,
        *,
        form: AnswerForm = MESSAGES,
        choices: int = 1,
        has_tools: bool = False,
        withhold_usage: bool = False,
        cut_long: bool = False,
    ) -> None:
        self.is_stream = stream
        self._form = form
        self._choices = choices
        self._has_tools = has_tools
        self._withhold = withhold_usage
        self._cut_long = cut_long
        self._buffer = bytearray()
        self._breaks = 0
        """Events that were seen, of whatever kind."""
        self._passed = 0
        """Their bytes."""
        self._reported: int | None = None
        self.prompt_tokens = 0
        """Tokens of the prompt as the backend reports them; 0 if it does not, or not yet."""
        self._events = 0
        self._last = b""
        """Data of the last event with content."""
        self._done = False
        self.is_too_long = False
        """Whether the answer exceeded a limit; nothing more of it is passed on."""
        self.completion_bytes = 0
        """The completion bytes so far, by which the answer is billed. If it is not streamed, they are known at the
        end."""
        self.finish_reason = ""
        self.is_malformed = False
        """Whether an event of a stream was not JSON. It is passed on, so that nothing is hidden from the user."""
        self.error: str | None = None
        self.error_event = b""
        """The event that said so, which was passed on."""
        self.written = WrittenText() if stream and choices == 1 else None
        """The text so far, for another source that may have to continue it."""

    def go_on(self) -> AnswerInspector:
        """An inspector for the events of another source that continues this answer; its counts start from these."""
        other = copy.copy(self)
        other._buffer, other.error, other.error_event, other.is_too_long = bytearray(), None, b"", False
        return other

    @property
    def last_event(self) -> bytes:
        """The data of the last event with content."""
        return self._last

    def feed(self, chunk: bytes) -> bytes:
        """Watch the next bytes; returns those to pass on now: whole events of a stream, and nothing of another
        answer."""
        if self.is_too_long:
            return b""
        if not self.is_stream:
            self._buffer += chunk
            if len(self._buffer) > self._form.max_bytes:
                self._break_off(f"the answer is longer than {self._form.max_bytes} bytes")
            return b""
        searched = max(0, len(self._buffer) - _LONGEST_BREAK + 1)  # a long event is not searched anew with every chunk
        self._buffer += chunk
        end = 0
        kept: list[bytes] = []
        for match in _BREAK.finditer(self._buffer, searched):
            event = bytes(self._buffer[end : match.end()])
            end = match.end()
            self._breaks += 1
            self._passed += len(event)
            is_allowed = self._done or self._breaks <= FREE_EVENTS + self._passed // LEAST_EVENT_BYTES
            kept.append(self._watch(event) if is_allowed else self._break_off(TOO_MANY_EVENTS))
            if self.is_too_long:
                return b"".join(kept)
        del self._buffer[:end]
        if len(self._buffer) > MAX_EVENT_BYTES:
            kept.append(self._break_off(TOO_LONG_EVENT))
        return b"".join(kept)

    def finish(self) -> bytes:
        """The answer is over; returns what is left to pass on: all of it, if it is not a stream.

        For a stream that may be a last event without its blank line. An event that was cut off is dropped, as clients
        would drop it: an error event may have to follow.
        """
        rest, self._buffer = bytes(self._buffer), bytearray()
        if not rest:
            return b""
        if self.is_stream:
            rest = rest.rstrip(b"\r\n")
            data = get_data(rest)
            is_whole = _CLOSING.match(data) or decode_event(data, self._form) is not None
            return self._watch(rest + b"\n\n") if is_whole else b""
        content = decode_body(rest, self._form)
        if content is not None:
            self._read(content)
            self._done = content.choices is not None and self._has_all(content)
        return rest

    def end(self) -> bytes:
        """End a stream before its backend does, as if it had reached its limit; returns the events to pass on."""
        self._buffer = bytearray()
        return self.feed(make_end(self._last, self._choices, self._form))

    def _watch(self, event: bytes) -> bytes:
        """Read one event; returns what the user may see of it."""
        if len(event) > MAX_EVENT_BYTES:
            return self._break_off(TOO_LONG_EVENT)
        if self._done or self.error is not None:
            return event
        data = get_data(event)
        content = decode_event(data, self._form)
        if content is None:
            self._done = _CLOSING.match(data) is not None
            self.is_malformed = self.is_malformed or not (self._done or data.strip() == b"")
            if _ERROR.match(data):
                self.error, self.error_event = "an error event that is not JSON", event
            return event
        error = bytes(content.error)
        if error not in _NO_ERROR:
            self.error, self.error_event = _describe(error), event
            return event
        before = self.completion_bytes
        self._read(content)
        if self.completion_bytes > before:
            self._events += 1
            self._last = data
        if self._withhold and content.usage is not None and not content.choices:
            return b""
        return event

    def _read(self, content: AnyContent) -> None:
        self.completion_bytes += count_completion_bytes(content, self._choices, self._has_tools)
        if self.written is not None:
            self.written.note(content)
        for choice in content.choices or ():
            reason = choice.finish_reason
            if reason is not None and _FINISH_REASON.fullmatch(reason):
                self.finish_reason = reason
        if content.usage is not None:
            self._read_usage(content.usage)

    def _read_usage(self, usage: ReportedUsage) -> None:
        tokens, prompt = bytes(usage.completion_tokens), bytes(usage.prompt_tokens)
        if _TOKENS.fullmatch(tokens):
            self._reported = int(tokens)
        if _TOKENS.fullmatch(prompt):
            self.prompt_tokens = int(prompt)

    def _has_all(self, content: AnyContent) -> bool:
        """Whether there are as many embeddings as were asked for."""
        return not isinstance(content, VectorContent) or len(content.choices or ()) == self._choices

    def _break_off(self, reason: str) -> bytes:
        """Ignore the rest of an answer that is too long; returns the events that end a stream."""
        if self._cut_long and self._last and not self._done:
            end = self.end()
            self.is_too_long = True
            return end
        self.error, self.is_too_long = reason, True
        self._buffer = bytearray()
        self.error_event = bad_gateway(f"The answer broke off: {reason}.").event()
        return self.error_event

    @property
    def max_bytes(self) -> int:
        """The longest that an answer that is not streamed may be."""
        return self._form.max_bytes

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


def _describe(raw: bytes) -> str:
    """The message of an error of any form."""
    try:
        error = json.loads(raw)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:MAX_ERROR_CHARS]
    except (ValueError, RecursionError):
        return "an error event that cannot be read"


def get_data(event: bytes) -> bytes:
    """The data of a server-sent event (WHATWG HTML, section 9.2.6), possibly with white space around it."""
    if event.startswith(b"data:") and event.count(b"\n") == 2 and b"\r" not in event:
        return event[5:]
    return b"\n".join(line[5:] for line in event.splitlines() if line.startswith(b"data:"))
