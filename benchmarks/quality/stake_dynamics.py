"""The stake dynamics of section 5 of the paper, three ways: in closed form, as an ODE, and with agents.

A request goes to account i with probability p_i = s_i / S, its share of the stake. It earns R, costs c_i, and becomes
a duel with probability p_d against an opponent that is drawn by stake too; i beats j with probability
(1 + q_i − q_j) / 2, and gains R_add then, or pays P. So with the mean quality q̄ = Σ p_j q_j, an account expects from a
request

    Δ_i = R − c_i + p_d (R_add − P) / 2 + B (q_i − q̄),        B = p_d (R_add + P) / 2,

and its stake grows by p_i Δ_i per request. Differences do not depend on time: p_i(t) ∝ p_i(0) exp(a_i τ) with
a_i = B q_i − c_i and dτ = dt / S. The class with the largest a_i ends with all of the stake, whichever that is.

Amounts are in units of the price of a request, time is in requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

ODE_STEPS = 2_000
"""Steps of the integration."""
GONE = 1e-6
"""Stake below which there is none left."""


@dataclass(frozen=True)
class Game:
    """One setting: classes of accounts with their ``qualities``, ``costs`` and ``stakes``, each stake that of a class.

    ``friends`` is the class whose members collude as judges: where they have two of three seats, one of them wins.
    ``accounts`` are those of each class; None stands for the limit of very many, as in the paper, in which an account
    is its own opponent now and then.
    """

    qualities: tuple[float, ...]
    costs: tuple[float, ...]
    stakes: tuple[float, ...]
    reward: float = 1.0
    duel_rate: float = 0.25
    bonus: float = 1.0
    penalty: float = 1.0
    friends: int | None = None
    accounts: int | None = None

    @property
    def selection(self) -> float:
        """B: what one unit of quality is worth for each request."""
        return self.duel_rate * (self.bonus + self.penalty) / 2

    def compute_margin(self, better: int, worse: int) -> float:
        """By how much B Δq exceeds Δc: the better of two classes grows faster than the other if this is positive."""
        quality = self.qualities[better] - self.qualities[worse]
        return self.selection * quality - (self.costs[better] - self.costs[worse])

    def compute_end(self) -> float | None:
        """After how many requests all stake is gone; None if it is not, or the costs differ.

        The mean payoff R − c − p_d (P − R_add) / 2 does not depend on quality.
        """
        mean = self.reward - self.costs[0] - self.duel_rate * (self.penalty - self.bonus) / 2
        if len(set(self.costs)) > 1 or mean >= 0:
            return None
        return sum(self.stakes) / -mean

    def compute_win(self, one: int, other: int, friends_share: float) -> float:
        """The probability that an account of one class beats one of another."""
        fair = (1 + self.qualities[one] - self.qualities[other]) / 2
        if self.friends not in (one, other):
            return fair
        bought = compute_majority(friends_share)
        return (1 - bought) * fair + bought * (0.5 if one == other else float(one == self.friends))

    def compute_payoffs(self, stakes: Sequence[float]) -> list[float]:
        """Δ_i of each class, from one request that is served."""
        total = sum(stakes)
        shares = [stake / total for stake in stakes]
        friends_share = shares[self.friends] if self.friends is not None else 0.0
        payoffs = []
        for one, cost in enumerate(self.costs):
            self_share = 0.0 if self.accounts is None else shares[one] / self.accounts
            win = sum(
                (share - self_share * (other == one)) * self.compute_win(one, other, friends_share)
                for other, share in enumerate(shares)
            )
            win /= 1 - self_share
            duel = win * self.bonus - (1 - win) * self.penalty
            payoffs.append(self.reward - cost + self.duel_rate * duel)
        return payoffs


def compute_majority(share: float) -> float:
    """The probability that two or three of three judges, drawn by stake, belong to a group with a share of it."""
    return share**2 * (3 - 2 * share)


def find_critical_share(gap: float) -> float:
    """The share of colluding judges from which on their side wins half of its duels, with a quality ``gap`` less."""
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        bought = compute_majority(middle)
        is_enough = (1 - bought) * (1 - gap) / 2 + bought >= 0.5
        low, high = (low, middle) if is_enough else (middle, high)
    return high


@dataclass(frozen=True, slots=True)
class Path:
    """The stakes of all classes at ``times``; the path ends early where the stake is gone."""

    times: tuple[float, ...]
    stakes: tuple[tuple[float, ...], ...]

    @property
    def end(self) -> float:
        """The time of the last point."""
        return self.times[-1]

    @property
    def shares(self) -> list[float]:
        """The shares at the end."""
        return normalize(self.stakes[-1])


def normalize(stakes: Sequence[float]) -> list[float]:
    """The share of each in the sum."""
    total = sum(stakes)
    return [stake / total for stake in stakes]


def integrate(game: Game, requests: float, steps: int = ODE_STEPS) -> Path:
    """The ODE s_i' = p_i Δ_i by the classical Runge–Kutta method, up to a number of requests or an empty stake."""
    step, stakes = requests / steps, list(game.stakes)
    times, path = [0.0], [tuple(stakes)]

    def slope(at: Sequence[float]) -> list[float]:
        total = sum(at)
        if total <= GONE:
            return [0.0] * len(at)
        return [stake / total * payoff for stake, payoff in zip(at, game.compute_payoffs(at), strict=True)]

    def shift(by: Sequence[float], length: float) -> list[float]:
        return [stake + length * change for stake, change in zip(stakes, by, strict=True)]

    for number in range(steps):
        first = slope(stakes)
        second = slope(shift(first, step / 2))
        third = slope(shift(second, step / 2))
        fourth = slope(shift(third, step))
        mean = [(a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(first, second, third, fourth, strict=True)]
        stakes = [max(stake, 0.0) for stake in shift(mean, step)]
        times.append((number + 1) * step)
        path.append(tuple(stakes))
        if sum(stakes) <= GONE:
            break
    return Path(tuple(times), tuple(path))


def solve(game: Game, requests: float, points: int = 4_000) -> list[float]:
    """The shares after a number of requests in closed form: τ by quadrature, then p_i ∝ p_i(0) exp(a_i τ).

    S = S_0 exp(∫ Δ̄ dτ), where the mean payoff is Δ̄ = R − c̄ − p_d (P − R_add) / 2: it does not depend on quality.

    Raises:
        ValueError: there are friends, for whom there is no closed form.
    """
    if game.friends is not None:
        raise ValueError("no closed form with colluding judges")
    begin, worth = (
        normalize(game.stakes),
        [game.selection * q - c for q, c in zip(game.qualities, game.costs, strict=True)],
    )
    level = game.reward - game.duel_rate * (game.penalty - game.bonus) / 2

    def compute_shares(tau: float) -> list[float]:
        return normalize([share * math.exp(each * tau) for share, each in zip(begin, worth, strict=True)])

    def compute_time(tau: float) -> float:
        width, growth, total, before = tau / points, 0.0, 0.0, sum(game.stakes)
        last = level - sum(share * cost for share, cost in zip(begin, game.costs, strict=True))
        for number in range(1, points + 1):
            shares = compute_shares(number * width)
            mean = level - sum(share * cost for share, cost in zip(shares, game.costs, strict=True))
            growth += (last + mean) / 2 * width
            stake = sum(game.stakes) * math.exp(growth)
            total += (before + stake) / 2 * width
            last, before = mean, stake
        return total

    low, high = 0.0, requests / sum(game.stakes)
    while compute_time(high) < requests:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if compute_time(middle) < requests else (low, middle)
    return compute_shares(low)


def play(game: Game, requests: int, random: Random) -> list[float]:
    """The stakes of all classes after a number of requests to agents, one by one.

    Raises:
        ValueError: the game does not say how many accounts there are.
    """
    if game.accounts is None:
        raise ValueError("agents are counted")
    classes = [number for number in range(len(game.stakes)) for _ in range(game.accounts)]
    stakes = [game.stakes[number] / game.accounts for number in classes]
    totals = list(game.stakes)
    for _ in range(requests):
        bounds = list(accumulate(stakes))
        if bounds[-1] <= GONE:
            break
        one, other = random.choices(range(len(stakes)), cum_weights=bounds, k=2)
        gain = game.reward - game.costs[classes[one]]
        if random.random() < game.duel_rate:
            while other == one and bounds[-1] - stakes[one] > GONE:
                other = random.choices(range(len(stakes)), cum_weights=bounds)[0]
            share = totals[game.friends] / bounds[-1] if game.friends is not None else 0.0
            wins = random.random() < game.compute_win(classes[one], classes[other], share)
            gain += game.bonus if wins else -game.penalty
        after = max(stakes[one] + gain, 0.0)
        totals[classes[one]] += after - stakes[one]
        stakes[one] = after
    return totals
