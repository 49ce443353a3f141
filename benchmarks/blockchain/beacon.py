"""What an adversary with just under a third of the stake gains by withholding blocks from the beacon, and what it pays.

A leader of the last views of an epoch knows the beacon that its own block would end with. It may leave the view to the
next leader instead, and then pays the missed-lead fee. The adversary plays this as well as it can. It knows all leaders
of the epoch. Whenever it leads, it looks at every way to fill the remaining heights in the views that it leads in a
row, each with the beacon that would come out. It compares them with leaving the end to others, which is worth what may
be expected from there, and takes the best, fees counted. In earlier views it may leave out blocks only to move the last
height into a view that it leads.

The prize is draws of the next epoch: a number of requests that are worth one fee each (by default the fee is the price
of a request), or one draw that is worth a hundred. The reference is what its stake alone would bring. The income is
what the draws bring less the fees, in fees.

Epochs are simulated with the beacon, the hash chains and the leader draw of the chain, everything derived from the
number of the epoch: one seed gives the same figures in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import prod
from statistics import NormalDist

from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain.crypto import hash_bytes
from chain.parameters.parameters import Parameters
from chain.state.beacon import Beacon, HashChain
from chain.types.validators import ValidatorSet

COMMITTEE = 30
"""Validators."""
STAKE = 10_000
"""Stake of each; the adversary has one less than a third of the sum."""

HEIGHTS = 24
"""Last heights of an epoch that are played. More bring little: to move the end from so far costs too much."""

MAX_RUN = 12
"""Most views in a row that the adversary looks ahead to."""
GRID = 60
"""Steps of the numerical integration over what an unknown end may bring."""
SEED_EPOCHS = 1_000_000
"""Distance between the first epochs of two seeds."""
GAMES = (("one draw", 1, 100.0), ("100 requests", 100, 100.0), ("1,000 requests", 1_000, 1_000.0))
"""Names, numbers of draws, and what all of them are worth in fees."""


@dataclass(frozen=True)
class Game:
    """One kind of adversary: how many keys its stake is split into, and how many draws it cares about.

    Its keys lead in turn, which opens more ways to the end: the reveals of one key always come in the same order.
    ``worth`` is that of all draws together, in fees.
    """

    keys: int
    draws: int
    worth: float

    @cached_property
    def committee(self) -> ValidatorSet:
        third = STAKE * COMMITTEE // 3 - 1
        parts = [third // self.keys + (number < third % self.keys) for number in range(self.keys)]
        mine = [(_name(b"adversary", number), part) for number, part in enumerate(parts)]
        return ValidatorSet.of(mine + [(_name(b"honest", number), STAKE) for number in range(COMMITTEE * 2 // 3)])

    @cached_property
    def hash_chains(self) -> dict[bytes, list[bytes]]:
        """The reveals of each key of the adversary, in order."""
        hash_chains = {}
        for number in range(self.keys):
            key = _name(b"adversary", number)
            hash_chain = HashChain(hash_bytes("benchmark", key), HEIGHTS)
            reveals, commitment = [], hash_chain.commitment
            while (reveal := hash_chain.find_reveal(commitment)) is not None:
                reveals.append(reveal)
                commitment = reveal
            hash_chains[key] = reveals
        return hash_chains

    @cached_property
    def share(self) -> float:
        """Of the stake."""
        return self.committee.get_stake(self.hash_chains) / self.committee.total_stake

    def measure(self, beacon: Beacon) -> float:
        """The adversary's share of the draws that start from this end of the epoch."""
        source = beacon.end_epoch().previous
        drawn = (self.committee.compute_leader(source, view) for view in range(1, self.draws + 1))
        return sum(key in self.hash_chains for key in drawn) / self.draws

    def value(self, outcome: Outcome) -> float:
        """A share, less what the views left out cost."""
        return outcome.share - outcome.missed / self.worth

    def expect_best(self, left_out: list[int], otherwise: float) -> float:
        """The better of ``otherwise`` and the best of some ends, each unknown, with the numbers of views left out."""
        tolls = sorted(count / self.worth for count in left_out)
        if self.draws == 1:
            value, none = 0.0, 1.0
            for toll in tolls:
                value += none * self.share * max(otherwise, 1 - toll)
                none *= 1 - self.share
            return value + none * otherwise
        shares = NormalDist(self.share, (self.share * (1 - self.share) / self.draws) ** 0.5)
        high = max(otherwise, self.share + 5 * shares.stdev)
        step = (high - otherwise) / GRID
        value = otherwise
        for point in range(GRID if tolls else 0):
            level = otherwise + (point + 0.5) * step
            value += step * (1 - prod(shares.cdf(level + toll) for toll in tolls))
        return value


@dataclass
class Outcome:
    """How one epoch went: the share of the next epoch's draws, and the views that were left out."""

    share: float
    missed: int


class Epoch:
    """The end of one epoch: who leads its last views, and the beacon before them."""

    def __init__(self, game: Game, number: int) -> None:
        self._game = game
        source = hash_bytes("source", number.to_bytes(8, "big"))
        self._leaders = [game.committee.compute_leader(source, view) for view in range(HEIGHTS + 4 * MAX_RUN)]
        self._beacon = Beacon(1, hash_bytes("value", source), source, bytes(32))
        self._expected: dict[tuple[int, int], float] = {}

    def _count_run(self, at: int) -> int:
        """How many views the adversary leads in a row."""
        run = 0
        while run < MAX_RUN and self._leaders[at + run] in self._game.hash_chains:
            run += 1
        return run

    def _get_ways(self, at: int, run: int, heights: int) -> dict[tuple[bytes, ...], int]:
        """The orders of keys in which the adversary can fill all heights itself, each with the views it leaves out."""
        ways: dict[tuple[bytes, ...], int] = {}
        for places in combinations(range(run), heights):
            order = tuple(self._leaders[at + place] for place in places)
            ways.setdefault(order, places[-1] + 1 - heights)  # the first is the one that ends earliest
        return ways

    def expect(self, at: int, heights: int) -> float:
        """What the adversary may expect from here on before it knows the beacon here."""
        if not heights or at > HEIGHTS + 2 * MAX_RUN:
            return self._game.share
        if (at, heights) not in self._expected:
            run = self._count_run(at)
            if not run:
                value = self.expect(at + 1, heights - 1)
            else:
                ways = list(self._get_ways(at, run, heights).values())
                value = self._game.expect_best(ways, self._hand_over(at, run, heights)[0])
            self._expected[at, heights] = value
        return self._expected[at, heights]

    def _hand_over(self, at: int, run: int, heights: int) -> tuple[float, int]:
        """What to expect when others go on after this run, and the number of own blocks in it that is best for that."""
        return max(
            (self.expect(at + run, heights - own) - (run - own) / self._game.worth, own)
            for own in range(min(run, heights - 1) + 1)
        )

    def play(self, is_honest: bool = False) -> Outcome:
        """Go through the last heights; an honest adversary never withholds."""
        beacon, at, heights, missed = self._beacon, 0, HEIGHTS, 0
        used = dict.fromkeys(self._game.hash_chains, 0)
        while heights:
            run = 0 if is_honest else self._count_run(at)
            leader = self._leaders[at]
            if not run:
                if leader in used:
                    reveal = self._game.hash_chains[leader][used[leader]]
                    used[leader] += 1
                else:
                    reveal = hash_bytes("reveal", beacon.previous, at.to_bytes(8, "big"))
                beacon, at, heights = beacon.absorb(reveal), at + 1, heights - 1
                continue
            others, own = self._hand_over(at, run, heights)
            best = Outcome(-1.0, 0)
            for order, left_out in self._get_ways(at, run, heights).items():
                end = Outcome(self._game.measure(self._absorb(beacon, order, used)), left_out)
                best = max(best, end, key=self._game.value)
            if self._game.value(best) >= others:
                return Outcome(best.share, missed + best.missed)
            order = tuple(self._leaders[at : at + own])
            beacon = self._absorb(beacon, order, used)
            for key in order:
                used[key] += 1
            at, heights, missed = at + run, heights - own, missed + run - own
        return Outcome(self._game.measure(beacon), missed)

    def _absorb(self, beacon: Beacon, order: tuple[bytes, ...], used: dict[bytes, int]) -> Beacon:
        """The beacon after blocks of these keys of the adversary."""
        now = dict(used)
        for key in order:
            beacon = beacon.absorb(self._game.hash_chains[key][now[key]])
            now[key] += 1
        return beacon


@dataclass(frozen=True)
class Bias:
    """What playing brought over many epochs: a share, and views left out per epoch."""

    share: float
    missed: float


def measure_bias(game: Game, epochs: int, is_honest: bool = False, first: int = 0) -> Bias:
    """Play ``epochs`` epochs from number ``first`` on."""
    played = [Epoch(game, first + number).play(is_honest) for number in range(epochs)]
    return Bias(sum(each.share for each in played) / epochs, sum(each.missed for each in played) / epochs)


def _name(kind: bytes, number: int) -> bytes:
    return hash_bytes("benchmark", kind, bytes([number]))


def measure(seed: int, epochs: int) -> tuple[list[Figure], list[Chart]]:
    """Play every game with one key and with ten; fewer epochs where each has more draws."""
    fee = Parameters().missed_lead_fee
    figures: list[Figure] = []
    gains: dict[int, list[float]] = {}
    for what, draws, worth in GAMES:
        for keys in (1, COMMITTEE // 3):
            game = Game(keys, draws, worth)
            count = {1: 4 * epochs, 1_000: epochs // 3}.get(draws, epochs)
            bias = measure_bias(game, count, first=seed * SEED_EPOCHS)
            name = f"{what}, {keys} {'key' if keys == 1 else 'keys'}"
            income = bias.share * worth - bias.missed
            headline = f"withholding blocks with a third of the stake: share of {what}" if keys > 1 else ""
            gains.setdefault(keys, []).append(bias.share)
            figures += [
                Figure(f"{name}: share", bias.share, "", game.share, "its share of the stake", headline=headline),
                Figure(f"{name}: income", income, "fees", game.share * worth, "without withholding"),
                Figure(f"{name}: fees", bias.missed * fee, "µcredits/epoch"),
            ]
    series = [Series(f"{keys} {'key' if keys == 1 else 'keys'}", (), tuple(shares)) for keys, shares in gains.items()]
    stake = Series("its stake", (-0.5, len(GAMES) - 0.5), (game.share, game.share), is_limit=True)
    names = tuple(name for name, _, _ in GAMES)
    return figures, [Chart("Draws that an adversary can reach", "", "share of the draws", (*series, stake), names)]


def main() -> None:
    """Command line."""
    epochs = Option("epochs", 1_000, 60, "epochs that are played of a game with 100 draws")
    run = Run("beacon", __doc__, epochs, is_timed=False)
    run.finish(*measure(run.seed, run.values["epochs"]))


if __name__ == "__main__":
    main()
