"""When quality pays by the rules of the ledger: what each verdict takes from a worse node, against what that saves.

The paper's condition for a better class H to grow is p_d (R_add + P) / 2 · (q_H − q_L) > c_H − c_L. On the ledger the
executor alone is fined, a challenger is paid more if it does not lose, and both have answered. So with a difference Δs
of win rates, and amounts as shares of the price,

    p_d (executor_won + executor_lost + challenger − challenger_lost) Δs > (1 + p_d) (c_H − c_L).

A fraud takes more, from an answer that is of no use at all: p_d · D · fraud > c, if D of these are found. And a rating
takes no credit but requests: an executor with the exposure e has the margin m_L of the worse and dearer node so often
only that e · m_L < m_H must hold. All amounts here are shares of the price of a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.parameters.duels import DuelParameters
from chain.state.ratings import FULL_EXPOSURE, LOST, MAX_OF_ONE_PAYER, RATED_DUELS, WON, ExecutorRating

HONEST_COST = 0.5
"""What an honest answer is assumed to cost."""


@dataclass(frozen=True, slots=True)
class Substitution:
    """A cheaper answer in place of the one that is declared: how much less often it wins, and how much it saves.

    ``saved`` is a share of the cost.
    """

    name: str
    win_gap: float
    saved: float

    @property
    def gain(self) -> float:
        """What it saves of a request's price."""
        return HONEST_COST * self.saved


SUBSTITUTIONS = (
    Substitution("0.6B as 8B", 0.18, 0.66),
    Substitution("4B as 8B", 0.04, 0.27),
    Substitution("int4 as fp8", 0.05, 0.30),
)
"""By the win rates of the paper (0.57, 0.53 and 0.39; 0.54 and 0.49); what they save is assumed by size."""


def compute_verdict_gap(duels: DuelParameters, win_gap: float) -> float:
    """What won and lost duels take from a worse node for each request, as executor and as challenger."""
    at_stake = duels.executor_won + duels.executor_lost + duels.challenger - duels.challenger_lost
    return duels.rate / 1_000 * at_stake / 1_000 * win_gap


def compute_saving(duels: DuelParameters, gain: float) -> float:
    """What cheaper answers save for each request, those to challenges included."""
    return (1 + duels.rate / 1_000) * gain


def compute_needed_rate(duels: DuelParameters, win_gap: float, gain: float) -> float | None:
    """The rate of duels from which on won and lost duels take what is saved; None if no rate is enough."""
    left = compute_verdict_gap(duels, win_gap) / duels.rate * 1_000 - gain
    return gain / left if 0 < gain <= left else None


def compute_fraud_loss(duels: DuelParameters, found: float) -> float:
    """What fraud verdicts take for each request of a node whose answers are of no use, ``found`` of those in duels."""
    return duels.rate / 1_000 * duels.fraud / 1_000 * found


def compute_rating_loss(duels: DuelParameters, win_rate: float, gain: float) -> float:
    """What a node with a win rate loses with the requests that it is not drawn for any more, for each it was drawn for.

    To be compared with the ``gain``, which is part of its margin.
    """
    exposure = compute_exposure(win_rate, duels.exposure_exponent)
    margin = 1 - HONEST_COST + gain - duels.levy * duels.rate / 1_000_000
    return margin * (1 - exposure)


def compute_exposure(win_rate: float, exponent: int) -> float:
    """By which share of its stake an executor is drawn after many duels with a win rate, by the ledger's own rule."""
    rating = ExecutorRating()
    for number in range(RATED_DUELS):
        payer = (number // MAX_OF_ONE_PAYER).to_bytes(8, "big")
        is_won = int((number + 1) * win_rate) > int(number * win_rate)
        rating = rating.add(payer, WON if is_won else LOST, 1)
    return rating.compute_exposure(exponent) / FULL_EXPOSURE
