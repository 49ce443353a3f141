"""What duels and checks cost those who are honest, and the network: nodes of average quality, some answers broken."""

from __future__ import annotations

from dataclasses import dataclass

from chain.parameters.parameters import Parameters, choose_parameters
from tests.adversarial.duels.strategy import PRICE, Scene
from tests.adversarial.duels.substitutes import CHECKS
from tests.support.strategies.check_market import CheckedAgent
from tests.support.strategies.ledger_market import SHORT_STAGES

BROKEN = 10
"""Of 1,000 honest answers, how many are of no use."""


class Average(CheckedAgent):
    """An honest agent that declares an identity, of which few answers are of no use, as of all others."""

    def __post_init__(self) -> None:
        self.broken = BROKEN
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class Burden:
    """In thousandths of the price of an answer, by answer: what a node loses to all that duels and checks take and
    pay, and what all inference for them costs; and that cost in thousandths of what the answers themselves cost.
    """

    lost: float
    work: float
    work_of_inference: float


def measure_burden(rate: int, requests: int, seed: int, accounts: int = 10) -> Burden:
    """Play a market with a rate of duels in which all are honest. Their losses are the mean of all."""
    duels = choose_parameters(rate, Parameters(duels=SHORT_STAGES)).duels
    share = 1 / accounts
    scene = Scene(Average, others=Average, other_accounts=accounts - 1, share=share, duels=duels, checks=CHECKS)
    market = scene.play(requests, seed)
    agents = list(market.agents.values())
    served = sum(agent.counts["served"] for agent in agents)
    margin = sum((1 - agent.cost) * agent.counts["served"] for agent in agents) * PRICE
    gained = sum(market.gain(owner) for owner in {agent.owner for agent in agents})
    answers = sum(agent.cost * agent.counts["served"] for agent in agents) * PRICE
    work = sum(agent.spent for agent in agents) - answers
    return Burden(
        *(
            1_000 * part / whole
            for part, whole in ((margin - gained, served * PRICE), (work, served * PRICE), (work, answers))
        )
    )
