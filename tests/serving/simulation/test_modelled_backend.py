"""The modelled backend: valid answers, the measured speed, cancellation, death; all in mock time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from trio.testing import MockClock

from p2p.simulation.runtime import SimulatedRuntime
from serving.backends.backend import Backend, BackendError, Load
from serving.backends.load_metrics import MetricsPage, detect_reader, parse_vllm
from serving.simulation.gpu_curves import QWEN3_4B, QWEN3_8B, GpuCurve
from serving.simulation.modelled_backend import ModelledBackend
from serving.simulation.modelled_requests import OutputLength

CHAT = "/v1/chat/completions"


def chat(model: str = "qwen3-8b", prompt: int = 512, first: int = 0, **fields: Any) -> bytes:
    """A request of ``prompt`` tokens, at four bytes a token; prompts with another ``first`` share no beginning."""
    content = str(first).ljust(4 * prompt, "x")
    return json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **fields}).encode()


def simulate(
    main: Callable[[ModelledBackend], Awaitable[None]],
    curve: GpuCurve = QWEN3_8B,
    output_length: OutputLength | None = None,
) -> None:
    """Run ``main`` beside a modelled backend in mock time."""

    async def run() -> None:
        backend = ModelledBackend(curve, SimulatedRuntime(seed=1), capacity=8, output_length=output_length)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run)
            await main(backend)
            nursery.cancel_scope.cancel()

    trio.run(run, clock=MockClock(autojump_threshold=0))


async def answer(backend: Backend, body: bytes) -> tuple[int, bytes]:
    async with backend.complete(CHAT, body, stream=b'"stream": true' in body) as response:
        return response.status, b"".join([piece async for piece in response.body])


def test_a_whole_answer_is_a_valid_completion() -> None:
    async def main(backend: ModelledBackend) -> None:
        status, body = await answer(backend, chat(max_tokens=100))
        completion = ChatCompletion.model_validate_json(body, strict=True)
        assert status == 200
        assert completion.usage is not None
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (512, 100)
        assert (completion.choices[0].message.content or "").split() == ["tok"] * 100
        assert 0.6 < trio.current_time() < 0.8  # 100 tokens at about 145 a second

    simulate(main)


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_is_valid_chunks_with_the_usage_if_asked(usage: bool) -> None:
    async def main(backend: ModelledBackend) -> None:
        started = trio.current_time()
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
        arrivals, data = [], b""
        async with backend.complete(
            CHAT, chat(stream=True, max_completion_tokens=1000, **options), stream=True
        ) as response:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            async for piece in response.body:
                arrivals.append(trio.current_time() - started)
                data += piece
        *events, done, rest = data.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        chunks = [
            ChatCompletionChunk.model_validate_json(event.removeprefix(b"data: "), strict=True) for event in events
        ]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text.split() == ["tok"] * 1000
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
        assert (chunks[-1].usage is not None) == usage
        assert arrivals[0] < 0.03  # the first token alone
        assert len(arrivals) == 5  # 7 s of tokens in bursts of 2 s

    simulate(main)


@pytest.mark.parametrize(
    ("curve", "streams", "measured"),
    [
        (QWEN3_8B, 1, 143),
        (QWEN3_8B, 8, 979),
        (QWEN3_8B, 32, 2818),
        (QWEN3_4B, 1, 217),
        (QWEN3_4B, 8, 1483),
        (QWEN3_4B, 32, 4282),
    ],
)
def test_throughput_is_that_of_the_measured_gpu(curve: GpuCurve, streams: int, measured: float) -> None:
    """Against vLLM 0.24 on one H100: closed loop, prompt 512, output 128, two rounds."""

    async def main(backend: ModelledBackend) -> None:
        async def client(number: int) -> None:
            for round in range(2):
                assert (await answer(backend, chat(curve.model, first=2 * number + round, max_tokens=128)))[0] == 200

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(streams):
                nursery.start_soon(client, number)
        rate = streams * 2 * 128 / (trio.current_time() - started)
        assert rate == pytest.approx(measured, rel=0.1)

    simulate(main, curve)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": "qwen3-8b", "messages": ["no object"]}', 400),
        (chat(max_tokens=-1), 400),
        (chat(max_tokens=True), 400),
        (chat(max_tokens=1_000_000), 400),
        (chat("gpt-9"), 404),
    ],
)
def test_refusals_are_answers_in_openai_shape(body: bytes, status: int) -> None:
    async def main(backend: ModelledBackend) -> None:
        refused, answered = await answer(backend, body)
        assert refused == status
        assert json.loads(answered)["error"]["message"]

    simulate(main)


def test_load_counts_requests_and_leaving_early_frees_them() -> None:
    async def main(backend: ModelledBackend) -> None:
        assert backend.get_load() == Load(0, 0, 0.0, True, QWEN3_8B.kv_capacity)
        async with backend.complete(CHAT, chat(stream=True, max_tokens=10_000), stream=True) as response:
            await response.body.__anext__()
            load = backend.get_load()
            assert (load.running, load.waiting, load.utilization) == (1, 0, 1 / 8)
        assert (backend.get_load()).running == 0

    simulate(main)


def test_the_load_is_read_from_a_page_of_the_server_and_the_own_count_since() -> None:
    async def main(backend: ModelledBackend) -> None:
        assert detect_reader(backend.make_metrics_page()) == "vllm"
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(answer, backend, chat(prompt=8000, first=number, max_tokens=5000))
            await trio.sleep(0.5)
            load = backend.get_load()
            assert (load.running, load.waiting, load.utilization) == (8, 2, 1.25)  # the own count, against 8 places
            await trio.sleep(5)
            page = parse_vllm(backend.make_metrics_page())
            assert page is not None and page.cache_usage is not None
            assert (page.running, page.waiting) == (10, 0)
            assert 0.2 < page.cache_usage < 0.25
            nursery.cancel_scope.cancel()
        assert parse_vllm(backend.make_metrics_page()) == MetricsPage(0, 0, 0.0, QWEN3_8B.kv_capacity)

    simulate(main)


def test_a_full_cache_shows_in_the_load() -> None:
    async def main(backend: ModelledBackend) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, backend, chat(prompt=900, max_tokens=50))
            await trio.sleep(0)
            backend._read_page()
            await trio.sleep(0.06)
            backend._read_page()
            assert backend.get_load().utilization > 0.9

    simulate(main, replace(QWEN3_8B, kv_capacity=1000))


def test_the_next_turn_of_a_conversation_finds_its_beginning_cached() -> None:
    async def main(backend: ModelledBackend) -> None:
        first = json.loads(chat(prompt=512, max_tokens=100))
        _, body = await answer(backend, json.dumps(first).encode())
        said = json.loads(body)
        assert said["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
        turns = [*first["messages"], said["choices"][0]["message"], {"role": "user", "content": "and then?" * 10}]
        _, body = await answer(backend, json.dumps({**first, "messages": turns}).encode())
        usage = json.loads(body)["usage"]
        assert usage["prompt_tokens"] == 512 + 100 + 23
        assert usage["prompt_tokens_details"] == {"cached_tokens": (512 + 100 - 1) // 16 * 16}

    simulate(main)


@pytest.mark.parametrize(("limit", "tokens", "reason"), [(100, 100, "length"), (101, 100, "stop"), (50, 50, "length")])
def test_an_answer_ends_by_itself_or_at_the_limit_of_the_request(limit: int, tokens: int, reason: str) -> None:
    async def main(backend: ModelledBackend) -> None:
        for stream in (False, True):
            _, body = await answer(backend, chat(max_tokens=limit, stream=stream))
            assert body.count(b"tok ") == tokens
            assert f'"finish_reason":"{reason}"'.encode() in body.replace(b'": ', b'":')

    def length(messages: Sequence[Mapping[str, Any]]) -> int:
        assert messages[0]["role"] == "user"
        return 100

    simulate(main, output_length=length)


def test_a_stopped_backend_breaks_off_and_comes_back() -> None:
    async def main(backend: ModelledBackend) -> None:
        async with backend.complete(CHAT, chat(stream=True, max_tokens=10_000), stream=True) as response:
            await response.body.__anext__()
            backend.stop()
            with pytest.raises(BackendError):
                await response.body.__anext__()
        assert not backend.is_alive()
        assert backend.get_load() == Load(0, 0, 1.0, False)
        with pytest.raises(BackendError):
            await answer(backend, chat())
        backend.start()
        assert backend.is_alive()
        assert (await answer(backend, chat(max_tokens=1)))[0] == 200

    simulate(main)


def test_the_same_requests_give_the_same_bytes_at_the_same_times() -> None:
    def trace() -> list[tuple[float, bytes]]:
        pieces: list[tuple[float, bytes]] = []

        async def main(backend: ModelledBackend) -> None:
            async def client(number: int) -> None:
                await trio.sleep(number * 0.37)
                body = chat(stream=True, prompt=100 * number + 1, max_tokens=50 * number + 1)
                async with backend.complete(CHAT, body, stream=b'"stream": true' in body) as response:
                    async for piece in response.body:
                        pieces.append((trio.current_time(), piece))

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(client, number)

        simulate(main)
        return sorted(pieces)

    assert trace() == trace()
