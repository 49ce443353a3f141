"""Whether quality wins: the stake dynamics of the paper's section 5 in closed form, as an ODE, by agents, and on chain.

The ledger is the real state machine, with parameters that make it play the paper's game; players put what they earn
into their stake. One case meets the condition of the theorem, the others show where it fails: a worse node that is
cheaper, a reward below the cost, penalties above the margin, judges that collude. Then the rules as they are: what each
verdict takes from a worse node, against what that saves, and whether the ledger moves what the formula says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from benchmarks.pictures import Chart, Series
from benchmarks.quality.duel_conditions import (
    HONEST_COST,
    SUBSTITUTIONS,
    compute_fraud_loss,
    compute_needed_rate,
    compute_rating_loss,
    compute_saving,
    compute_verdict_gap,
)
from benchmarks.quality.ledger_players import (
    UNIT,
    Player,
    compare_by_quality,
    make_parameters,
    make_players,
    play_on_ledger,
)
from benchmarks.quality.stake_dynamics import Game, find_critical_share, integrate, normalize, play, solve
from benchmarks.report import Figure, Option, Run
from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import CREDIT
from chain.transition.duels.verdict import DuelVerdict
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import RUBBISH, Agent, Request, Text

QUALITIES, EQUAL_COSTS, CHEAPER = (0.9, 0.6, 0.3), (0.5, 0.5, 0.5), (0.5, 0.4, 0.2)
ACCOUNTS = 8
"""Accounts of each class."""
CASES = {
    "equal costs": Game(QUALITIES, EQUAL_COSTS, (100, 100, 100)),
    "worse is cheaper": Game(QUALITIES, CHEAPER, (100, 100, 100)),
    "worse is cheaper, P = 4": Game(QUALITIES, CHEAPER, (300, 300, 300), penalty=4),
    "R below cost": Game(QUALITIES, EQUAL_COSTS, (1_000, 1_000, 1_000), reward=0.45),
    "P above margin": Game(QUALITIES, EQUAL_COSTS, (1_000, 1_000, 1_000), penalty=9),
    "colluding third": Game((0.9, 0.3), (0.5, 0.5), (200, 100), friends=1),
    "colluding half": Game((0.9, 0.3), (0.5, 0.5), (150, 150), friends=1),
}
"""Each with R = R_add = P = 1 and p_d = 0.25 where nothing else is said; stakes in prices of a request."""
MAX_ODE_ERROR = 1e-6
"""By how much a share may differ between ODE and closed form."""
MODEL_ERROR = 0.01
"""By how much a share may differ between agents or ledger and the ODE, beside three standard errors: stakes count later
on the ledger, and no stake is negative."""
STANDARD_ERRORS = 3.0
FIXED_STAKE = 1e6
"""Stake of a class, in units, that no loss changes much."""
DUEL_RATE = 250
"""Duels in 1,000 requests where the income from duels is measured on the ledger."""
COURSE_CASES = ("equal costs", "worse is cheaper", "colluding third", "colluding half")
COURSE_REQUESTS = 20_000
"""Requests in the picture of the course."""
COURSE_POINTS = 100
WIN_RATES = (0.57, 0.53, 0.39)
"""Those of the paper's 8B, 4B and 0.6B models."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Mean shares of the classes over some runs, the largest standard error of one, and the mean of all stake."""

    shares: tuple[float, ...]
    error: float
    stake: float


def summarize(runs: Sequence[Sequence[float]]) -> Sample:
    """The mean of the stakes that some runs end with."""
    shares = [normalize(run) for run in runs]
    count, classes = len(shares), len(shares[0])
    means = [sum(run[number] for run in shares) / count for number in range(classes)]
    variances = [sum((run[n] - means[n]) ** 2 for run in shares) / max(1, count - 1) for n in range(classes)]
    return Sample(tuple(means), math.sqrt(max(variances) / count), sum(map(sum, runs)) / count)


def compare(case: str, game: Game, requests: int, seed: int, agents: int, ledgers: int) -> Iterator[Figure]:
    """The figures of one case."""
    limit, counted = integrate(game, requests), replace(game, accounts=ACCOUNTS)
    best = 0
    yield Figure(f"{case}: B Δq − Δc, best against worst", game.compute_margin(best, -1), "of R")
    if game.friends is None:
        closed = solve(game, requests)
        error = max(abs(one - two) for one, two in zip(limit.shares, closed, strict=True))
        yield Figure(f"{case}: share of the best, ODE", limit.shares[best], "", closed[best], "closed form")
        yield Figure(f"{case}: largest error of the ODE", error, "", limit=MAX_ODE_ERROR)
    path = integrate(counted, requests)
    samples = {
        "agents": summarize([play(counted, requests, Random(f"{seed}/{case}/{run}")) for run in range(agents)]),
        "ledger": summarize([play_on_ledger(counted, requests, 1_000 * seed + run) for run in range(ledgers)]),
    }
    for name, found in samples.items():
        error = max(abs(one - two) for one, two in zip(found.shares, path.shares, strict=True))
        most = MODEL_ERROR + STANDARD_ERRORS * found.error
        yield Figure(f"{case}: share of the best, {name}", found.shares[best], "", path.shares[best], "ODE")
        yield Figure(f"{case}: largest error of the {name}", error, "", limit=most)
    yield Figure(f"{case}: stake at the end, ledger", samples["ledger"].stake, "R", sum(path.stakes[-1]), "ODE")
    end = game.compute_end()
    if end is not None:
        gone = integrate(game, 2 * end).end
        yield Figure(f"{case}: requests until the stake is gone, ODE", gone, "", end, "closed form")


def make_qualities(win_rates: Sequence[float]) -> list[float]:
    """Qualities of classes of two equal accounts each that give these win rates against the five others.

    The rates are scaled to a mean of one half: those of a paper may be rounded.
    """
    mean = sum(win_rates) / len(win_rates)
    # Of 2 m − 1 opponents one is of the same class: w = ½ + m / (2 m − 1) (q − mean of all q).
    accounts = 2 * len(win_rates)
    return [(rate * 0.5 / mean - 0.5) * 2 * (accounts - 1) / accounts for rate in win_rates]


@dataclass(frozen=True, slots=True)
class Income:
    """What the members of a class have got in one role of duels: mean and variance, in units, and of how many duels."""

    mean: float
    variance: float
    duels: int


def find_income(market: LedgerMarket, players: Sequence[Player], group: int, is_executor: bool) -> Income:
    """The income of a class in one role."""
    keys = {player.public_key for player in players if player.group == group}
    found = []
    for event in market.settled:
        key = event.duel.executor if is_executor else event.duel.challenger
        if key in keys:
            found.append(sum(move.amount for move in event.movements if move.public_key == key) / UNIT)
    mean = sum(found) / len(found)
    return Income(mean, sum((each - mean) ** 2 for each in found) / len(found), len(found))


def measure_income(requests: int, seed: int) -> Iterator[Figure]:
    """Whether the best class gains as much over the worst, by duels, as the formula says."""
    duels = DuelParameters(rate=DUEL_RATE, probation_duels=0, exposure_exponent=0)
    groups = [(quality, HONEST_COST, FIXED_STAKE) for quality in make_qualities(WIN_RATES)]
    players = make_players(groups, 2)
    market = LedgerMarket(
        players, seed=seed, parameters=make_parameters(duels, 1.0), treasury=100 * UNIT, compare=compare_by_quality
    )
    market.run(requests)
    gap = variance = 0.0
    # For each request that an account executes, it is challenger of as many as become duels.
    for is_executor in (True, False):
        best, worst = (find_income(market, players, group, is_executor) for group in (0, len(WIN_RATES) - 1))
        gap += DUEL_RATE / 1_000 * (best.mean - worst.mean)
        variance += (DUEL_RATE / 1_000) ** 2 * sum(each.variance / each.duels for each in (best, worst))
    scale = 0.5 * len(WIN_RATES) / sum(WIN_RATES)
    expected = compute_verdict_gap(duels, (WIN_RATES[0] - WIN_RATES[-1]) * scale)
    yield Figure("our rules, p_d 0.25: 8B gains over 0.6B by duels, ledger", gap, "of a price", expected, "formula")
    off = abs(gap - expected) / math.sqrt(variance)
    yield Figure("our rules: error of that, in standard errors", off, "", limit=4.0)


class Rubbish(Agent):
    """Answers with a text that is of no use, for nothing."""

    def write(self, market: LedgerMarket, request: Request) -> Text:
        return self.make_text(market, request, RUBBISH)


def measure_fraud(requests: int, seed: int) -> float:
    """The share of a rubbish node's duels, as executor, that end as a fraud."""
    cheat = Rubbish("rubbish", bonded=10_000 * CREDIT)
    agents = [Agent(f"honest {number}", bonded=1_000 * CREDIT) for number in range(12)]
    market = LedgerMarket([cheat, *agents], seed=seed, treasury=1_000 * CREDIT)
    market.run(requests)
    own = [event for event in market.settled if event.duel.executor == cheat.public_key]
    return sum(event.verdict is DuelVerdict.FRAUD for event in own) / max(1, len(own))


def list_conditions(duels: DuelParameters, found: float) -> Iterator[Figure]:
    """What each verdict takes by the rules as they are, against what a worse node saves."""
    for each in SUBSTITUTIONS:
        saving = compute_saving(duels, each.gain)
        taken = compute_verdict_gap(duels, each.win_gap)
        yield Figure(f"our rules, {each.name}: won and lost duels take", taken, "of a price", saving, "saved")
        lost = compute_rating_loss(duels, 0.5 - each.win_gap, each.gain)
        yield Figure(f"our rules, {each.name}: the rating takes", lost, "of a price", each.gain, "saved")
        needed = compute_needed_rate(duels, each.win_gap, each.gain)
        if needed is not None:
            yield Figure(f"our rules, {each.name}: rate at which won and lost duels are enough", needed, "")
    saving = compute_saving(duels, HONEST_COST)
    yield Figure("our rules, rubbish: found in a duel, ledger", found, "")
    yield Figure(
        "our rules, rubbish: fraud verdicts take", compute_fraud_loss(duels, found), "of a price", saving, "saved"
    )


def make_charts(figures: Sequence[Figure]) -> list[Chart]:
    """The share of the best class by case, its course, and what our verdicts take."""
    by_name = {figure.name: figure for figure in figures}
    agents, ledger = (
        [by_name[f"{case}: share of the best, {name}"] for case in CASES] for name in ("agents", "ledger")
    )
    shares = (
        Series("at the beginning", (), tuple(normalize(game.stakes)[0] for game in CASES.values())),
        Series("ODE", (), tuple(figure.reference or 0.0 for figure in ledger)),
        Series("agents", (), tuple(figure.value for figure in agents)),
        Series("ledger", (), tuple(figure.value for figure in ledger)),
    )
    labels = tuple(str(number + 1) for number in range(len(CASES)))
    course = []
    for name in COURSE_CASES:
        path = integrate(CASES[name], COURSE_REQUESTS)
        step = len(path.times) // COURSE_POINTS
        course.append(Series(name, path.times[::step], tuple(normalize(each)[0] for each in path.stakes[::step])))
    takes = [figure for figure in figures if figure.name.startswith("our rules") and figure.against == "saved"]
    verdicts = (
        Series("taken", (), tuple(figure.value for figure in takes)),
        Series("saved", (), tuple(figure.reference or 0.0 for figure in takes)),
    )
    numbers = tuple(str(number + 1) for number in range(len(takes)))
    return [
        Chart("Share of the best class", "case, in the order of the table", "share of the stake", shares, labels),
        Chart("Its course by the ODE", "requests", "share of the stake", tuple(course)),
        Chart("Our rules", "verdict, in the order of the table", "share of a price", verdicts, numbers),
    ]


def main() -> None:
    """Command line."""
    run = Run(
        "equilibrium",
        __doc__,
        Option("requests", 3_000, 400, "requests of each run"),
        Option("agents", 400, 20, "runs of agents for each case"),
        Option("ledgers", 12, 2, "runs of the ledger for each case"),
        Option("income", 20_000, 1_500, "requests in which the income from duels is measured"),
        Option("fraud", 6_000, 600, "requests in which the rubbish of one node is looked for"),
        is_timed=False,
    )
    values = run.values
    figures: list[Figure] = []
    for case, game in CASES.items():
        figures += compare(case, game, values["requests"], run.seed, values["agents"], values["ledgers"])
    for gap in (0.6, 0.1):
        name = f"colluding judges win half of their duels with a quality {gap} less, from a share of the stake"
        figures.append(Figure(name, find_critical_share(gap), ""))
    figures += measure_income(values["income"], run.seed)
    figures += list_conditions(DuelParameters(rate=50), measure_fraud(values["fraud"], run.seed))
    run.finish(figures, make_charts(figures))


if __name__ == "__main__":
    main()
