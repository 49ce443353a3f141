"""The demonstration: which ports it takes, and what it shows while it runs. ``make demo ARGS=--once`` runs it all."""

from __future__ import annotations

import io
import signal
import socket
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from rich.console import Console

from serving.cli.demo import demo
from serving.cli.demo.demo import HOST, PORTS, PROMPTS, DemoFailed, find_ports
from serving.cli.setup.start import end_as_by_ctrl_c
from tests.support.ports import reserve_ports
from tests.support.waiting import PATIENCE, eventually

EXECUTOR = "12D3KooWexecutor"


def test_any_ports_that_are_free_or_those_from_one_on() -> None:
    assert len(set(find_ports(None))) == PORTS
    with socket.create_server((HOST, 0)) as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(
            DemoFailed, match=rf"cannot listen on {HOST}:{taken}: Address already in use; .* --port on$"
        ):
            find_ports(taken)
    (first,) = reserve_ports(1)
    try:
        assert find_ports(first) == list(range(first, first + PORTS))
    except DemoFailed as error:  # another process has one of those after it
        assert f"{HOST}:{first}:" not in str(error)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_end_is_raised_only_where_the_state_of_trio_is_whole(number: signal.Signals) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = [signal.getsignal(each) for each in numbers]
    went_on: list[bool] = []

    @trio.lowlevel.enable_ki_protection
    def change_state() -> None:
        signal.raise_signal(number)
        went_on.append(True)

    async def main() -> None:
        change_state()
        await trio.sleep_forever()

    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_as_by_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            trio.run(main)
    finally:
        for each, handler in zip(numbers, handlers, strict=True):
            signal.signal(each, handler)
    assert went_on == [True]


def make_row(number: int) -> dict[str, Any]:
    """What a node says of the request of this number, which is answered and not paid yet."""
    paid: dict[str, Any] = {"amount": None, "hold_height": None, "settled_height": None}
    return {"id": f"req-{number}", "completion_tokens": 7, "outcome": "completed", **paid}


def test_an_answer_is_shown_when_it_is_paid_while_others_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "POLL_INTERVAL_S", 0.001)
    console = Console(file=io.StringIO(), width=80)
    rows = [make_row(number) for number in range(len(PROMPTS))]

    def count_shown() -> int:
        lines: list[str] = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        return sum("spoken" in line for line in lines)

    def has_shown(number: int) -> bool:
        return count_shown() == number

    async def send_prompts(node: Any, results: list[Any]) -> None:
        for number, row in enumerate(rows):
            executor = EXECUTOR if number % 2 else "local"
            row["outcome"] = "running"
            results.append(demo._Result(row["id"], executor, 0.25, f"spoken\nword {number} " + "x" * 99))
            row["outcome"] = "completed"
            if number % 2:
                await trio.sleep(0.005)
                assert count_shown() == number, "it is not paid yet"
                row |= {"amount": 12_000_000, "hold_height": 3, "settled_height": 4}
            await eventually(partial(has_shown, number + 1))

    async def main() -> None:
        monkeypatch.setattr(demo, "_send_prompts", send_prompts)
        nodes: Any = [
            SimpleNamespace(address="12D3KooWpayer", ask=lambda path: {"requests": rows}),
            SimpleNamespace(address=EXECUTOR),
        ]
        with trio.fail_after(PATIENCE):
            results, shown = await demo._run_prompts(nodes, console)
        assert [result.request_id for result in results] == list(shown) == [row["id"] for row in rows]

    trio.run(main)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in lines)
    assert lines[-1].split()[:11] == ["20", "node", "1", "250", "ms", "7", "12.000000", "3", "4", "spoken", "word"]
