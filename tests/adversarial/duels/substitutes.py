"""Executors that declare an identity and serve other weights, and forge what checkers are to see.

What checkers come to are numbers that were measured of real answers by such weights
(:mod:`tests.adversarial.duels.measure_checks`). The dearer model costs half of the price. As in
:mod:`tests.adversarial.duels.cheaper`, one cheap model saves 66 % of that and another 27 %, by the paper's models; the
first has the numbers of a model without four of thirty layers, the second those of rounded weights. To score an answer
with the declared weights costs :data:`chain.parameters.check_economics.SCORING_COST`. The ratings are those of an
honest executor in the beginning, so that judges, who see such a model late, help little.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from chain.parameters.check_economics import SCORING_COST
from chain.parameters.checks import CheckParameters
from chain.state.sequential_test import SubstitutionTest
from chain.types.operations import Operation
from tests.adversarial.duels.cheaper import Middle, Small
from tests.adversarial.duels.strategy import OFTEN, Per, Scene, Size, Strategy, in_prices
from tests.support.strategies.check_market import HONEST, IDENTITIES, CheckCase, CheckedAgent, CheckMarket, Transcript
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import RUBBISH, Request, Text

CHECKS = CheckParameters(commit_ms=1_000, reveal_ms=1_000)
"""Amounts and limits as a public chain begins with them; times short, so that silence costs few blocks."""
SCORED = SCORING_COST / 1_000 / 0.5
"""What it costs to score an answer, as a share of the cost of an answer."""


@dataclass(eq=False)
class Substitute(CheckedAgent):
    """Serves other weights than it declares. After it was found it declares them again at once, and goes on.

    ``saved`` is the share of the cost of an answer that it saves, ``loss`` by how much its answers are worse.

    Attributes:
        honest: the digests of the answers by the declared weights.
    """

    weights: str = "rounded"
    saved: float = Middle.saved
    loss: float = Middle.loss
    honest: set[bytes] = field(default_factory=set)

    def cheats(self, market: CheckMarket) -> bool:
        """Whether it serves the other weights now."""
        return True

    def declares_again(self, market: CheckMarket) -> bool:
        """Whether it declares the identity again that it has lost."""
        return True

    def act(self, market: LedgerMarket) -> list[Operation]:
        assert isinstance(market, CheckMarket)
        if market.is_declared(self) or not self.declares_again(market):
            return []
        self.counts["declared again"] += 1
        return [market.make_declaration(self)]

    def write(self, market: LedgerMarket, request: Request) -> Text:
        assert isinstance(market, CheckMarket)
        text = super().write(market, request)
        if not self.cheats(market):
            self.honest.add(text.digest)
            return text
        self.spend(-self.saved * self.cost * market.compute_price(request))
        return replace(text, score=text.score - self.loss)

    def transcribe(self, market: CheckMarket, text: Text) -> Transcript | None:
        if text.digest in self.honest:
            return self.make_transcript(market, text, HONEST)
        return self.forge(market, text)

    def forge(self, market: CheckMarket, text: Text) -> Transcript | None:
        """The transcript of an answer by the other weights: as it is."""
        return self.make_transcript(market, text, self.weights)


class Replaying(Substitute):
    """Hands in the transcript of an answer that the declared weights gave earlier."""

    def forge(self, market: CheckMarket, text: Text) -> Transcript:
        return replace(self.make_transcript(market, text, HONEST), answer=bytes(32))


class Withholding(Substitute):
    """Commits to transcripts, and gives none to anyone."""

    def hands_transcript(self, market: CheckMarket, case: CheckCase, reader: CheckedAgent) -> bool:
        return False


class Uncommitted(Substitute):
    """Commits to no transcript."""

    def forge(self, market: CheckMarket, text: Text) -> None:
        return None


class LyingLow(Substitute):
    """After it was found it serves the declared weights, without an identity, until its probation is over."""

    def cheats(self, market: CheckMarket) -> bool:
        return not market.is_on_probation(self)

    def declares_again(self, market: CheckMarket) -> bool:
        return not market.is_on_probation(self)


UNKNOWN = 5
"""Checks of its latest answers that one expects to be drawn yet."""


class Watching(Substitute):
    """Cheats as long as its history, which all can see, leaves room for more failed checks than it has open."""

    def cheats(self, market: CheckMarket) -> bool:
        history = market.state.check_history(self.public_key, IDENTITIES[0].digest)
        test = SubstitutionTest.make(CHECKS.honest_shortfall_ppm, CHECKS.honest_distance_ppm)
        is_mine = (case.check.executor == self.public_key for case in market.checks.values())
        for _ in range(UNKNOWN + sum(is_mine)):
            history = test.add(history, True, True)
        return not test.is_substitution(history)


class HotOnly(Substitute):
    """Serves other weights where the tokens are drawn at temperature 1, and chance has a part in them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.is_hot = False

    def cheats(self, market: CheckMarket) -> bool:
        self.is_hot = market.random.random() < 0.5
        return self.is_hot

    def transcribe(self, market: CheckMarket, text: Text) -> Transcript:
        if text.digest in self.honest:
            return self.make_transcript(market, text, HONEST, (0.0,))
        return self.make_transcript(market, text, self.weights, (1.0,))


LONG = Size(6_000, 4)
Options = tuple[tuple[str, object], ...]
HONEST_SCENE = Scene(CheckedAgent, others=CheckedAgent, honest_agent=CheckedAgent, checks=CHECKS)
"""A third of the stake under an identity."""
CHECKED_OFTEN, ENOUGH = replace(OFTEN, lock=2_000, void=200, fraud=2_000), Size(600, 6)
"""Every second answer is checked, with the fines that are enough then: so that what honest executors gain by checks is
known sooner."""


def make_strategy(
    title: str,
    agent: type[Substitute],
    options: Options,
    simulation: float | None = None,
    *,
    size: Size = LONG,
    accepted: str = "",
    limit: float = 0.0,
) -> Strategy:
    """A strategy against checks, simulated in micro-credits an answer."""
    return Strategy(
        f"other weights than declared: {title}",
        replace(HONEST_SCENE, agent=agent, options=options),
        None if simulation is None else in_prices(simulation),
        Per.SHARE,
        HONEST_SCENE,
        size=size,
        accepted=accepted,
        limit=limit,
    )


def weigh(weights: str, model: type[Small], costs: float = 0.0) -> Options:
    """Transcripts of some weights by a model that saves what it does without an identity, less what a forgery costs."""
    return (("weights", weights), ("saved", model.saved - costs), ("loss", model.loss))


MIDDLE, SMALL = weigh("rounded", Middle), weigh("26 layers", Small)
FORGED_MIDDLE, FORGED_SMALL = (
    weigh("rounded, supplied", Middle, SCORED),
    weigh("26 layers, supplied", Small, SCORED),
)
RUBBISH_SCORED = (("weights", "22 layers, supplied"), ("saved", 1 - SCORED), ("loss", -RUBBISH))
BY_CHANCE = "at temperature 1 ten tokens seldom fall short by more than those of honest answers may"
LATE = "when it is proven, by answers at temperature 0 alone, it has saved more than the fine"
WITHIN_LIMITS = "who fails no more checks than honest executors may fail is not told from them"
STRATEGIES = [
    Strategy(
        "honest: declares an identity, is checked and checks, over declaring none",
        scene := replace(HONEST_SCENE, duels=CHECKED_OFTEN),
        None,
        Per.SHARE,
        replace(scene, options=(("declares", False),)),
        size=ENOUGH,
    ),
    make_strategy("saves 27 %", Substitute, MIDDLE, -15_600),
    make_strategy("saves 66 %", Substitute, SMALL, -11_700),
    make_strategy("saves 27 %, log-probabilities made up", Substitute, weigh("rounded, invented", Middle)),
    make_strategy("saves 66 %, log-probabilities made up", Substitute, weigh("26 layers, invented", Small)),
    make_strategy("saves 66 %, transcript of an earlier answer or shortened", Replaying, SMALL),
    make_strategy("saves 66 %, transcript withheld", Withholding, SMALL),
    make_strategy("saves 66 %, no transcript committed to", Uncommitted, SMALL),
    make_strategy("saves 27 %, honest without identity while on probation", LyingLow, MIDDLE),
    make_strategy("saves 66 %, honest without identity while on probation", LyingLow, SMALL),
    make_strategy(
        "cheap model writes and saves 27 %, declared one scores",
        Substitute,
        FORGED_MIDDLE,
        size=replace(LONG, seeds=8),
        accepted=LATE,
        limit=90.0,
    ),
    make_strategy(
        "cheap model writes and saves 66 %, declared one scores", Substitute, FORGED_SMALL, accepted=LATE, limit=250.0
    ),
    make_strategy("rubbish, which the declared model scores", Substitute, RUBBISH_SCORED),
    make_strategy(
        "saves 27 %, declared one scores, at temperature 1 only",
        HotOnly,
        FORGED_MIDDLE,
        accepted=BY_CHANCE,
        limit=120.0,
    ),
    make_strategy(
        "saves 66 %, declared one scores, at temperature 1 only", HotOnly, FORGED_SMALL, accepted=BY_CHANCE, limit=220.0
    ),
    make_strategy("rubbish, declared one scores, at temperature 1 only", HotOnly, RUBBISH_SCORED),
    make_strategy(
        "saves 27 %, as long as its history leaves room", Watching, MIDDLE, accepted=WITHIN_LIMITS, limit=80.0
    ),
    make_strategy(
        "saves 66 %, as long as its history leaves room", Watching, SMALL, accepted=WITHIN_LIMITS, limit=220.0
    ),
    make_strategy(
        "saves 27 %, declared one scores, as its history leaves room",
        Watching,
        FORGED_MIDDLE,
        accepted=WITHIN_LIMITS,
        limit=90.0,
    ),
    make_strategy(
        "saves 66 %, declared one scores, as its history leaves room",
        Watching,
        FORGED_SMALL,
        accepted=WITHIN_LIMITS,
        limit=240.0,
    ),
]
