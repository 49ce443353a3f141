"""A third of the stake in one hand: its judges vote for their own, against a victim, or keep back what they know."""

from __future__ import annotations

from chain.state.duel_records import JudgeSeat
from chain.types.duels import A, B, DuelBallot
from tests.adversarial.duels.rubbish import LongRubbish
from tests.adversarial.duels.strategy import FULL, OFTEN, WIDE, Per, Scene, Size, Strategy, in_prices
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import Agent, Case, Text

VICTIM = "victim"


def owns(market: LedgerMarket, text: Text | None, owner: str) -> bool:
    """Whether an answer is by an account of an owner."""
    return text is not None and market.agents[text.author].owner == owner


def choose(seat: JudgeSeat, *, is_for_executor: bool, is_other_unusable: bool = False) -> DuelBallot:
    """The ballot for one of the two."""
    better = A if is_for_executor != seat.is_reversed else B
    return DuelBallot(better, (A | B) ^ better if is_other_unusable else 0)


class Partisan(Agent):
    """Votes for an answer of its owner, without a look; else honestly."""

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        sides = [owns(market, text, self.owner) for text in (case.answer, case.challenge)]
        if sides[0] != sides[1]:
            return choose(seat, is_for_executor=sides[0])
        return self.judge(market, case, seat)


class PartisanRubbish(Partisan, LongRubbish):
    """Answers with rubbish, and votes for it."""


class Holding(Partisan):
    """Votes honestly, and keeps back each vote that would hurt its own."""

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        return self.judge(market, case, seat)

    def reveals(self, market: LedgerMarket, case: Case) -> bool:
        mine = next((seat for seat in case.duel.seats if seat.public_key == self.public_key), None)
        ballot = market._ballots.get((case.hold, self.public_key))
        if mine is None or ballot is None:
            return True
        for_executor = (ballot.better == A) != mine.is_reversed
        hurt = case.challenge if for_executor else case.answer
        return not owns(market, hurt, self.owner)


class Hostile(Partisan):
    """Votes for its own, and against a victim: it calls the victim's answers unusable."""

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        victims = [owns(market, text, VICTIM) for text in (case.answer, case.challenge)]
        if victims[0] != victims[1]:
            return choose(seat, is_for_executor=victims[1], is_other_unusable=True)
        return Partisan.vote(self, market, case, seat)


class Starving(Agent):
    """Answers no challenge to a victim."""

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        if market.agents[case.duel.executor].owner == VICTIM:
            return None
        return self.write(market, case.request)


class OneVictim(Agent):
    """One of the others is the victim: the first of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "other 0":
            self.owner = VICTIM


ONE, EIGHT = (1, "in one account"), (8, "in eight accounts")
"""How a coalition splits its stake."""


def make_coalition(
    title: str,
    agent: type[Agent],
    split: tuple[int, str],
    simulated: float | None = None,
    *,
    size: Size = FULL,
    accepted: str = "",
    limit: float = 0.0,
) -> Strategy:
    """A strategy of a third of the stake; simulated in micro-credits an answer."""
    accounts, text = split
    return Strategy(
        f"a third of the stake {text}: {title}",
        Scene(agent, accounts=accounts, others=OneVictim),
        None if simulated is None else in_prices(simulated),
        size=size,
        accepted=accepted,
        limit=limit,
    )


SOME = "it has two of three judges of some duels by chance"
STRATEGIES = [
    make_coalition("good answers, votes for its own", Partisan, ONE),
    make_coalition("good answers, votes for its own", Partisan, EIGHT, 418, accepted=SOME, limit=50.0),
    make_coalition("long rubbish, votes for its own", PartisanRubbish, ONE, -193_261),
    make_coalition("long rubbish, votes for its own", PartisanRubbish, EIGHT, -16_276, size=WIDE),
    make_coalition("keeps back votes that hurt its own", Holding, ONE),
    make_coalition("keeps back votes that hurt its own", Holding, EIGHT),
    make_coalition("votes for its own and against a victim", Hostile, ONE, accepted=SOME, limit=20.0),
    make_coalition("votes for its own and against a victim", Hostile, EIGHT, accepted=SOME, limit=60.0),
    Strategy(
        "the same: what the victim gets by each duel that it is compared in",
        Scene(Hostile, accounts=8, others=OneVictim, duels=OFTEN),
        in_prices(-2_519),
        Per.DUEL,
        owner=VICTIM,
    ),
    make_coalition(
        "answers no challenge to a victim",
        Starving,
        EIGHT,
        accepted="a competitor may gain a little of what its victim loses",
        limit=20.0,
    ),
]
