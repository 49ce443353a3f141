"""Challengers that do not answer, do more than is asked, or hand in what others wrote; and executors that copy them."""

from __future__ import annotations

from dataclasses import replace

from tests.adversarial.duels.rubbish import LongRubbish
from tests.adversarial.duels.strategy import LONG, QUICK, Scene, Strategy, in_prices
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import RUBBISH, Agent, Case, Payer, Text

TRIES = 4


class Silent(Agent):
    """Answers no challenge."""

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        return None


class NoDuties(Silent):
    """Answers no challenge, and has declared no judge."""

    def __post_init__(self) -> None:
        self.judges = False
        super().__post_init__()


class BestOfFour(Agent):
    """Writes four answers to a challenge, and hands in the best."""

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        return max((self.write(market, case.request) for _ in range(TRIES)), key=lambda text: text.score)


class LazyChallenger(Agent):
    """Hands in rubbish."""

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        return self.make_text(market, case.request, RUBBISH)


class Copyist(Agent):
    """Hands in the executor's answer, which some accomplice has shown it."""

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        assert case.answer is not None
        return replace(case.answer, author=self.public_key)


class Withholding(Payer):
    """Shows no one the texts of a duel."""

    def hands_over(self, market: LedgerMarket, case: Case, reader: Agent) -> bool:
        return False


class CopyingExecutor(LongRubbish):
    """Is paid for rubbish, and shows judges the challenger's answer as its own.

    Its digest is not that of the answer that was paid, so a judge that compares them has none.
    """

    def hands_over(self, market: LedgerMarket, case: Case, reader: Agent) -> bool:
        return case.duel.executor != self.public_key or reader.public_key == case.duel.challenger


STRATEGIES = [
    Strategy("answers no challenge", Scene(Silent), in_prices(-790)),
    Strategy("answers no challenge, and does not judge", Scene(NoDuties), in_prices(-913), quick=QUICK),
    Strategy("challenger with the best of four answers", Scene(BestOfFour), in_prices(-1_422), quick=QUICK),
    Strategy("challenger with rubbish", Scene(LazyChallenger), size=LONG),
    Strategy("challenger that copies the executor", Scene(Copyist)),
    Strategy("executor that copies the challenger", Scene(CopyingExecutor)),
    Strategy(
        "executor that copies the challenger, with a payer that helps",
        Scene(CopyingExecutor, Withholding),
        quick=QUICK,
    ),
]
