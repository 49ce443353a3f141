"""How many checks it takes to find a node that serves another model than it declares: real weights, real servers.

llama.cpp servers hold the declared weights and score. Others answer: honest ones with other numbers of threads and
slots and in full batches, and cheats that serve weights rounded to fewer bits, a model without two of its thirty
layers, or let that one write while the declared weights supply the log-probabilities. The checks are whole ones, of
drawn positions of real answers; honest answers are checked several times, at other positions each time.

They are judged by the default limits of a network, and by limits that a calibration proposes after half of the honest
answers. An account is *found* when its failed checks are proof, at a false alarm of at most 10⁻⁴ in all its life. Ten
thousand honest checks in a row are drawn from those that were measured (:mod:`benchmarks.quality.check_histories`), and
so are the checks of a cheat. How often an honest check fails at most is bounded by counting each honest answer once.
The exit code is 1 if an honest account is found, or the bound is above what the network grants.

A full run has cases with two engines too where ``make test-vllm`` has installed vLLM.

Half of the answers are drawn at temperature 0 and half at 1, except where a case says otherwise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from benchmarks.pictures import Chart, Series, make_cumulative
from benchmarks.quality.check_histories import bound_false_alarm, count_failed, find_after, get_network_limits, play
from benchmarks.quality.substitution_servers import VLLM, VLLM_BATCH, Bench, Declaration, Node
from benchmarks.report import Figure, Option, Run, get_percentile
from chain.parameters.checks import DEFAULT_CHECKS
from chain.state.sequential_test import PPM
from serving.quality.same_model.calibration import Calibration, calibrate, compute_honest_ppm
from serving.quality.same_model.statistics import Measurement
from tests.support.servers.vllm_server import is_installed, running_vllm

MANY_CHECKS = 10_000
"""Checks of an honest account, and most of a cheat."""
HONEST_HISTORIES = 10
"""Accounts of each honest node that are played."""
CHEATS = 200
"""Accounts of each cheat that are played."""
HEADLINES = {
    "Q8_0 declared, cheat: rounded to Q4_0": "checks until a node is found that declares Q8_0 and serves Q4_0",
}
"""The figure that the README shows, by its name."""
LEAST_SHOWN_DISTANCE = 1e-4
"""Distances below it are drawn there."""
NETWORK = "default limits"
CALIBRATED = "calibrated limits"

Checks = list[list[Measurement]]
"""The checks of each answer of a node."""


def make_declarations(quick: bool) -> list[Declaration]:
    """The cases; a quick run has some of the first declaration."""
    writer = Node("28 of 30 layers write", "28 layers", parallel=4, is_forging=True)
    shipped = Declaration(
        "q4_1",
        (
            Node("same settings", "q4_1"),
            Node("two threads, two slots", "q4_1", slots=2, threads=2, is_drawn=True),
            Node("four answers at a time", "q4_1", parallel=4, is_drawn=True),
            Node("sixteen answers at a time", "q4_1", slots=16, parallel=16),
        ),
        (
            Node("rounded to Q4_0", "q4_0", parallel=4, is_drawn=True),
            Node("28 of 30 layers", "28 layers", parallel=4, is_drawn=True),
            replace(writer, name=f"{writer.name}, temperature 0", temperatures=(0.0,)),
            replace(writer, name=f"{writer.name}, temperature 1", temperatures=(1.0,), is_drawn=True),
        ),
        "q4_1",
        "Q4_1 declared",
    )
    if quick:
        return [replace(shipped, honest=shipped.honest[::3], cheats=(shipped.cheats[0], shipped.cheats[2]))]
    rounded, pruned = (replace(cheat, is_drawn=False) for cheat in shipped.cheats[:2])
    eight_bits = Declaration(
        "q8_0",
        (Node("same settings", "q8_0"), Node("four answers at a time", "q8_0", parallel=4)),
        (rounded, pruned, writer),
        "q8_0",
        "Q8_0 declared",
    )
    full = Declaration(
        "bf16",
        (Node("same settings", "bf16"), Node("four answers at a time", "bf16", parallel=4)),
        (Node("rounded to Q8_0", "q8_0", parallel=4), rounded, pruned, writer),
        "bf16",
        "BF16 declared",
    )
    return [shipped, eight_bits, full]


def make_declarations_across(full: Declaration) -> list[Declaration]:
    """The cases with two engines: vLLM scores the answers of both, and llama.cpp those of vLLM."""
    of_vllm = Node("vLLM, eight answers at a time", VLLM, slots=VLLM_BATCH, threads=0, parallel=8)
    of_llama = Node("llama.cpp, four answers at a time", full.weights, parallel=4)
    return [
        replace(full, honest=(of_vllm, of_llama), scorer=VLLM, label=f"{full.label}, vLLM scores"),
        replace(full, honest=(of_vllm,), cheats=(), label=f"{full.label}, llama.cpp scores vLLM"),
    ]


@dataclass(slots=True)
class Results:
    """What all declarations have shown. ``honest`` are the checks of each honest answer; a check took ``check_s``."""

    figures: list[Figure] = field(default_factory=list)
    curves: list[tuple[Series, Series]] = field(default_factory=list)
    honest: Checks = field(default_factory=list)
    checks: int = 0
    check_s: float = 0.0


async def measure_declaration(declaration: Declaration, run: Run, results: Results, vllm_url: str) -> None:
    """Measure honest nodes and cheats, and judge them."""
    label = declaration.label
    async with AsyncExitStack() as stack:
        bench = Bench(stack, declaration.scorer, run.values["tokens"], run.seed, vllm_url)
        checks: dict[Node, Checks] = {}
        for node in (*declaration.honest, *declaration.cheats):
            is_honest = node in declaration.honest
            sizes = (run.values["honest"], run.values["checks"]) if is_honest else (run.values["cheat"], 1)
            checks[node] = await bench.measure(node, *sizes)
            every = [each for answer in checks[node] for each in answer]
            if node.is_drawn:
                distances = [max(LEAST_SHOWN_DISTANCE, each.distance) for each in every]
                shortfalls = [each.shortfall for each in every]
                results.curves.append((make_cumulative(node.name, distances), make_cumulative(node.name, shortfalls)))
            print(f"{label}, {node.name}: {len(every)} checks of {len(checks[node])} answers", flush=True)
    results.checks += bench.checks
    results.check_s += bench.check_s
    honest = [checks[node] for node in declaration.honest]
    results.honest += [answer for answers in honest for answer in answers]
    calibration = calibrate([answer[0] for answers in honest for answer in answers[::2]])
    limits = {NETWORK: get_network_limits(DEFAULT_CHECKS), CALIBRATED: calibration}
    results.figures += [
        Figure(f"{label}: calibrated limit of the shortfall", calibration.shortfall.threshold, "deviations"),
        Figure(f"{label}: calibrated limit of the distance", calibration.distance.threshold, ""),
    ]
    for node in declaration.honest:
        results.figures += judge_honest(f"{label}, honest: {node.name}", checks[node], limits, run.seed)
    for node in declaration.cheats:
        first = [answer[0] for answer in checks[node]]
        results.figures += judge_cheat(f"{label}, cheat: {node.name}", first, limits, run.seed)


def judge_honest(name: str, answers: Checks, limits: dict[str, Calibration], seed: int) -> list[Figure]:
    """Whether an honest account is found. Calibrated limits judge the answers that they do not come from."""
    every = [each for answer in answers for each in answer]
    shortfalls, distances = count_failed(limits[NETWORK], every)
    played = play(limits[NETWORK], every, HONEST_HISTORIES, MANY_CHECKS, seed)
    found = sum(number is not None for number in played)
    others = [each for checks in zip(*answers[1::2], strict=True) for each in checks]
    return [
        Figure(f"{name}: checks measured", len(every), "checks"),
        Figure(f"{name}: largest distance", max(each.distance for each in every), ""),
        Figure(f"{name}: failed by distance, {NETWORK}", distances, "checks"),
        Figure(f"{name}: failed by shortfall, {NETWORK}", shortfalls, "checks"),
        Figure(
            f"{name}: found, {NETWORK}", found, f"of {HONEST_HISTORIES} histories of {MANY_CHECKS:,} checks", limit=0
        ),
        Figure(
            f"{name}: found, {CALIBRATED}",
            int(find_after(limits[CALIBRATED], others) is not None),
            f"of a history of {len(others)} checks",
            limit=0,
        ),
    ]


def judge_cheat(
    name: str, measurements: Sequence[Measurement], limits: dict[str, Calibration], seed: int
) -> list[Figure]:
    """How many checks find a cheat."""
    distances, shortfalls = [each.distance for each in measurements], [each.shortfall for each in measurements]
    figures = [
        Figure(f"{name}: median distance", get_percentile(distances, 50), ""),
        Figure(f"{name}: median shortfall", get_percentile(shortfalls, 50), "deviations"),
    ]
    for kind, limit in limits.items():
        played = play(limit, measurements, CHEATS, MANY_CHECKS, seed)
        found = sorted(number for number in played if number is not None)
        if len(found) < len(played):
            unit = f"of histories of {MANY_CHECKS:,} checks"
            figures.append(Figure(f"{name}: found, {kind}", len(found) / len(played), unit))
            continue
        figures.append(
            Figure(
                f"{name}: checks until found, {kind}",
                get_percentile(found, 95),
                "checks",
                reference=get_percentile(found, 50),
                against="95 and 50 of 100 histories",
                headline=HEADLINES.get(name, "") if kind == CALIBRATED else "",
            )
        )
    return figures


def bound_honest(answers: Checks, is_bounding: bool) -> list[Figure]:
    """What the honest answers of all declarations show of the default limits, each answer counted once."""
    limits = get_network_limits(DEFAULT_CHECKS)
    figures = [
        Figure("honest answers", len(answers), "answers"),
        Figure("honest checks measured", sum(map(len, answers)), "checks"),
    ]
    false_alarm = 0.0
    failed = count_failed(limits, [answer[0] for answer in answers])
    pairs = (
        ("shortfall", limits.shortfall, limits.test.shortfall),
        ("distance", limits.distance, limits.test.distance),
    )
    for above, (name, limit, test) in zip(failed, pairs, strict=True):
        bound = compute_honest_ppm(len(answers), above) / PPM
        granted = limit.honest_ppm / PPM
        false_alarm += bound_false_alarm(test, bound, MANY_CHECKS)
        figures += [
            Figure(f"honest answers failed by {name}, {NETWORK}", above, "answers"),
            Figure(
                f"bound on honest failures by {name}, {NETWORK}",
                bound,
                "of checks",
                reference=granted,
                against="what the network grants",
                limit=granted if is_bounding else None,
            ),
        ]
    name = f"bound on the false alarms within {MANY_CHECKS:,} honest checks, {NETWORK}"
    return [*figures, Figure(name, false_alarm, "of accounts", limit=1e-4 if is_bounding else None)]


async def measure(run: Run, declarations: Sequence[Declaration], results: Results, vllm_url: str = "") -> None:
    """All declarations, one after the other."""
    for declaration in declarations:
        await measure_declaration(declaration, run, results, vllm_url)


def main() -> None:
    """Command line."""
    run = Run(
        "substitution",
        __doc__,
        Option("honest", 24, 22, "answers of each honest node"),
        Option("checks", 4, 1, "checks of each of them"),
        Option("cheat", 20, 8, "answers of each cheat, which are checked once"),
        Option("tokens", 48, 8, "most tokens of an answer"),
    )
    results, notes = Results(), {}
    declarations = make_declarations(run.quick)
    trio.run(measure, run, declarations, results)
    if is_installed() and not run.quick:
        with running_vllm(Path(tempfile.gettempdir()) / "wwwserve-vllm.log") as url:
            trio.run(measure, run, make_declarations_across(declarations[-1]), results, url)
    else:
        notes["two engines"] = "not measured: it takes a full run, and vLLM, which make test-vllm installs"
    # A quick run has too few answers for a bound that is of use.
    figures = [*results.figures, *bound_honest(results.honest, is_bounding=not run.quick)]
    figures.append(Figure("one check of an answer, one thread", results.check_s / results.checks, "s"))
    distances, shortfalls = zip(*results.curves, strict=True)
    charts = [
        Chart("Distance of the top five", "mean total variation", "share of checks", distances, x_scale="log"),
        Chart("Shortfall of the chosen tokens", "standard deviations", "share of checks", shortfalls),
    ]
    run.finish(figures, charts, notes)


if __name__ == "__main__":
    main()
