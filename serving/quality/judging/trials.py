"""Trials: what a judge is asked when it is measured, and asking it.

A trial puts a *reference* answer beside another answer, and the right ballot on them is known. Each pair is asked in
both orders, with the same code and seed, so that a judge that always names the first answer gains nothing. Trials of
sound and broken answers are asked a second time, in reverse order: other influences on a ballot (other requests in the
same batch, a cached prefix) have changed by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import trio

from chain.crypto import hash_bytes
from serving.quality.judging.ballot import Abstention, Ballot, SoloBallot
from serving.quality.judging.cases import Cases
from serving.quality.judging.judge import Judge
from serving.quality.judging.prompt import AnswerPair, SingleAnswer

QUESTIONS_PER_NULL_ANSWER = 2
"""Questions that each null answer is given to."""

Outcome = Ballot | SoloBallot | Abstention
"""What a judge said in one trial."""


class TrialKind(Enum):
    """What the reference is set against."""

    EQUAL = "another sound answer"
    BROKEN = "a broken answer"
    INJECTION = "an injection"
    NULL = "a null answer"
    PADDED = "itself with padding"
    SOLO_SOUND = "nothing; it is sound"
    SOLO_BROKEN = "nothing; it is broken"


@dataclass(frozen=True, slots=True)
class Trial:
    """One question to a judge. ``case`` names it within its kind; both orders of a pair have one name.

    ``is_swapped``: the reference is answer B. ``is_repeat``: asked before, with the same ``entropy``.
    """

    kind: TrialKind
    case: str
    texts: AnswerPair | SingleAnswer
    entropy: bytes
    family: str = ""
    is_swapped: bool = False
    is_repeat: bool = False


def make_trials(cases: Cases, seed: int, step: int = 1) -> tuple[Trial, ...]:
    """The trials of every ``step``-th case; all that is drawn follows from ``seed``."""
    questions = cases.questions[::step]
    first: list[Trial] = []
    rest: list[Trial] = []
    for each in questions:
        first += _make_pair(seed, TrialKind.EQUAL, each.name, each.question, each.answer, each.other)
        first += _make_pair(seed, TrialKind.BROKEN, each.name, each.question, each.answer, each.broken)
        rest += _make_pair(seed, TrialKind.PADDED, each.name, each.question, each.answer, each.padded)
        for kind, answer in ((TrialKind.SOLO_SOUND, each.answer), (TrialKind.SOLO_BROKEN, each.broken)):
            entropy = _draw(seed, kind, each.name)
            rest.append(Trial(kind, each.name, SingleAnswer(each.question, answer), entropy))
    for number, injection in enumerate(cases.injections[::step]):
        each = questions[number % len(questions)]
        pair = _make_pair(seed, TrialKind.INJECTION, injection.name, each.question, each.answer, injection.text)
        rest += (replace(trial, family=injection.family) for trial in pair)
    for number, text in enumerate(cases.null_answers[::step]):
        for place in range(min(QUESTIONS_PER_NULL_ANSWER, len(questions))):
            each = questions[(QUESTIONS_PER_NULL_ANSWER * number + place) % len(questions)]
            rest += _make_pair(seed, TrialKind.NULL, f"{number} {each.name}", each.question, each.answer, text)
    repeats = [replace(trial, is_repeat=True) for trial in reversed(first)]
    return (*first, *rest, *repeats)


def _make_pair(seed: int, kind: TrialKind, case: str, question: str, reference: str, other: str) -> Iterator[Trial]:
    entropy = _draw(seed, kind, case)
    yield Trial(kind, case, AnswerPair(question, reference, other), entropy)
    yield Trial(kind, case, AnswerPair(question, other, reference), entropy, is_swapped=True)


def _draw(seed: int, kind: TrialKind, case: str) -> bytes:
    return hash_bytes("judge trial", seed.to_bytes(8, "big"), f"{kind.name} {case}".encode())


async def run_trials(
    judge: Judge, trials: Sequence[Trial], parallel: int, on_outcome: Callable[[], None] = lambda: None
) -> list[Outcome]:
    """Ask a judge, ``parallel`` trials at a time; the outcomes are in the order of the trials."""
    outcomes: dict[int, Outcome] = {}
    waiting = iter(enumerate(trials))

    async def work() -> None:
        for number, trial in waiting:
            if isinstance(trial.texts, AnswerPair):
                outcomes[number] = await judge.compare(trial.texts, trial.entropy)
            else:
                outcomes[number] = await judge.check(trial.texts, trial.entropy)
            on_outcome()

    async with trio.open_nursery() as nursery:
        for _ in range(parallel):
            nursery.start_soon(work)
    return [outcomes[number] for number in range(len(trials))]
