"""A pool whose speeds differ tenfold: goodput beside an oracle's, and one executor that stalls in the middle.

Goodput is the number of requests per second whose whole answer comes within :data:`DEADLINE_S`. The oracle knows all
speeds and all lengths, makes no payments, and learns everything at once. The nodes of this project know what is
announced and what they have measured, and pay a hold before the first token.

The executor that stalls is the fastest. From the middle on no token leaves it, while its announcements say that all is
well; it accepts what is offered. A request that it has not begun to answer is given to another node: *beyond* counts
the seconds from the predicted first token to the next offer. A request that its executor says is *queued* is waited for
until the node that sent it there sees that none of its own streams grows; it has a goal of its own. A node that has
noticed the stall tries the executor again with one request now and then: those *probes* are counted apart, since they
are what it costs to learn that an executor works again.

The same is done with *hedging* (``serving.offload.originator.hedging``): a second executor is asked beside one that is
late. What that gains is seen where the fastest *hiccups*: it does not stall, but few of its answers begin seconds
later.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog
import trio

from benchmarks.evaluation.attempts import AttemptLog
from benchmarks.evaluation.baselines import Oracle, Single
from benchmarks.evaluation.harness import Task, estimate, map_tasks
from benchmarks.evaluation.market import Market, MarketKind
from benchmarks.evaluation.replay import Result, replay, send_all
from benchmarks.evaluation.workloads import Request, Setting, Site
from benchmarks.network.shared_ledger import run_nodes
from benchmarks.pictures import Chart, Series, make_cumulative
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.types.operations import Capture, CaptureItem
from p2p.simulation.runtime import SimulatedRuntime
from serving.backends.backend import Backend
from serving.offload.originator.hedging import MAX_PERCENT
from serving.offload.settings import OriginatorSettings
from serving.openai.answers import Answer
from serving.simulation.gpu_curves import GpuCurve, load_curve
from serving.simulation.modelled_backend import ModelledBackend

DEADLINE_S = 60.0
"""Time within which a whole answer counts."""
SLOTS = 8
"""Requests that every server runs at a time."""
RATE = 3.0
"""Requests per second of all users together: three quarters of what the pool can answer."""
OUTPUT_MEDIAN, OUTPUT_SIGMA, MAX_OUTPUT = 400, 0.6, 2_000
PROMPT_TOKENS = (60, 240)
FASTEST = 0
SETTLE_S = 90.0
"""After the last answer, in which what was delivered is captured."""
MAX_BEYOND_S = 2.0
MAX_QUEUED_BEYOND_S = 15.0
"""The same of a request that was queued: a pause in other streams is seen by two signs of life, 5 s apart, and then a
payment and a first token are waited for."""
MAX_PROBES = 0.02
"""Of all attempts from the stall on."""
MIN_GOODPUT = 0.95
"""Of the oracle's."""
MAX_HEDGES = MAX_PERCENT / 100
"""Of all attempts."""
MAX_REPLACED = 0.05
"""Of all attempts, those that were given up for another while nothing stalled."""
MAX_CROSSED = 0.001
"""Of all attempts, those whose first token crosses with the word that another is asked: the prompt is paid."""
HICCUP_SHARE, HICCUP_S = 0.03, 6.0
"""Share of the answers of the fastest that begin later where it hiccups, and by how much."""
STALLS, STALLS_HEDGED = "market, one stalls", "market, one stalls, hedging"
HICCUPS, HICCUPS_HEDGED = "market, one hiccups", "market, one hiccups, hedging"


@dataclass(frozen=True, slots=True)
class LimitedSite(Site):
    """A site whose server runs :data:`SLOTS` requests at a time."""

    @property
    def curve(self) -> GpuCurve:
        return replace(load_curve(self.model, self.card), max_running=SLOTS)


SETTING = Setting(
    "mixed",
    "speeds that differ tenfold",
    (
        LimitedSite("qwen3-4b", "H100 SXM", ()),
        LimitedSite("qwen3-8b", "L40S", ()),
        LimitedSite("qwen3-8b", "RTX 4090", ()),
        LimitedSite("qwen3-32b", "A100 80GB", ()),
    ),
    0.0,
)
"""About 220, 40, 47 and 24 tokens per second of one answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run: results; of a market also its attempts, and up to the stall, those replaced before it, the seconds
    beyond the predicted first token until each request was taken from the stalled node (that had a slot there, that had
    none, and probes), payments for unused answers, hedges and those of them that gave the answer, and the seconds until
    each first token.
    """

    results: tuple[Result, ...]
    attempts: int = 0
    attempts_before: int = 0
    replaced: int = 0
    beyond: tuple[float, ...] = ()
    queued_beyond: tuple[float, ...] = ()
    probes_beyond: tuple[float, ...] = ()
    paid_in_vain: int = 0
    hedges: int = 0
    hedges_won: int = 0
    first_tokens: tuple[float, ...] = ()


class StallingBackend:
    """A backend whose answers stop once :attr:`is_stalled`: no error, and its load is as usual.

    ``hiccups`` draws those that begin later; None: none does.
    """

    def __init__(self, backend: ModelledBackend, hiccups: random.Random | None = None) -> None:
        self.is_stalled = False
        self._hiccups = hiccups
        self.models = backend.models
        self.get_load = backend.get_load
        self.get_limits = backend.get_limits
        self.is_alive = backend.is_alive
        self.wait_alive = backend.wait_alive
        self.run = backend.run
        self._backend = backend

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        """See :meth:`serving.backends.backend.Backend.complete`."""
        if self._hiccups is not None and self._hiccups.random() < HICCUP_SHARE:
            await trio.sleep(HICCUP_S)
        async with self._backend.complete(path, body, stream=stream) as answer:
            yield replace(answer, body=_Stalling(self, answer.body))


class _Stalling:
    """A body that stops with its backend."""

    def __init__(self, backend: StallingBackend, body: AsyncIterator[bytes]) -> None:
        self._backend = backend
        self._body = body

    def __aiter__(self) -> _Stalling:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._body.__anext__()
        if self._backend.is_stalled:
            await trio.sleep_forever()
        return piece


class MixedMarket(Market):
    """The pool, whose fastest node stalls or hiccups if the run ``name`` says so. ``duration``: of all requests."""

    def __init__(self, name: str, requests: Sequence[Request], seed: int, duration: float) -> None:
        self._stalls_at = duration / 2 if name in (STALLS, STALLS_HEDGED) else math.inf
        self._hiccups = random.Random(f"hiccups:{seed}") if name in (HICCUPS, HICCUPS_HEDGED) else None
        self._stalling: StallingBackend | None = None
        is_hedged = name in (STALLS_HEDGED, HICCUPS_HEDGED)
        super().__init__(SETTING, requests, seed, MarketKind(originator=OriginatorSettings(hedging=is_hedged)))
        self.log = AttemptLog(self.nodes)

    def make_backend(self, number: int, runtime: SimulatedRuntime, capacity: int) -> Backend:
        """The GPU of a node."""
        if number != FASTEST:
            return super().make_backend(number, runtime, capacity)
        self._stalling = StallingBackend(self.servers.make_backend(number, runtime, capacity), self._hiccups)
        return self._stalling

    async def run_mixed(self) -> Outcome:
        """Let the nodes meet, send all requests, and wait until all is paid."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.hub.run)
            for node in self.nodes:
                await nursery.start(node.run)
            await trio.sleep(self.warm_up_s)
            stalled_at = trio.current_time() + self._stalls_at
            nursery.start_soon(self._stall, stalled_at)
            results = await send_all(self.requests, self.handle)
            await trio.sleep(SETTLE_S)
            outcome = self._find(results, stalled_at)
            nursery.cancel_scope.cancel()
        return outcome

    async def _stall(self, at: float) -> None:
        await trio.sleep_until(at)
        assert self._stalling is not None
        self._stalling.is_stalled = True

    def _find(self, results: Sequence[Result], stalled_at: float) -> Outcome:
        attempts, replaced = self.log.attempts, 0
        first, queued, probes = list[float](), list[float](), list[float]()
        noticed_at: dict[int, float] = {}  # by node: when it took the first request from the stalled one
        hedges = [attempt for attempt in attempts if attempt.terms.is_hedge]
        for place, attempt in enumerate(attempts):
            if attempt.hold_id is not None or attempt.within_s is None:
                continue
            following = [each for each in attempts[place + 1 :] if each.terms.request is attempt.terms.request]
            if not following or following[0].begun_at - attempt.begun_at < attempt.predicted_s:
                continue  # it declined, or no candidate was left
            if attempt.executor == FASTEST and attempt.begun_at >= stalled_at:
                replaced_at = following[0].begun_at
                is_probe = noticed_at.setdefault(attempt.node, replaced_at) <= attempt.begun_at
                found = probes if is_probe else queued if attempt.is_queued else first
                found.append(replaced_at - attempt.begun_at - attempt.predicted_s)
            elif following[0].begun_at < stalled_at:
                replaced += 1
        used = {attempt.hold_id for attempt in attempts if attempt.hold_id is not None}
        vain = sum(item.delivery.amount > 0 and item.delivery.hold not in used for item in self._captured())
        before = sum(attempt.begun_at < stalled_at for attempt in attempts)
        return Outcome(
            tuple(results),
            len(attempts),
            before,
            replaced,
            tuple(first),
            tuple(queued),
            tuple(probes),
            vain,
            len(hedges),
            sum(hedge.hold_id is not None for hedge in hedges),
            tuple(self.first_tokens.values()),
        )

    def _captured(self) -> list[CaptureItem]:
        store = self.nodes[1].engine._store
        blocks = [store.block(height) for height in range(1, store.height + 1)]
        found = [signed.operation for block in blocks if block is not None for signed in block.body.operations]
        return [item for operation in found if isinstance(operation, Capture) for item in operation.items]


def draw_mixed_requests(duration: float, seed: int) -> list[Request]:
    """Poisson requests at all nodes but the fastest."""
    chance, requests, time = random.Random(f"mixed:{seed}"), list[Request](), 0.0
    while (time := time + chance.expovariate(RATE)) < duration:
        output = min(MAX_OUTPUT, max(1, round(chance.lognormvariate(math.log(OUTPUT_MEDIAN), OUTPUT_SIGMA))))
        node = chance.randrange(1, len(SETTING.sites))
        requests.append(Request(len(requests), node, time, chance.randint(*PROMPT_TOKENS), output))
    return requests


RUNS = ("single", "oracle", "market", STALLS, STALLS_HEDGED, HICCUPS, HICCUPS_HEDGED)


def work(task: Task) -> Outcome:
    """One run; ``parameters`` is the time in which requests arrive, in seconds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    duration = float(task.parameters)
    requests = draw_mixed_requests(duration, task.seed)
    if task.setting in ("single", "oracle"):
        scheduler = Single if task.setting == "single" else Oracle
        return Outcome(tuple(replay(SETTING, requests, task.seed, scheduler)))
    market = MixedMarket(task.setting, requests, task.seed, duration)
    return run_nodes(f"mixed:{task.seed}", market.run_mixed)


def compute_goodput(outcome: Outcome, duration: float) -> float:
    """Requests per second whose whole answer came in time."""
    return sum(result.is_answered and result.latency <= DEADLINE_S for result in outcome.results) / duration


def make_figures(outcomes: dict[str, list[Outcome]], duration: float) -> list[Figure]:
    """Goodput of each row beside the oracle's, and what happened to requests of the node that stalled."""
    figures = []
    oracle = [compute_goodput(outcome, duration) for outcome in outcomes["oracle"]]
    for name in RUNS:
        goodputs = [compute_goodput(outcome, duration) for outcome in outcomes[name][: len(oracle)]]
        goodput = estimate(goodputs)
        ratio = estimate([mine / best for mine, best in zip(goodputs, oracle, strict=True)])
        half = "" if math.isnan(ratio.half) else f"; ratio ± {ratio.half:.2g} at 95 %"
        reference = sum(oracle) / len(oracle)
        figures.append(Figure(f"{name}: goodput", goodput.mean, "requests/s", reference, f"oracle{half}"))
        missed = sum(not result.is_answered for outcome in outcomes[name] for result in outcome.results)
        total = sum(len(outcome.results) for outcome in outcomes[name])
        figures.append(Figure(f"{name}: missed", missed, "requests", total, "of all"))
        if name == "market":
            lost = 1 - ratio.mean
            figures.append(Figure("market: goodput lost to the oracle", lost, "", None, "", 1 - MIN_GOODPUT))
    calm = outcomes["market"]
    share = sum(each.replaced for each in calm) / max(1, sum(each.attempts_before for each in calm))
    figures.append(Figure("market: attempts given up for another", share, "of attempts", None, "", MAX_REPLACED))
    stalled = outcomes[STALLS]
    beyond = [seconds for each in stalled for seconds in each.beyond]
    figures += make_wait_figures("stall: replaced beyond the predicted first token", beyond, MAX_BEYOND_S)
    queued = [seconds for each in stalled for seconds in each.queued_beyond]
    figures += make_wait_figures("stall: the same of requests that were queued there", queued, MAX_QUEUED_BEYOND_S)
    probes = [seconds for each in stalled for seconds in each.probes_beyond]
    share = len(probes) / max(1, sum(each.attempts - each.attempts_before for each in stalled))
    figures.append(Figure("stall: probes", share, "of attempts from then on", None, f"{len(probes)}", MAX_PROBES))
    figures += make_wait_figures("stall: probes, beyond the predicted first token", probes)
    figures += make_hedging_figures(STALLS_HEDGED, outcomes[STALLS_HEDGED], outcomes[STALLS])
    figures += make_hedging_figures(HICCUPS_HEDGED, outcomes[HICCUPS_HEDGED], outcomes[HICCUPS])
    unhedged = (*calm, *stalled, *outcomes[HICCUPS])
    vain, attempts = sum(each.paid_in_vain for each in unhedged), sum(each.attempts for each in unhedged)
    note = f"{vain} of {attempts:,}"
    figures.append(Figure("beginnings paid and not used", vain / attempts, "of attempts", None, note, MAX_CROSSED))
    return figures


def make_wait_figures(name: str, waits: Sequence[float], limit: float | None = None) -> list[Figure]:
    """The median and the longest of some seconds, and how many there are; ``limit``: of the median."""
    if not waits:
        return []
    median, count = get_percentile(waits, 50), f"of {len(waits)} requests"
    return [Figure(f"{name}, p50", median, "s", None, count, limit), Figure(f"{name}, longest", max(waits), "s")]


def make_hedging_figures(name: str, hedged: list[Outcome], others: list[Outcome]) -> list[Figure]:
    """How many hedges a row had, what they cost, and times to the first token beside the same workloads without."""
    hedges, attempts = sum(each.hedges for each in hedged), sum(each.attempts for each in hedged)
    note = f"{sum(each.hedges_won for each in hedged)} of {hedges} gave the answer"
    figures = [Figure(f"{name}: hedges", hedges / max(1, attempts), "of attempts", None, note, MAX_HEDGES)]
    for percent in (50, 95, 99):
        ours, theirs = (
            get_percentile([seconds for each in group for seconds in each.first_tokens], percent)
            for group in (hedged, others[: len(hedged)])
        )
        figures.append(Figure(f"{name}: first token, p{percent}", ours, "s", theirs, "without hedging"))
    vain = sum(each.paid_in_vain for each in hedged)
    figures.append(Figure(f"{name}: beginnings paid and not used", vain, "answers", hedges, "hedges"))
    return figures


def make_charts(outcomes: dict[str, list[Outcome]]) -> list[Chart]:
    """Latencies of all rows, and how long the stalled node was waited for."""
    curves = []
    for name in RUNS:
        latencies = [result.latency for outcome in outcomes[name] for result in outcome.results]
        curves.append(make_cumulative(name, latencies))
    curves.append(Series("deadline", (DEADLINE_S, DEADLINE_S), (0.0, 1.0), is_limit=True))
    charts = [Chart("Latency in a mixed pool", "seconds", "share of requests", tuple(curves), x_scale="log")]
    stalled = outcomes[STALLS]
    kinds = {
        "replaced": [seconds for outcome in stalled for seconds in outcome.beyond],
        "queued there": [seconds for outcome in stalled for seconds in outcome.queued_beyond],
        "probes": [seconds for outcome in stalled for seconds in outcome.probes_beyond],
    }
    waits = [make_cumulative(name, beyond) for name, beyond in kinds.items() if beyond]
    if waits:
        waits.append(Series("goal", (MAX_BEYOND_S, MAX_BEYOND_S), (0.0, 1.0), is_limit=True))
        charts.append(Chart("A stall", "seconds beyond the predicted first token", "share of requests", tuple(waits)))
    return charts


def main() -> None:
    """Command line."""
    run = Run(
        "mixed",
        __doc__,
        Option("seeds", 10, 1, "workloads"),
        Option("stalls", 40, 6, "of them (or more) in which one stalls: few requests are on their way to it just then"),
        Option("minutes", 5.0, 1.0, "minutes of requests"),
        is_timed=False,
    )
    duration = run.values["minutes"] * 60
    counts = {name: run.values["stalls" if name == STALLS else "seeds"] for name in RUNS}
    tasks = [Task("mixed", name, run.seed + number, str(duration)) for name in RUNS for number in range(counts[name])]
    done = map_tasks(tasks, work)
    outcomes = {name: [done[task] for task in tasks if task.setting == name] for name in RUNS}
    run.finish(make_figures(outcomes, duration), make_charts(outcomes))


if __name__ == "__main__":
    main()
