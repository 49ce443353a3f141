"""What is compared of runs with duels and without, and the GPUs that answer and judge in them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from benchmarks.quality.duel_overhead import (
    DUELS,
    JudgingGpu,
    Work,
    choose,
    compare,
    compute_distance,
    compute_share,
    count_on_ledger,
)
from chain.parameters.duel_economics import check_duels
from chain.parameters.parameters import Parameters
from p2p.simulation.runtime import SimulatedRuntime
from serving.openai.requests import CHAT_COMPLETIONS
from serving.quality.duels.reading import read_answer


def make_work(latencies: list[float], **fields: int) -> Work:
    counts = {"offloaded": 100, "duels": 10, "owed": 40, "extra": 40, "second": 0, "repeated": 0, "unfinished": 0}
    return Work(latencies, **{**counts, **fields})


def find_missed(work: Work, plain: Work) -> set[str]:
    """What the figures of a run with duels say is out of bounds."""
    return {figure.name.partition(": ")[2] for figure in compare("run", 0.1, 3, work, plain) if figure.is_missed}


def test_distance_of_distributions() -> None:
    assert compute_distance([1, 2, 3], [3, 2, 1]) == 0
    assert compute_distance([1, 2], [3, 4]) == 1
    assert compute_distance([1, 2, 3, 4], [1, 2, 3, 9]) == 0.25
    assert compute_share([1, 2, 3, 4], 3) == 0.75


def test_what_is_out_of_bounds_is_noticed() -> None:
    plain = make_work([1 + number / 1_000 for number in range(2_000)])
    assert find_missed(plain, plain) == set()
    slow = make_work([latency + 0.5 for latency in plain.latencies])
    assert find_missed(slow, plain) == {"largest difference of the distributions", "fewer of them"}
    assert find_missed(make_work(plain.latencies, extra=41), plain) == {"missing or too many, as a share"}
    assert find_missed(make_work(plain.latencies, unfinished=1), plain) == {"duels without an end"}
    assert find_missed(make_work(plain.latencies, duels=30), plain) == {"error of that, in standard errors"}


def test_extra_requests_on_the_ledger_are_as_many_as_duels_cost() -> None:
    figures = {figure.name: figure for figure in count_on_ledger((250,), 3, 800, seed=1)}
    extra = figures["ledger, k = 3: extra requests"]
    assert extra.reference == 800 and extra.value % 4 == 0
    assert not any(figure.is_missed for figure in figures.values())


def test_the_amounts_pass_the_check_of_a_genesis() -> None:
    for judges in (1, 3):
        for rate in (50, 250):
            check_duels(Parameters(duels=replace(DUELS, rate=rate, judges=judges)))


@pytest.mark.parametrize("stream", [True, False])
def test_gpus_have_texts_of_their_own_and_give_ballots(stream: bool) -> None:
    async def ask(gpu: JudgingGpu, content: str) -> bytes:
        body = {
            "model": gpu.models[0],
            "stream": stream,
            "max_tokens": 5,
            "messages": [{"role": "user", "content": content}],
        }
        async with gpu.complete(CHAT_COMPLETIONS, json.dumps(body).encode(), stream=stream) as answer:
            return b"".join([piece async for piece in answer.body])

    async def play() -> None:
        gpus = [JudgingGpu(SimulatedRuntime(str(number)), number, 4) for number in range(2)]
        async with trio.open_nursery() as nursery:
            for gpu in gpus:
                nursery.start_soon(gpu.run)
            texts = [read_answer(await ask(gpu, "Say something.")) for gpu in gpus]
            assert texts == ["n0000 " * 5, "n0001 " * 5]
            prompt = "\n".join(
                f"BEGIN ANSWER {name} abcdef\nabc|{text}\nEND ANSWER {name} abcdef"
                for name, text in zip("AB", texts, strict=True)
            )
            ballot = await ask(gpus[0], prompt)
            assert read_answer(ballot) in ("A", "B")
            assert gpus[0].finished == {"answers": 1, "ballots": 1}
            nursery.cancel_scope.cancel()

    trio.run(play, clock=MockClock(autojump_threshold=0))


def test_ballots_do_not_depend_on_the_order() -> None:
    first, second = choose({"ANSWER A": "one", "ANSWER B": "two"}), choose({"ANSWER A": "two", "ANSWER B": "one"})
    assert {first, second} == {"A", "B"} and choose({"ANSWER": "one"}) == "X"
