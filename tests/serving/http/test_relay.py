"""Client, front, pool and backend in a row: what a user of the ``openai`` package sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
import trio

from p2p.runtime import RealRuntime
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.http.server import HttpServer
from tests.serving.relay import relay_to
from tests.support.fake_backend import MODEL, FakeBackend, FakeOptions, serving
from tests.support.patience import PATIENT_BACKEND
from tests.support.waiting import eventually


@asynccontextmanager
async def relayed(options: FakeOptions | None = None) -> AsyncIterator[tuple[str, FakeBackend]]:
    """A fake backend behind the front; gives the front's base URL and the fake."""
    async with serving(options) as fake, trio.open_nursery() as nursery:
        backend = OpenAICompatibleBackend(fake.url, timeouts=PATIENT_BACKEND)
        nursery.start_soon(backend.run)
        await backend.wait_alive()
        server = await HttpServer.open(relay_to(backend), "127.0.0.1", 0, RealRuntime())
        nursery.start_soon(server.run)
        yield f"http://127.0.0.1:{server.address[1]}/v1", fake
        nursery.cancel_scope.cancel()


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0)


MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


def test_the_openai_client_streams_and_does_not() -> None:
    async def main() -> None:
        async with relayed() as (url, _), client_of(url) as client:
            assert [model.id async for model in client.models.list()] == [MODEL]
            whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3)
            assert whole.choices[0].message.content == "word word word "
            stream = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=3, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "word " * 3
            assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 3

    trio.run(main)


def test_the_synchronous_client_in_a_thread() -> None:
    async def main() -> None:
        async with relayed() as (url, _):

            def ask() -> str | None:
                with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
                    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2)
                    return answer.choices[0].message.content

            assert await trio.to_thread.run_sync(ask) == "word word "

    trio.run(main)


def test_the_openai_client_raises_its_own_errors() -> None:
    async def main() -> None:
        async with relayed() as (url, fake), client_of(url) as client:
            with pytest.raises(openai.NotFoundError) as caught:
                await client.chat.completions.create(model="gpt-9", messages=MESSAGES)
            assert caught.value.code == "model_not_found"
            fake.options.error_after = 1
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIError, match="failed on purpose"):
                async for _ in stream:
                    pass
            fake.options.error_after, fake.options.break_after = None, 1
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            with pytest.raises(openai.APIConnectionError):
                async for _ in stream:
                    pass

    trio.run(main)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_away_cancels_the_work_all_the_way_down(streamed: bool) -> None:
    async def main() -> None:
        # The stream says one token and then nothing: the front learns of the client only by reading.
        options = FakeOptions(stall_after=1) if streamed else FakeOptions(first_token_delay=60)
        async with relayed(options) as (url, fake):
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    async with client_of(url) as client:
                        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=streamed)
                        if isinstance(stream, openai.AsyncStream):
                            async for _ in stream:
                                pass

                nursery.start_soon(ask)
                await eventually(lambda: fake.requests == 1)
                nursery.cancel_scope.cancel()
            await eventually(lambda: fake.cancelled == 1)
            assert (fake.requests, fake.completed) == (1, 0)

    trio.run(main)
