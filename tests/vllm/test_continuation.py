"""An answer that is cut, and continued by a real vLLM: one stream, as long as was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import httpx
import pytest
import trio

from p2p.runtime import RealRuntime
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.cli.demo.node_process import HTTP
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.http.server import HttpServer
from serving.openai.errors import bad_gateway
from tests.support.cluster import Cluster, chat, run_cluster
from tests.support.fake_backend import MODEL
from tests.support.forked import ForkedServer
from tests.support.servers.vllm_server import SLOW_S, has_content

WHOLE, CUT = 40, 12
"""Tokens of the answer, and after how many events with text the first server is gone."""


def serve_cut(started: Connection, url: str, name: str) -> None:
    """Serve a vLLM as one whose connections are lost in the middle of each answer, until killed."""

    async def handle(request: HttpRequest, respond: Responder) -> None:
        if request.method == "GET":
            await respond.reply(200, json.dumps({"object": "list", "data": [{"id": name}]}).encode())
            return
        async with backend.complete(request.path, request.body, stream=True) as answer:
            await respond.start(answer.status, [(b"content-type", answer.content_type.encode())])
            events, rest = 0, b""
            async for piece in answer.body:
                *whole, rest = (rest + piece).split(b"\n\n")
                for event in whole:
                    await respond.send(event + b"\n\n")
                    events += has_content(event.decode())
                    if events == CUT:
                        raise bad_gateway("cut on purpose")

    async def serve() -> None:
        server = await HttpServer.open(handle, "127.0.0.1", 0, RealRuntime())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run)
            started.send(f"http://127.0.0.1:{server.address[1]}")
            await server.run()

    backend = OpenAICompatibleBackend(url)
    trio.run(serve)


@pytest.fixture(scope="module")
def name(vllm_url: str) -> str:
    """What vLLM calls its model."""
    return str(HTTP.get(f"{vllm_url}/v1/models").json()["data"][0]["id"])


@pytest.fixture(scope="module")
def cluster(vllm_url: str, name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node with two servers of the model, of which the one that is asked first is cut each time."""
    cut = ForkedServer(serve_cut, vllm_url, name)
    common = {"kind": "openai", "names": [MODEL], "aliases": {MODEL: name}, "first_token_timeout_s": SLOW_S}
    first = {**common, "base_url": cut.told, "load": "none", "weight": 1000, "stall_timeout_s": SLOW_S}
    second = {**common, "base_url": vllm_url, "stall_timeout_s": SLOW_S}
    try:
        with run_cluster(
            tmp_path_factory.mktemp("cut"), 1, config=lambda number: {"models": [first, second]}
        ) as cluster:
            yield cluster
    finally:
        cut.kill()


def read_chunks(url: str, model: str) -> tuple[list[dict[str, Any]], str]:
    """The choices of a stream, and its text. It ends as a whole one does."""
    body = {**chat("Tell me a story.", tokens=WHOLE), "model": model, "temperature": 0, "ignore_eos": True}
    with HTTP.stream("POST", url, json=body, timeout=SLOW_S) as response:
        assert response.status_code == httpx.codes.OK, response.read()
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]", events[-1]
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    return choices, "".join(choice["delta"].get("content") or "" for choice in choices)


def test_a_cut_answer_is_continued_by_vllm(cluster: Cluster, vllm_url: str, name: str) -> None:
    _, direct = read_chunks(f"{vllm_url}/v1/chat/completions", name)
    choices, text = read_chunks(cluster.nodes[0].completions_url, MODEL)
    begun = direct[: len(direct) * CUT // WHOLE // 2]
    assert begun and text.startswith(begun)
    assert text.count(begun) == direct.count(begun), "nothing is said twice"
    assert [choice["finish_reason"] for choice in choices if choice.get("finish_reason")] == ["length"]
    assert abs(len(text) - len(direct)) < len(direct) // 2
    assert "an answer is gone on with" in cluster.nodes[0].log
