"""Who earns what (Figure 6 of the paper): model capacity, quantization, serving efficiency, hardware.

Six nodes of equal stake on the real ledger, two of each class. In the first two experiments the classes differ in their
win rates, which are the paper's and an input here. The output is how soon credit and win rates order them: by the
moments of one request, enumerated, which are compared with those of a run on the ledger. In the other two all answer
equally well, and the classes differ in speed: modelled engines accept requests as long as they have slots, and the
output is how many requests each class serves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, count, pairwise
from random import Random

from benchmarks.pictures import Chart, Series
from benchmarks.quality.credit_order import (
    REPLICAS,
    Gaps,
    compute_credit_gaps,
    compute_ends_chance,
    compute_order_chance,
    compute_rate_gaps,
    enumerate_outcomes,
    find_requests,
)
from benchmarks.quality.equilibrium import make_qualities
from benchmarks.quality.ledger_players import UNIT, Player, compare_by_quality, make_parameters
from benchmarks.report import Figure, Option, Run
from chain.parameters.duels import DuelParameters
from serving.simulation.continuous_batch import ContinuousBatch
from serving.simulation.gpu_curves import H100_BYTES_PER_S, QWEN3_8B, GpuCurve
from tests.support.strategies.ledger_market import BLOCK_MS, LedgerMarket
from tests.support.strategies.market_agents import Payer, Request, Served

QUALITY = {
    "capacity": {"8B": 0.57, "4B": 0.53, "0.6B": 0.39},
    "quantization": {"fp8": 0.54, "int4-128": 0.49, "int4-32": 0.47},
}
"""Win rates of the paper, by experiment and class."""
EVALUATION = DuelParameters(
    rate=250,
    executor_won=400,
    executor_lost=1_000,
    challenger=1_000,
    challenger_lost=0,
    judge=675,
    levy=1_900,
    probation_duels=0,
    probation_rate=0,
    exposure_exponent=0,
    repeat_rate=10,
    guessing=1_000_000,
)
"""R = P = 1 and R_add = 0.4, as for an evaluation: who loses as challenger gets nothing for its answer. No rating, and
hardly a vote is repeated."""
PUBLIC = DuelParameters(rate=50)
"""Amounts and rate of a public chain."""
SETTINGS = {
    "p_d 0.05, R = P": replace(EVALUATION, rate=50),
    "p_d 0.25, R = P": EVALUATION,
    "p_d 0.05, public amounts": PUBLIC,
}
EARLIER = {
    ("capacity", "p_d 0.05, R = P", "credit, all"): 952_636,
    ("capacity", "p_d 0.05, R = P", "credit, ends"): 38_997,
    ("capacity", "p_d 0.25, R = P", "credit, all"): 38_997,
    ("capacity", "p_d 0.25, R = P", "credit, ends"): 1_360,
    ("capacity", "p_d 0.05, R = P", "win rate, all"): 20_580,
    ("capacity", "p_d 0.05, R = P", "win rate, ends"): 988,
    ("quantization", "p_d 0.05, R = P", "credit, all"): 2_915_325,
    ("quantization", "p_d 0.05, R = P", "credit, ends"): 265_321,
    ("quantization", "p_d 0.25, R = P", "credit, all"): 119_344,
    ("quantization", "p_d 0.25, R = P", "credit, ends"): 10_861,
    ("quantization", "p_d 0.05, R = P", "win rate, all"): 73_895,
    ("quantization", "p_d 0.05, R = P", "win rate, ends"): 7_890,
}
"""Requests found by agents before these rules were built, on a grid of 17 %: judges erred, saw both orders, were not
paid, and tied in a third of the duels."""

SPEED = {"efficiency": (788, 786, 426), "hardware": (1_717, 1_195, 1_088)}
"""Requests that the paper's classes served."""
SDPA_SPEED = 0.5
"""Speed of the slowest kernels of attention, against the others: assumed."""


def scale_curve(name: str, bandwidth: float, compute: float) -> GpuCurve:
    """The 8B model on a card of some memory bandwidth and some rate of computing, as multiples of an H100's."""
    return replace(
        QWEN3_8B,
        card=name,
        bandwidth=H100_BYTES_PER_S * bandwidth,
        prefill_rate=QWEN3_8B.prefill_rate * compute,
        stream_cost=QWEN3_8B.stream_cost / compute,
    )


A100 = scale_curve("A100", 2.0 / 3.35, 312 / 989)
CURVES = {
    "efficiency": (
        replace(A100, card="FlashInfer"),
        replace(A100, card="Triton"),
        scale_curve("SDPA", SDPA_SPEED * 2.0 / 3.35, SDPA_SPEED * 312 / 989),
    ),
    "hardware": (A100, scale_curve("4090", 1.01 / 3.35, 165 / 989), scale_curve("3090", 0.94 / 3.35, 71 / 989)),
}
"""Curves scaled by published bandwidths and rates, not measured."""
SLOTS = 16
"""Requests that a node runs at a time."""
PROMPT_TOKENS, OUTPUT_TOKENS = 1_155, 211
"""The average of the Azure conversation trace."""
LOADS = (0.5, 0.75, 1.0, 1.25)
"""Requests offered, as a share of what all nodes can serve."""
NEAR_ERRORS = 4.0
"""Standard errors by which the ledger may differ from the enumeration."""
MIN_PIECES = 10
"""Pieces of a run, at least, of which a share says something."""
FIXED_STAKE = 1_000_000
"""Stake of a node, in prices of a request, that no loss changes much: what differs is not who is drawn."""
SNAPSHOTS = 100
"""Points of a picture of credit."""


# Quality.


@dataclass(slots=True)
class Course:
    """A run on the ledger: the mean credit of each class after each of these numbers of ``requests``, in prices."""

    requests: list[int] = field(default_factory=list)
    credits: list[list[float]] = field(default_factory=list)


def make_market(duels: DuelParameters, qualities: Sequence[float], seed: int) -> tuple[LedgerMarket, list[Player]]:
    """A market of two players of each quality."""
    players = [
        Player(f"{group}/{number}", quality=quality, bonded=FIXED_STAKE * UNIT, group=group)
        for group, quality in enumerate(qualities)
        for number in range(REPLICAS)
    ]
    payers = [Payer(f"user {number}") for number in range(20)]
    parameters = make_parameters(duels, 1.0)
    return LedgerMarket(players, payers, seed=seed, parameters=parameters, treasury=1_000 * UNIT), players


def run_course(market: LedgerMarket, players: Sequence[Player], requests: int, per_block: int = 20) -> Course:
    """Serve requests, and note the credit of each class on the way."""
    market.compare = compare_by_quality
    begin = [market.state.account(player.public_key).total for player in players]
    course = Course([0], [[0.0] * (len(players) // REPLICAS)])
    every = max(1, requests // per_block // SNAPSHOTS)

    def note(served: int) -> None:
        grown = [
            (market.state.account(player.public_key).total - before) / UNIT
            for player, before in zip(players, begin, strict=True)
        ]
        classes = [sum(grown[start : start + REPLICAS]) / REPLICAS for start in range(0, len(grown), REPLICAS)]
        course.requests.append(served)
        course.credits.append(classes)

    for block in range(requests // per_block):
        market.step(per_block)
        if block % every == every - 1:
            note((block + 1) * per_block)
    market.close()
    note(requests // per_block * per_block)
    return course


def count_wins(market: LedgerMarket, players: Sequence[Player]) -> tuple[list[int], list[int]]:
    """Duels won, and duels fought, by class."""
    groups = {player.public_key: player.group for player in players}
    classes = len(set(groups.values()))
    won, met = [0] * classes, [0] * classes
    for event in market.settled:
        duel = event.duel
        if duel.challenger is None:
            continue
        is_won = event.verdict.name == "EXECUTOR_WON"
        won[groups[duel.executor if is_won else duel.challenger]] += 1
        for key in (duel.executor, duel.challenger):
            met[groups[key]] += 1
    return won, met


def measure_quality(experiment: str, requests: int, seed: int) -> tuple[list[Figure], list[Chart]]:
    """One of the experiments in which quality differs."""
    names, rates = tuple(QUALITY[experiment]), tuple(QUALITY[experiment].values())
    qualities = make_qualities(rates)
    figures = list(list_orders(experiment, qualities))
    market, players = make_market(EVALUATION, qualities, seed)
    course = run_course(market, players, requests)
    won, met = count_wins(market, players)
    scale = 0.5 * len(rates) / sum(rates)
    for name, wins, duels, rate in zip(names, won, met, rates, strict=True):
        figures.append(Figure(f"{experiment}: win rate of {name}, ledger", wins / duels, "", rate * scale, "input"))
        error = math.sqrt(rate * scale * (1 - rate * scale) / duels)
        off = abs(wins / duels - rate * scale) / error
        figures.append(Figure(f"{experiment}: error of that of {name}, in standard errors", off, "", limit=NEAR_ERRORS))
    gaps = compute_credit_gaps(list(enumerate_outcomes(EVALUATION, qualities)))
    served = course.requests[-1]
    for place, pair in enumerate(pairwise(names)):
        gap = (course.credits[-1][place] - course.credits[-1][place + 1]) / served
        error = math.sqrt(gaps.variances[place] / served)
        name = f"{experiment}: credit of {pair[0]} over {pair[1]}, ledger"
        figures.append(Figure(name, 1_000 * gap, "per 1,000 requests", 1_000 * gaps.means[place], "enumerated"))
        off = abs(gap - gaps.means[place]) / error
        figures.append(Figure(f"{name}: error in standard errors", off, "", limit=NEAR_ERRORS))
    figures += check_order(experiment, course, gaps)
    market, players = make_market(PUBLIC, qualities, seed)
    public = run_course(market, players, requests)
    shares = [sum(player.counts["served"] for player in players if player.group == group) for group in range(3)]
    name = f"{experiment}: requests of {names[2]} for one of {names[0]}, public rules with rating"
    figures.append(Figure(name, shares[2] / shares[0], ""))
    charts = [
        make_course_chart(f"{experiment}: p_d 0.25, R = P", names, course),
        make_course_chart(f"{experiment}: public rules", names, public),
    ]
    return figures, charts


def check_order(experiment: str, course: Course, gaps: Gaps) -> Iterator[Figure]:
    """Whether pieces of a run order the best above the worst as often as the moments say."""
    wanted = find_requests(partial(compute_ends_chance, gaps))
    every = course.requests[1]
    if wanted is None:
        return
    span = -(-int(wanted) // every)
    leads = [credits[0] - credits[-1] for credits in course.credits[:-1]][::span]
    right = [after > before for before, after in pairwise(leads)]
    if len(right) < MIN_PIECES:
        return
    expected = compute_ends_chance(gaps, span * every)
    name = f"{experiment}: pieces of {span * every} requests in which credit orders the ends, ledger"
    yield Figure(name, sum(right) / len(right), "", expected, "by moments")
    off = abs(sum(right) / len(right) - expected) / math.sqrt(expected * (1 - expected) / len(right))
    yield Figure(f"{experiment}: error of that share, in standard errors", off, "", limit=NEAR_ERRORS)


def list_orders(experiment: str, qualities: Sequence[float]) -> Iterator[Figure]:
    """After how many requests each measure orders the classes in 95 of 100 runs."""
    for setting, duels in SETTINGS.items():
        outcomes = list(enumerate_outcomes(duels, qualities))
        measures = {"credit": compute_credit_gaps(outcomes)}
        if duels is not PUBLIC:  # whose win rates are those of the same rate of duels with other amounts
            measures["win rate"] = compute_rate_gaps(outcomes)
        for measure, gaps in measures.items():
            for order, compute in (("all", compute_order_chance), ("ends", compute_ends_chance)):
                found = find_requests(partial(compute, gaps))
                name = f"{experiment}, {setting}: {measure} orders {order}"
                earlier = EARLIER.get((experiment, setting, f"{measure}, {order}"))
                against = "" if earlier is None else "agents, judges that tie"
                yield Figure(name, math.inf if found is None else found, "requests", earlier, against)


def make_course_chart(title: str, names: Sequence[str], course: Course) -> Chart:
    """What a node of each class has earned."""
    series = []
    for place, name in enumerate(names):
        y = tuple(credits[place] for credits in course.credits)
        series.append(Series(name, tuple(map(float, course.requests)), y))
    return Chart(title, "requests", "credit of a node, prices", tuple(series))


# Speed.


@dataclass(eq=False)
class Server(Player):
    """A player with a modelled engine: it takes a request if a slot is free."""

    curve: GpuCurve = QWEN3_8B

    def __post_init__(self) -> None:
        super().__post_init__()
        self.engine = ContinuousBatch(self.curve)
        self.numbers = count()

    def accepts(self, market: LedgerMarket, request: Request) -> bool:
        now = market.head.height * BLOCK_MS / 1_000
        self.engine.advance(now)
        if self.engine.running + self.engine.waiting >= SLOTS:
            return False
        self.engine.submit(now, next(self.numbers), PROMPT_TOKENS, OUTPUT_TOKENS)
        return True

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        return Served(self.make_text(market, request, self.quality))


def compute_throughput(curve: GpuCurve) -> float:
    """Requests a second that an engine serves with all slots taken."""
    engine, done, now = ContinuousBatch(curve), 0, 0.0
    numbers = count()
    for _ in range(SLOTS):
        engine.submit(now, next(numbers), PROMPT_TOKENS, OUTPUT_TOKENS)
    while done < 20 * SLOTS:
        event = engine.next_event()
        assert event is not None
        now = event
        for report in engine.advance(now):
            if report.finished:
                done += 1
                engine.submit(now, next(numbers), PROMPT_TOKENS, OUTPUT_TOKENS)
    return done / now


def run_speed(experiment: str, load: float, requests: int, seed: int) -> tuple[list[Server], Course, int]:
    """Offer requests at a share of what all can serve. Returns the servers, their credit, and how many none took."""
    curves = CURVES[experiment]
    servers = [
        Server(f"{group}/{number}", bonded=1_000 * UNIT, group=group, curve=curve)
        for group, curve in enumerate(curves)
        for number in range(REPLICAS)
    ]
    rate = load * REPLICAS * sum(map(compute_throughput, curves)) * BLOCK_MS / 1_000
    parameters = make_parameters(replace(PUBLIC, probation_duels=0, exposure_exponent=0), 1.0)
    market = LedgerMarket(servers, seed=seed, parameters=parameters, treasury=1_000 * UNIT, compare=compare_by_quality)
    random, course = Random(f"{seed}/{experiment}/{load}"), Course([0], [[0.0] * len(curves)])
    offered = 0
    while offered < requests:
        arrivals = draw_poisson(random, rate)
        market.step(arrivals)
        offered += arrivals
        served = [sum(server.counts["served"] for server in servers if server.group == group) for group in range(3)]
        course.requests.append(offered)
        course.credits.append([number / REPLICAS for number in served])
    market.close()
    return servers, course, market.unserved


def draw_poisson(random: Random, mean: float) -> int:
    """A number of arrivals."""
    return sum(1 for _ in _take_arrivals(random, mean))


def _take_arrivals(random: Random, mean: float) -> Iterator[float]:
    for time in accumulate(random.expovariate(1) for _ in count()):
        if time > mean:
            return
        yield time


def measure_speed(experiment: str, requests: int, seed: int) -> tuple[list[Figure], list[Chart]]:
    """One of the experiments in which speed differs."""
    curves, paper = CURVES[experiment], SPEED[experiment]
    names = [curve.card for curve in curves]
    figures = [
        Figure(f"{experiment}: {curve.card} serves at most", compute_throughput(curve), "requests/s")
        for curve in curves
    ]
    shares: list[list[float]] = []
    courses = []
    for load in LOADS:
        servers, course, unserved = run_speed(experiment, load, requests, seed)
        served = [sum(server.counts["served"] for server in servers if server.group == group) for group in range(3)]
        shares.append([number / served[0] for number in served])
        courses.append(course)
        for place in (1, 2):
            name = f"{experiment}, load {load:g}: served by {names[place]} for one by {names[0]}"
            figures.append(Figure(name, served[place] / served[0], "", paper[place] / paper[0], "paper"))
        figures.append(
            Figure(f"{experiment}, load {load:g}: requests that no node took", unserved / requests, "of all")
        )
    at = LOADS.index(1.0)
    step = max(1, len(courses[at].requests) // SNAPSHOTS)
    thin = Course(courses[at].requests[::step], courses[at].credits[::step])
    loads = Chart(
        f"{experiment}: share by load",
        "requests offered, of what all can serve",
        f"served for one by {names[0]}",
        tuple(Series(name, LOADS, tuple(each[place] for each in shares)) for place, name in enumerate(names)),
    )
    return figures, [make_course_chart(f"{experiment}: load 1", names, thin), loads]


def main() -> None:
    """Command line."""
    run = Run(
        "incentives",
        __doc__,
        Option("requests", 40_000, 1_000, "requests of each run in which quality differs"),
        Option("offered", 6_000, 400, "requests of each run in which speed differs"),
        is_timed=False,
    )
    figures: list[Figure] = []
    charts: list[Chart] = []
    for experiment in QUALITY:
        found, drawn = measure_quality(experiment, run.values["requests"], run.seed)
        figures += found
        charts += drawn
    for experiment in CURVES:
        found, drawn = measure_speed(experiment, run.values["offered"], run.seed)
        figures += found
        charts += drawn
    run.finish(figures, charts)


if __name__ == "__main__":
    main()
