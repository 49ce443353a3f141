"""What a duel asks of a backend: an answer as an executor would give it, and a ballot or none, never a guess."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import pytest
import trio

from chain.crypto import hash_bytes
from chain.types.duels import DRAW, IDENTICAL, A, B, DeclaredJudge, DuelBallot
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from serving.quality.duels.backend_work import DuelJudge, WorkFailed, answer_request
from serving.quality.duels.reading import read_answer
from serving.scheduling.admission import Demand, Origin
from serving.scheduling.backend_pool import BackendPool
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from tests.support.market.duel_world import JudgingBackend
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import JUDGE, MODEL, make_body
from tests.support.openai_answers import make_whole

T = TypeVar("T")

LIMIT = 1 << 20
DECLARED = DeclaredJudge(MODEL, JUDGE.prompt.digest, is_weak=False)
ENTROPY = b"entropy"
GOOD, PLAIN, BAD = (make_whole(MODEL, f"q{quality}-0", 1, "stop") for quality in (9, 5, 0))


def make_pool(backend: JudgingBackend, capacity: int = 1) -> BackendPool:
    return BackendPool([(backend, capacity)], ProbabilisticPolicy(PolicyParameters()))


def simulate(main: Callable[[], Awaitable[T]]) -> T:
    """What ``main`` returns in simulated time."""

    async def end_in_time() -> T:
        with trio.fail_after(1_000):
            return await main()

    return run_simulation(1, end_in_time)


# An answer


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_is_answered_as_it_was_asked(stream: bool) -> None:
    backend = JudgingBackend("q1-")
    body = make_body(stream=stream, seed=7)
    answer = simulate(lambda: answer_request(make_pool(backend), body, LIMIT))
    assert read_answer(answer) == compute_text("q1-", backend.script.tokens)
    assert backend.bodies == [body]
    assert answer.endswith(b"data: [DONE]\n\n") == stream


def test_an_answer_that_becomes_too_long_ends_before() -> None:
    backend = JudgingBackend("q1-")
    backend.script.tokens, backend.script.token_delay = 2_000, 0.001
    limit = 100_000
    answer = simulate(lambda: answer_request(make_pool(backend), make_body(stream=True), limit))
    assert limit // 2 < len(answer) <= limit and answer.endswith(b"data: [DONE]\n\n") and b'"length"' in answer


@pytest.mark.parametrize(
    ("change", "is_final"),
    [({"status": 400}, False), ({"refuses": True}, False), ({"break_after": 2}, False), ({"error_after": 2}, False)],
    ids=str,
)
def test_what_fails_is_no_answer(change: dict[str, int], is_final: bool) -> None:
    backend = JudgingBackend("q1-")
    for name, value in change.items():
        setattr(backend.script, name, value)
    with pytest.raises(WorkFailed) as failed:
        simulate(lambda: answer_request(make_pool(backend), make_body(stream=True), LIMIT))
    assert failed.value.is_final == is_final


def test_what_is_no_request_is_given_up() -> None:
    with pytest.raises(WorkFailed) as failed:
        simulate(lambda: answer_request(make_pool(JudgingBackend("q1-")), b"no request", LIMIT))
    assert failed.value.is_final


def test_work_ends_when_a_request_needs_the_backend() -> None:
    backend = JudgingBackend("q1-")
    pool = make_pool(backend)

    async def main() -> None:
        async def work() -> None:
            with pytest.raises(WorkFailed) as failed:
                await answer_request(pool, make_body(stream=True), LIMIT)
            assert not failed.value.is_final

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await trio.sleep(0.2)
            assert backend.running == 1
            async with pool.admissions[0].slot(Demand(Origin.DELEGATED)):
                assert backend.running == 0 and backend.cancelled == 1

    simulate(main)


# A ballot


def vote(
    answer_a: bytes,
    answer_b: bytes | None,
    *,
    backend: JudgingBackend | None = None,
    declared: DeclaredJudge = DECLARED,
    is_weak: bool = False,
) -> DuelBallot:
    """In real time, since the SDK that asks the backend has a thread of its own."""
    backend = backend or JudgingBackend("q1-")
    backend.judge_delay = 0.0
    judge = DuelJudge(replace(JUDGE, is_weak=is_weak), make_pool(backend), SimulatedRuntime("1"))
    return trio.run(judge.vote, declared, make_body(), answer_a, answer_b, ENTROPY)


@pytest.mark.parametrize(
    ("answer_a", "answer_b", "ballot"),
    [
        (GOOD, PLAIN, DuelBallot(A)),
        (PLAIN, GOOD, DuelBallot(B)),
        (BAD, PLAIN, DuelBallot(B, A)),
        (PLAIN, BAD, DuelBallot(A, B)),
        (GOOD, GOOD, DuelBallot(IDENTICAL)),
        (GOOD, None, DuelBallot(DRAW)),
        (BAD, None, DuelBallot(DRAW, A)),
    ],
)
def test_a_ballot_says_what_the_model_says(answer_a: bytes, answer_b: bytes | None, ballot: DuelBallot) -> None:
    assert vote(answer_a, answer_b) == ballot


def test_the_same_text_in_another_form_is_identical_and_costs_no_question() -> None:
    backend = JudgingBackend("q1-")
    same = json.dumps({"id": "other", "choices": [{"message": {"content": "q9-0"}}]}).encode()
    assert vote(GOOD, same, backend=backend) == DuelBallot(IDENTICAL) and backend.ballots == 0


WEAK = replace(DECLARED, is_weak=True)


def test_a_weak_judge_is_asked_in_both_orders() -> None:
    backend = JudgingBackend("q1-")
    assert vote(GOOD, PLAIN, backend=backend, declared=WEAK, is_weak=True) == DuelBallot(A) and backend.ballots == 2


@pytest.mark.parametrize(
    ("letter", "ballot"), [("A", DuelBallot(DRAW)), ("X", DuelBallot(DRAW)), ("Z", DuelBallot(DRAW, 3))]
)
def test_what_a_weak_judge_says_of_a_place_does_not_count(letter: str, ballot: DuelBallot) -> None:
    backend = JudgingBackend("q1-", judge=lambda texts: letter)
    assert vote(GOOD, PLAIN, backend=backend, declared=WEAK, is_weak=True) == ballot


def by_reply(reply: str) -> Callable[[Mapping[str, str]], str]:
    return lambda texts: reply


def test_a_judge_whose_model_says_nothing_clear_has_no_ballot() -> None:
    with pytest.raises(WorkFailed) as failed:
        vote(GOOD, PLAIN, backend=JudgingBackend("q1-", judge=by_reply("I prefer the first one.")))
    assert failed.value.is_final


@pytest.mark.parametrize(
    "declared",
    [replace(DECLARED, prompt_digest=hash_bytes("test prompt")), replace(DECLARED, is_weak=True)],
    ids=["another prompt", "both orders"],
)
def test_a_judge_does_not_judge_otherwise_than_it_was_drawn_for(declared: DeclaredJudge) -> None:
    with pytest.raises(WorkFailed) as failed:
        vote(GOOD, PLAIN, declared=declared)
    assert failed.value.is_final


def test_a_judge_whose_model_is_away_is_asked_again() -> None:
    backend = JudgingBackend("q1-")
    backend.script.is_alive = False
    with pytest.raises(WorkFailed) as failed:
        vote(GOOD, PLAIN, backend=backend)
    assert not failed.value.is_final


def test_a_judge_declares_its_model_its_prompt_and_whether_it_is_weak() -> None:
    pool, runtime = make_pool(JudgingBackend("q1-")), SimulatedRuntime("1")
    assert DuelJudge(JUDGE, pool, runtime).declare() == DECLARED
    assert DuelJudge(replace(JUDGE, model="other", is_weak=True), pool, runtime).declare() == DeclaredJudge(
        "other", JUDGE.prompt.digest, is_weak=True
    )
    empty = BackendPool([], ProbabilisticPolicy(PolicyParameters()))
    assert DuelJudge(JUDGE, empty, runtime).declare() is None
    known = DuelJudge(JUDGE, pool, runtime, {MODEL: bytes(32)}.get)
    assert known.declare() == replace(DECLARED, identity=bytes(32))
