"""Leaders that withhold their reveal, and their block with it, when it would draw their own answers."""

from __future__ import annotations

from chain.transition.block import Transition
from chain.transition.duels.events import DuelOpened
from tests.adversarial.duels.rubbish import LongRubbish, Mostly
from tests.adversarial.duels.strategy import LONG, Scene, Size, Strategy
from tests.support.strategies.ledger_market import LedgerMarket


def is_hurt(market: LedgerMarket, transition: Transition, owner: str) -> bool:
    """Whether a block opens a duel about an answer of an owner."""
    opened = [event.duel for event in transition.duel_events if isinstance(event, DuelOpened)]
    return any(market.agents[duel.executor].owner == owner for duel in opened)


class Dodging(LongRubbish):
    """Answers with rubbish, and leads no block that opens a duel about it."""

    def withholds(self, market: LedgerMarket, transition: Transition) -> bool:
        return is_hurt(market, transition, self.owner)


class MostlyDodging(Mostly, Dodging):
    """Answers well three times of four."""


STRATEGIES = [
    Strategy(
        f"leader with a third of the stake that dodges draws, {title}; a missed lead is free",
        Scene(agent, share=1 / 3, with_validators=True, missed_lead_fee=0),
        size=size,
    )
    for title, agent, size in (
        ("long rubbish", Dodging, LONG),
        ("answers well with probability 0.75", MostlyDodging, Size(5_000, 12)),
    )
]
