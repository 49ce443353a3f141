"""Accounts with nothing to lose: newcomers, new names after a fraud, and bonds that leave before the verdict."""

from __future__ import annotations

from chain.types.operations import Operation, Transfer, Unbond
from tests.adversarial.duels.rubbish import LongRubbish
from tests.adversarial.duels.strategy import ATTACKER, QUICK, Scene, Size, Strategy, in_prices
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import Agent, Request, Served

VAULT = f"{ATTACKER} 0"
"""The account that takes what others were paid, and serves no one."""
KEPT, SWEPT = 3_000, 1_000
"""What an account keeps for its fees, and what it moves at least, in micro-credits."""
FIRST_LEAVE = 4
"""Height from which on a bond leaves."""


class Sweeping(LongRubbish):
    """Moves all that it is paid to an account that serves no one, before a verdict can reach it."""

    def act(self, market: LedgerMarket) -> list[Operation]:
        account = market.state.account(self.public_key)
        amount = account.available - KEPT
        vault = next(agent for agent in market.agents.values() if agent.name == VAULT)
        if vault is self or amount < SWEPT:
            return []
        return [Transfer(account.nonce, vault.public_key, amount)]

    def accepts(self, market: LedgerMarket, request: Request) -> bool:
        return self.name != VAULT


class Whitewashing(Sweeping):
    """Each account serves until it is first accused; then the next one takes its place."""

    def accepts(self, market: LedgerMarket, request: Request) -> bool:
        accused = {event.duel.executor for event in market.accused}
        names = [agent for agent in market.agents.values() if agent.owner == ATTACKER and agent.name != VAULT]
        current = next((agent for agent in names if agent.public_key not in accused), names[-1])
        return current is self


class Leaving(LongRubbish):
    """Takes all of its bond back as soon as it can, in each block."""

    def act(self, market: LedgerMarket) -> list[Operation]:
        account = market.state.account(self.public_key)
        if market.head.height < FIRST_LEAVE or not account.free_bond:
            return []
        return [Unbond(account.nonce, account.free_bond)]


class Patient(Sweeping):
    """Answers well until it is off probation, and again after each fraud."""

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        if market.is_on_probation(self):
            return Served(self.write(market, request))
        return super().serve(market, request)


NEWCOMER = (("bonded", 0), ("available", 10_000), ("duels_before", 0), ("judges", False))
LONG = Size(5_000, 3)
OUT_OF_REACH = "with the minimum bond all further pay is available; few get there before they are found"


def make_newcomers(
    title: str,
    agent: type[Agent],
    accounts: int = 1,
    simulated: float | None = None,
    *,
    stays_away: bool = True,
    limit: float = 0.0,
    quick: Size | None = None,
) -> Strategy:
    """A strategy of accounts without a bond, whose income is bonded. A limit above 0 says what is accepted."""
    return Strategy(
        title,
        Scene(agent, accounts=accounts, share=0.1, options=NEWCOMER, per_block=32),
        None if simulated is None else in_prices(simulated),
        stays_away=stays_away,
        size=LONG,
        quick=quick,
        accepted=OUT_OF_REACH if limit else "",
        limit=limit,
    )


STRATEGIES = [
    make_newcomers("newcomer with long rubbish", LongRubbish, 1, -9_731, quick=QUICK),
    make_newcomers("newcomer with long rubbish that moves its income away", Sweeping, 2, quick=QUICK),
    make_newcomers("eight of them", Sweeping, 9),
    make_newcomers("a new name after each fraud", Whitewashing, 30),
    make_newcomers("eight newcomers that are honest while on probation", Patient, 9, stays_away=False, limit=100.0),
    Strategy("long rubbish by a bond that leaves before the verdict", Scene(Leaving)),
]
