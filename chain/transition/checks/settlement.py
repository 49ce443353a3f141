"""What the end of a stage of a check leads to, and how a check is settled.

Everything happens at the end of a block, after its operations. Whatever the finding, all that was set aside is free
again, and the check leaves the state.
"""

from __future__ import annotations

from chain.parameters.parameters import Parameters
from chain.state.check_records import CHECK_COMMIT, CHECK_REVEAL, CHECK_STAGES, ModelCheck
from chain.state.keys import check_history_key, check_key, rating_key
from chain.state.sequential_test import SubstitutionTest
from chain.state.state import StateOverlay
from chain.transition.checks.events import CheckEvent, CheckSettled
from chain.transition.checks.finding import CheckFinding, decide
from chain.transition.checks.stages import enter_stage, list_complete
from chain.transition.deadlines import take_deadlines
from chain.transition.deposits import drop_identity
from chain.transition.duels.money import Movement, compute_share, move, unlock_bond


def close_check_stages(overlay: StateOverlay, parameters: Parameters, now: int) -> list[CheckEvent]:
    """End the stages that are complete, and then those that are overdue at chain time ``now``. Returns what happened.

    A block ends a bounded number of overdue stages of each kind, and leaves the rest to the next.
    """
    events = [_end_stage(overlay, parameters, hold_id, check, now) for hold_id, check in list_complete(overlay)]
    for stage in CHECK_STAGES:
        for deadline in take_deadlines(overlay, stage, now, parameters.duels.max_deadlines):
            check = overlay.model_check(deadline.hold)
            if check is not None and check.stage == stage:
                events.append(_end_stage(overlay, parameters, deadline.hold, check, now))
    return [event for event in events if event is not None]


def _end_stage(
    overlay: StateOverlay, parameters: Parameters, hold_id: bytes, check: ModelCheck, now: int
) -> CheckEvent | None:
    """Begin the next stage with what has come, or settle the check."""
    if check.stage == CHECK_COMMIT and any(seat.commitment is not None for seat in check.seats):
        enter_stage(overlay, parameters.checks, hold_id, check, CHECK_REVEAL, now)
        return None
    return _settle(overlay, parameters, hold_id, check)


def _settle(overlay: StateOverlay, parameters: Parameters, hold_id: bytes, check: ModelCheck) -> CheckSettled:
    """Close a check: free what was set aside, add it to the executor's history, and pay and take what is due."""
    unlock_bond(overlay, check.executor, check.locked)
    overlay.reserve(-check.reserved)
    overlay.put(check_key(hold_id), None)
    finding = decide(parameters.checks, check)
    dues = compute_dues(parameters, check, finding)
    history, key = overlay.check_history(check.executor, check.identity), (check.executor, check.identity)
    is_substitution = False
    if finding.is_counted:
        test = SubstitutionTest.make(parameters.checks.honest_shortfall_ppm, parameters.checks.honest_distance_ppm)
        history = test.add(history, finding.shortfall_failed, finding.distance_failed)
        is_substitution = test.is_substitution(history)
        overlay.put(check_history_key(*key), None if is_substitution else history)
    if is_substitution:
        drop_identity(overlay, parameters, check.executor, check.identity)
        overlay.put(rating_key(check.executor), overlay.rating(check.executor).begin_anew())
        dues.append(Movement(check.executor, -compute_share(check.amount, parameters.duels.fraud)))
    movements = tuple(move(overlay, parameters, due) for due in dues if due.amount)
    return CheckSettled(hold_id, check, finding, history, is_substitution, movements)


def compute_dues(parameters: Parameters, check: ModelCheck, finding: CheckFinding) -> list[Movement]:
    """What each checker gets or (negative) pays after a finding, in micro-credits.

    A report without a number takes no work, and earns nothing. A checker whose number differs from one that others
    agree on pays: guessing must not be profitable.
    """
    fine = -compute_share(check.amount, parameters.duels.silence)
    dues = []
    for seat in check.seats:
        if seat.report is None or seat.public_key in finding.differed:
            dues.append(Movement(seat.public_key, fine))
        elif seat.public_key in finding.agreed:
            dues.append(Movement(seat.public_key, compute_share(check.amount, parameters.checks.checker)))
    return dues
