"""Trials: every pair in both orders with one code, everything from the seed, and repeats that ask for the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import trio

from serving.quality.judging.ballot import Abstention, Ballot, Reason, SoloBallot
from serving.quality.judging.cases import load_cases
from serving.quality.judging.prompt import AnswerPair, SingleAnswer
from serving.quality.judging.trials import Outcome, TrialKind, make_trials, run_trials

CASES = load_cases()
TRIALS = make_trials(CASES, 7)


def test_each_pair_is_asked_in_both_orders_with_the_same_random_bytes() -> None:
    asked = {(trial.kind, trial.case, trial.is_swapped): trial for trial in TRIALS if not trial.is_repeat}
    for (kind, case, is_swapped), trial in asked.items():
        if isinstance(trial.texts, SingleAnswer):
            continue
        other = asked[kind, case, not is_swapped]
        assert isinstance(other.texts, AnswerPair)
        assert (other.texts.answer_a, other.texts.answer_b) == (trial.texts.answer_b, trial.texts.answer_a)
        assert other.entropy == trial.entropy and other.texts.question == trial.texts.question


def test_every_case_is_asked_and_the_reference_is_the_sound_answer() -> None:
    kinds = Counter(trial.kind for trial in TRIALS if not trial.is_repeat)
    questions, injections, nulls = len(CASES.questions), len(CASES.injections), len(CASES.null_answers)
    assert kinds == {
        TrialKind.EQUAL: 2 * questions,
        TrialKind.BROKEN: 2 * questions,
        TrialKind.PADDED: 2 * questions,
        TrialKind.SOLO_SOUND: questions,
        TrialKind.SOLO_BROKEN: questions,
        TrialKind.INJECTION: 2 * injections,
        TrialKind.NULL: 4 * nulls,
    }
    sound = {case.answer for case in CASES.questions}
    for trial in TRIALS:
        if isinstance(trial.texts, AnswerPair):
            assert (trial.texts.answer_b if trial.is_swapped else trial.texts.answer_a) in sound
    assert {trial.family for trial in TRIALS if trial.family} == {each.family for each in CASES.injections}


def test_repeats_are_the_same_questions_in_reverse() -> None:
    repeats = [trial for trial in TRIALS if trial.is_repeat]
    first = [trial for trial in TRIALS if trial.kind in (TrialKind.EQUAL, TrialKind.BROKEN) and not trial.is_repeat]
    assert [replace(trial, is_repeat=False) for trial in repeats] == first[::-1] and repeats


def test_the_random_bytes_follow_from_the_seed_and_differ_between_cases() -> None:
    assert make_trials(CASES, 7) == TRIALS
    others = {trial.entropy for trial in make_trials(CASES, 8)}
    entropies = {(trial.kind, trial.case): trial.entropy for trial in TRIALS}
    assert len(set(entropies.values())) == len(entropies) and not others & set(entropies.values())


@pytest.mark.parametrize("step", [2, 4, 20, 90])
def test_fewer_cases_still_have_every_kind(step: int) -> None:
    trials = make_trials(CASES, 7, step)
    assert {trial.kind for trial in trials} == set(TrialKind) and len(trials) < len(TRIALS)
    places = [(trial.kind, trial.case, trial.is_swapped, trial.is_repeat) for trial in trials]
    assert len(set(places)) == len(places)


class CountingJudge:
    """Answers by the entropy, later ones sooner, and counts how many are asked for at a time."""

    def __init__(self) -> None:
        self.running = self.most = self.asked = 0

    async def compare(self, texts: AnswerPair, entropy: bytes) -> Ballot | Abstention:
        self.running, self.asked = self.running + 1, self.asked + 1
        self.most = max(self.most, self.running)
        for _ in range(entropy[0] % 5):
            await trio.lowlevel.checkpoint()
        self.running -= 1
        return Abstention(Reason.REFUSED, entropy.hex())

    async def check(self, texts: SingleAnswer, entropy: bytes) -> SoloBallot | Abstention:
        return SoloBallot(is_unusable=texts.answer != CASES.questions[0].answer)


@pytest.mark.parametrize("parallel", [1, 3])
def test_outcomes_are_in_the_order_of_the_trials(parallel: int) -> None:
    judge, done = CountingJudge(), list[int]()

    async def main() -> list[Outcome]:
        return await run_trials(judge, TRIALS, parallel, lambda: done.append(1))  # type: ignore[arg-type]

    outcomes = trio.run(main)
    assert len(done) == len(TRIALS) and judge.most == parallel
    for trial, outcome in zip(TRIALS, outcomes, strict=True):
        if isinstance(trial.texts, AnswerPair):
            assert outcome == Abstention(Reason.REFUSED, trial.entropy.hex())
        else:
            assert outcome == SoloBallot(is_unusable=trial.texts.answer != CASES.questions[0].answer)
