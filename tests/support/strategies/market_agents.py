"""Who takes part in a market on the ledger: agents with a quality, costs and strategies, and payers.

An :class:`Agent` serves, answers as challenger and judges. The methods of the class are what an honest one does; a
strategy is a subclass that overrides some of them. What an honest agent may not use, a coalition may: a :class:`Text`
says who wrote it, and a :class:`Case` who takes part.

Answers are numbers: the quality of its author plus what is chance in one answer, of standard deviation 1. A judge sees
the difference of two numbers, and adds its own taste and some liking for the answer that it sees first. What it adds
follows from the vote, so that an equal judge that repeats the vote comes to the same, mostly.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from chain.crypto import KeyPair, hash_bytes
from chain.parameters.parameters import CREDIT
from chain.state.duel_records import Duel, JudgeSeat
from chain.types.duels import BALLOT_SALT_BYTES, IDENTICAL, A, B, DuelBallot, compute_ballot_commitment
from chain.types.operations import FINISH_CANCELLED, Operation, Usage
from tests.support.keys import make_key

if TYPE_CHECKING:
    from chain.transition.block import Transition
    from tests.support.strategies.ledger_market import LedgerMarket

RUBBISH = -5.0
"""Mean score of an answer that is of no use."""
USABLE = -3.5
"""Least score of an answer that is of some use."""
FLAG_NOISE = 0.5
"""By which share of its taste a judge is wrong about whether an answer is of use."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request of a payer. ``insider`` is the owner whose agents alone can answer it well, if it is rigged."""

    usage: Usage
    insider: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """An answer: who wrote it, how good it is, and how much of the requested length it has."""

    author: bytes
    score: float
    completion_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Served:
    """What an executor claims for an answer. One that ``is_receipted`` shows the payer's receipt where there is one."""

    text: Text
    finish_reason: str = "stop"
    is_receipted: bool = True


@dataclass(slots=True)
class Case:
    """A duel that is open. ``answer`` is None for a judge that cannot obtain the executor's answer, or the request."""

    hold: bytes
    duel: Duel
    payer: Payer
    request: Request
    answer: Text | None
    challenge: Text | None = None


@dataclass(frozen=True, slots=True)
class Perception:
    """How well a judge sees: the standard deviation of its taste, its liking for the first answer, and its noise."""

    taste: float
    position_bias: float
    noise: float


STRONG, MEDIUM, WEAK = Perception(0.8, 0.4, 0.2), Perception(1.2, 0.8, 0.4), Perception(2.5, 2.4, 0.6)
"""Judges that keep their verdict under a swap in about 81, 67 and 41 of 100 pairs of equal answers."""


@dataclass(eq=False)
class Agent:
    """An account that serves one model and judges, honestly. One that does not ``serve`` only judges.

    Money is in micro-credits. An answer costs ``cost`` of its price, a ballot ``judge_cost`` of it. Of 1,000 answers
    ``broken`` are of no use, and of 1,000 ballots ``unstable`` are drawn anew whenever they are asked for: a third of
    these comes out differently. ``duels_before`` are those it has had as executor when the market begins: by default it
    is past its probation. ``owner`` is whom it belongs to: by default itself.

    Attributes:
        spent: what its work has cost so far; the ledger does not know of it.
        counts: what it did, by name.
    """

    name: str
    quality: float = 0.0
    cost: float = 0.5
    judge_cost: float = 0.245
    bonded: int = 1_000 * CREDIT
    available: int = CREDIT
    broken: int = 0
    unstable: int = 75
    duels_before: int = 8
    is_validator: bool = False
    judges: bool = True
    serves: bool = True
    perception: Perception = MEDIUM
    owner: str = ""
    spent: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.owner = self.owner or self.name
        self.key: KeyPair = make_key(f"agent {self.name}")

    @property
    def public_key(self) -> bytes:
        return self.key.public_key

    # As executor.

    def accepts(self, market: LedgerMarket, request: Request) -> bool:
        """Whether it takes a request that it was drawn for; else the payer offers it to the next."""
        return True

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        """Answer a request as executor."""
        return Served(self.write(market, request))

    def hands_over(self, market: LedgerMarket, case: Case, reader: Agent) -> bool:
        """Whether it gives a challenger or judge what it has of a duel in which it is executor or challenger."""
        return True

    # As challenger.

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        """Answer as challenger. It is asked in each block until it does; None: not yet."""
        return self.write(market, case.request)

    # As judge.

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        """Its ballot. It is asked in each block until it commits to one; None: not yet."""
        return self.judge(market, case, seat)

    def commit(self, market: LedgerMarket, case: Case, ballot: DuelBallot) -> bytes:
        """What it commits to."""
        return compute_ballot_commitment(case.hold, self.public_key, self.make_salt(case), ballot)

    def reveals(self, market: LedgerMarket, case: Case) -> bool:
        """Whether it shows its ballot; asked in each block until it does."""
        return True

    def make_salt(self, case: Case) -> bytes:
        return hash_bytes("test salt", self.public_key, case.hold)[:BALLOT_SALT_BYTES]

    # As validator.

    def withholds(self, market: LedgerMarket, transition: Transition) -> bool:
        """Whether it leaves out the block that it leads, having seen what would follow from it."""
        return False

    # As owner of an account.

    def act(self, market: LedgerMarket) -> list[Operation]:
        """Whatever else it does in a block. It is asked before each one."""
        return []

    # What it can do, honestly.

    def write(self, market: LedgerMarket, request: Request) -> Text:
        """An answer as good as it can, at its cost."""
        self.spend(self.cost * market.compute_price(request))
        score = self.quality + market.random.gauss(0, 1)
        if market.random.random() * 1_000 < self.broken or request.insider not in (None, self.owner):
            score = RUBBISH
        return self.make_text(market, request, score)

    def make_text(
        self, market: LedgerMarket, request: Request, score: float, completion_bytes: int | None = None
    ) -> Text:
        """An answer of a given score, for nothing."""
        size = request.usage.completion_bytes if completion_bytes is None else completion_bytes
        return Text(self.public_key, score, size, market.random.randbytes(32))

    def judge(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot:
        """An honest ballot, at its cost: the judge knows which answer it sees first, not whose that is."""
        first, second = (case.challenge, case.answer) if seat.is_reversed else (case.answer, case.challenge)
        answers = ((A, first), (B, second)) if case.duel.challenger else ((A, first),)
        missing = sum(bit for bit, text in answers if text is None)
        if missing:
            return DuelBallot(0, 0, missing)
        self.spend(self.judge_cost * case.duel.amount)
        self.counts["ballots"] += 1
        is_stable = market.random.random() * 1_000 >= self.unstable
        random = Random(case.hold + seat.voter) if is_stable else market.random
        sees = self.perception
        unusable = sum(
            bit
            for bit, text in answers
            if text is not None and text.score + random.gauss(0, FLAG_NOISE * sees.taste) < USABLE
        )
        if first is None or second is None:
            return DuelBallot(0, unusable)
        if first.digest == second.digest:
            return DuelBallot(IDENTICAL, unusable)
        chance = random.gauss(0, sees.taste) + random.gauss(0, sees.noise)
        seen = market.compare(first, second) + sees.position_bias + chance
        return DuelBallot(A if seen > 0 else B, unusable)

    def spend(self, amount: float) -> None:
        """Pay for work, in micro-credits."""
        self.spent += amount


@dataclass(eq=False)
class Payer:
    """An account that sends requests, honestly: every one that it can, with a receipt for every answer.

    ``owner`` is whom it belongs to, by default itself; ``insider`` as in :class:`Request`. ``usage`` is how large its
    requests are, if they are all alike.
    """

    name: str
    available: int = 10**12
    owner: str = ""
    insider: str | None = None
    usage: Usage | None = None
    next_seq: int = 0

    def __post_init__(self) -> None:
        self.owner = self.owner or self.name
        self.key: KeyPair = make_key(f"payer {self.name}")

    def uses(self, market: LedgerMarket, seq: int, payee: bytes) -> bool:
        """Whether it makes a hold under a number; else it leaves that out."""
        return True

    def accepts(self, market: LedgerMarket, request: Request, served: Served) -> bool:
        """Whether it gives a receipt. An honest one does so for any answer that did not break off."""
        return served.finish_reason != FINISH_CANCELLED

    def hands_over(self, market: LedgerMarket, case: Case, reader: Agent) -> bool:
        """Whether it gives a challenger or judge the texts of a duel about its request."""
        return True
