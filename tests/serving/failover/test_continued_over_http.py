"""A stream that one server cuts and another, which looks like vLLM, goes on with: over real connections."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import trio

from serving.backends.backend import CONTINUATION
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.failover.continued_answer import ContinuedAnswer, Part
from serving.openai.answers import Answer, AnswerInspector
from serving.openai.bodies import read_events
from serving.openai.requests import CHAT_COMPLETIONS, Request, encode_body, parse_request
from tests.support.fake_backend import MODEL, FakeOptions, serving
from tests.support.market.fault_matrix import read_text
from tests.support.patience import PATIENT_BACKEND

VLLM = "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
ASKED = {"role": "user", "content": "Say it eight times."}


async def ask(backend: OpenAICompatibleBackend, stack: AsyncExitStack, request: Request) -> Part:
    """Ask a backend, as a node does of which it is the only one."""
    answer = await stack.enter_async_context(backend.complete(request.path, request.body, stream=True))
    inspector = AnswerInspector(stream=True)

    async def read() -> AsyncIterator[bytes]:
        async for chunk in answer.body:
            yield inspector.feed(chunk)

    return Answer(answer.status, answer.content_type, read()), inspector


def test_a_server_goes_on_where_another_has_closed_the_connection() -> None:
    async def main() -> None:
        async with serving(FakeOptions(break_after=3)) as cut, serving(FakeOptions(metrics=VLLM)) as vllm:
            backends = [OpenAICompatibleBackend(each.url, timeouts=PATIENT_BACKEND) for each in (cut, vllm)]
            async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
                for backend in backends:
                    nursery.start_soon(backend.run)
                    await backend.wait_alive()
                goes_on = [CONTINUATION in backend.get_limits(MODEL).features for backend in backends]
                assert goes_on == [False, True], "nothing is known of the first"
                content = {"model": MODEL, "messages": [ASKED], "max_tokens": 8, "stream": True}
                request = parse_request(CHAT_COMPLETIONS, encode_body(content), 100)

                async def ask_for_rest(stack: AsyncExitStack, request: Request, written: int) -> Part:
                    assert written == len("word " * 3)
                    return await ask(backends[1], stack, request)

                whole = ContinuedAnswer(request, await ask(backends[0], stack, request), stack, ask_for_rest)
                body = b"".join([chunk async for chunk in whole.read()])
                nursery.cancel_scope.cancel()
            assert read_text(body) == "word " * 8 and whole.inspector.is_complete
            usage = [event["usage"] for event in read_events(body) if event and event.get("usage")]
            assert [each["completion_tokens"] for each in usage] == [8]
            asked = json.loads(vllm.bodies[-1])
            assert asked["messages"] == [ASKED, {"role": "assistant", "content": "word word word"}]
            assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)
            assert asked["max_tokens"] == 5

    trio.run(main)
