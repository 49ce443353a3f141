"""Time to the first token in conversations, with and without affinity: each turn where the turns before it are cached.

Each turn is sent with all turns before it, as clients do. The modelled servers keep what they have computed in a prefix
cache; a turn that comes to another server is taken up from its beginning. All users ask a node with a small card, which
offloads most of it to five others with large ones. The same conversations are sent to nodes as they are shipped,
and to nodes that know nothing of conversations but are the same otherwise, the prefix caches included. An oracle that
knows all caches, speeds and lengths shows how much there is to gain.

First messages have the lengths of Mooncake's recorded prompts, answers those of Azure's. How many turns there are, the
time between them, and the lengths of further messages are assumed. Caches are empty at the beginning.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import structlog
import trio

from benchmarks.evaluation.baselines import Oracle
from benchmarks.evaluation.harness import Task, estimate, run_all
from benchmarks.evaluation.market import MarketKind, run_market
from benchmarks.evaluation.replay import TIMEOUT_S, Result, make_body, replay
from benchmarks.evaluation.slo import describe
from benchmarks.evaluation.traces import load_azure, load_mooncake
from benchmarks.evaluation.workloads import MAX_TOKENS, MODEL, Request, Setting, Site, Turn
from benchmarks.pictures import Chart, make_cumulative
from benchmarks.report import Figure, Option, Run, get_percentile
from serving.offload.settings import OriginatorSettings
from serving.openai.errors import ApiError
from serving.openai.requests import CHAT_COMPLETIONS
from serving.simulation.continuous_batch import ContinuousBatch, Progress
from serving.simulation.modelled_backend import ModelledBackend
from serving.simulation.modelled_requests import Call, parse_call

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
ORACLE = "oracle"
"""The row of :class:`FirstTokenOracle`."""
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


class FirstTokenOracle(Oracle):
    """The node where a first token comes first if no request comes after it: all caches, speeds and lengths are known.

    It pays nothing and loses no time on the way.
    """

    def __init__(self, setting: Setting, backends: Sequence[ModelledBackend], chance: random.Random) -> None:
        super().__init__(setting, backends, chance)
        self.first_tokens: dict[int, float] = {}
        """Seconds until the first token of each request."""
        self._calls: dict[tuple[int, int], Call] = {}
        """What the engine of a node makes of a request, by their numbers."""

    async def handle(self, request: Request) -> int:
        """See :meth:`benchmarks.evaluation.replay.Scheduler.handle`."""
        sent_at, chosen = trio.current_time(), self.choose(request)
        try:
            async with self.backends[chosen].complete(CHAT_COMPLETIONS, make_body(request), stream=True) as answer:
                async for _ in answer.body:
                    self.first_tokens.setdefault(request.id, trio.current_time() - sent_at)
        finally:
            self.forget(chosen, request)
            for node in range(len(self.backends)):
                self._calls.pop((node, request.id), None)
        return chosen

    def submit(self, node: int, engine: ContinuousBatch, now: float, request: Request) -> None:
        """See :meth:`benchmarks.evaluation.baselines.Oracle.submit`."""
        call = self._calls.get((node, request.id))
        if call is None:
            try:
                call = parse_call(make_body(request), (MODEL,), engine.curve, MAX_TOKENS, lambda _: request.output)
            except ApiError as error:
                raise ValueError("too long") from error
            self._calls[node, request.id] = call
        engine.submit(now, request.id, call.prompt, call.output, call.names)

    def is_over(self, report: Progress) -> bool:
        """Whether this is what the node is chosen by: the first token."""
        return True


def run_oracle(requests: Sequence[Request], seed: int) -> Sequence[Result]:
    """The requests with :class:`FirstTokenOracle`."""
    made = []

    def make(setting: Setting, backends: Sequence[ModelledBackend], chance: random.Random) -> FirstTokenOracle:
        made.append(FirstTokenOracle(setting, backends, chance))
        return made[-1]

    results = replay(SETTING, requests, seed, make)
    return [replace(result, first_token=made[0].first_tokens.get(result.id)) for result in results]


def work(task: Task) -> Sequence[Result]:
    """One run."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    requests = draw_conversations(SETTING, json.loads(task.parameters)["minutes"] * 60, task.seed)
    if task.scheduler == ORACLE:
        return run_oracle(requests, task.seed)
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
        for name, title in (("affinity", "with over without"), (ORACLE, "oracle over without")):
            left = estimate([one / other for one, other in zip(times[name], times["no affinity"], strict=True)])
            against = "; ".join(filter(None, (describe(left.half, "×", None), "the goal")))
            figures.append(Figure(f"time to first token p{percent}, {title}", left.mean, "×", goal, against))
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
        for name in (*MARKETS, ORACLE)
        for number in range(run.values["seeds"])
    ]
    done = run_all(tasks, work, run.results)
    runs = {name: [done[task] for task in tasks if task.scheduler == name] for name in (*MARKETS, ORACLE)}
    run.finish(make_figures(runs), [make_chart(runs)])


if __name__ == "__main__":
    main()
