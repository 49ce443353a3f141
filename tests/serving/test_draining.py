"""A node that is told to end: takes nothing new, finishes what is under way, and has what it earned."""

from __future__ import annotations

import json
import math
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from chain.crypto import format_address
from serving.api import Api
from serving.config.start_note import note_start
from serving.daemon.lifecycle import _drain, serve
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
            executor.node.take_nothing_new(60.0)
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
            node.take_nothing_new(60.0)
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
        """A node whose requests never end, or that does not even come to them."""

        def __init__(self, leaves_s: float) -> None:
            self.discovery = SimpleNamespace(leave=self._leave)
            self.has_left = False
            self._leaves_s = leaves_s

        async def _leave(self) -> None:
            await trio.sleep(self._leaves_s)
            self.has_left = True

        async def drain(self) -> None:
            await trio.sleep_forever()

    async def main() -> None:
        send, signals = trio.open_memory_channel[int](9)
        for timeout_s in (7.0, 0.0):
            node, start = Hanging(2.0), trio.current_time()
            await _drain(node, signals, timeout_s)  # type: ignore[arg-type]
            assert node.has_left and trio.current_time() - start == 2.0 + timeout_s
        for leaves_s in (0.0, math.inf):
            for number in (1, 2):  # SIGHUP ends nothing, SIGINT does
                send.send_nowait(number)
            with trio.fail_after(1):
                await _drain(Hanging(leaves_s), signals, 3600.0)  # type: ignore[arg-type]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


class Stage:
    """A node that is a stub, run by :func:`serve`, and what it was told in turn."""

    def __init__(self, data_dir: Path, is_running: bool) -> None:
        self.done: list[str] = []
        self._data_dir = data_dir
        self._is_running = is_running

    def play(self, *numbers: int) -> None:
        """Start the node, and send it these signals, each once all is quiet."""

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, numbers)
                with trio.fail_after(PATIENCE):
                    await self._serve()

        trio.run(main)

    async def _send(self, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            await trio.testing.wait_all_tasks_blocked()
            self.done.append(signal.Signals(number).name)
            signal.raise_signal(number)

    async def _serve(self) -> None:
        runnable: Any = SimpleNamespace(run=self._run, address=("127.0.0.1", 1))
        node: Any = SimpleNamespace(
            run=self._start,
            take_nothing_new=lambda _: self.done.append("refuse"),
            under_way=2,
            discovery=SimpleNamespace(leave=lambda: self._note("leave")),
            drain=lambda: self._note("drain"),
        )
        manager: Any = SimpleNamespace(notify=lambda *_: None, run=self._run)
        await serve(
            node, runnable, runnable, runnable, self._data_dir, self._reload, lambda *_: self.done.append("ready"),
            manager, 60.0, self.done.append,
        )  # fmt: skip

    async def _run(self, *_: object, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def _start(self, *, task_status: Any) -> None:
        if self._is_running:
            task_status.started()
        await trio.sleep_forever()

    def _reload(self) -> dict[str, Any]:
        self.done.append("reload")
        return {}

    async def _note(self, what: str) -> None:
        self.done.append(what)


SAID = "stopping (2 requests under way, 60 s at most; again: at once)"


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts the handlers back that a node which ends leaves as they are."""
    monkeypatch.setattr("serving.daemon.lifecycle.describe_briefly", lambda _: "")
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("is_running", [False, True])
def test_a_node_that_is_told_to_stop_while_it_starts_ends_at_once_and_changes_nothing(
    tmp_path: Path, is_running: bool
) -> None:
    stage = Stage(tmp_path, is_running)
    if is_running:
        note_start(tmp_path, "joining the network")
    stage.play(signal.SIGTERM)
    assert stage.done == (["ready", "SIGTERM", "refuse", SAID, "leave", "drain"] if is_running else ["SIGTERM"])
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("ends_with_terminal", [False, True])
def test_a_hang_up_ends_a_node_whose_terminal_has_gone_and_is_the_order_to_reload_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_with_terminal: bool
) -> None:
    stage = Stage(tmp_path, is_running=True)
    # A daemon never has a terminal; one in the foreground loses it between the two signals.
    monkeypatch.setattr("serving.daemon.lifecycle.ends_with_terminal", lambda: ends_with_terminal)
    monkeypatch.setattr("serving.daemon.lifecycle.has_terminal", lambda: stage.done.count("SIGHUP") == 1)
    stage.play(signal.SIGHUP, signal.SIGHUP, *(() if ends_with_terminal else (signal.SIGTERM,)))
    begin, end = ["ready", "SIGHUP", "reload", "SIGHUP"], ["refuse", SAID, "leave", "drain"]
    assert stage.done == [*begin, *(() if ends_with_terminal else ("reload", "SIGTERM")), *end]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # the shell hangs up too, after the kernel


LOOK = """
import os, signal, sys
from serving.daemon.terminal import ends_with_terminal, has_terminal

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
print(has_terminal(), ends_with_terminal())
os.open(sys.argv[1], os.O_RDWR)  # the first terminal that the leader of a session opens becomes its own
print(has_terminal(), ends_with_terminal())
signal.signal(signal.SIGHUP, signal.SIG_IGN)
print(has_terminal(), ends_with_terminal(), flush=True)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.kill(os.getpid(), signal.SIGHUP)
signal.sigwait([signal.SIGHUP])
print(has_terminal(), flush=True)
signal.sigwait([signal.SIGHUP])
print(has_terminal(), flush=True)
"""


def test_a_process_sees_that_its_terminal_has_gone() -> None:
    leader, follower = pty.openpty()
    name = os.ttyname(follower)
    os.close(follower)
    with subprocess.Popen(
        [sys.executable, "-c", LOOK, name], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline().split() for _ in range(4)]
        os.close(leader)
        after, _ = process.communicate(timeout=PATIENCE)
    assert seen == [["False", "False"], ["True", "True"], ["True", "False"], ["True"]]
    assert (after, process.returncode) == ("False\n", 0)
