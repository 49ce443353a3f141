"""The log-probabilities of an answer, asked for beside the user's request and taken out as the answer passes.

:func:`ask_for_logprobs` adds the fields to a request whose user did not ask for them. A :class:`LogprobTap` then reads
the transcript from the answer and passes it on without them. All other JSON values pass byte for byte, so the
completion bytes, by which an answer is billed, are those of an answer without log-probabilities.

A transcript must have no gap, or every position after it would be scored in another context. llama.cpp lists one token
for a character made of several. So the number of listed tokens is compared with the number that the backend reports. If
they differ, or no number was reported, the transcript ends before the first token that is not ASCII. If all tokens are
ASCII, a stream may lack one: llama.cpp does not list the token that ends it. An answer of several choices, whose tokens
are reported together, has no transcript.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right

import msgspec

from serving.quality.same_model.transcript import (
    MAX_TOKEN_ID,
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
        """The token's id. Raises ValueError if the backend names it by its text alone, or by an impossible id."""
        found = _TOKEN_ID.fullmatch(self.token)
        if self.id is None and found is None:
            raise ValueError("the backend names tokens by their text, not by their ids")
        number = self.id if self.id is not None else int(found[1]) if found else 0
        if not 0 <= number <= MAX_TOKEN_ID:
            raise ValueError(f"{number} is not the id of a token")
        return number


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


def ask_for_logprobs(body: bytes) -> bytes:
    """The request to send to the backend: all of ``body``, byte for byte, and :data:`ASKED_FIELDS`.

    ``body`` is a chat completion that can be checked, so it contains none of these fields.

    Raises:
        ValueError: it does not end like a JSON object.
    """
    content = body.rstrip()
    if not content.endswith(b"}"):
        raise ValueError("a request is a JSON object")
    return content[:-1] + b"," + json.dumps(ASKED_FIELDS).encode()[1:]


class LogprobTap:
    """Watches one answer, and takes the log-probabilities out of it.

    ``fault`` says why there is no transcript. Bytes are handed over as to
    :class:`~serving.openai.answers.AnswerInspector`, which comes after it.
    """

    def __init__(self, stream: bool) -> None:
        self._is_stream = stream
        self._buffer = bytearray()
        self._tokens: list[TranscriptToken] = []
        self._ends: list[int] = []
        """For each of them, bytes that were passed on up to the end of its event."""
        self._passed = 0
        self._count = 0
        self._safe_count: int | None = None
        """Tokens before the first that is not ASCII; None as long as all are."""
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
                return self._give_up()
            return b""
        end = 0
        passed: list[bytes] = []
        for match in _BREAK.finditer(self._buffer, searched):
            passed.append(self._pass(self._read_event(bytes(self._buffer[end : match.end()]))))
            end = match.end()
        del self._buffer[:end]
        if len(self._buffer) > MAX_TAPPED_EVENT_BYTES:
            passed.append(self._give_up())
        return b"".join(passed)

    def finish(self) -> bytes:
        """The answer is over; returns what is left to pass on."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        if self._is_passing:
            return b""
        if self._is_stream:
            return self._pass(self._read_event(rest)) if rest else b""
        return self._pass(self._read(rest))

    def _pass(self, kept: bytes) -> bytes:
        """Pass bytes on, and note where the tokens that were read in them end."""
        self._passed += len(kept)
        self._ends += [self._passed] * (len(self._tokens) - len(self._ends))
        return kept

    def get_transcript(self, passed: int | None = None) -> Transcript | None:
        """The transcript of an answer that is over, or of its first ``passed`` bytes; None if there is a
        :attr:`fault`."""
        end = len(self._tokens) if passed is None else bisect_right(self._ends, passed)
        missing = None if self._reported is None else self._reported - self._count
        if not self._count:
            self.fault = self.fault or "the backend reports no log-probabilities"
        elif missing != 0 and self._safe_count is not None:
            end = min(end, self._safe_count)
        elif missing is not None and missing not in ((0, 1) if self._is_stream else (0,)):
            self.fault = self.fault or f"the backend lists {self._count} of {self._reported} tokens"
        if not end:
            self.fault = self.fault or "no token of the answer is listed with certainty"
        return None if self.fault else Transcript(tuple(self._tokens[:end]))

    def _give_up(self) -> bytes:
        """Pass the rest on as it is; returns what of it is due now."""
        self.fault = "the answer, or an event of it, is too long to be read"
        self._is_passing = True
        due, self._buffer = bytes(self._buffer), bytearray()
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
        if not listed:
            return data
        content["choices"] = msgspec.Raw(msgspec.json.encode(choices))
        return msgspec.json.encode(content)

    def _collect(self, raw: msgspec.Raw) -> None:
        try:
            logprobs = _LOGPROBS.decode(raw)
            for token in (logprobs and logprobs.content) or ():
                if self._safe_count is None and not token.token.isascii():
                    self._safe_count = self._count
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
