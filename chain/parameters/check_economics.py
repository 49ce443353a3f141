"""Whether the parameters of checks of the model can work: a genesis whose numbers contradict each other is refused."""

from __future__ import annotations

from chain.exceptions import GenesisError
from chain.parameters.duel_economics import MIN_BLOCK_SPACING_MS
from chain.parameters.duels import MAX_DRAW_HEIGHTS
from chain.parameters.parameters import Parameters
from chain.state.sequential_test import SubstitutionTest

SCORING_COST = 60
"""What it costs to score an answer, in thousandths of its price: one pass over request and answer."""


def check_checks(parameters: Parameters) -> None:
    """Check what the bounds of the parameters cannot say. Nothing is checked where there are no checks.

    Raises:
        GenesisError: checks would not work by these numbers; the message says why.
    """
    checks, duels = parameters.checks, parameters.duels
    if not duels.rate or not checks.checkers:
        return
    if checks.checkers % 2 == 0:
        raise GenesisError(f"checks.checkers {checks.checkers} is even, and half of them would be no majority")
    if checks.checker < SCORING_COST:
        raise GenesisError(f"checks.checker {checks.checker} is less than the {SCORING_COST} that scoring costs")
    cost = checks.checkers * checks.checker
    if checks.levy < cost:
        raise GenesisError(f"checks.levy {checks.levy} cannot pay for checks, which cost {cost}")
    rate = max(duels.rate, duels.probation_rate)
    if (duels.levy + checks.levy) * rate > 1_000_000:
        raise GenesisError(
            f"duels.levy {duels.levy} and checks.levy {checks.levy} take more than was captured at a rate of {rate}"
        )
    try:
        SubstitutionTest.make(checks.honest_shortfall_ppm, checks.honest_distance_ppm)
    except ValueError as error:
        raise GenesisError(f"checks.honest_shortfall_ppm or honest_distance_ppm is out of range: {error}") from error
    if checks.shortfall_tolerance >= checks.max_shortfall or checks.distance_tolerance >= checks.max_distance:
        raise GenesisError("a tolerance of checks is not less than its limit: reports would agree on anything")
    leaves = (parameters.unbonding_epochs + 1) * parameters.epoch_heights * MIN_BLOCK_SPACING_MS
    longest = parameters.capture_grace_ms + MAX_DRAW_HEIGHTS * MIN_BLOCK_SPACING_MS
    longest += checks.commit_ms + checks.reveal_ms
    if leaves < longest:
        raise GenesisError(
            f"unbonding_epochs {parameters.unbonding_epochs} may be over in {leaves} ms, before the longest check, "
            f"{longest} ms"
        )
