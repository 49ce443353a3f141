"""Payers that choose who serves them, pay themselves, or withhold what they asked."""

from __future__ import annotations

from dataclasses import dataclass

from tests.adversarial.duels.challengers import Withholding
from tests.adversarial.duels.rubbish import LongRubbish
from tests.adversarial.duels.strategy import ATTACKER, QUICK, Per, Scene, Strategy, in_prices
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import Agent, Case, Payer, Request, Text


class Grinding(Payer):
    """Leaves out every number that draws another than its own executors."""

    def uses(self, market: LedgerMarket, seq: int, payee: bytes) -> bool:
        return market.agents[payee].owner == self.owner


@dataclass(eq=False)
class Rigging(Grinding):
    """Asks what its own executors alone can answer well."""

    insider: str | None = ATTACKER


class GrindingWithholding(Grinding, Withholding):
    """Asks its own executors, and shows no one the texts."""


class Accomplice(LongRubbish):
    """Writes nothing, and shows no one the texts of its own duels."""

    def hands_over(self, market: LedgerMarket, case: Case, reader: Agent) -> bool:
        return case.duel.executor != self.public_key


class Knowing(Agent):
    """Has the answers to its own payer's requests at hand, at no cost."""

    def write(self, market: LedgerMarket, request: Request) -> Text:
        if request.insider == self.owner:
            return self.make_text(market, request, self.quality + market.random.gauss(0, 1))
        return super().write(market, request)


SHARES = (("a tenth", 0.1), ("a third", 1 / 3))
STRATEGIES = (
    [
        Strategy(
            f"payer that leaves out numbers until its own executor, {text} of the stake, is drawn",
            Scene(Agent, Grinding, share=share, only_own_requests=True),
            per=Per.OWN_REQUEST,
        )
        for text, share in SHARES
    ]
    + [
        Strategy(
            f"own payer, own executor, requests only it can answer, {text} of the stake; numbers left out are free",
            Scene(Knowing, Rigging, share=share, only_own_requests=True, unused_number_fee=0),
            in_prices(-1_814),
            per=Per.OWN_REQUEST,
            stays_away=True,
            quick=QUICK,
        )
        for text, share in SHARES
    ]
    + [
        Strategy(
            "own payer and own executor that show no one the texts; numbers left out are free",
            Scene(Accomplice, GrindingWithholding, share=0.1, only_own_requests=True, unused_number_fee=0),
            in_prices(-529),
            per=Per.OWN_REQUEST,
            stays_away=True,
        ),
        Strategy(
            "payer that shows no one the texts of its requests",
            Scene(Agent, Withholding),
            per=Per.OWN_REQUEST,
        ),
    ]
)
