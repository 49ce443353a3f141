"""A server that speaks OpenAI's API and judges by a script, from the texts that it reads out of the judging prompt."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from p2p.runtime import RealRuntime
from serving.http.messages import HttpRequest
from serving.http.responder import ClientGone, Responder
from serving.http.server import HttpServer
from serving.openai.errors import ApiError, bad_request, model_not_found
from tests.support.openai_answers import make_whole
from tests.support.servers.judging_texts import read_texts
from tests.support.waiting import PATIENCE

MODEL = "judge-model"
CONTEXT_BYTES = 1 << 20
"""Requests that are longer are refused as beyond the context."""

Script = Callable[[dict[str, str]], str]
"""From the texts of a prompt by title to the letter of the reply."""


@dataclass
class JudgeServer:
    """How the server behaves, and the bodies that it has received.

    ``has_schemas``: it replies as a schema says, and answers in prose without one. ``cuts_long``: it judges the
    beginning of a prompt that is too long. ``reply``: an answer, or an error, in place of the script.
    """

    script: Script = lambda texts: "C"
    has_schemas: bool = True
    refuses_schemas: bool = False
    cuts_long: bool = False
    reply: str | bytes | ApiError | None = None
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def handle(self, request: HttpRequest, respond: Responder) -> None:
        """Answer one request."""
        if request.method == "GET":
            await respond.reply(200, json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())
            return
        call = json.loads(request.body)
        self.bodies.append(call)
        if call["model"] != MODEL:
            raise model_not_found(call["model"])
        if len(request.body) > CONTEXT_BYTES and not self.cuts_long:
            raise bad_request("This model's maximum context length is 4096 tokens.")
        if isinstance(self.reply, ApiError):
            raise self.reply
        if isinstance(self.reply, bytes):
            if not self.reply:
                raise ClientGone  # which closes the connection
            await respond.reply(200, self.reply)
            return
        if "response_format" in call and self.refuses_schemas:
            raise bad_request("response_format is not supported.")
        text = self.reply if self.reply is not None else self._judge(call)
        await respond.reply(200, make_whole(call["model"], text, 5, "stop"))

    def _judge(self, call: dict[str, Any]) -> str:
        texts = read_texts(call["messages"])
        letter = self.script(texts) if texts else "R"
        if "response_format" in call and self.has_schemas:
            return json.dumps({"ballot": letter})
        return letter if texts else "The sea is wide and blue."


@asynccontextmanager
async def serving_judge(server: JudgeServer) -> AsyncIterator[JudgeServer]:
    """Run the server on a free port for the length of the context."""
    http = await HttpServer.open(server.handle, "127.0.0.1", 0, RealRuntime())
    server.url = "http://{}:{}".format(*http.address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.run)
        yield server
        nursery.cancel_scope.cancel()


@contextmanager
def judge_in_thread(server: JudgeServer) -> Iterator[JudgeServer]:
    """The same in a thread of its own, for commands that run their own event loop."""
    is_up = threading.Event()
    stops: list[Callable[[], None]] = []

    async def serve() -> None:
        async with serving_judge(server):
            with trio.CancelScope() as scope:
                token = trio.lowlevel.current_trio_token()
                stops.append(lambda: token.run_sync_soon(scope.cancel))
                is_up.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,), daemon=True)
    thread.start()
    assert is_up.wait(PATIENCE)
    try:
        yield server
    finally:
        stops[0]()
        thread.join(PATIENCE)
