"""How well small models judge: the embedded model, and variants of it, on the trials of ``wwwserve judge test``.

A judge of this size is expected to be near chance, and the command is expected to say so. The shares are those that the
rules for duels assume of a judge, with their 95 % intervals: the same ballot in both orders, ballots that differ when
asked again, injections that fool it. Beside them: how many honest answers of the embedded model are broken.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import trio

from benchmarks.pictures import Chart, Series
from benchmarks.quality.model_variants import get_variant
from benchmarks.report import Figure, Option, Run
from p2p.runtime import RealRuntime
from serving.backends.embedded import MODEL, EmbeddedBackend
from serving.backends.sdk import open_client
from serving.quality.judging import measurement as bars
from serving.quality.judging.ballot import ReplyForm
from serving.quality.judging.cases import load_cases
from serving.quality.judging.judge import Judge, JudgeSettings
from serving.quality.judging.measurement import JudgeScores, Proportion, measure, recommend
from serving.quality.judging.prompt import JudgePrompt, load_default_prompt
from serving.quality.judging.trials import make_trials, run_trials

JUDGES = {
    "30 layers, JSON": ("q4_1", ReplyForm.JSON),
    "30 layers, letter": ("q4_1", ReplyForm.LETTER),
    "30 layers as Q8_0, letter": ("q8_0", ReplyForm.LETTER),
    "28 layers, letter": ("28 layers", ReplyForm.LETTER),
    "22 layers, letter": ("22 layers", ReplyForm.LETTER),
}
"""The judges by name: which variant of the embedded model, and how it replies."""
PARALLEL = 2
"""Trials at a time, so that ballots are asked for in batches as on a busy server."""
ANSWER_TOKENS = 160
"""Most completion tokens of an honest answer."""
ANSWER_TEMPERATURE = 0.7
"""Temperature of honest answers."""
REPEATED_WORDS = 4
"""Words in a run that counts as repeated if it stood earlier in an answer."""
MAX_REPEATED = 0.5
"""Share of the runs of an answer that may be repeated; an answer with more runs in circles."""


def is_broken(answer: str) -> bool:
    """Whether an answer is clearly unusable without reading it: it is empty, or most of it repeats what it has said."""
    words = re.findall(r"\w+", answer.lower())
    runs = Counter(zip(*(words[start:] for start in range(REPEATED_WORDS)), strict=False))
    return not words or sum(runs.values()) - len(runs) > MAX_REPEATED * sum(runs.values())


async def measure_one(weights: Path, form: ReplyForm, seed: int, step: int, limit: int) -> JudgeScores:
    """How one judge judges, in the first ``limit`` trials of every ``step``-th case."""
    async with trio.open_nursery() as nursery:
        backend = EmbeddedBackend(RealRuntime(), weights=weights, parallel=PARALLEL)
        nursery.start_soon(backend.run)
        await backend.wait_alive()
        judge = Judge(backend, JudgePrompt.parse(load_default_prompt()), JudgeSettings(MODEL, form, timeout_s=600))
        trials = make_trials(load_cases(), seed, step)[:limit]
        outcomes = await run_trials(judge, trials, PARALLEL)
        nursery.cancel_scope.cancel()
    return measure(trials, outcomes)


async def count_broken(seed: int, answers: int) -> Proportion:
    """How many honest answers of the embedded model, to the questions of the trials, are broken."""
    questions = [case.question for case in load_cases().questions]
    broken = 0
    async with trio.open_nursery() as nursery:
        backend = EmbeddedBackend(RealRuntime(), parallel=1)
        nursery.start_soon(backend.run)
        await backend.wait_alive()
        client = open_client(backend)
        for number in range(answers):
            completion = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": questions[number % len(questions)]}],
                temperature=ANSWER_TEMPERATURE,
                seed=1000 * seed + number,
                max_tokens=ANSWER_TOKENS,
            )
            broken += is_broken(completion.choices[0].message.content or "")
        nursery.cancel_scope.cancel()
    return Proportion(broken, answers)


def make_figure(name: str, found: Proportion, bar: str = "") -> Figure:
    """A share with its interval."""
    low, high = found.interval
    interval = f"95 % interval {low:.2f} to {high:.2f}, {found.cases} cases"
    return Figure(name, found.share, "", against=f"{interval}; {bar}" if bar else interval)


def make_figures(judge: str, measured: JudgeScores) -> Iterator[Figure]:
    """All shares of one judge."""
    shares = (
        ("same ballot in both orders", measured.consistency, f"strong: at least {bars.MIN_CONSISTENCY}"),
        ("other ballot when asked again", measured.repeat_differences, f"at most {bars.MAX_REPEAT_DIFFERENCES}"),
        ("abstentions", measured.abstentions, f"at most {bars.MAX_ABSTENTIONS}"),
        ("sound found better than broken", measured.sound_preferred, "chance: 0.5"),
        ("broken called unusable", measured.unusable_found, f"at least {bars.MIN_UNUSABLE_FOUND}"),
        ("sound called unusable", measured.false_alarms, f"at most {bars.MAX_FALSE_ALARMS}"),
        ("fooled by injections", measured.fooled, f"at most {bars.MAX_FOOLED}"),
        ("fooled by null answers", measured.null_wins, f"at most {bars.MAX_FOOLED}"),
        ("padding wins", measured.padded_wins, f"at most {bars.MAX_PADDED_WINS}"),
    )
    for name, found, bar in shares:
        yield make_figure(f"{judge}: {name}", found, bar)


def make_chart(measured: dict[str, JudgeScores]) -> Chart:
    """The shares that decide, by judge."""
    judges = tuple(measured)
    series = (
        Series("same ballot in both orders", (), tuple(each.consistency.share for each in measured.values())),
        Series("sound found better than broken", (), tuple(each.sound_preferred.share for each in measured.values())),
        Series("fooled by injections", (), tuple(each.fooled.share for each in measured.values())),
    )
    return Chart("Small models as judges", "", "share of cases", series, categories=judges)


def run_judges(names: Sequence[str], seed: int, step: int, limit: int) -> dict[str, JudgeScores]:
    """Measure the named judges, one after the other."""
    measured = {}
    for name in names:
        variant, form = JUDGES[name]
        measured[name] = trio.run(measure_one, get_variant(variant), form, seed, step, limit)
        print(f"{name}: done", file=sys.stderr, flush=True)
    return measured


def main() -> None:
    """Command line."""
    names = tuple(JUDGES)
    run = Run(
        "judges",
        __doc__,
        Option("judges", names, names[1:2], "which judges"),
        Option("step", 2, 90, "of how many cases one is taken"),
        Option("trials", 1000, 8, "most trials of a judge"),
        Option("answers", 60, 1, "honest answers"),
        is_timed=False,
    )
    broken = trio.run(count_broken, run.seed, run.values["answers"])
    measured = run_judges(run.values["judges"], run.seed, run.values["step"], run.values["trials"])
    figures = [make_figure("honest answers that are broken", broken, "assumed: 0.01")]
    notes = {}
    for name, found in measured.items():
        figures += make_figures(name, found)
        notes[name] = recommend(found)[0].value
    run.finish(figures, [make_chart(measured)], notes)


if __name__ == "__main__":
    main()
