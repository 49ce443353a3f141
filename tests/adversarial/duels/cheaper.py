"""A cheaper model under the name of a dearer one, where no identity is declared: only judges and ratings see it.

Its rating is that of an executor that has done so for long: of its last 200 duels it has won as many as it would.
"""

from __future__ import annotations

from chain.genesis import compute_serving_table
from chain.state.keys import rating_key, table_key
from chain.state.ratings import LOST, RATED_DUELS, WON, ExecutorRating
from tests.adversarial.duels.strategy import QUICK, WIDE, Per, Scene, Strategy, in_prices
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import Agent, Request, Text


class Small(Agent):
    """A model that costs a third, and wins against one of the others as seldom as the smallest of the paper's."""

    loss, saved = 0.72, 0.66

    def write(self, market: LedgerMarket, request: Request) -> Text:
        self.spend((1 - self.saved) * self.cost * market.compute_price(request))
        return self.make_text(market, request, self.quality - self.loss + market.random.gauss(0, 1))


class Middle(Small):
    """A model that costs three quarters, and loses a little more often."""

    loss, saved = 0.16, 0.27


WIN_RATES = {Small: 0.345, Middle: 0.465}
"""Share of the duels with honest agents that each wins, with the judges of these markets."""


def give_history(market: LedgerMarket) -> None:
    """Begin with the results that each cheap model has in the long run, from requests of many payers."""
    ratings, random = {}, market.random
    for agent in market.agents.values():
        if (rate := WIN_RATES.get(type(agent))) is not None:  # type: ignore[call-overload]
            results = [WON if random.random() < rate else LOST for _ in range(RATED_DUELS)]
            entries = b"".join(random.randbytes(8) + bytes([result]) for result in results)
            ratings[rating_key(agent.public_key)] = ExecutorRating(RATED_DUELS, entries)
    state = market.state.update(ratings)
    table = compute_serving_table(state, market.genesis.parameters, market.genesis.beacon)
    market.state = state.update({table_key(0): table})


STRATEGIES = [
    Strategy(
        f"{title}; without an identity",
        Scene(agent, share=0.1, prepare=give_history, per_block=32),
        in_prices(9_539 * (simulated - 1)),
        Per.SHARE,
        size=WIDE,
        quick=quick,
        accepted=accepted,
        limit=limit,
    )
    for title, agent, simulated, accepted, limit, quick in (
        ("0.6B as 8B, saves 66 %", Small, 0.52, "", 0.0, QUICK),
        ("4B as 8B, saves 27 %", Middle, 1.04, "two models so much alike cannot be told apart by opinions", 60.0, None),
    )
]
