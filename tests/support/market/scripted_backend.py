"""A backend that does what its script says: how soon, how fast, how much, and where it fails."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from serving.backends.backend import BackendError, Load, ModelLimits
from serving.openai.answers import Answer
from serving.openai.endpoints import EMBEDDINGS, ENDPOINTS
from serving.openai.requests import CHAT_COMPLETIONS
from tests.support.openai_answers import (
    DONE,
    make_chunk,
    make_event,
    make_text_chunk,
    make_text_usage,
    make_texts,
    make_usage,
    make_vectors,
    make_whole,
)

MODEL = "test-model"


@dataclass
class Script:
    """How a backend behaves; may be changed at any time. Times in seconds, ``…_after`` in tokens of a stream."""

    tokens: int = 6
    first_delay: float = 0.1
    token_delay: float = 0.05
    status: int = 200
    is_alive: bool = True
    refuses: bool = False
    """Raises before there is an answer."""
    head_at_once: bool = False
    """The head comes before the first delay."""
    has_usage: bool = True
    ignores_stream: bool = False
    """Answers in one piece, whatever is asked."""
    break_after: int | None = None
    stall_after: int | None = None
    error_after: int | None = None
    padding: int = 0
    """Bytes of log probabilities with each token; in a stream, with those after the first ``padding_after``."""
    padding_after: int = 0
    error: str = "failed on purpose"
    error_body: bytes = b""
    """Of a ``status`` other than 200, if not :data:`ERROR_BODY`."""
    retry_after_s: float = 0.0


@dataclass
class ScriptedBackend:
    """A backend that does what its script says, and counts."""

    name: str
    script: Script = field(default_factory=Script)
    models: tuple[str, ...] = (MODEL,)
    requests: int = 0
    running: int = 0
    most_running: int = 0
    completed: int = 0
    cancelled: int = 0
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    utilization: float = 0.0
    limits: ModelLimits = field(default_factory=ModelLimits)
    others: dict[str, bytes] = field(default_factory=dict)
    """What it answers at other paths than those of OpenAI's API."""

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        script = self.script
        self.requests += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self.bodies.append(body)
        self.paths.append(path)
        try:
            if script.refuses:
                raise BackendError("refused on purpose")
            if not script.head_at_once:
                await trio.sleep(script.first_delay)
            if script.status != 200:
                pieces = Pieces([script.error_body or ERROR_BODY])
                yield Answer(script.status, "application/json", pieces, script.retry_after_s)
            elif path not in ENDPOINTS:
                status = 200 if path in self.others else 404
                yield Answer(status, "application/json", Pieces([self.others.get(path, ERROR_BODY)]))
            elif path != CHAT_COMPLETIONS:
                yield compute_other(path, body, self.name, script)
            elif stream and not script.ignores_stream:
                yield Answer(200, "text/event-stream", _Events(self.name, script))
            else:
                delay = script.first_delay if script.head_at_once else 0.0
                pieces = Pieces([compute_whole(self.name, script)], delay + script.token_delay * script.tokens)
                yield Answer(200, "application/json", pieces)
            self.completed += 1
        except BaseException as error:
            self.cancelled += not _is_failure(error)
            raise
        finally:
            self.running -= 1

    def get_load(self) -> Load:
        return Load(self.running, 0, self.utilization, known=True)

    def get_limits(self, model: str) -> ModelLimits:
        return self.limits

    def is_alive(self) -> bool:
        return self.script.is_alive

    async def wait_alive(self) -> None:
        pass

    async def run(self) -> None:
        await trio.sleep_forever()


def _is_failure(error: BaseException) -> bool:
    """Whether it is the backend that failed, not its caller that left."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_failure, error.exceptions))
    return isinstance(error, BackendError)


ERROR_BODY = b'{"error":{"message":"not like this","type":"invalid_request_error","param":null,"code":null}}'


class Pieces:
    """A body of given pieces, each after a delay."""

    def __init__(self, pieces: Sequence[bytes], delay: float = 0.0) -> None:
        self._pieces = list(pieces)
        self._delay = delay

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if not self._pieces:
            raise StopAsyncIteration
        await trio.sleep(self._delay)
        return self._pieces.pop(0)


class _Events:
    """The events of a stream, one token each."""

    def __init__(self, name: str, script: Script) -> None:
        self._name = name
        self._script = script
        self._sent = 0

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> bytes:
        script, sent = self._script, self._sent
        if sent > script.tokens:
            raise StopAsyncIteration
        self._sent += 1
        if sent == 0 and script.head_at_once:
            await trio.sleep(script.first_delay)
        elif sent:
            await trio.sleep(script.token_delay)
        if sent == script.break_after:
            raise BackendError("broken on purpose")
        if sent == script.stall_after:
            await trio.sleep_forever()
        if sent == script.error_after:
            return make_event({"error": {"message": script.error, "type": "server_error", "param": None, "code": None}})
        if sent == script.tokens:
            return make_end(script)
        return make_token(self._name, sent, script.padding * (sent >= script.padding_after))


def make_token(name: str, number: int, padding: int = 0) -> bytes:
    """The event of one token, with so many bytes of log probabilities."""
    return _pad(make_chunk(MODEL, f"{name}{number} "), padding)


def _pad(answer: bytes, padding: int) -> bytes:
    """An answer, or an event of one, with log probabilities at its end."""
    if not padding:
        return answer
    body = answer.rstrip()
    return body[:-1] + b',"logprobs":"%s"}' % (b"x" * padding) + answer[len(body) :]


def compute_text(name: str, tokens: int) -> str:
    """The text of the first ``tokens`` tokens."""
    return "".join(f"{name}{number} " for number in range(tokens))


def make_end(script: Script, with_usage: bool = True) -> bytes:
    """The events after the last token."""
    end = make_chunk(MODEL, finish_reason="stop")
    if with_usage and script.has_usage:
        end += make_usage(MODEL, script.tokens)
    return end + DONE


def compute_stream(name: str, script: Script, with_usage: bool = True) -> bytes:
    """Every byte of a streamed answer; a user who did not ask for usage gets it without."""
    return b"".join(make_token(name, number) for number in range(script.tokens)) + make_end(script, with_usage)


def compute_whole(name: str, script: Script) -> bytes:
    """An answer that is not streamed."""
    whole = make_whole(MODEL, compute_text(name, script.tokens), script.tokens, "stop")
    return _pad(whole, script.padding * script.tokens)


def compute_other(path: str, body: bytes, name: str, script: Script) -> Answer:
    """The answer to a request for completions or embeddings."""
    asked = json.loads(body)
    if path == EMBEDDINGS.path:
        texts = asked["input"]
        pieces = [make_vectors(MODEL, len(texts) if isinstance(texts, list) else 1)]
        return Answer(200, "application/json", Pieces(pieces))
    prompts = asked["prompt"] if isinstance(asked["prompt"], list) else [asked["prompt"]]
    texts = [compute_text(name, script.tokens)] * len(prompts) * asked.get("n", 1)
    if not asked.get("stream") or script.ignores_stream:
        return Answer(200, "application/json", Pieces([make_texts(MODEL, texts, script.tokens, "stop")]))
    pieces = [make_text_chunk(MODEL, f"{name}{number} ") for number in range(script.tokens)]
    pieces += [make_text_chunk(MODEL, "", "stop"), make_text_usage(MODEL, script.tokens), DONE]
    return Answer(200, "text/event-stream", Pieces(pieces, script.token_delay))
