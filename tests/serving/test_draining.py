"""A node that is told to end: takes nothing new, finishes what is under way, and has what it earned."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from chain.crypto import format_address
from node import _drain, _serve
from serving.api import Api
from tests.support.api_calls import call
from tests.support.market_world import Options, World, make_body, simulate
from tests.support.waiting import PATIENCE, eventually


def test_an_executor_that_ends_finishes_its_answers_and_has_captured_them() -> None:
    async def play(world: World) -> None:
        executor = world.drawn()[0]
        assert executor.backend is not None and executor.node is not None
        executor.backend.script.token_delay = 2.0
        api = Api(world.gateway.dispatcher)
        answers: list[tuple[bytes, int | None]] = []

        async def ask() -> None:
            responder, error = await call(api, body=make_body(stream=True))
            answers.append((responder.headers[b"x-wwwserve-executor"], None if error is None else error.status))
            assert responder.body.endswith(b"data: [DONE]\n\n") and b'"error"' not in responder.body

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: executor.node.executor.under_way == 1)
            executor.node.take_nothing_new()
            alone = {"provider": {"only": [format_address(executor.public_key)]}}
            _, error = await call(api, body=make_body(**alone))
            assert error is not None and error.status == 503
            with trio.fail_after(60):
                await executor.node.drain()
            assert executor.node.executor.under_way == 0 and executor.node.payments.payee.earned > 0
            nursery.start_soon(ask)  # another executor has it
        (first, second) = answers
        assert first[1] is second[1] is None and first[0] != second[0]
        await world.settle()

    simulate(play)


def test_a_node_that_ends_refuses_its_users_and_finishes_what_they_have() -> None:
    async def play(world: World) -> None:
        backend, node = world.members[0].backend, world.gateway
        assert backend is not None
        backend.script.first_delay = 10.0
        api = Api(node.dispatcher)
        outcomes: list[int] = []

        async def ask() -> None:
            responder, error = await call(api, body=make_body())
            outcomes.append(responder.status if error is None else error.status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: node.dispatcher.under_way == 1)
            node.take_nothing_new()
            _, error = await call(api, body=make_body())
            assert error is not None and error.status == 503 and error.retry_after_s > 0
            assert "ending" in json.loads(error.body())["error"]["message"]
            responder, error = await call(api, "/v1/models", method="GET")
            assert error is None and responder.status == 200
            await node.drain()
            assert outcomes == [200]
        await world.settle()

    simulate(play, Options(own_backend=True, executors=1))


def test_draining_has_an_end() -> None:
    class Hanging:
        """A node whose requests never end."""

        async def drain(self) -> None:
            await trio.sleep_forever()

    async def main() -> None:
        send, signals = trio.open_memory_channel[int](9)
        start = trio.current_time()
        await _drain(Hanging(), signals, 7.0)  # type: ignore[arg-type]
        assert trio.current_time() - start == 7
        for number in (1, 2):  # SIGHUP ends nothing, SIGINT does
            send.send_nowait(number)
        with trio.fail_after(1):
            await _drain(Hanging(), signals, 3600.0)  # type: ignore[arg-type]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("is_running", [False, True])
def test_a_node_that_is_told_to_stop_while_it_starts_ends_at_once_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_running: bool
) -> None:
    monkeypatch.setattr("node._describe_briefly", lambda _: "")
    done: list[str] = []

    async def run(*_: object, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def start(*, task_status: Any) -> None:
        if is_running:
            task_status.started()
        await trio.sleep_forever()

    async def note(what: str) -> None:
        done.append(what)

    runnable = SimpleNamespace(run=run, address=("127.0.0.1", 1))
    node: Any = SimpleNamespace(
        run=start,
        take_nothing_new=lambda: done.append("refuse"),
        discovery=SimpleNamespace(leave=lambda: note("leave")),
        drain=lambda: note("drain"),
    )
    manager: Any = SimpleNamespace(notify=lambda *_: None, run=run)

    async def play() -> None:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await trio.testing.wait_all_tasks_blocked()
                done.append("stop")
                signal.raise_signal(signal.SIGTERM)

            nursery.start_soon(stop)
            with trio.fail_after(PATIENCE):
                await _serve(
                    node, runnable, runnable, runnable, tmp_path, lambda: None, lambda *_: done.append("ready"),
                    manager, 60.0,
                )  # fmt: skip

    trio.run(play)
    assert done == (["ready", "stop", "refuse", "leave", "drain"] if is_running else ["stop"])
    assert not list(tmp_path.iterdir())
