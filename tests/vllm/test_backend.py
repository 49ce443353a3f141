"""The backend against a real vLLM server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from prometheus_client.parser import text_string_to_metric_families

from serving.backends.load_metrics import MetricsPage, parse_vllm
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.http.client import HttpPool
from serving.openai.answers import AnswerInspector

CHAT = "/v1/chat/completions"
LONG = 1500  # tokens: enough to be still running after a second or two
PATIENCE = 60  # seconds for what takes a fraction of one on an idle machine


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[OpenAICompatibleBackend]:
    async with trio.open_nursery() as nursery:
        backend = OpenAICompatibleBackend(url, capacity=2)
        nursery.start_soon(backend.run)
        with trio.fail_after(PATIENCE):
            await backend.wait_alive()
        yield backend
        nursery.cancel_scope.cancel()


def chat(backend: OpenAICompatibleBackend, **fields: Any) -> bytes:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    return json.dumps({"model": backend.models[0], "messages": messages, "temperature": 0, **fields}).encode()


async def read_text(url: str) -> str:
    """The server's metrics page now, past the backend's own reading of it."""
    pool = HttpPool(url)
    try:
        async with pool.request("GET", "/metrics") as response:
            return (await response.read()).decode()
    finally:
        await pool.aclose()


async def read_page(url: str) -> MetricsPage:
    page = parse_vllm(await read_text(url))
    assert page is not None
    return page


async def count_generated(url: str) -> float:
    """Tokens that the server has generated since its start."""
    families = text_string_to_metric_families(await read_text(url))
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "vllm:generation_tokens_total"
    )


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE):
        while not await condition():
            await trio.sleep(0.1)


async def idle(url: str) -> bool:
    page = await read_page(url)
    return (page.running, page.waiting) == (0, 0)


def test_models_are_discovered_and_the_page_is_read(vllm_url: str) -> None:
    async def main() -> None:
        async with connected(vllm_url) as backend:
            assert backend.models
            await eventually(partial(idle, vllm_url))
            assert (await read_page(vllm_url)).cache_usage is not None

            async def read_as_idle() -> bool:
                load = backend.get_load()
                return load.known and (load.running, load.waiting) == (0, 0)

            await eventually(read_as_idle)

    trio.run(main)


def test_a_stream_completes_with_usage(vllm_url: str) -> None:
    async def main() -> None:
        async with connected(vllm_url) as backend:
            inspector = AnswerInspector(stream=True)
            body = chat(backend, stream=True, max_tokens=12, stream_options={"include_usage": True})
            async with backend.complete(CHAT, body, stream=True) as response:
                assert response.status == 200
                assert response.content_type.startswith("text/event-stream")
                passed = b"".join([inspector.feed(piece) async for piece in response.body]) + inspector.finish()
            assert passed.endswith(b"data: [DONE]\n\n")
            assert inspector.is_complete and not inspector.is_estimated
            assert 0 < inspector.completion_tokens <= 12
            assert inspector.finish_reason in ("stop", "length")

    trio.run(main)


def test_an_answer_in_one_piece_has_usage(vllm_url: str) -> None:
    async def main() -> None:
        async with connected(vllm_url) as backend:
            inspector = AnswerInspector(stream=False)
            async with backend.complete(CHAT, chat(backend, max_tokens=5, ignore_eos=True), stream=False) as response:
                assert response.status == 200
                async for piece in response.body:
                    inspector.feed(piece)
            inspector.finish()
            assert (
                inspector.completion_tokens,
                inspector.is_estimated,
                inspector.finish_reason,
                inspector.is_complete,
            ) == (
                5,
                False,
                "length",
                True,
            )

    trio.run(main)


def test_cancelling_frees_the_slot(vllm_url: str) -> None:
    async def main() -> None:
        async with connected(vllm_url) as backend:
            await eventually(partial(idle, vllm_url))
            before = await count_generated(vllm_url)
            body = chat(backend, stream=True, max_tokens=LONG, ignore_eos=True)
            async with backend.complete(CHAT, body, stream=True) as response:
                await response.body.__anext__()
                started = await read_page(vllm_url)
                assert (started.running, started.waiting) == (1, 0)

                async def seen() -> bool:
                    return (backend.get_load()).running == 1 and backend.in_flight == 1

                await eventually(seen)
            assert backend.in_flight == 0
            await eventually(partial(idle, vllm_url))
            assert (
                0 < await count_generated(vllm_url) - before < LONG
            )  # it was stopped, and did not just come to its end

    trio.run(main)


def test_a_refusal_passes(vllm_url: str) -> None:
    async def main() -> None:
        async with connected(vllm_url) as backend:
            async with backend.complete(CHAT, chat(backend, model="no-such-model"), stream=False) as response:
                body = b"".join([piece async for piece in response.body])
            assert response.status == 404
            assert "no-such-model" in json.loads(body)["error"]["message"]
            assert backend.is_alive()

    trio.run(main)
