"""The log-probabilities of an answer, asked for beside the user's request and taken out as the answer passes.

:func:`ask_for_logprobs` adds the fields to a request whose user did not ask for them. A :class:`LogprobTap` then reads
the transcript from the answer and passes it on without them. All other JSON values pass byte for byte, so the
completion bytes, by which an answer is billed, are those of an answer without log-probabilities. What a user asked for
is read and passed on unchanged.

A transcript must have no gap, or every position after it would be scored in another context. llama.cpp lists nothing
for a token that is a part of a character. So the listed tokens are compared with the number that the backend reports,
and an answer where they differ has no transcript. Neither has an answer of several choices, whose tokens are reported
together.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from chain.exceptions import CodecError
from serving.quality.same_model.transcript import (
    MAX_TOKENS,
    TOP_TOKENS,
    TopToken,
    Transcript,
    TranscriptToken,
    to_surprisal,
)

ASKED_FIELDS = {"logprobs": True, "top_logprobs": TOP_TOKENS, "return_tokens_as_token_ids": True}
"""What is added to a request. The last makes vLLM name tokens by their ids, as llama.cpp does without it."""
MAX_TAPPED_EVENT_BYTES = 1 << 20
"""Longest event of a stream that is read; a stream with a longer one passes on as it is."""
MAX_TAPPED_BODY_BYTES = 16 << 20
"""Longest answer in one piece that is read; a longer one passes on as it is."""

_BREAK = re.compile(rb"\r?\n\r?\n")
_LONGEST_BREAK = 4
"""Bytes of the longest match of ``_BREAK``."""
_TOKEN_ID = re.compile(r"token_id:(\d{1,10})")
_FIELD = b'"logprobs"'


class _Listed(msgspec.Struct, gc=False):
    token: str
    logprob: float
    id: int | None = None

    def get_id(self) -> int:
        """The token's id. Raises ValueError if the backend names it by its text alone."""
        found = _TOKEN_ID.fullmatch(self.token)
        if self.id is None and found is None:
            raise ValueError("the backend names tokens by their text, not by their ids")
        return self.id if self.id is not None else int(found[1]) if found else 0


class _Token(_Listed, gc=False):
    top_logprobs: list[_Listed] = []


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Token] | None = None


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: int | None = None


_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHOICES = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_LOGPROBS = msgspec.json.Decoder(_Logprobs | None)
_USAGE = msgspec.json.Decoder(_Usage | None)


def ask_for_logprobs(body: bytes) -> tuple[bytes, bool]:
    """The request to send to the backend, and whether the user asked for log-probabilities.

    A request of a user who asks passes unchanged. ``body`` is a chat completion, a JSON object.
    """
    content: dict[str, Any] = json.loads(body)
    if content.get("logprobs"):
        return body, True
    return json.dumps({**content, **ASKED_FIELDS}).encode(), False


class LogprobTap:
    """Watches one answer. ``strip`` takes the log-probabilities out of it.

    ``fault`` says why there is no transcript. Bytes are handed over as to
    :class:`~serving.openai.answers.AnswerInspector`, which comes after it.
    """

    def __init__(self, stream: bool, *, strip: bool) -> None:
        self._is_stream = stream
        self._strip = strip
        self._buffer = bytearray()
        self._tokens: list[TranscriptToken] = []
        self._count = 0
        self._reported: int | None = None
        self._is_passing = False
        """Whether the rest passes without being read."""
        self.fault = ""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the answer; returns those to pass on now (whole events, in a stream)."""
        if self._is_passing:
            return chunk
        searched = max(0, len(self._buffer) - _LONGEST_BREAK + 1)
        self._buffer += chunk
        if not self._is_stream:
            if len(self._buffer) > MAX_TAPPED_BODY_BYTES:
                return self._give_up(chunk)
            return b"" if self._strip else chunk
        end = 0
        passed: list[bytes] = []
        for match in _BREAK.finditer(self._buffer, searched):
            passed.append(self._read_event(bytes(self._buffer[end : match.end()])))
            end = match.end()
        del self._buffer[:end]
        if len(self._buffer) > MAX_TAPPED_EVENT_BYTES:
            passed.append(self._give_up(bytes(self._buffer)))
        return b"".join(passed)

    def finish(self) -> bytes:
        """The answer is over; returns what is left to pass on."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        if self._is_passing:
            return b""
        if self._is_stream:
            return self._read_event(rest) if rest else b""
        kept = self._read(rest)
        return kept if self._strip else b""

    def get_transcript(self) -> Transcript | None:
        """The transcript of an answer that is over; None if there is a :attr:`fault`."""
        if not self.fault:
            self.fault = self._find_fault()
        try:
            return None if self.fault else Transcript(tuple(self._tokens))
        except CodecError as error:
            self.fault = str(error)
            return None

    def _find_fault(self) -> str:
        if not self._count:
            return "the backend reports no log-probabilities"
        if self._reported is None:
            return "the backend does not say how many tokens the answer has"
        if self._reported != self._count:
            return f"the backend lists {self._count} of {self._reported} tokens"
        return ""

    def _give_up(self, rest: bytes) -> bytes:
        """Pass the rest on as it is; returns what of it is due now."""
        self.fault = "the answer, or an event of it, is too long to be read"
        self._is_passing = True
        due = bytes(self._buffer) if self._strip and not self._is_stream else rest
        self._buffer = bytearray()
        return due

    def _read_event(self, event: bytes) -> bytes:
        """Read one event; returns what the user gets of it."""
        lines = event.splitlines()
        data = b"\n".join(line[5:] for line in lines if line.startswith(b"data:"))
        kept = self._read(data)
        if kept is data:
            return event
        others = [line for line in lines if line and not line.startswith(b"data:")]
        return b"\n".join([*others, b"data: " + kept, b"", b""])

    def _read(self, data: bytes) -> bytes:
        """Read one JSON object; returns it without log-probabilities, or ``data`` itself if nothing is to change."""
        if _FIELD not in data and b'"usage"' not in data:
            return data
        try:
            content = _OBJECT.decode(data)
            usage = _USAGE.decode(content["usage"]) if "usage" in content else None
            choices = _CHOICES.decode(content["choices"]) if "choices" in content else []
        except (ValueError, RecursionError):  # not a part of an answer; the inspector judges it
            return data
        if usage is not None and usage.completion_tokens is not None:
            self._reported = usage.completion_tokens
        listed = [choice.pop("logprobs") for choice in choices if "logprobs" in choice]
        for raw in listed:
            self._collect(raw)
        if len(choices) > 1 or any(bytes(choice.get("index", b"0")).strip() != b"0" for choice in choices):
            self.fault = "the answer has several choices"
        if not listed or not self._strip:
            return data
        content["choices"] = msgspec.Raw(msgspec.json.encode(choices))
        return msgspec.json.encode(content)

    def _collect(self, raw: msgspec.Raw) -> None:
        try:
            logprobs = _LOGPROBS.decode(raw)
            for token in (logprobs and logprobs.content) or ():
                self._count += 1
                if self._count <= MAX_TOKENS:
                    self._tokens.append(_make_token(token))
        except (ValueError, RecursionError) as error:
            self.fault = self.fault or f"the log-probabilities cannot be read: {error}"


def _make_token(token: _Token) -> TranscriptToken:
    """Raises ValueError: fewer than five tokens are listed, or not by their ids."""
    if len(token.top_logprobs) < TOP_TOKENS:
        raise ValueError(f"{len(token.top_logprobs)} of the likeliest tokens are listed instead of {TOP_TOKENS}")
    top = tuple(TopToken(each.get_id(), to_surprisal(each.logprob)) for each in token.top_logprobs[:TOP_TOKENS])
    return TranscriptToken(token.get_id(), top)
