"""Executors that save the cost of an answer: always, by chance, or when they believe that no one will look."""

from __future__ import annotations

from chain.types.operations import FINISH_CANCELLED
from tests.adversarial.duels.strategy import LONG, QUICK, Scene, Size, Strategy, in_prices
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import RUBBISH, Agent, Request, Served


class LongRubbish(Agent):
    """Answers with a text of the length that was asked for, for nothing; honest in all else."""

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        return Served(self.make_text(market, request, RUBBISH))


class ShortRubbish(Agent):
    """Answers with ten tokens."""

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        return Served(self.make_text(market, request, RUBBISH, completion_bytes=40))


class Cancelling(Agent):
    """Calls its rubbish broken off, and shows no receipt."""

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        return Served(self.make_text(market, request, RUBBISH), FINISH_CANCELLED, is_receipted=False)


class Sometimes(Agent):
    """Answers well with probability ``diligence``, by chance.

    Attributes:
        rubbish: the digests of the other answers.
    """

    diligence = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rubbish: set[bytes] = set()

    def believes(self, market: LedgerMarket) -> bool:
        """Whether it believes that the answer will be compared."""
        return market.random.random() < self.diligence

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        if self.believes(market):
            return Served(self.write(market, request))
        text = self.make_text(market, request, RUBBISH)
        self.rubbish.add(text.digest)
        return Served(text)


class Mostly(Sometimes):
    """Answers well three times of four."""

    diligence = 0.75


class AfterSilence(Sometimes):
    """Believes that a duel is due when it has had none for long; but chance has no memory."""

    patience_ms = 2_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.last_ms = 0

    def believes(self, market: LedgerMarket) -> bool:
        now = market.head.chain_time
        if any(case.duel.executor == self.public_key for case in market.cases.values()):
            self.last_ms = now
        return now - self.last_ms > self.patience_ms


class WhileFew(Sometimes):
    """Believes that the fewer duels are open, the sooner one opens."""

    def believes(self, market: LedgerMarket) -> bool:
        return len(market.cases) < 2


class HitAndRun(LongRubbish):
    """Takes no requests any more once it is accused."""

    def accepts(self, market: LedgerMarket, request: Request) -> bool:
        return all(event.duel.executor != self.public_key for event in market.accused)


BELIEFS = {
    "it has had none for 2 s": Scene(AfterSilence),
    "fewer than two are open": Scene(WhileFew),
}
"""Those who believe that they can tell which answers will be compared."""


def compare_shares(scene: Scene, size: Size) -> tuple[int, int, int, int]:
    """What one believes, and what happens: its answers, those that are rubbish, its duels, and those about rubbish."""
    answers = rubbish = duels = caught = 0
    for seed in range(size.seeds):
        market = scene.play(size.requests, seed)
        (agent,) = (each for each in market.agents.values() if isinstance(each, Sometimes))
        answers += agent.counts["served"]
        rubbish += len(agent.rubbish)
        digests = [each.duel.response_digest for each in market.settled if each.duel.executor == agent.public_key]
        duels += len(digests)
        caught += sum(digest in agent.rubbish for digest in digests)
    return answers, rubbish, duels, caught


STRATEGIES = [
    Strategy("long rubbish", Scene(LongRubbish), in_prices(-190_632), size=LONG, quick=QUICK),
    Strategy("short rubbish", Scene(ShortRubbish), in_prices(-151_889), size=LONG),
    Strategy("answers well with probability 0.75", Scene(Mostly), in_prices(-28_532), size=LONG),
    Strategy("answers well with probability 0.5", Scene(Sometimes), in_prices(-95_888), size=LONG),
    Strategy(
        "rubbish called broken off, without receipt", Scene(Cancelling), in_prices(-190_632), size=LONG, quick=QUICK
    ),
    Strategy("rubbish until the first accusation, then gone", Scene(HitAndRun), size=LONG),
    *(
        Strategy(f"answers well when it believes in a duel: {title}", scene, size=LONG)
        for title, scene in BELIEFS.items()
    ),
]
