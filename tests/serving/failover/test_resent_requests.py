"""Requests with an Idempotency-Key: done once, paid once, and shown to nobody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio

from chain.types.operations import Hold
from p2p.simulation.runtime import run_simulation
from serving.api import Api
from serving.failover import resent_requests as module
from serving.failover.resent_requests import ABANDONED_S, KEPT_S, MAX_UNDER_WAY, SHARE, Handler, ResentRequests
from serving.http.messages import HttpRequest
from serving.http.responder import Responder
from serving.openai.errors import ApiError
from tests.support.api_calls import FakeResponder, call
from tests.support.market.scripted_backend import compute_stream
from tests.support.market_world import World, get_cancelled, get_name, get_script, make_body, simulate
from tests.support.waiting import eventually

BODY = make_body(stream=True)


def open_api(world: World) -> Api:
    return Api(world.gateway.dispatcher, resent=world.gateway.resent)


def check_paid_once(world: World) -> None:
    assert len(world.operations(Hold)) == 1 and [item.delivery.amount > 0 for item in world.captured] == [True]


def test_the_same_request_at_the_same_time_and_later_is_answered_and_paid_once() -> None:
    async def play(world: World) -> None:
        api, first = open_api(world), world.drawn()[0]
        answers: list[FakeResponder] = []

        async def send() -> None:
            answers.append((await call(api, body=BODY, idempotency_key=b"a"))[0])

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send)
                await trio.sleep(0.2)
        await send()
        whole = compute_stream(get_name(first), get_script(first), with_usage=False)
        assert [answer.body for answer in answers] == 4 * [whole]
        assert sorted(b"idempotent-replayed" in answer.headers for answer in answers) == [False, True, True, True]
        assert len({answer.headers[b"x-request-id"] for answer in answers}) == 1
        await world.settle()
        check_paid_once(world)

    simulate(play)


def test_one_who_lost_the_connection_gets_the_whole_answer_when_it_asks_again() -> None:
    async def play(world: World) -> None:
        api, first = open_api(world), world.drawn()[0]
        get_script(first).tokens = 100
        with trio.move_on_after(3.0):
            await call(api, body=BODY, idempotency_key=b"a")
        await trio.sleep(1.0)
        answer, _ = await call(api, body=BODY, idempotency_key=b"a")
        assert answer.body == compute_stream(get_name(first), get_script(first), with_usage=False)
        await world.settle()
        check_paid_once(world)
        assert get_cancelled(first) == 0

    simulate(play)


def test_nothing_goes_on_for_ever_for_nobody() -> None:
    async def play(world: World) -> None:
        api, first = open_api(world), world.drawn()[0]
        get_script(first).tokens = 10_000
        with trio.move_on_after(3.0):
            await call(api, body=make_body(stream=True, max_tokens=4_000), idempotency_key=b"a")
        await trio.sleep(ABANDONED_S - 5.0)
        assert get_cancelled(first) == 0
        await eventually(lambda: get_cancelled(first) == 1, 10.0)
        assert len(world.gateway.resent) == 0
        await world.settle(150)

    simulate(play)


def test_an_error_and_an_answer_that_breaks_off_are_not_kept() -> None:
    async def play(world: World) -> None:
        api, first = open_api(world), world.drawn()[0]
        get_script(first).break_after = 2
        broken, _ = await call(api, body=BODY, idempotency_key=b"a")
        assert b'data: {"error"' in broken.body
        for member in world.members[1:]:
            get_script(member).refuses = True
        _, error = await call(api, body=BODY, idempotency_key=b"a")
        assert error is not None and error.status == 503
        for member in world.members[1:]:
            get_script(member).refuses, get_script(member).break_after = False, None
        answer, error = await call(api, body=BODY, idempotency_key=b"a")
        assert error is None and answer.body.endswith(b"data: [DONE]\n\n")
        assert b"idempotent-replayed" not in answer.headers
        await world.settle()
        assert sum(item.delivery.amount > 0 for item in world.captured) == 1

    simulate(play)


# Without a node.


def run(play: Callable[[ResentRequests], Awaitable[None]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            resent = ResentRequests()
            await nursery.start(resent.run)
            await play(resent)
            nursery.cancel_scope.cancel()

    run_simulation(1, main)


class Work:
    """A handler that counts."""

    def __init__(self, body: bytes = b"{}", seconds: float = 0.0) -> None:
        self.body = body
        self.seconds = seconds
        self.count = 0

    async def __call__(self, request: HttpRequest, respond: Responder) -> None:
        self.count += 1
        await trio.sleep(self.seconds)
        await respond.reply(200, self.body)


async def send(
    resent: ResentRequests, work: Handler, key: bytes, owner: str = "one", body: bytes = b"x"
) -> FakeResponder:
    responder = FakeResponder()
    request = HttpRequest("POST", "/v1/x", [(b"idempotency-key", key)], "test", body)
    await resent.answer(owner, request, cast(Responder, responder), work)
    return responder


def test_a_key_is_good_for_one_api_key_and_one_request() -> None:
    async def play(resent: ResentRequests) -> None:
        one, two = Work(b"1"), Work(b"2")
        assert (await send(resent, one, b"k")).body == b"1"
        assert (await send(resent, two, b"k", "two")).body == b"2", "nobody is shown the answer of another"
        assert (await send(resent, two, b"k")).body == b"1"
        with pytest.raises(ApiError, match="another request") as refused:
            await send(resent, one, b"k", body=b"y")
        assert refused.value.status == 422
        for key in (b"", b"a b", b"x" * 256, "ü".encode()):
            with pytest.raises(ApiError) as refused:
                await send(resent, one, key)
            assert refused.value.status == 400
        assert (one.count, two.count) == (1, 1)

    run(play)


def test_answers_are_kept_for_a_while_and_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 40)

    async def play(resent: ResentRequests) -> None:
        work = Work(b"x" * 100)
        for number in range(40):
            await send(resent, work, b"%d" % number)
            assert len(resent) <= 40 // SHARE
        assert (await send(resent, work, b"39")).headers[b"idempotent-replayed"]
        for number in range(80):
            await send(resent, work, b"k", f"owner {number}")
        assert len(resent) == 40
        monkeypatch.setattr(module, "MAX_KEPT_BYTES", 1_000)
        await send(resent, work, b"last", "modest")
        assert len(resent) == 10
        await trio.sleep(KEPT_S + 1.0)
        await send(resent, work, b"k", "fresh")
        assert len(resent) == 1 and resent._kept_bytes == {"fresh": 100}

    run(play)


def test_one_api_key_has_a_quarter_of_those_under_way() -> None:
    async def play(resent: ResentRequests) -> None:
        work, refused = Work(seconds=1.0), list[Any]()

        async def try_to_send(owner: str, number: int) -> None:
            try:
                await send(resent, work, b"%d" % number, owner)
            except ApiError as error:
                refused.append((owner, error.status))

        async with trio.open_nursery() as nursery:
            for number in range(MAX_UNDER_WAY):
                nursery.start_soon(try_to_send, "greedy", number)
            nursery.start_soon(try_to_send, "modest", 0)
        assert refused == [("greedy", 429)] * (MAX_UNDER_WAY - MAX_UNDER_WAY // SHARE)

    run(play)


def test_a_handler_that_fails_is_a_500_for_all_who_wait() -> None:
    async def play(resent: ResentRequests) -> None:
        async def fail(request: HttpRequest, respond: Responder) -> None:
            await trio.sleep(1.0)
            raise ValueError("on purpose")

        statuses = []

        async def try_to_send() -> None:
            try:
                await send(resent, fail, b"k")
            except ApiError as error:
                statuses.append(error.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_to_send)
            nursery.start_soon(try_to_send)
        assert statuses == [500, 500] and len(resent) == 0

    run(play)


def test_an_answer_that_is_too_long_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 10)

    async def write(request: HttpRequest, respond: Responder) -> None:
        await respond.start(200, [])
        while True:
            await respond.send(b"12345678")

    async def play(resent: ResentRequests) -> None:
        answer = await send(resent, write, b"k")
        assert answer.body.startswith(b'12345678data: {"error"') and len(resent) == 0

    run(play)
