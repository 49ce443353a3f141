"""What is read of a chat completion, whole or in events, to write it in another form. Pure.

Of several choices the first counts: the other APIs have one answer. A field of an unexpected type counts as missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from serving.openai.bodies import parse_json
from serving.openai.errors import SERVER_ERROR, ApiError, bad_gateway

REFUSED = "The backend refuses the request."
"""The message of an error without one."""


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the tool call number ``index``, or all of it."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatUsage:
    """Tokens, as the backend reports them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Those of the prompt."""
    reasoning: int = 0
    """Those of the completion."""


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """A whole answer, or what one event adds to it."""

    id: str = ""
    model: str = ""
    created: int = 0
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: tuple[CallPiece, ...] = ()
    logprobs: tuple[Any, ...] = ()
    finish_reason: str = ""
    stop: str | None = None
    """The sequence that ended it, where the backend tells."""
    usage: ChatUsage | None = None


@dataclass(slots=True)
class ChatEvents:
    """Reads the events of a stream. :attr:`is_over`: the closing one has come."""

    is_over: bool = field(default=False)

    def read(self, events: bytes) -> Iterator[ChatPiece]:
        """The pieces in whole events.

        Raises:
            ApiError: the stream ends with an error.
        """
        for event in events.replace(b"\r\n", b"\n").split(b"\n\n"):
            data = b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:")).strip()
            if not data or self.is_over:
                continue
            if data.startswith(b"[DONE]"):
                self.is_over = True
                continue
            content = parse_json(data)
            if isinstance(content, dict):
                if content.get("error"):
                    raise read_error(502, content)
                yield _read_piece(content, "delta")


class BegunText:
    """Takes away the beginning of a text that the user has sent, where a server repeats it (llama.cpp does)."""

    def __init__(self, begun: str) -> None:
        self._begun = begun
        self._held = ""

    def feed(self, text: str) -> str:
        """The next piece of the text; returns what is new of it, as far as that is known."""
        if not self._begun:
            return text
        self._held += text
        if len(self._held) < len(self._begun) and self._begun.startswith(self._held):
            return ""
        return self.finish()

    def finish(self) -> str:
        """The text is over; returns what was held back."""
        new, self._held, self._begun = self._held.removeprefix(self._begun), "", ""
        return new


def read_answer(body: bytes) -> ChatPiece:
    """A whole answer.

    Raises:
        ApiError: 502, it is none.
    """
    content = parse_json(body)
    if not isinstance(content, dict) or not isinstance(content.get("choices"), list):
        raise bad_gateway("The backend's answer is no chat completion.")
    return _read_piece(content, "message")


def read_error(status: int, content: Any, retry_after_s: float = 0.0) -> ApiError:
    """An error as a backend says it, of OpenAI's shape or not."""
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        return ApiError(status, _text(error) or REFUSED, SERVER_ERROR, retry_after_s=retry_after_s)
    code, param = error.get("code"), error.get("param")
    return ApiError(
        status,
        _text(error.get("message")) or REFUSED,
        _text(error.get("type")) or SERVER_ERROR,
        None if code is None else str(code),
        param if isinstance(param, str) else None,
        retry_after_s,
    )


def _read_piece(content: dict[str, Any], name: str) -> ChatPiece:
    choices = content.get("choices")
    choice = next((one for one in choices if isinstance(one, dict) and not one.get("index")), {}) if choices else {}
    message = _object(choice.get(name))
    logprobs = _object(choice.get("logprobs")).get("content")
    stop = choice.get("stop_reason")
    return ChatPiece(
        id=_text(content.get("id")),
        model=_text(content.get("model")),
        created=_count(content.get("created")),
        text=_text(message.get("content")),
        reasoning=_text(message.get("reasoning")) or _text(message.get("reasoning_content")),
        refusal=_text(message.get("refusal")),
        calls=tuple(_read_calls(message)),
        logprobs=tuple(logprobs) if isinstance(logprobs, list) else (),
        finish_reason=_text(choice.get("finish_reason")),
        stop=stop if isinstance(stop, str) else None,
        usage=_read_usage(content.get("usage")),
    )


def _read_calls(message: dict[str, Any]) -> Iterator[CallPiece]:
    listed = message.get("tool_calls")
    for place, call in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(call, dict):
            function, index = _object(call.get("function")), call.get("index")
            yield CallPiece(
                index if type(index) is int else place,
                _text(call.get("id")),
                _text(function.get("name")),
                _text(function.get("arguments")),
            )


def _read_usage(usage: Any) -> ChatUsage | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = _object(usage.get("prompt_tokens_details")), _object(usage.get("completion_tokens_details"))
    return ChatUsage(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(prompt.get("cached_tokens")),
        _count(completion.get("reasoning_tokens")),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
