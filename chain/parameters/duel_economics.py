"""Whether the parameters of duels can work: a genesis whose numbers contradict each other is refused.

Lying must not pay, judging must, and what a duel pays must come in. The rules are inequalities in thousandths of the
amount captured, so that they hold for a request of any price. They rest on assumptions, which are the constants here:
what honest answers and verdicts cost, how often verdicts are paid and frauds found, and how fast blocks may follow.
"""

from __future__ import annotations

from chain.exceptions import GenesisError
from chain.parameters.duels import MAX_DRAW_HEIGHTS
from chain.parameters.parameters import Parameters

JUDGEMENT_COST = 245
"""What an honest verdict costs, in thousandths of the price of the answers that are compared: one inference."""
PAID_VERDICTS = 830
"""Of 1,000 honest verdicts, how many agree with the majority."""
GUESSES_FOUND = 70
"""Of 1,000 repeated votes of a judge that guesses, how many convict it: half of them differ, and five of eight must
(:mod:`chain.state.judge_records`)."""
ANSWER_COST = 500
"""Cost of an honest answer, in thousandths of its price: what a useless answer saves."""
FRAUDS_FOUND = 660
"""Of 1,000 duels about useless answers, how many end as a fraud if such an answer persuades a fifth of the judges: two
of three must accuse, and then four of five."""
BRIBE_MARGIN = 50
"""By how many thousandths the worth of a verdict to its parties may exceed the cost of buying it."""
MIN_BLOCK_SPACING_MS = 250
"""The fastest pace of blocks, in ms. No rule bounds it, but validators keep it."""


def check_duels(parameters: Parameters) -> None:
    """Check what the bounds of the parameters cannot say. Nothing is checked where no duels are drawn.

    Raises:
        GenesisError: duels would not work by these numbers; the message says why.
    """
    duels = parameters.duels
    if not duels.rate:
        return
    judges = duels.judges * duels.judge
    if duels.judges % 2 == 0:
        raise GenesisError(f"duels.judges {duels.judges} is even, and half of them would be no majority")
    if duels.judge * PAID_VERDICTS < JUDGEMENT_COST * 1_000:
        raise GenesisError(
            f"duels.judge {duels.judge} earns a judge less than the {JUDGEMENT_COST} that a verdict costs, since "
            f"{PAID_VERDICTS} of 1,000 are paid"
        )
    majority = (duels.judges + 1) // 2
    at_stake = duels.executor_lost + duels.executor_won
    if at_stake > majority * duels.judge + BRIBE_MARGIN:
        raise GenesisError(
            f"a verdict is worth {at_stake} to an executor (duels.executor_lost and executor_won), more than the pay "
            f"of {majority} judges, {majority * duels.judge}, and {BRIBE_MARGIN}: it would be bought"
        )
    if duels.challenger_lost > duels.challenger:
        raise GenesisError("duels.challenger_lost is more than duels.challenger: it would pay to lose")
    if duels.guessing * duels.repeat_rate * GUESSES_FOUND < duels.judge * 1_000_000:
        raise GenesisError(
            f"duels.guessing {duels.guessing}, at a duels.repeat_rate of {duels.repeat_rate}, costs a judge that "
            f"guesses less than the duels.judge {duels.judge} that each of its votes may earn"
        )
    if 0 < duels.fraud * duels.rate * FRAUDS_FOUND < ANSWER_COST * 1_000_000:
        raise GenesisError(
            f"duels.fraud {duels.fraud}, at a duels.rate of {duels.rate}, costs an executor less by each answer of no "
            f"use than the {ANSWER_COST} that it saves, since {FRAUDS_FOUND} of 1,000 are found"
        )
    paid = (duels.challenger + duels.challenger_lost) // 2 + judges * PAID_VERDICTS // 1_000
    paid += judges * duels.repeat_rate // 1_000
    expected = paid + (duels.executor_won - duels.executor_lost) // 2
    if duels.levy < expected:
        raise GenesisError(f"duels.levy {duels.levy} cannot pay for duels, which cost {expected} on average")
    rate = max(duels.rate, duels.probation_rate)
    if duels.levy * rate > 1_000_000:
        raise GenesisError(f"duels.levy {duels.levy} takes more than was captured at a rate of {rate}")
    _check_bond(parameters)
    _check_unbonding(parameters)


def _check_bond(parameters: Parameters) -> None:
    """The bond must be there to be taken."""
    duels = parameters.duels
    penalty = max(duels.executor_lost, duels.void, duels.fraud)
    if duels.lock < penalty:
        raise GenesisError(f"duels.lock {duels.lock} is less than the penalty {penalty} for which it is locked")
    prices = (parameters.price, *(entry.price for entry in parameters.model_prices))
    needed = max(price.per_request for price in prices) * duels.lock // 1_000
    if parameters.min_service_bond < needed:
        raise GenesisError(
            f"min_service_bond {parameters.min_service_bond} is less than duels.lock of the cheapest request, {needed}"
        )


def _check_unbonding(parameters: Parameters) -> None:
    """A bond must not leave before the verdict on an answer that was given while it stood behind it."""
    duels = parameters.duels
    leaves = (parameters.unbonding_epochs + 1) * parameters.epoch_heights * MIN_BLOCK_SPACING_MS
    longest = parameters.capture_grace_ms + MAX_DRAW_HEIGHTS * MIN_BLOCK_SPACING_MS + duels.longest_ms
    if leaves < longest:
        raise GenesisError(
            f"unbonding_epochs {parameters.unbonding_epochs} may be over in {leaves} ms, before the longest duel, "
            f"{longest} ms"
        )
