"""A fast OpenAI-compatible server without a model, for tests and benchmarks.

``python -m tests.support.fake_backend --port 0`` serves until it is stopped and prints its URL first. Every behaviour a
test may want (slowness, errors, breaking off in the middle) is a field of :class:`FakeOptions`; what happened is
counted in :class:`FakeBackend`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import trio

from p2p.runtime import RealRuntime
from serving.http.messages import HttpRequest
from serving.http.responder import ClientGone, Responder
from serving.http.server import HttpServer
from serving.openai.endpoints import COMPLETIONS, EMBEDDINGS, ENDPOINTS
from serving.openai.errors import bad_request, error_event, internal_error, model_not_found, not_found, unauthorized
from tests.support.openai_answers import (
    DONE,
    make_chunk,
    make_text_chunk,
    make_text_usage,
    make_texts,
    make_usage,
    make_vectors,
    make_whole,
)
from tests.support.servers.judging_texts import read_texts

MODEL = "fake-model"


@dataclass
class FakeOptions:
    """How the server behaves. Times in seconds."""

    models: tuple[str, ...] = (MODEL,)
    paths: tuple[str, ...] = tuple(ENDPOINTS)  # what it answers
    tokens: int = 8  # per answer, if the request names no max_tokens
    first_token_delay: float = 0.0
    token_delay: float = 0.0
    metrics: str | None = None  # None: 404
    api_key: str | None = None
    status: int = 200  # anything else: every completion is refused with it
    break_after: int | None = None  # close the connection after so many chunks of a stream
    error_after: int | None = None  # send an error event after so many chunks of a stream
    stall_after: int | None = None  # say nothing more after so many chunks of a stream
    gated: bool = False  # answers go on until POST /release, or to the request's max_tokens
    healthy: bool = True  # False: GET requests answer 500
    word: str = "word "  # what answers consist of
    prefers: str | None = None  # to a judging prompt it says that the answer with this in it is better


class FakeBackend:
    """The server's handler, and what it has seen."""

    def __init__(self, options: FakeOptions | None = None) -> None:
        self.options = options or FakeOptions()
        self.url = ""
        self.requests = 0
        self.completed = 0
        self.released = trio.Event()
        self.cancelled = 0
        self.bodies: list[bytes] = []
        self.keep_bodies = True

    async def handle(self, request: HttpRequest, respond: Responder) -> None:
        """Answer one request."""
        options = self.options
        if options.api_key is not None and request.header(b"authorization") != b"Bearer " + options.api_key.encode():
            raise unauthorized()
        if request.method == "GET":
            await self._answer_get(request, respond)
            return
        if request.path == "/release":
            self.released.set()
            await respond.reply(200, b"{}")
            return
        if request.path not in options.paths:
            raise not_found(f"no {request.path} here")
        self.requests += 1
        if self.keep_bodies:
            self.bodies.append(request.body)
        try:
            await self._answer_completion(request, respond)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        self.completed += 1

    async def _answer_get(self, request: HttpRequest, respond: Responder) -> None:
        options = self.options
        if not options.healthy:
            raise internal_error("unhealthy on purpose")
        if request.path == "/v1/models":
            models = [
                {"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in self.options.models
            ]
            await respond.reply(200, json.dumps({"object": "list", "data": models}).encode())
        elif request.path == "/health":
            await respond.reply(200, b"{}")
        elif request.path == "/metrics" and options.metrics is not None:
            await respond.reply(200, options.metrics.encode(), b"text/plain; version=0.0.4")
        else:
            raise not_found(f"no {request.path} here")

    async def _answer_completion(self, request: HttpRequest, respond: Responder) -> None:
        options = self.options
        try:
            call: dict[str, Any] = json.loads(request.body)
        except ValueError:
            raise bad_request("the body is not JSON") from None
        if options.status != 200:
            error = internal_error("refused on purpose")
            await respond.reply(options.status, error.body())
            return
        if call.get("model") not in options.models:
            raise model_not_found(str(call.get("model")))
        if options.prefers is not None and (texts := read_texts(call["messages"])):
            letter = next((title[-1] for title, text in texts.items() if options.prefers in text), "C")
            await respond.reply(200, make_whole(call["model"], letter, 1, "stop"))
            return
        tokens = call.get("max_completion_tokens") or call.get("max_tokens") or options.tokens
        if options.first_token_delay:
            await trio.sleep(options.first_token_delay)
        if call.get("stream"):
            await self._stream(call, tokens, respond)
            return
        if options.gated:
            await self.released.wait()
            tokens = options.tokens
        if options.token_delay:
            await trio.sleep(options.token_delay * tokens)
        if request.path == EMBEDDINGS.path:
            answer = make_vectors(call["model"], len(call["input"]) if isinstance(call["input"], list) else 1)
        elif request.path == COMPLETIONS.path:
            prompts = call["prompt"] if isinstance(call["prompt"], list) else [call["prompt"]]
            answer = make_texts(call["model"], [options.word * tokens] * len(prompts), tokens, "length")
        else:
            answer = make_whole(call["model"], options.word * tokens, tokens, "length")
        await respond.reply(200, answer)

    async def _stream(self, call: dict[str, Any], tokens: int, respond: Responder) -> None:
        options = self.options
        await respond.start(200, [(b"content-type", b"text/event-stream")])
        is_text = "prompt" in call
        frame = (make_text_chunk if is_text else make_chunk)(call["model"], options.word)
        for index in range(tokens):
            if options.gated and index >= options.tokens and self.released.is_set():
                tokens = index
                break
            if index == options.break_after:
                raise ClientGone  # which closes the connection in the middle of the response
            if index == options.stall_after:
                await trio.sleep_forever()
            if index == options.error_after:
                await respond.send(error_event("failed on purpose", "server_error"))
                await respond.end()
                return
            await respond.send(frame)
            if options.token_delay:
                await trio.sleep(options.token_delay)
        model = call["model"]
        last = make_text_chunk(model, "", "length") if is_text else make_chunk(model, finish_reason="length")
        if (call.get("stream_options") or {}).get("include_usage"):
            last += (make_text_usage if is_text else make_usage)(model, tokens)
        await respond.send(last + DONE)
        await respond.end()


@asynccontextmanager
async def serving(
    options: FakeOptions | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[FakeBackend]:
    """Run a fake backend on a free port for the length of the context."""
    backend = FakeBackend(options)
    server = await HttpServer.open(backend.handle, host, port, RealRuntime())
    backend.url = f"http://{server.address[0]}:{server.address[1]}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        yield backend
        nursery.cancel_scope.cancel()


def serve_forked(started: Connection, options: FakeOptions) -> None:
    """Serve until killed, in a process forked for it; the URL is sent to ``started``."""

    async def serve() -> None:
        async with serving(options) as backend:
            backend.keep_bodies = False
            started.send(backend.url)
            await trio.sleep_forever()

    trio.run(serve)


async def main() -> None:
    """Serve until stopped; the URL is the first line of the output."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", help="repeat for several; default: fake-model")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--first-token-delay", type=float, default=0.0)
    parser.add_argument("--token-delay", type=float, default=0.0)
    parser.add_argument("--api-key")
    arguments = parser.parse_args()
    options = FakeOptions(
        models=tuple(arguments.model or (MODEL,)),
        tokens=arguments.tokens,
        first_token_delay=arguments.first_token_delay,
        token_delay=arguments.token_delay,
        api_key=arguments.api_key,
    )
    async with serving(options, arguments.host, arguments.port) as backend:
        backend.keep_bodies = False
        print(backend.url, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
