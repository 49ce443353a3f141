"""Checkers that save the cost of scoring, or do not say what they have found: alone, and as a coalition.

What an honest checker comes to are numbers that were measured (:mod:`tests.adversarial.duels.measure_checks`).
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from chain.parameters.duels import DuelParameters
from chain.state.check_records import CheckerSeat
from chain.types.checks import ABSTAINED, NO_TRANSCRIPT, NOT_CHECKABLE, CheckReport, make_measured_report
from tests.adversarial.duels.coalitions import VICTIM
from tests.adversarial.duels.strategy import OFTEN, Per, Size, Strategy
from tests.adversarial.duels.substitutes import CHECKED_OFTEN, ENOUGH, HONEST_SCENE, LONG, Substitute
from tests.support.strategies.check_market import HONEST, CheckCase, CheckedAgent, CheckMarket, load_measured
from tests.support.strategies.ledger_market import MARKET_PARAMETERS

TYPICAL_DISTANCE = fmean(row.scored[1] for row in load_measured(HONEST))
"""The mean distance of honest answers."""
PASSED, FAILED = make_measured_report(0.0, TYPICAL_DISTANCE), make_measured_report(9.0, 0.5)
"""What is likeliest of an honest answer, and what accuses one."""


class Inventing(CheckedAgent):
    """Draws numbers as honest answers have them."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return make_measured_report(*market.random.choice(load_measured(HONEST)).scored)


class Passing(CheckedAgent):
    """Reports what is likeliest of an honest answer."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return PASSED


class PassingGreedy(CheckedAgent):
    """Reports that of answers at temperature 0, where chance has no part in the tokens; scores the others."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return (
            PASSED
            if case.transcript is not None and not case.transcript.measured.temperature
            else self.score(market, case)
        )


class Believing(CheckedAgent):
    """Computes the shortfall from the transcript alone, as if its own weights said the same."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        if case.transcript is None:
            return CheckReport(NO_TRANSCRIPT)
        return make_measured_report(case.transcript.measured.told[0], TYPICAL_DISTANCE)


class Accusing(CheckedAgent):
    """Reports other weights, whatever it sees."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return FAILED


class SayingMissing(CheckedAgent):
    """Says that it could not obtain the transcript."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return CheckReport(NO_TRANSCRIPT)


class SayingNotCheckable(CheckedAgent):
    """Says that the request lets no one check the answer."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return CheckReport(NOT_CHECKABLE)


class Abstaining(CheckedAgent):
    """Says that its backend was busy."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return CheckReport(ABSTAINED)


class Unrevealed(CheckedAgent):
    """Scores, commits, and keeps its report back."""

    def reveals_report(self, market: CheckMarket, case: CheckCase) -> bool:
        return False


class Away(CheckedAgent):
    """Does nothing when it is asked to check."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return None


class Copying(CheckedAgent):
    """Commits to what another checker has committed to, and cannot show what that is."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return PASSED if self.find_other(case) is not None else None

    def commit_report(self, market: CheckMarket, case: CheckCase, report: CheckReport) -> bytes:
        seat = self.find_other(case)
        assert seat is not None and seat.commitment is not None
        return seat.commitment

    def find_other(self, case: CheckCase) -> CheckerSeat | None:
        """Another checker that has committed."""
        others = (seat for seat in case.check.seats if seat.public_key != self.public_key)
        return next((seat for seat in others if seat.commitment is not None), None)


# Coalitions.


class Vouching(CheckedAgent):
    """Serves what it declares; passes its own without scoring, and checks others honestly."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return PASSED if owns(market, case, self.owner) else self.score(market, case)


class VouchingSubstitute(Vouching, Substitute):
    """Serves other weights, and passes its own."""


class Hostile(Vouching):
    """Passes its own, and accuses a victim."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return FAILED if owns(market, case, VICTIM) else Vouching.report(self, market, case)


class HostileToAll(Vouching):
    """Passes its own, and accuses all others."""

    def report(self, market: CheckMarket, case: CheckCase) -> CheckReport | None:
        return PASSED if owns(market, case, self.owner) else FAILED


class OneVictim(CheckedAgent):
    """One of the others is the victim: the first of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "other 0":
            self.owner = VICTIM


def owns(market: CheckMarket, case: CheckCase, owner: str) -> bool:
    """Whether an account of an owner is the executor that is checked."""
    return market.agents[case.check.executor].owner == owner


ALONE = replace(HONEST_SCENE, duels=OFTEN)
HONEST_CHECKER = Strategy("checks honestly, over not checking", ALONE, None, Per.CHECK, stays_away=True)
"""Scoring must pay: this gains."""
OFTEN_ENOUGH, CLOSE, FEW = Size(2_000, 4), Size(2_000, 16), Size(100, 2)
"""For the table, for what loses little, and for a short test."""


def make_checker(
    title: str,
    agent: type[CheckedAgent],
    *,
    size: Size = OFTEN_ENOUGH,
    is_quick: bool = False,
    accepted: str = "",
    limit: float = 0.0,
) -> Strategy:
    """A strategy of a third of the stake in one account, which has one seat of three at most."""
    return Strategy(
        f"checker that {title}",
        replace(ALONE, agent=agent),
        None,
        Per.CHECK,
        size=size,
        quick=FEW if is_quick else None,
        accepted=accepted,
        limit=limit,
    )


def make_coalition(
    title: str,
    agent: type[CheckedAgent],
    share: float,
    accounts: int = 8,
    *,
    duels: DuelParameters = MARKET_PARAMETERS.duels,
    size: Size = LONG,
    accepted: str = "",
    limit: float = 0.0,
) -> Strategy:
    """A strategy of executors that check each other."""
    scene = replace(HONEST_SCENE, agent=agent, accounts=accounts, share=share, others=OneVictim, duels=duels)
    return Strategy(title, scene, None, Per.SHARE, size=size, accepted=accepted, limit=limit)


FIFTH, THIRD = 0.2, 1 / 3
UNTIL_FOUND = Size(25_000, 3)
"""For each of eight accounts to be checked often enough."""
STRATEGIES = [
    make_checker("invents numbers as honest answers have them", Inventing, is_quick=True),
    make_checker("passes everything", Passing),
    make_checker(
        "passes what was drawn at temperature 0, scores the rest",
        PassingGreedy,
        accepted="honest answers have the same numbers there; only where executors cheat does it pay a fine",
        limit=35.0,
    ),
    make_checker("computes its numbers from the transcript alone", Believing, size=CLOSE),
    make_checker("accuses everyone", Accusing, is_quick=True),
    make_checker("says that there is no transcript", SayingMissing),
    make_checker("says that the answer cannot be checked", SayingNotCheckable),
    make_checker("abstains", Abstaining),
    make_checker("scores, and does not reveal", Unrevealed),
    make_checker("does nothing", Away),
    make_checker("copies commitments", Copying),
    make_coalition(
        "a fifth of the stake, honest, passes its own unscored",
        Vouching,
        FIFTH,
        duels=CHECKED_OFTEN,
        size=ENOUGH,
        accepted="it loses about as much as the scoring that it saves",
        limit=10.0,
    ),
    make_coalition(
        "a third of the stake, honest, passes its own unscored", Vouching, THIRD, duels=CHECKED_OFTEN, size=ENOUGH
    ),
    make_coalition(
        "executor with one other account, a fifth: saves 27 %, passes its own", VouchingSubstitute, FIFTH, 2
    ),
    make_coalition(
        "a fifth of the stake in eight accounts: saves 27 %, passes its own",
        VouchingSubstitute,
        FIFTH,
        size=UNTIL_FOUND,
    ),
    make_coalition(
        "a third of the stake in eight accounts: saves 27 %, passes its own",
        VouchingSubstitute,
        THIRD,
        size=UNTIL_FOUND,
    ),
    make_coalition("a fifth of the stake accuses a victim", Hostile, FIFTH, duels=CHECKED_OFTEN, size=ENOUGH),
    make_coalition(
        "a third of the stake accuses a victim",
        Hostile,
        THIRD,
        duels=CHECKED_OFTEN,
        size=ENOUGH,
    ),
    make_coalition("a third of the stake accuses all others", HostileToAll, THIRD, duels=CHECKED_OFTEN, size=ENOUGH),
]
