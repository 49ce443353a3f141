"""The OpenAI API: routes, errors and streams, in simulation and with OpenAI's own client over real sockets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import openai
import pytest
import trio

from chain.crypto import format_address, parse_address
from chain.store.kv import MemoryStore
from p2p.runtime import RealRuntime
from serving.api import Api, read_timeout
from serving.http.access import AccessRules
from serving.http.messages import RequestHead
from serving.http.server import HttpServer
from serving.keys.keyring import Keyring
from serving.keys.records import ConfiguredKey
from serving.openai.errors import ApiError
from serving.request_records import Outcome
from serving.scheduling.policy import PolicyParameters
from tests.support.api_calls import CHAT, FakeResponder, call
from tests.support.market.scripted_backend import Script, compute_stream, compute_whole, make_token
from tests.support.market_world import MODEL, PROMPT, Options, World, make_body, simulate
from tests.support.waiting import eventually


@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_stream_is_passed_on_but_for_a_usage_that_was_not_asked_for(wants_usage: bool) -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        assert first.backend is not None
        options = {"stream_options": {"include_usage": True}} if wants_usage else {}
        responder, error = await call(Api(world.gateway.dispatcher), body=make_body(stream=True, **options))
        assert error is None and responder.ended and responder.status == 200
        assert responder.body == compute_stream(first.backend.name, first.backend.script, wants_usage)
        assert (b'"usage"' in responder.body) == wants_usage
        assert responder.headers[b"content-type"] == b"text/event-stream"
        assert parse_address(responder.headers[b"x-wwwserve-executor"].decode()) == first.public_key
        (record,) = world.gateway.dispatcher.records
        assert responder.headers[b"x-request-id"] == record.id.encode()
        assert (record.outcome, record.completion_tokens) == ("completed", first.backend.script.tokens)
        assert record.first_byte is not None and record.finished is not None
        assert record.started < record.first_byte < record.finished
        assert len(responder.pieces) > 2  # as they came, not at the end
        await world.settle()

    simulate(play)


def test_a_whole_answer_is_passed_on() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        assert first.backend is not None
        responder, error = await call(Api(world.gateway.dispatcher), body=make_body())
        assert error is None and responder.body == compute_whole(first.backend.name, first.backend.script)
        (record,) = world.gateway.dispatcher.records
        assert (record.outcome, record.completion_tokens) == ("completed", first.backend.script.tokens)
        assert world.gateway.dispatcher.counters.completion_tokens == first.backend.script.tokens
        await world.settle()

    simulate(play)


@pytest.mark.parametrize("own_backend", [False, True])
@pytest.mark.parametrize("fault", ["break_after", "error_after"])
def test_a_stream_that_breaks_off_ends_in_one_error_event(fault: str, own_backend: bool) -> None:
    async def play(world: World) -> None:
        member = world.members[0] if own_backend else world.drawn()[0]
        assert member.backend is not None
        setattr(member.backend.script, fault, 2)
        responder, error = await call(Api(world.gateway.dispatcher), body=make_body(stream=True))
        assert error is None and responder.ended
        name = member.backend.name
        tokens = make_token(name, 0) + make_token(name, 1)
        assert responder.body.startswith(tokens)
        rest = responder.body.removeprefix(tokens)
        assert rest.startswith(b"data: ") and rest.endswith(b"\n\n") and rest.count(b"data: ") == 1
        content = json.loads(rest.removeprefix(b"data: "))
        assert set(content["error"]) == {"message", "type", "param", "code"}
        (record,) = world.gateway.dispatcher.records
        assert record.outcome == "failed"
        assert world.gateway.dispatcher.counters.ended[Outcome.FAILED] == 1
        await world.settle()

    simulate(play, Options(own_backend=own_backend))


@pytest.fixture
def prompt_refunds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refunds that are not gathered for a minute, in tests of real time."""
    monkeypatch.setattr("serving.accounting.payee.REFUND_GATHER_S", 0.5)


def test_half_an_event_is_not_passed_on_before_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torn = b'data: {"id":"torn"'

    async def play(world: World) -> None:
        first = world.drawn()[0]
        assert first.backend is not None
        first.backend.script.break_after = 2
        responder, _ = await call(Api(world.gateway.dispatcher), body=make_body(stream=True))
        assert torn not in responder.body
        assert responder.body.count(b"data: ") == 2, "one token and the error"
        await world.settle()

    monkeypatch.setattr(
        "tests.support.market.scripted_backend.make_token",
        lambda name, number, padding=0: make_token(name, number, padding) if number == 0 else torn,
    )
    simulate(play)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/v1/", 404, "unknown_url"),
        ("OPTIONS", CHAT, 405, "method_not_allowed"),
        ("GET", "/v2/models", 404, "unknown_url"),
        ("POST", "/v1/images/generations", 404, "unknown_url"),
        ("GET", "/v1/embeddings", 405, "method_not_allowed"),
        ("GET", "/v1/modelsx", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("POST", CHAT, 400, None),
    ],
)
def test_wrong_requests(method: str, path: str, status: int, code: str | None) -> None:
    async def play(world: World) -> None:
        _, error = await call(Api(world.gateway.dispatcher), path, b"{", method)
        assert error is not None and (error.status, error.code) == (status, code)

    simulate(play, Options(executors=1))


def test_models() -> None:
    async def play(world: World) -> None:
        api = Api(world.gateway.dispatcher)
        for path in ("/v1/models", "/v1/models/"):
            responder, _ = await call(api, path, method="GET")
            content = json.loads(responder.body)
            assert content["object"] == "list" and [entry["id"] for entry in content["data"]] == [MODEL]
            assert content["data"][0]["object"] == "model"
        responder, _ = await call(api, f"/v1/models/{MODEL}", method="GET")
        assert json.loads(responder.body)["id"] == MODEL

    simulate(play, Options(executors=1))


def make_keys(*configured: ConfiguredKey) -> Keyring:
    return Keyring(MemoryStore(), RealRuntime(), configured)


def test_keys_and_rates() -> None:
    async def play(world: World) -> None:
        api = Api(world.gateway.dispatcher, make_keys(ConfiguredKey("secret", 2)))
        body = make_body()
        for wrong in (b"", b"Bearer wrong"):
            _, error = await call(api, body=body, authorization=wrong)
            assert error is not None and (error.status, error.code) == (401, "invalid_api_key")
        for _ in range(2):
            responder, error = await call(api, body=body, authorization=b"Bearer secret")
            assert error is None and responder.status == 200
        _, error = await call(api, body=body, authorization=b"Bearer secret")
        assert error is not None and (error.status, error.code) == (429, "rate_limit_exceeded")
        await trio.sleep(31)
        assert (await call(api, "/v1/models", method="GET", authorization=b"Bearer secret"))[1] is None
        await world.settle()

    simulate(play)


CHAT_PAGE = b"https://chat.example.org"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"origin": b"https://evil.example", "content_type": b"text/plain"}, 403, "origin_not_allowed"),
        ({"origin": b"https://evil.example"}, 403, "origin_not_allowed"),
        ({"origin": b"null"}, 403, "origin_not_allowed"),
        ({"host": b"evil.example:8000", "origin": b"http://evil.example:8000"}, 403, "host_not_allowed"),
        ({"host": b"evil.example:8000", "authorization": b"Bearer secret"}, 403, "host_not_allowed"),
        ({"content_type": b"text/plain", "authorization": b"Bearer secret"}, 415, "unsupported_media_type"),
        ({"content_type": b"", "authorization": b"Bearer secret"}, 415, "unsupported_media_type"),
        ({"content_type": b"text/plain"}, 401, "invalid_api_key"),
        ({"origin": CHAT_PAGE}, 401, "invalid_api_key"),
        ({"host": b"localhost:8000", "authorization": b"Bearer wrong"}, 401, "invalid_api_key"),
    ],
)
def test_a_request_is_refused_by_its_head(headers: dict[str, bytes], status: int, code: str) -> None:
    async def play(world: World) -> None:
        access = AccessRules("127.0.0.1", (), (CHAT_PAGE.decode(),))
        api = Api(world.gateway.dispatcher, make_keys(ConfiguredKey("secret")), access)
        responder, error = await call(api, body=make_body(), **headers)
        assert error is not None and (error.status, error.code) == (status, code)
        assert not responder.status and not world.gateway.dispatcher.records
        may_read = (b"access-control-allow-origin", CHAT_PAGE) in responder.common_headers
        assert may_read == (headers.get("origin") == CHAT_PAGE)

    simulate(play, Options(executors=1))


def test_a_page_that_the_owner_allows_asks_first_and_is_then_answered() -> None:
    async def play(world: World) -> None:
        access = AccessRules("127.0.0.1", (), (CHAT_PAGE.decode(),))
        api = Api(world.gateway.dispatcher, make_keys(ConfiguredKey("secret")), access)
        asked = {"access_control_request_method": b"POST", "access_control_request_headers": b"authorization"}
        responder, error = await call(api, method="OPTIONS", origin=CHAT_PAGE, **asked)
        assert error is None and responder.ended and (responder.status, responder.body) == (204, b"")
        assert responder.headers[b"access-control-allow-headers"] == b"authorization"
        assert (b"access-control-allow-origin", CHAT_PAGE) in responder.common_headers
        responder, error = await call(api, body=make_body(), origin=CHAT_PAGE, authorization=b"Bearer secret")
        assert error is None and responder.status == 200
        assert (b"access-control-allow-origin", CHAT_PAGE) in responder.common_headers
        for origin in (b"https://evil.example", b"null"):
            responder, error = await call(api, method="OPTIONS", origin=origin, **asked)
            assert error is not None and error.status == 403 and not responder.common_headers
        await world.settle()

    simulate(play)


@pytest.mark.parametrize(("value", "leaves"), [(b"1", False), (b"true", False), (b"0", True), (b"False", True)])
def test_a_request_marked_local_only_stays(value: bytes, leaves: bool) -> None:
    async def play(world: World) -> None:
        own = world.members[0].backend
        assert own is not None
        own.utilization = 0.9
        responder, _ = await call(Api(world.gateway.dispatcher), body=make_body(), x_wwwserve_local_only=value)
        assert (responder.headers[b"x-wwwserve-executor"] != b"local") == leaves
        await world.settle()

    simulate(play, Options(own_backend=True))


# Over real sockets, with OpenAI's own client.


@asynccontextmanager
async def serve(world: World, *keys: ConfiguredKey) -> AsyncIterator[openai.AsyncOpenAI]:
    api = Api(world.gateway.dispatcher, make_keys(*keys), AccessRules("127.0.0.1", (), (CHAT_PAGE.decode(),)))
    server = await HttpServer.open(api.handle, "127.0.0.1", 0, RealRuntime(), admit=api.admit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        url = "http://{}:{}/v1".format(*server.address)
        async with openai.AsyncOpenAI(api_key="secret", base_url=url, max_retries=0, timeout=20) as client:
            yield client
        nursery.cancel_scope.cancel()


MESSAGES: Any = [{"role": "user", "content": "hello"}]


def test_openais_client(prompt_refunds: None) -> None:
    async def play(world: World) -> None:
        async with serve(world, ConfiguredKey("secret")) as client:
            first = world.drawn()[0]
            assert first.backend is not None
            raw = await client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=50)
            answer = raw.parse()
            text = "".join(f"{first.backend.name}{number} " for number in range(6))
            assert answer.choices[0].message.content == text
            assert answer.usage is not None and answer.usage.completion_tokens == 6
            assert raw.headers["x-wwwserve-executor"] == format_address(first.public_key)

            first = world.drawn()[0]
            assert first.backend is not None
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=50, stream=True)
            chunks = [chunk async for chunk in stream]
            assert all(chunk.usage is None for chunk in chunks)
            words = [chunk.choices[0].delta.content or "" for chunk in chunks]
            assert "".join(words) == "".join(f"{first.backend.name}{number} " for number in range(6))
            assert chunks[-1].choices[0].finish_reason == "stop"

            assert [model.id async for model in client.models.list()] == [MODEL]
            assert (await client.models.retrieve(MODEL)).id == MODEL

            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await client.chat.completions.create(model="unknown", messages=MESSAGES)
            with pytest.raises(openai.BadRequestError, match="max_tokens"):
                await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=0)
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="wrong").models.list()
            with pytest.raises(openai.PermissionDeniedError, match="may not use"):
                await client.models.list(extra_headers={"origin": "https://evil.example"})
            page = await client.models.with_raw_response.list(extra_headers={"origin": CHAT_PAGE.decode()})
            assert page.headers["access-control-allow-origin"] == CHAT_PAGE.decode()

            for member in world.members[1:]:
                assert member.backend is not None
                member.backend.script = Script(tokens=20, break_after=3, first_delay=0.01, token_delay=0.01)
            stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=50, stream=True)
            seen = 0
            with pytest.raises(openai.APIError, match="broke off"):
                async for _ in stream:
                    seen += 1
            assert seen == 3
            with pytest.raises(openai.NotFoundError):
                local = {"x-wwwserve-local-only": "1"}
                await client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_headers=local)
        await world.settle()

    simulate(play, real_time=True)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("own_backend", [True, False])
def test_a_client_that_disconnects_cancels_the_work_down_to_the_backend(
    stream: bool, own_backend: bool, prompt_refunds: None
) -> None:
    async def play(world: World) -> None:
        member = world.members[0] if own_backend else world.drawn()[0]
        backend = member.backend
        assert backend is not None
        backend.script = Script(tokens=10_000, first_delay=0.01, token_delay=0.01)
        async with serve(world) as client:
            async with trio.open_nursery() as nursery:

                async def ask() -> None:
                    create: Any = client.chat.completions.create
                    answer = await create(model=MODEL, messages=MESSAGES, max_tokens=4000, stream=stream)
                    async for _ in answer:
                        pass

                nursery.start_soon(ask)
                await eventually(lambda: backend.running == 1)
                nursery.cancel_scope.cancel()
            await eventually(lambda: backend.cancelled == 1 and backend.running == 0)
            await eventually(lambda: world.gateway.dispatcher.records[0].outcome == "cancelled")
        await world.settle()

    parameters = {"capture_grace_ms": 1, "idle_beat_ms": 1_000}
    simulate(play, Options(own_backend=own_backend, parameters=parameters), real_time=True)


@pytest.mark.parametrize(
    ("headers", "timeout_s"),
    [
        ({}, math.inf),
        ({"x_wwwserve_timeout": b"2.5"}, 2.5),
        ({"x_stainless_read_timeout": b"600.0"}, 600),
        ({"x_stainless_timeout": b"30", "x_wwwserve_timeout": b"40"}, 30),
        ({"x_envoy_expected_rq_timeout_ms": b"1500"}, 1.5),
        ({"x_stainless_read_timeout": b"None", "x_wwwserve_timeout": b"-3"}, math.inf),
        ({"x_wwwserve_timeout": b"nan", "x_stainless_timeout": b"\xff\xfe"}, math.inf),
        ({"x_wwwserve_timeout": b"0", "x_envoy_expected_rq_timeout_ms": b"-0.0"}, math.inf),
        ({"x_wwwserve_timeout": b"1e308", "x_stainless_timeout": b"1e999"}, 1e308),
    ],
)
def test_clients_say_how_long_they_wait(headers: dict[str, bytes], timeout_s: float) -> None:
    pairs = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    assert read_timeout(RequestHead("POST", CHAT, pairs, "test")) == timeout_s


def get_hint(error: ApiError) -> int:
    ((name, value),) = error.headers()
    assert name == b"retry-after"
    return int(value)


def test_a_request_that_would_be_late_is_503_at_once_with_the_time_to_come_again() -> None:
    async def play(world: World) -> None:
        own = world.members[0].backend
        assert own is not None
        own.script = Script(first_delay=20.0, tokens=1)
        api = Api(world.gateway.dispatcher)

        prompts = count()  # each is another, so that none is in the cache

        async def send(**headers: bytes) -> tuple[FakeResponder, ApiError | None]:
            body = make_body(stream=True, messages=[{"role": "user", "content": f"{next(prompts)} {PROMPT}"}])
            return await call(api, body=body, x_wwwserve_local_only=b"1", **headers)

        for _ in range(16):  # from now on it is known that an answer takes 20 s, more or less
            await send()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(5)
            nursery.start_soon(send)
            await trio.sleep(0.01)
            before = trio.current_time()
            _, error = await send(x_stainless_read_timeout=b"30")
            assert error is not None and error.status == 503 and trio.current_time() == before
            expected = re.search(r"a slot is expected in (\d+) s, and the request can wait for 30 s", error.message)
            assert expected is not None and 35 <= int(expected[1]) <= 40
            assert 36 <= get_hint(error) <= 41
            nursery.start_soon(send)
            await trio.sleep(0.01)
            _, error = await send()
            assert error is not None and error.status == 429  # two wait already
            assert 56 <= get_hint(error) <= 64
            nursery.cancel_scope.cancel()

    simulate(play, Options(own_backend=True, capacity=1, policy=PolicyParameters(max_queue=2)))
