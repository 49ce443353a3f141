"""The backend against what real servers answered, replayed over HTTP (``pages/README.md`` says where it comes from)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from p2p.runtime import RealRuntime
from serving.backends.backend import Load
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.http.server import HttpServer
from serving.openai.answers import AnswerInspector
from tests.support.patience import PATIENT_BACKEND
from tests.support.waiting import PATIENCE

PAGES = Path(__file__).parents[1] / "pages"
CHAT = "/v1/chat/completions"
MODEL = "smollm2-135m"


@asynccontextmanager
async def replaying(server: str, answer: str, status: int = 200) -> AsyncIterator[OpenAICompatibleBackend]:
    """A backend of capacity 2 that has probed a replay of ``server``, which gives ``answer`` to every POST."""

    async def handle(request: HttpRequest, respond: Responder) -> None:
        if request.method == "POST":
            streamed = answer.endswith(".sse")
            content_type = b"text/event-stream" if streamed else b"application/json"
            await respond.start(status, [(b"content-type", content_type)])
            for line in (PAGES / answer).read_bytes().splitlines(keepends=True):
                await respond.send(line)
            await respond.end()
        elif request.path == "/metrics":
            await respond.reply(200, (PAGES / f"{server}.prom").read_bytes(), b"text/plain")
        else:
            await respond.reply(200, (PAGES / f"{server}_models.json").read_bytes())

    async with trio.open_nursery() as nursery:
        http = await HttpServer.open(handle, "127.0.0.1", 0, RealRuntime())
        nursery.start_soon(http.run)
        backend = OpenAICompatibleBackend("http://{}:{}".format(*http.address), capacity=2, timeouts=PATIENT_BACKEND)
        nursery.start_soon(backend.run)
        with trio.fail_after(PATIENCE):
            await backend.wait_alive()
        yield backend
        nursery.cancel_scope.cancel()


async def read(backend: OpenAICompatibleBackend, stream: bool) -> tuple[int, bytes, AnswerInspector]:
    inspector = AnswerInspector(stream)
    body = json.dumps({"model": MODEL, "messages": [], "stream": stream}).encode()
    async with backend.complete(CHAT, body, stream=stream) as response:
        passed = b"".join([inspector.feed(piece) async for piece in response.body]) + inspector.finish()
    return response.status, passed, inspector


@pytest.mark.parametrize(
    ("server", "load", "quantization"),
    [("vllm", Load(2, 4, 1.0 + 4 / 2, True, 46_592), ""), ("llamacpp", Load(2, 3, 1.0 + 3 / 2, True), "Q4_1")],
)
def test_models_load_and_answers(server: str, load: Load, quantization: str) -> None:
    async def main() -> None:
        async with replaying(server, f"{server}_stream_usage.sse") as backend:
            assert backend.models == (MODEL,)
            assert backend.get_load() == load and backend.get_limits(MODEL).quantization == quantization
            status, passed, inspector = await read(backend, stream=True)
            assert (status, passed) == (200, (PAGES / f"{server}_stream_usage.sse").read_bytes())
            assert (
                inspector.completion_tokens,
                inspector.is_estimated,
                inspector.finish_reason,
                inspector.is_complete,
            ) == (
                6,
                False,
                "length",
                True,
            )
        async with replaying(server, f"{server}_answer.json") as backend:
            status, passed, inspector = await read(backend, stream=False)
            assert (status, passed) == (200, (PAGES / f"{server}_answer.json").read_bytes())
            assert (
                inspector.completion_tokens,
                inspector.is_estimated,
                inspector.finish_reason,
                inspector.is_complete,
            ) == (
                6,
                False,
                "length",
                True,
            )

    trio.run(main)


def test_an_engine_that_dies_in_the_middle_is_an_answer_that_is_not_complete() -> None:
    async def main() -> None:
        async with replaying("vllm", "vllm_stream_died.sse") as backend:
            status, passed, inspector = await read(backend, stream=True)
            assert (status, passed) == (200, (PAGES / "vllm_stream_died.sse").read_bytes())
            assert inspector.error is not None and "EngineCore" in inspector.error
            assert not inspector.is_complete

    trio.run(main)


def test_an_unknown_model_is_a_refusal_that_passes() -> None:
    async def main() -> None:
        async with replaying("vllm", "vllm_unknown_model.json", status=404) as backend:
            status, passed, inspector = await read(backend, stream=False)
            assert (status, passed) == (404, (PAGES / "vllm_unknown_model.json").read_bytes())
            assert not inspector.is_complete

    trio.run(main)
