"""The backend over HTTP against the fake server: answers, load, death and return."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from serving.backends.backend import CONTINUATION, Backend, BackendError, Load, ProbedBackend
from serving.backends.openai_compatible import BackendTimeouts, OpenAICompatibleBackend
from tests.support.fake_backend import MODEL, FakeBackend, FakeOptions, serving
from tests.support.patience import PATIENT_BACKEND
from tests.support.waiting import PATIENCE, eventually, undisturbed

CHAT = "/v1/chat/completions"


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


@asynccontextmanager
async def connected(
    options: FakeOptions | None = None, **arguments: Any
) -> AsyncIterator[tuple[OpenAICompatibleBackend, FakeBackend]]:
    """A fake server and a backend that has probed it."""
    async with serving(options) as fake, trio.open_nursery() as nursery:
        backend = OpenAICompatibleBackend(fake.url, **{"timeouts": PATIENT_BACKEND, **arguments})
        nursery.start_soon(backend.run)
        with trio.fail_after(PATIENCE):
            await backend.wait_alive()
        yield backend, fake
        nursery.cancel_scope.cancel()


async def answer(backend: Backend, body: bytes) -> tuple[int, bytes]:
    async with backend.complete(CHAT, body, stream=b'"stream": true' in body) as response:
        return response.status, b"".join([piece async for piece in response.body])


async def eventually_alive(backend: Backend, alive: bool) -> None:
    with trio.fail_after(PATIENCE):
        while backend.is_alive() is not alive:
            await trio.sleep(0.02)


def test_answers_pass_through_unchanged() -> None:
    async def main() -> None:
        async with connected() as (backend, fake):
            assert backend.models == (MODEL,)
            body = chat(max_tokens=2, unknown_field={"kept": True})
            status, whole = await answer(backend, body)
            assert (status, fake.bodies) == (200, [body])
            assert json.loads(whole)["usage"]["completion_tokens"] == 2
            async with backend.complete(CHAT, chat(stream=True, max_tokens=3), stream=True) as response:
                assert (response.status, response.content_type) == (200, "text/event-stream")
                stream = b"".join([piece async for piece in response.body])
            assert stream.count(b'"content":"word "') == 3
            assert stream.endswith(b"data: [DONE]\n\n")

    trio.run(main)


def test_a_model_may_be_known_by_another_name() -> None:
    async def main() -> None:
        market = "Qwen/Qwen3-8B"
        async with connected(FakeOptions(models=(MODEL, "plain")), aliases={market: MODEL}) as (backend, fake):
            assert backend.models == (market, "plain")
            for model, sent in ((market, MODEL), ("plain", "plain"), (MODEL, MODEL)):
                status, _ = await answer(backend, chat(model=model, max_tokens=1, kept="ü"))
                assert status == 200
                assert json.loads(fake.bodies[-1]) == {**json.loads(chat(model=sent, max_tokens=1)), "kept": "ü"}
            assert fake.bodies[-1] == chat(model=MODEL, max_tokens=1, kept="ü"), "not a byte is changed without need"

    trio.run(main)


def test_refusals_of_the_backend_are_answers() -> None:
    async def main() -> None:
        async with connected() as (backend, _):
            status, body = await answer(backend, chat(model="other"))
            assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")

    trio.run(main)


def test_breaking_off_is_an_error_in_the_middle() -> None:
    async def main() -> None:
        async with connected(FakeOptions(break_after=2)) as (backend, _):
            async with backend.complete(CHAT, chat(stream=True), stream=True) as response:
                received = b""
                with pytest.raises(BackendError, match="broke off"):
                    async for piece in response.body:
                        received += piece
            assert received.count(b"data: ") == 2
            assert backend.is_alive()

    trio.run(main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FakeOptions(first_token_delay=60), "in time"),
        (FakeOptions(stall_after=0), "middle"),
        (FakeOptions(stall_after=1), "middle"),
    ],
)
def test_first_byte_and_stall_have_their_limits(options: FakeOptions, message: str) -> None:
    async def main() -> None:
        async with connected(options, timeouts=BackendTimeouts(first_byte_s=0.3, stall_s=0.2)) as (backend, fake):
            with pytest.raises(BackendError, match=message):
                await answer(backend, chat(stream=True))
            await eventually(lambda: fake.cancelled == 1)

    trio.run(undisturbed, main, 0.1)


def test_an_answer_in_one_piece_may_take_longer_than_a_first_byte() -> None:
    async def main() -> None:
        async with connected(
            FakeOptions(first_token_delay=0.4),
            timeouts=BackendTimeouts(first_byte_s=0.1, stall_s=PATIENCE, answer_s=PATIENCE),
        ) as (backend, _):
            assert (await answer(backend, chat(messages=[{"role": "user", "content": '"stream": true'}])))[0] == 200

    trio.run(main)


def test_leaving_the_context_cancels_the_work() -> None:
    async def main() -> None:
        async with connected(FakeOptions(token_delay=0.05)) as (backend, fake):
            async with backend.complete(CHAT, chat(stream=True, max_tokens=10_000), stream=True) as response:
                await response.body.__anext__()
                assert backend.in_flight == 1
            assert backend.in_flight == 0
            await eventually(lambda: fake.cancelled == 1)

    trio.run(main)


def test_load_joins_the_page_with_own_requests() -> None:
    page = (Path(__file__).parents[1] / "pages" / "vllm.prom").read_text()

    async def main() -> None:
        async with connected(FakeOptions(metrics=page, token_delay=0.05), capacity=64) as (backend, _):
            assert backend.get_load() == Load(2, 4, 2 / 64 + 4 / 64, True, 46_592)
            async with backend.complete(CHAT, chat(stream=True, max_tokens=10_000), stream=True):
                load = backend.get_load()
                assert load.running + load.waiting in (6, 7)  # 6 once a page was read while it ran

    trio.run(main)


@pytest.mark.parametrize("says", [None, True, False])
def test_vllm_and_llamacpp_go_on_with_answers_and_others_where_their_owner_says_so(says: bool | None) -> None:
    async def main() -> None:
        for page, goes_on in (("vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n", True), (None, False)):
            async with connected(FakeOptions(metrics=page), continues=says) as (backend, _):
                features = backend.get_limits("fake-model").features
                assert (CONTINUATION in features) is (goes_on if says is None else says) and "tools" in features

    trio.run(main)


def test_what_the_page_says_of_the_cache_is_believed_where_the_owner_says_nothing() -> None:
    page = (
        'vllm:num_requests_running 1\nvllm:num_requests_waiting 0\nvllm:cache_config_info{cache_dtype="fp8_e5m2"} 1.0\n'
    )

    async def main() -> None:
        for declared, label in ((None, "kvfp8_e5m2"), ("w4a16", "w4a16-kvfp8_e5m2"), ("w4a16-kv16", "w4a16-kv16")):
            labels = {} if declared is None else {"fake-model": declared}
            async with connected(FakeOptions(metrics=page), quantizations=labels) as (backend, _):
                assert backend.get_limits("fake-model").quantization == label

    trio.run(main)


def test_a_server_without_a_page_is_judged_by_own_requests() -> None:
    async def main() -> None:
        async with connected(FakeOptions(token_delay=0.05), capacity=4) as (backend, _):
            assert backend.get_load() == Load(0, 0, 0.0, False)
            async with backend.complete(CHAT, chat(stream=True, max_tokens=10_000), stream=True):
                assert backend.get_load() == Load(1, 0, 0.25, False)

    trio.run(main)


def test_an_unreachable_page_never_reads_as_idle() -> None:
    async def main() -> None:
        backend = OpenAICompatibleBackend("http://127.0.0.1:9", models=(MODEL,))
        assert backend.get_load() == Load(0, 0, 1.0, False)
        assert not backend.is_alive()
        page = (Path(__file__).parents[1] / "pages" / "llamacpp.prom").read_text()
        async with connected(FakeOptions(metrics=page), capacity=4) as (backend, fake):
            assert (backend.get_load()).known
            assert isinstance(backend, ProbedBackend) and (probes := backend.probe_times.count) > 0
            fake.options.healthy = False
            await eventually_alive(backend, False)
            assert backend.probe_times.count > probes  # those that fail, too
            assert backend.get_load() == Load(0, 0, 1.0, False)
            fake.options.healthy = True
            await eventually_alive(backend, True)
            assert (backend.get_load()).known

    trio.run(main)


def test_a_backend_that_goes_away_is_noticed_by_the_request_that_fails() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            async with serving() as fake:
                backend = OpenAICompatibleBackend(fake.url, load_reader="none", timeouts=PATIENT_BACKEND)
                nursery.start_soon(backend.run)
                await backend.wait_alive()
            with pytest.raises(BackendError, match="cannot connect"):
                await answer(backend, chat())
            await eventually_alive(backend, False)
            assert backend.models == (MODEL,)  # known still, for when it returns
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_wrong_key_never_looks_alive() -> None:
    async def main() -> None:
        async with connected(FakeOptions(api_key="right"), api_key="right") as (backend, fake):
            assert (await answer(backend, chat()))[0] == 200
            wrong = OpenAICompatibleBackend(fake.url, api_key="wrong", models=(MODEL,))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wrong.run)
                with trio.move_on_after(0.5):
                    await wrong.wait_alive()
                assert not wrong.is_alive()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="capacity"):
        OpenAICompatibleBackend("http://x", capacity=0)
    with pytest.raises(ValueError, match="base URL"):
        OpenAICompatibleBackend("x:8000")
