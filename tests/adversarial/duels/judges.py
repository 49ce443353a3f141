"""Judges that save the cost of judging, or do not do what they have committed to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from chain.crypto import hash_bytes
from chain.state.duel_records import JudgeSeat
from chain.types.duels import ABSTAIN, DRAW, A, B, DuelBallot
from chain.types.operations import Operation, Serve
from tests.adversarial.duels.strategy import FULL, OFTEN, QUICK, WIDE, Per, Scene, Strategy, in_prices
from tests.support.chains.duel_chain import JUDGE
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import WEAK, Agent, Case, Request


@dataclass(eq=False)
class JudgeAlone(Agent):
    """An honest judge that serves no one, whose challenges cost nothing, and that goes on once it may.

    So what it has spent it has spent on judging.
    """

    cost: float = 0.0

    def accepts(self, market: LedgerMarket, request: Request) -> bool:
        return False

    def act(self, market: LedgerMarket) -> list[Operation]:
        account = market.state.account(self.public_key)
        record = market.state.judge_record(self.public_key)
        if account.judge is not None or market.head.chain_time < record.benched_until:
            return []
        self.counts["benched"] += 1
        return [Serve(account.nonce, account.models, JUDGE)]


class Lazy(JudgeAlone):
    """Votes without a look."""

    def choose(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot:
        return DuelBallot(market.random.choice((A, B)))

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        return self.choose(market, case, seat)


class FirstIsBetter(Lazy):
    """Votes by position."""

    def choose(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot:
        return DuelBallot(A)


class Focal(Lazy):
    """Votes for the answer with the smaller digest: a rule that all who know it follow alike."""

    def choose(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot:
        if case.answer is None or case.challenge is None:
            return DuelBallot(A)
        is_answer_less = case.answer.digest < case.challenge.digest
        return DuelBallot(A if is_answer_less != seat.is_reversed else B)


class Unseen(Lazy):
    """Votes on digests without asking for the texts, by a secret rule of its own."""

    def choose(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot:
        digest = hash_bytes("test rule", self.public_key, case.hold)
        return DuelBallot(A if digest[0] & 1 else B)


class AlwaysDraw(Lazy):
    """Calls all answers equal."""

    def choose(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot:
        return DuelBallot(DRAW)


class AlwaysAbstains(Lazy):
    """Has no opinion."""

    def choose(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot:
        return DuelBallot(ABSTAIN)


class Unrevealed(JudgeAlone):
    """Judges, commits, and keeps its ballots back."""

    def reveals(self, market: LedgerMarket, case: Case) -> bool:
        return False


class HidesRepeated(Lazy):
    """Guesses, and keeps the ballot back when it learns that another account repeats the vote."""

    def reveals(self, market: LedgerMarket, case: Case) -> bool:
        return all(self.public_key not in (seat.repeats, seat.public_key) for seat in case.duel.repeats)


class CopiesCommits(Lazy):
    """Commits to what another judge has committed to, and cannot show what that is."""

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        return self.choose(market, case, seat) if self.find_commitment(case) else None

    def commit(self, market: LedgerMarket, case: Case, ballot: DuelBallot) -> bytes:
        commitment = self.find_commitment(case)
        assert commitment is not None
        return commitment

    def find_commitment(self, case: Case) -> bytes | None:
        made = [seat.commitment for seat in case.duel.all_seats if seat.public_key != self.public_key]
        return next((commitment for commitment in made if commitment is not None), None)


class Away(JudgeAlone):
    """Does nothing when it is asked to judge."""

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        return None


BENCHED = replace(OFTEN, bench_ms=1_000)
"""Who is found guessing may go on soon: so that there is more than one finding to count."""
SHARE = 1 / 3
"""Stake of the judge: as it is one account, it has one seat of three at most."""
HONEST = Scene(JudgeAlone, share=SHARE, duels=BENCHED)
HONEST_JUDGE = Strategy("judges honestly, over not judging", HONEST, in_prices(848), Per.VOTE, stays_away=True)


def make_judge(
    title: str, agent: type[JudgeAlone], simulated: float | None, *, is_slow: bool = False, is_quick: bool = False
) -> Strategy:
    """A strategy of a judge alone; simulated in micro-credits a vote, less what an honest judge gained.

    Fines are rare and large, so that what loses little by them is seen in many votes only.
    """
    simulation = None if simulated is None else in_prices(simulated - 848)
    size, quick = WIDE if is_slow else FULL, QUICK if is_quick else None
    return Strategy(title, replace(HONEST, agent=agent), simulation, Per.VOTE, HONEST, size=size, quick=quick)


class OneSided(Agent):
    """A judge whose verdicts depend on the order of the answers more often than not."""

    def __post_init__(self) -> None:
        self.perception = WEAK
        super().__post_init__()


ONE_SIDED = replace(HONEST, others=OneSided, options=(("perception", WEAK),))
STRATEGIES = [
    make_judge("votes at random", Lazy, -7_781, is_slow=True),
    make_judge("votes by position", FirstIsBetter, -7_781, is_slow=True),
    make_judge("votes for the smaller digest", Focal, -7_736, is_slow=True),
    make_judge("votes on digests without the texts", Unseen, None, is_slow=True),
    make_judge("always calls it a draw", AlwaysDraw, -11_688, is_quick=True),
    make_judge("always abstains", AlwaysAbstains, None),
    make_judge("copies commitments", CopiesCommits, None),
    make_judge("keeps its ballots back", Unrevealed, -4_172),
    make_judge("guesses, and hides repeated votes", HidesRepeated, None, is_quick=True),
    make_judge("does not judge when asked", Away, None),
    Strategy(
        "votes by position, where all judges keep 41 % of verdicts under a swap and look once",
        replace(ONE_SIDED, agent=FirstIsBetter),
        None,
        Per.VOTE,
        ONE_SIDED,
        size=WIDE,
        accepted="who prefers a place that much is to declare itself weak, and to look twice",
        limit=250.0,
    ),
]
