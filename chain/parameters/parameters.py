"""The parameters of a chain: epochs, bonds, fees, time limits, newcomers, the prices of answers, duels and checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated

from chain.amounts import CREDIT as CREDIT
from chain.codec import Amount, Bounds, ModelName, Natural, Record
from chain.parameters.checks import DEFAULT_CHECKS, CheckParameters
from chain.parameters.duels import DEFAULT_RATE, NO_DUELS, DuelParameters
from chain.types.operations import Usage
from chain.types.validators import MAX_COMMITTEE

MAX_EPOCH_HEIGHTS = 16_384
"""Longest epoch: a hash chain must last for several (:mod:`chain.state.beacon`)."""


Positive = Annotated[int, Bounds(1, 2**53)]


@dataclass(frozen=True, slots=True)
class Price(Record):
    """What a request costs, in micro-credits."""

    per_request: Amount = 1_000
    per_prompt_byte: Amount = 3
    per_completion_byte: Amount = 5

    def compute(self, usage: Usage) -> int:
        """The price of one answer."""
        return (
            self.per_request
            + self.per_prompt_byte * usage.prompt_bytes
            + self.per_completion_byte * usage.completion_bytes
        )


@dataclass(frozen=True, slots=True)
class ModelPrice(Record):
    """A price of its own for one model."""

    model: ModelName
    price: Price


@dataclass(frozen=True, slots=True)
class Parameters(Record):
    """Constants of a chain. Times are in ms of chain time, amounts in micro-credits, shares in thousandths.

    Who votes changes with epochs of ``epoch_heights``, who serves with rounds of ``round_heights``: one holder of a
    third of the stake leads all blocks of such a round once in 3 ** ``round_heights`` rounds, by chance, and would then
    know the draws of the next serving table before it is frozen. ``entry_fee`` is the price of an entry of the state
    that stays for good (:mod:`chain.transition.fees`): some 700 bytes in the memory of every node for ever, where an
    operation is carried out once and then on disk. ``deposit_per_byte`` is the deposit for an entry that can be
    removed, for as long as it is there (:mod:`chain.transition.deposits`). A validator is jailed for its absence in
    whole epochs of ``participation_span_ms`` at least. ``max_settlements`` is how many unreceipted captures a block
    settles before it leaves the rest to the next. ``unused_number_fee`` is the deposit for the first hold number that a
    payer skips (:mod:`chain.transition.deposits`). ``duels`` says how often answers are compared, and what is at stake
    then, ``checks`` how their model is checked. ``bond_per_hold``: an executor declines unless its free bond is this
    many times the amount of the hold.
    """

    epoch_heights: Annotated[int, Bounds(1, MAX_EPOCH_HEIGHTS)] = 128
    round_heights: Annotated[int, Bounds(1, MAX_EPOCH_HEIGHTS)] = 16
    unbonding_epochs: Positive = 600
    committee_size: Annotated[int, Bounds(1, MAX_COMMITTEE)] = 32
    min_validator_bond: Positive = 1_000 * CREDIT
    missed_lead_fee: Amount = 1_000
    participation_span_ms: Positive = 600_000
    min_service_bond: Amount = CREDIT
    bond_per_hold: Annotated[int, Bounds(1, 1_000)] = 1
    fee_per_byte: Amount = 1
    entry_fee: Amount = 10_000
    deposit_per_byte: Annotated[int, Bounds(0, 1_000_000)] = 20
    unused_number_fee: Amount = 5_000
    max_attempts: Annotated[int, Bounds(1, 8)] = 8
    max_hold_time_ms: Positive = 3_600_000
    capture_grace_ms: Positive = 60_000
    max_settlements: Annotated[int, Bounds(1, 65_536)] = 4_096
    idle_beat_ms: Annotated[int, Bounds(1, 3_600_000)] = 10_000
    timestamp_drift_ms: Positive = 1_000
    register_grant: Amount = 0
    register_cap: Natural = 16
    register_difficulty: Annotated[int, Bounds(0, 32)] = 10
    newcomer_share: Annotated[int, Bounds(0, 1000)] = 50
    price: Price = Price()
    model_prices: tuple[ModelPrice, ...] = ()
    duels: DuelParameters = NO_DUELS
    checks: CheckParameters = DEFAULT_CHECKS

    def get_price(self, model: str) -> Price:
        """The price of a model: its own where listed, else the common one."""
        return next((entry.price for entry in self.model_prices if entry.model == model), self.price)


def choose_parameters(duel_rate: int, parameters: Parameters = Parameters()) -> Parameters:
    """Parameters with a rate of duels, and with the fines and bonds that it needs.

    A cheat is deterred by the fine multiplied by the chance that it falls due. Below ``DEFAULT_RATE`` duels are rarer.
    So the fines for answers that are of no use, or that no one can obtain, grow by the same factor, and so do the bonds
    that they are taken from.
    """
    duels, scarcity = parameters.duels, Fraction(DEFAULT_RATE, min(duel_rate, DEFAULT_RATE) or DEFAULT_RATE)
    duels = replace(
        duels,
        rate=duel_rate,
        lock=int(duels.lock * scarcity),
        void=int(duels.void * scarcity),
        fraud=int(duels.fraud * scarcity),
    )
    return replace(parameters, duels=duels, min_service_bond=int(parameters.min_service_bond * scarcity))
