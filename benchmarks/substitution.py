"""How many checks it takes to find a node that serves another model than it declares: real weights, real servers.

One llama.cpp server holds the declared weights and scores. Others answer: honest ones with other numbers of threads and
slots and in full batches, and cheats that serve weights rounded to fewer bits, a model without two of its thirty
layers, or let that one write while the declared weights supply the log-probabilities. The limits of the check come from
honest answers of this run, other honest answers are judged by them, and so are those of the cheats. An account is
*found* when its failed checks are proof at a false alarm of at most 10⁻⁴ in all its life.

Half of the answers are drawn at temperature 0 and half at 1, except where a case says otherwise. A cheat that has been
found begins anew, so that each number is the largest of several runs. The exit code is 1 if an honest account is found.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial

import trio

from benchmarks.model_variants import get_variant
from benchmarks.pictures import Chart, Series, make_cumulative
from benchmarks.report import Figure, Option, Run
from chain.cli.format import format_count
from chain.state.sequential_test import AccountHistory
from p2p.runtime import RealRuntime
from serving.backends.embedded import MODEL, EmbeddedBackend
from serving.quality.same_model.calibration import Calibration, calibrate
from serving.quality.same_model.checking import make_request, record_answer, run_checks
from serving.quality.same_model.one_token import LlamaCppScorer
from serving.quality.same_model.prompts import draw_prompts
from serving.quality.same_model.scoring import Scorer
from serving.quality.same_model.statistics import Measurement
from serving.quality.same_model.transcript import TOP_TOKENS, TopToken, Transcript, TranscriptToken, to_surprisal

MANY_CHECKS = 10_000
"""Honest checks for whose time there is a figure."""
HEADLINES = {
    "Q8_0 declared, cheat: rounded to Q4_0": "checks until a node is found that declares Q8_0 and serves Q4_0",
}
"""The figure that the README shows, by its name."""
LEAST_SHOWN_DISTANCE = 1e-4
"""Distances below it are drawn there."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers: what it serves, and how.

    ``is_forging``: the declared weights supply the log-probabilities. ``is_drawn``: it has curves in the picture.
    """

    name: str
    weights: str
    slots: int = 4
    threads: int = 1
    parallel: int = 1
    temperatures: tuple[float, ...] = (0.0, 1.0)
    is_forging: bool = False
    is_drawn: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """What is declared, with the honest nodes and the cheats."""

    weights: str
    honest: tuple[Node, ...]
    cheats: tuple[Node, ...]


def make_declarations(quick: bool) -> list[Declaration]:
    """The cases; a quick run has some of the first declaration."""
    writer = Node("28 of 30 layers write", "28 layers", is_forging=True)
    shipped = Declaration(
        "q4_1",
        (
            Node("same settings", "q4_1"),
            Node("two threads, two slots", "q4_1", slots=2, threads=2, is_drawn=True),
            Node("four answers at a time", "q4_1", parallel=4, is_drawn=True),
        ),
        (
            Node("rounded to Q4_0", "q4_0", is_drawn=True),
            Node("28 of 30 layers", "28 layers", is_drawn=True),
            replace(writer, name=f"{writer.name}, temperature 0", temperatures=(0.0,)),
            replace(writer, name=f"{writer.name}, temperature 1", temperatures=(1.0,), is_drawn=True),
        ),
    )
    if quick:
        return [replace(shipped, honest=shipped.honest[:2], cheats=(shipped.cheats[0], shipped.cheats[2]))]
    wide = Declaration(
        "q8_0",
        (Node("same settings", "q8_0"), Node("four answers at a time", "q8_0", parallel=4)),
        (Node("rounded to Q4_0", "q4_0"), Node("28 of 30 layers", "28 layers")),
    )
    return [shipped, wide]


class Bench:
    """The servers of one declaration, and the checks that were made."""

    def __init__(self, stack: AsyncExitStack, tokens: int, seed: int) -> None:
        self._stack = stack
        self._tokens = tokens
        self._seed = seed
        self._servers: dict[tuple[str, int, int], EmbeddedBackend] = {}
        self.checks = 0
        self.check_s = 0.0

    async def open_scorer(self, weights: str) -> Scorer:
        """A scorer with these weights, in a server that answers to no user."""
        return LlamaCppScorer(await self._start(weights, 2, 1, is_scorer=True), MODEL)

    async def check(self, node: Node, scorer: Scorer, count: int, purpose: str) -> list[Measurement]:
        """Check ``count`` answers of a node to prompts of their own."""
        server = await self._start(node.weights, node.slots, node.threads)
        seed = random.Random(f"{self._seed} {node.name} {purpose}").getrandbits(31)
        requests = [
            make_request(
                MODEL,
                prompt,
                max_tokens=self._tokens,
                temperature=node.temperatures[number % len(node.temperatures)],
                seed=seed + number,
            )
            for number, prompt in enumerate(draw_prompts(seed, count))
        ]
        record = partial(record_answer, server)
        if node.is_forging:
            record = partial(_supply_logprobs, server, scorer)
        started = time.monotonic()
        run = await run_checks(record, scorer, requests, seed, parallel=node.parallel, note=lambda: None)
        self.check_s += time.monotonic() - started
        self.checks += len(run.measurements)
        return run.measurements

    async def _start(self, weights: str, slots: int, threads: int, is_scorer: bool = False) -> EmbeddedBackend:
        key = (f"{weights}{' (scorer)' if is_scorer else ''}", slots, threads)
        if key not in self._servers:
            path = await trio.to_thread.run_sync(get_variant, weights)
            server = EmbeddedBackend(RealRuntime(), weights=path, parallel=slots, threads=threads)
            nursery = await self._stack.enter_async_context(trio.open_nursery())
            self._stack.callback(nursery.cancel_scope.cancel)
            nursery.start_soon(server.run)
            await server.wait_alive()
            self._servers[key] = server
        return self._servers[key]


async def _supply_logprobs(writer: EmbeddedBackend, scorer: Scorer, request: bytes) -> Transcript:
    """A forged transcript: tokens by the writer, their likeliest alternatives by the declared weights."""
    written = await record_answer(writer, request)
    scores = await scorer.score(request, written.ids, range(len(written.tokens)))

    def forge(position: int) -> TranscriptToken:
        likeliest = sorted(scores[position].items(), key=lambda each: -each[1])[:TOP_TOKENS]
        top = tuple(TopToken(token, to_surprisal(logprob)) for token, logprob in likeliest)
        return TranscriptToken(written.tokens[position].id, top)

    return Transcript(tuple(map(forge, range(len(written.tokens)))))


@dataclass(frozen=True, slots=True)
class Judged:
    """What a limit made of a node's checks: checks until found in each run, and shares of failures."""

    found_after: tuple[int, ...]
    shortfall_share: float
    distance_share: float


def judge(calibration: Calibration, measurements: Sequence[Measurement]) -> Judged:
    """Add the checks of one account up, beginning anew whenever it is found."""
    history, found_after, failures = AccountHistory(), [], [0, 0]
    for measurement in measurements:
        history = calibration.add(history, measurement)
        failures[0] += measurement.shortfall > calibration.shortfall.threshold
        failures[1] += measurement.distance > calibration.distance.threshold
        if calibration.test.is_substitution(history):
            found_after.append(history.distance.checks)
            history = AccountHistory()
    return Judged(tuple(found_after), *(failed / len(measurements) for failed in failures))


async def measure_declaration(
    declaration: Declaration, run: Run, figures: list[Figure], curves: list[tuple[Series, Series]]
) -> tuple[int, float]:
    """Calibrate, and judge honest nodes and cheats. Returns checks made and the seconds that they took."""
    async with AsyncExitStack() as stack:
        bench = Bench(stack, run.values["tokens"], run.seed)
        scorer = await bench.open_scorer(declaration.weights)
        each = math.ceil(run.values["calibration"] / len(declaration.honest))
        known: list[Measurement] = []
        for node in declaration.honest:
            known += await bench.check(node, scorer, each, "calibration")
        calibration = calibrate(known)
        label = f"{declaration.weights.upper()} declared"
        figures += [
            Figure(f"{label}: checks of the calibration", calibration.checks, "checks"),
            Figure(f"{label}: limit of the shortfall", calibration.shortfall.threshold, "deviations"),
            Figure(f"{label}: limit of the distance", calibration.distance.threshold, ""),
        ]
        for node in (*declaration.honest, *declaration.cheats):
            is_honest = node in declaration.honest
            number = run.values["honest"] // len(declaration.honest) if is_honest else run.values["cheat"]
            measurements = await bench.check(node, scorer, number, "judged")
            judged = judge(calibration, measurements)
            name = f"{label}, {'honest' if is_honest else 'cheat'}: {node.name}"
            figures += _make_figures(name, is_honest, judged, measurements)
            print(f"{name}: {len(measurements)} checks, found after {judged.found_after or 'none'}", flush=True)
            if node.is_drawn:
                distances = [max(LEAST_SHOWN_DISTANCE, measurement.distance) for measurement in measurements]
                shortfalls = [measurement.shortfall for measurement in measurements]
                curves.append((make_cumulative(node.name, distances), make_cumulative(node.name, shortfalls)))
    return bench.checks, bench.check_s


def _make_figures(name: str, is_honest: bool, judged: Judged, measurements: Sequence[Measurement]) -> list[Figure]:
    failures = [
        Figure(f"{name}: failed by distance", judged.distance_share, "of checks"),
        Figure(f"{name}: failed by shortfall", judged.shortfall_share, "of checks"),
    ]
    if is_honest:
        found = Figure(f"{name}: found guilty", len(judged.found_after), "times", limit=0)
        return [Figure(f"{name}: checks", len(measurements), "checks"), *failures, found]
    if not judged.found_after:
        return [Figure(f"{name}: not found within", len(measurements), "checks"), *failures]
    against = f"largest of {format_count(len(judged.found_after), 'run')}"
    headline = HEADLINES.get(name, "")
    most = max(judged.found_after)
    return [Figure(f"{name}: checks until found", most, "checks", against=against, headline=headline), *failures]


async def measure(run: Run) -> tuple[list[Figure], list[Chart]]:
    """All declarations, one after the other."""
    figures: list[Figure] = []
    curves: list[tuple[Series, Series]] = []
    checks, seconds = 0, 0.0
    for declaration in make_declarations(run.quick):
        made, took = await measure_declaration(declaration, run, figures, curves)
        checks, seconds = checks + made, seconds + took
    figures += [
        Figure("one check: answer and scores, one thread", seconds / checks, "s"),
        Figure(f"{MANY_CHECKS:,} honest checks would take", MANY_CHECKS * seconds / checks / 3600, "hours"),
    ]
    distances, shortfalls = zip(*curves, strict=True)
    return figures, [
        Chart("Distance of the top five", "mean total variation", "share of checks", distances, x_scale="log"),
        Chart("Shortfall of the chosen tokens", "standard deviations", "share of checks", shortfalls),
    ]


def main() -> None:
    """Command line."""
    run = Run(
        "substitution",
        __doc__,
        Option("calibration", 200, 20, "honest checks that give the limits, for each declaration"),
        Option("honest", 400, 8, "further honest checks, for each declaration"),
        Option("cheat", 50, 14, "checks of each cheat"),
        Option("tokens", 32, 8, "most tokens of an answer"),
    )
    run.finish(*trio.run(measure, run))


if __name__ == "__main__":
    main()
