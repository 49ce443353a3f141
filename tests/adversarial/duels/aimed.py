"""Payers that ask what makes honest answers look useless, to have their executor punished.

Nothing on the ledger tells such a request from an honest one, and the judges see what they are shown. Alone, a payer
hits an executor that no other account can be compared with: its answer is looked at by itself (a *solo check*). With a
rival that serves the same model, it asks what the rival alone answers well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chain.types.operations import Usage
from tests.adversarial.duels.coalitions import VICTIM
from tests.adversarial.duels.payers import Knowing
from tests.adversarial.duels.strategy import ATTACKER, PRICE, USERS, Per, Scene, Size, Strategy
from tests.support.strategies.ledger_market import LedgerMarket
from tests.support.strategies.market_agents import Agent, Payer, Request

SMALL = Usage(40, 40)
"""A request that costs a fourteenth of the average one."""


class Victim(Agent):
    """The first of the others serves the model; they all judge."""

    def __post_init__(self) -> None:
        self.serves = self.name == "other 0"
        self.owner = VICTIM if self.serves else ""
        super().__post_init__()


class NewVictim(Victim):
    """It has been in no duel before."""

    def __post_init__(self) -> None:
        self.duels_before = 0
        super().__post_init__()


class Bystander(Agent):
    """Judges, as the others do."""

    def __post_init__(self) -> None:
        self.serves = False
        super().__post_init__()


class Rival(Knowing):
    """Is a challenger and takes no requests. It has the answers to those of its own payer at hand."""

    def accepts(self, market: LedgerMarket, request: Request) -> bool:
        return False


@dataclass(eq=False)
class Aiming(Payer):
    """Asks what no one can answer so that it looks of use."""

    insider: str | None = "no one"


@dataclass(eq=False)
class Favouring(Payer):
    """Asks what its own rival of the victim alone answers well."""

    insider: str | None = ATTACKER


ALONE = Scene(Bystander, Aiming, share=0.1, others=Victim)
WITH_RIVAL = replace(ALONE, agent=Rival, payer=Favouring)
CHEAP = (("usage", SMALL),)


@dataclass(frozen=True, slots=True)
class Damage:
    """What a victim lost and what the attacker spent more than without the attack, in prices."""

    lost: float
    spent: float


def measure_damage(scene: Scene, size: Size) -> Damage:
    """Play an attack, and the same market without it; the sum over all seeds."""
    lost = spent = 0.0
    for seed in range(size.seeds):
        attacked = scene.play(size.requests, seed)
        lost -= attacked.gain(VICTIM)
        spent -= attacked.gain(ATTACKER)
        if not scene.only_own_requests:
            quiet = make_quiet(scene).play(size.requests * USERS // (USERS + 1), seed)
            lost += quiet.gain(VICTIM)
            spent += quiet.gain(ATTACKER)
    return Damage(lost / PRICE, spent / PRICE)


def make_quiet(scene: Scene) -> Scene:
    """The market without the attacker's payer: as many blocks have the requests of all users."""
    return replace(scene, payer=None, payer_options=(), per_block=USERS)


STRATEGIES = [
    Strategy(
        f"the only rival of a server, whose payer asks what it alone answers well, {title}",
        scene := replace(WITH_RIVAL, payer_options=options),
        per=Per.OWN_REQUEST,
        against=make_quiet(scene),
    )
    for title, options in (("at the average price", ()), ("cheaply", CHEAP))
]
