"""Players of known win rates on the real ledger, and the parameters with which it plays a game of the paper.

The market is :class:`tests.support.strategies.ledger_market.LedgerMarket`: its blocks, draws, verdicts and payments
are those of the state machine. Here judges see who is better without error, so that a win rate is exactly what the game
says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.quality.stake_dynamics import Game
from chain.crypto import hash_bytes
from chain.exceptions import GenesisError
from chain.parameters.duel_economics import check_duels
from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import CREDIT, Parameters, Price
from chain.state.duel_records import JudgeSeat
from chain.types.duels import A, B, DuelBallot
from chain.types.operations import Bond, Operation, Transfer, Unbond
from tests.support.keys import make_key
from tests.support.strategies.ledger_market import MARKET_PARAMETERS, LedgerMarket
from tests.support.strategies.market_agents import Agent, Case, Payer, Request, Served, Text

UNIT = CREDIT
"""Micro-credits of a unit of the games: what a request brings."""
ROUND_HEIGHTS = 2
"""Blocks of a round: a changed stake counts for the draws two rounds later."""
STAGE_MS = 1_000
"""Longest stage of a duel; none lasts so long, since all players do their duties at once."""
CAPITAL = 1_000 * UNIT
"""What a player has beside its stake, so that it can pay its costs before its income comes."""
SINK = make_key("costs of players").public_key
"""The account that costs are paid to."""
PRICE_STEP = 1.01
"""Steps in which a price is looked for that pays for the judges."""
MAX_PRICE_STEPS = 1_000
GAME_ROUND_BLOCKS = 8
"""Blocks after which players put their income into their stake, or take a loss out of it."""


@dataclass(eq=False)
class Player(Agent):
    """A member of a class, which beats one of another as often as the qualities say: (1 + difference) / 2.

    Unlike in the game, judges are paid on the ledger. A player that is ``frugal`` gives that away, pays what its
    answers cost, and keeps the rest as its stake. Members of a ``coalition`` vote for each other.
    """

    group: int = 0
    frugal: bool = False
    coalition: bool = False
    paid: float = 0.0
    capital: int = CAPITAL
    seen: int = 0

    def serve(self, market: LedgerMarket, request: Request) -> Served:
        self.spend(self.cost * UNIT)
        return Served(self.make_text(market, request, self.quality))

    def challenge(self, market: LedgerMarket, case: Case) -> Text | None:
        return self.make_text(market, case.request, self.quality)

    def vote(self, market: LedgerMarket, case: Case, seat: JudgeSeat) -> DuelBallot | None:
        first, second = (case.challenge, case.answer) if seat.is_reversed else (case.answer, case.challenge)
        if first is None or second is None:
            return DuelBallot(0)
        friends = [self.coalition and is_of_coalition(market, text) for text in (first, second)]
        if friends[0] != friends[1]:
            return DuelBallot(A if friends[0] else B)
        return DuelBallot(A if compare_by_quality(first, second) > 0 else B)

    def act(self, market: LedgerMarket) -> list[Operation]:
        if not self.frugal or market.head.height % GAME_ROUND_BLOCKS:
            return []
        return self.settle(market)

    def settle(self, market: LedgerMarket) -> list[Operation]:
        """Pay the costs, and put what is left into the stake; or take what is missing out of it."""
        account = market.state.account(self.public_key)
        due = int(self.spent - self.paid) + self.count_judge_income(market)
        due = min(due, account.available)
        if not due and account.available == self.capital:
            return []
        self.paid += min(due, int(self.spent - self.paid))
        left = account.available - due - self.capital
        transfer = Transfer(account.nonce, SINK, due)
        if left >= 0:
            return [transfer, Bond(account.nonce + 1, left)]
        taken = min(-left, account.free_bond)
        self.capital -= taken
        return [transfer, Unbond(account.nonce + 1, taken)] if taken else [transfer]

    def count_judge_income(self, market: LedgerMarket) -> int:
        """What it was paid as a judge since it was last asked, in micro-credits."""
        income = 0
        for event in market.settled[self.seen :]:
            if any(seat.public_key == self.public_key for seat in event.duel.seats):
                income += sum(move.amount for move in event.movements if move.public_key == self.public_key)
        self.seen = len(market.settled)
        return income


def is_of_coalition(market: LedgerMarket, text: Text) -> bool:
    """Whether a player that colludes has written a text."""
    author = market.agents[text.author]
    return isinstance(author, Player) and author.coalition


def compare_by_quality(first: Text, second: Text) -> float:
    """1 if the first is better, else −1: drawn once for each pair of texts, whoever looks and in whichever order."""
    is_swapped = first.digest > second.digest
    low, high = (second, first) if is_swapped else (first, second)
    drawn = int.from_bytes(hash_bytes("benchmark pair", low.digest, high.digest)[:8], "big") / 2**64
    is_low_better = drawn < (1 + low.score - high.score) / 2
    return 1.0 if is_low_better != is_swapped else -1.0


def make_players(
    groups: Sequence[tuple[float, float, float]], accounts: int, friends: int | None = None
) -> list[Player]:
    """``accounts`` of each of some ``groups``: of a quality, a cost in units, and a stake of all together in units."""
    return [
        Player(
            f"{group}/{number}",
            quality=quality,
            cost=cost,
            bonded=int(stake * UNIT / accounts),
            available=CAPITAL,
            group=group,
            coalition=group == friends,
        )
        for group, (quality, cost, stake) in enumerate(groups)
        for number in range(accounts)
    ]


def make_parameters(duels: DuelParameters, price: float) -> Parameters:
    """Those of a ledger on which every answer costs ``price`` units, and nothing else costs anything."""
    per_request = int(price * UNIT)
    return replace(
        MARKET_PARAMETERS,
        round_heights=ROUND_HEIGHTS,
        min_service_bond=max(CREDIT, per_request * duels.lock // 1_000),
        fee_per_byte=0,
        entry_fee=0,
        deposit_per_byte=0,
        unused_number_fee=0,
        price=Price(per_request, 0, 0),
        duels=replace(duels, answer_ms=STAGE_MS, commit_ms=STAGE_MS, reveal_ms=STAGE_MS),
    )


def fit_parameters(game: Game) -> Parameters:
    """Parameters with which the ledger plays a game: an executor gets R less the levy, wins R_add and loses P.

    The price is so much more than R that the levy pays for the judges; challengers earn and pay nothing, as in the
    paper. They pass the check of every genesis.

    Raises:
        ValueError: no price pays for the judges.
    """
    for step in range(1, MAX_PRICE_STEPS):
        price = game.reward * PRICE_STEP**step
        levy = round((price - game.reward) / price / game.duel_rate * 1_000)
        won, lost = (round(1_000 * amount / price) for amount in (game.bonus, game.penalty))
        duels = DuelParameters(
            rate=round(1_000 * game.duel_rate),
            lock=lost,
            executor_won=won,
            executor_lost=lost,
            challenger=0,
            challenger_lost=0,
            judge=max(300, -(-(won + lost - 50) // 2)),
            silence=0,
            void=0,
            fraud=0,
            levy=levy,
            probation_duels=0,
            probation_rate=0,
            exposure_exponent=0,
        )
        parameters = make_parameters(duels, price)
        try:
            check_duels(parameters)
        except GenesisError:
            continue
        return parameters
    raise ValueError("no price pays for the judges of this game")


def play_on_ledger(game: Game, requests: int, seed: int, per_block: int = 4) -> list[float]:
    """The stakes of all classes in units after a number of requests on the real ledger.

    Raises:
        ValueError: the game does not say how many accounts there are.
    """
    if game.accounts is None:
        raise ValueError("players are counted")
    groups = list(zip(game.qualities, game.costs, game.stakes, strict=True))
    players = make_players(groups, game.accounts, game.friends)
    for player in players:
        player.frugal = True
    payers = [Payer(f"user {number}") for number in range(per_block)]
    treasury = int(sum(game.stakes) * UNIT)  # so that the first duels can be paid
    market = LedgerMarket(players, payers, seed=seed, parameters=fit_parameters(game), treasury=treasury)
    market.run(requests, per_block)
    stakes = [0.0] * len(groups)
    for player in players:
        account = market.state.account(player.public_key)
        owed = player.spent - player.paid + player.count_judge_income(market)
        stakes[player.group] += (account.bonded + account.available - player.capital - owed) / UNIT
    return stakes
