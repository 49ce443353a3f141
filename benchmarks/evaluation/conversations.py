"""Time to the first token in conversations, with and without affinity: each turn where the turns before it are cached.

Each turn is sent with all turns before it, as clients do. The modelled servers keep what they have computed in a prefix
cache; a turn that comes to another server is taken up from its beginning. All users ask a node with a small card, which
offloads most of it to five others with large ones. The same conversations are sent twice: to nodes as they are shipped,
and to nodes that know nothing of conversations but are the same otherwise, the prefix caches included.

First messages have the lengths of Mooncake's recorded prompts, answers those of Azure's. How many turns there are, the
time between them, and the lengths of further messages are assumed. Caches are empty at the beginning.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from functools import cache

import structlog

from benchmarks.evaluation.harness import Task, estimate, run_all
from benchmarks.evaluation.market import MarketKind, run_market
from benchmarks.evaluation.replay import TIMEOUT_S, Result
from benchmarks.evaluation.slo import describe
from benchmarks.evaluation.traces import load_azure, load_mooncake
from benchmarks.evaluation.workloads import Request, Setting, Site, Turn
from benchmarks.pictures import Chart, make_cumulative
from benchmarks.report import Figure, Option, Run, get_percentile
from serving.offload.settings import OriginatorSettings

FIRST_TOKENS = (1_000, 24_000)
"""Least and most tokens of a first message: the part of Mooncake's prompts that is used."""
NEXT_TOKENS = (20, 400)
"""Least and most tokens of a further message."""
CONVERSATION_TOKENS = 30_000
"""Most tokens of a conversation, so that another answer fits into the context."""
TURNS = 6
"""Mean number of turns; geometric."""
PAUSE_S = (10.0, 20.0)
"""From one turn to the next: at least, and the mean of what is exponential beyond."""
MAX_ANSWER = 800
"""Tokens at which an answer of the trace is cut."""
SETTING = Setting(
    "conversations",
    "all users at a small node, five large ones beside it",
    (Site("qwen3-8b", "RTX 3090", ((0.0, 3600.0, 0.3),)), *(Site("qwen3-8b", "A100 80GB", ()) for _ in range(5))),
    0.0,
)
"""Rates are conversations that begin, per second."""
MARKETS = {
    "affinity": MarketKind(),
    "no affinity": MarketKind(originator=OriginatorSettings(keeps_conversations=False)),
}
PERCENTILES = {50: 0.5, 99: 0.3}
"""Percentiles of the time to first token, and the goal: the most that affinity may leave of it, as a share."""


def draw_conversations(setting: Setting, duration: float, seed: int) -> list[Request]:
    """All turns that are sent in ``duration`` seconds, in the order of their times."""
    drawn = []
    for node, site in enumerate(setting.sites):
        chance = random.Random(f"conversations:{setting.name}:{node}:{seed}")
        for start, end, rate in site.rates:
            begin = start + chance.expovariate(rate)
            while begin < min(end, duration):
                turns = _draw_turns(chance, begin)
                drawn += [(time, node, turns, place) for place, (time, _, _) in enumerate(turns) if time < duration]
                begin += chance.expovariate(rate)
    requests: list[Request] = []
    histories: dict[int, tuple[Turn, ...]] = {}
    for time, node, turns, place in sorted(drawn, key=lambda each: each[:2]):
        _, prompt, output = turns[place]
        history = histories.get(id(turns), ())
        requests.append(Request(len(requests), node, time, prompt, output, history=history))
        histories[id(turns)] = (*history, Turn(requests[-1].id, prompt, output))
    return requests


def _draw_turns(chance: random.Random, time: float) -> list[tuple[float, int, int]]:
    """Time, tokens of the message, and tokens of the answer, of all turns of a conversation that begins at ``time``."""
    firsts, answers = load_lengths()
    turns = [(time, chance.choice(firsts), chance.choice(answers))]
    while chance.random() >= 1 / TURNS:
        time += PAUSE_S[0] + chance.expovariate(1 / PAUSE_S[1])
        turns.append((time, chance.randint(*NEXT_TOKENS), chance.choice(answers)))
        if sum(prompt + output for _, prompt, output in turns) > CONVERSATION_TOKENS:
            turns.pop()
            break
    return turns


@cache
def load_lengths() -> tuple[Sequence[int], Sequence[int]]:
    """Recorded lengths of first messages and of answers, in tokens."""
    firsts = [record.prompt for record in load_mooncake() if FIRST_TOKENS[0] <= record.prompt <= FIRST_TOKENS[1]]
    return firsts, [min(record.output, MAX_ANSWER) for record in load_azure()]


def work(task: Task) -> Sequence[Result]:
    """One run."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    requests = draw_conversations(SETTING, json.loads(task.parameters)["minutes"] * 60, task.seed)
    return run_market(SETTING, requests, task.seed, MARKETS[task.scheduler]).results


def compute_first_token(run: Sequence[Result], percent: float) -> float:
    """A percentile of the times to first token; a request without one waits for as long as a user would."""
    return get_percentile([TIMEOUT_S if each.first_token is None else each.first_token for each in run], percent)


def make_figures(runs: Mapping[str, Sequence[Sequence[Result]]]) -> list[Figure]:
    """Times to first token of each, and what affinity leaves of them, seed by seed."""
    figures = []
    for percent, goal in PERCENTILES.items():
        times = {name: [compute_first_token(run, percent) for run in each] for name, each in runs.items()}
        for name, each in times.items():
            interval = estimate(each)
            against = describe(interval.half, "s", None)
            figures.append(Figure(f"{name}: time to first token p{percent}", interval.mean, "s", None, against))
        left = estimate([one / other for one, other in zip(times["affinity"], times["no affinity"], strict=True)])
        against = "; ".join(filter(None, (describe(left.half, "×", None), "the goal")))
        figures.append(Figure(f"time to first token p{percent}, with over without", left.mean, "×", goal, against))
    for name, seeds in runs.items():
        missed = sum(not result.is_answered for run in seeds for result in run)
        latency = estimate([sum(result.latency for result in run) / len(run) for run in seeds])
        figures.append(Figure(f"{name}: mean latency", latency.mean, "s", None, describe(latency.half, "s", None)))
        figures.append(Figure(f"{name}: missed", missed, "requests", sum(map(len, seeds)), "of all"))
        away = [result.executor != result.node for run in seeds for result in run if result.is_answered]
        figures.append(Figure(f"{name}: offloaded", 100 * sum(away) / max(1, len(away)), "%"))
    return figures


def make_chart(runs: Mapping[str, Sequence[Sequence[Result]]]) -> Chart:
    """The distribution of times to first token, all seeds together."""
    curves = [
        make_cumulative(name, [each.first_token for run in seeds for each in run if each.first_token is not None])
        for name, seeds in runs.items()
    ]
    return Chart(SETTING.about, "time to first token, s", "share of requests", tuple(curves), x_scale="log")


def main() -> None:
    """Command line."""
    run = Run(
        "conversations",
        __doc__,
        Option("seeds", 10, 1, "sets of conversations"),
        Option("minutes", 10.0, 1.0, "minutes of requests"),
        is_timed=False,
    )
    parameters = json.dumps({"minutes": run.values["minutes"]})
    tasks = [
        Task(name, SETTING.name, run.seed + number, parameters)
        for name in MARKETS
        for number in range(run.values["seeds"])
    ]
    done = run_all(tasks, work, run.results)
    runs = {name: [done[task] for task in tasks if task.scheduler == name] for name in MARKETS}
    run.finish(make_figures(runs), [make_chart(runs)])


if __name__ == "__main__":
    main()
