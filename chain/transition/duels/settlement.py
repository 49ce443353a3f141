"""What the end of a stage leads to, and how a duel is settled.

Everything happens at the end of a block, after its operations. Whatever the verdict, all that was set aside is free
again, and the duel leaves the state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import Parameters
from chain.state.duel_records import ANSWER, COMMIT, REPEAT, REVEAL, STAGES, Duel, JudgeSeat
from chain.state.keys import duel_key, rating_key
from chain.state.ratings import LOST, MAX_VOIDS, TIED, VOID, WON, ExecutorRating
from chain.state.state import StateOverlay
from chain.transition.duels.draw import compute_duel_seed
from chain.transition.duels.events import ChallengerReplaced, DuelEvent, DuelSettled, ExecutorAccused, VotesRepeated
from chain.transition.duels.money import Movement, compute_share, compute_weight, move, unlock_bond
from chain.transition.duels.opening import compute_cost, draw_challenger, draw_seats, face_forward
from chain.transition.duels.repeats import compare_repeats, compute_repeat_dues, draw_repeats
from chain.transition.duels.stages import enter_stage, list_complete, take_overdue
from chain.transition.duels.verdict import DuelVerdict, Finding, decide
from chain.types.duels import MAX_CHALLENGERS, SECOND_PANEL

TIE_QUOTIENT = 4
"""For identical answers and in a tie a judge earns a quarter, so that neither is worth seeking."""
_PAID_IN_PART = {DuelVerdict.TIE, DuelVerdict.IDENTICAL}
MIN_PANEL = 3
"""Judges without whom no executor is accused."""
_RESULTS = {
    DuelVerdict.EXECUTOR_WON: WON,
    DuelVerdict.EXECUTOR_LOST: LOST,
    DuelVerdict.TIE: TIED,
    DuelVerdict.IDENTICAL: TIED,
    DuelVerdict.EXECUTOR_MISSING: VOID,
    DuelVerdict.UNANSWERED: VOID,
}
"""What a verdict counts for in the executor's rating. A verdict without a comparison does not count."""
_UNPAID = {DuelVerdict.EXECUTOR_MISSING, DuelVerdict.CHALLENGER_MISSING}
"""Judges are not paid for these: to say that there is nothing to judge takes no work."""


def close_stages(overlay: StateOverlay, parameters: Parameters, now: int) -> list[DuelEvent]:
    """End the stages that are complete, and then those that are overdue at chain time ``now``. Returns what happened.

    A block ends a bounded number of overdue stages of each kind, and leaves the rest to the next.
    """
    events = [_end_stage(overlay, parameters, hold_id, duel, now) for hold_id, duel in list_complete(overlay)]
    for stage in STAGES:
        for hold_id, duel in take_overdue(overlay, stage, now, parameters.duels.max_deadlines):
            end = _end_silence if stage == ANSWER else _end_stage
            events.append(end(overlay, parameters, hold_id, duel, now))
    return [event for event in events if event is not None]


def _end_stage(overlay: StateOverlay, parameters: Parameters, hold_id: bytes, duel: Duel, now: int) -> DuelEvent | None:
    """Begin the next stage with what has come, or settle the duel."""
    has_commitments = any(seat.commitment is not None for seat in duel.seats)
    if duel.stage == ANSWER:
        enter_stage(overlay, parameters.duels, hold_id, duel, COMMIT, now)
    elif duel.stage == COMMIT and has_commitments:
        duel = draw_repeats(overlay, parameters.duels, hold_id, duel, _list_parties(duel))
        duel = enter_stage(overlay, parameters.duels, hold_id, duel, REPEAT if duel.repeats else REVEAL, now)
        return VotesRepeated(hold_id, duel) if duel.repeats else None
    elif duel.stage == REPEAT:
        enter_stage(overlay, parameters.duels, hold_id, duel, REVEAL, now)
    else:
        return _give_verdict(overlay, parameters, hold_id, duel, now)
    return None


def _give_verdict(overlay: StateOverlay, parameters: Parameters, hold_id: bytes, duel: Duel, now: int) -> DuelEvent:
    """Settle a duel by its ballots, or call a second panel if most of the first call the executor's answer unusable."""
    finding = decide(duel)
    dues = compute_dues(parameters.duels, duel, finding)
    dues += compute_repeat_dues(parameters.duels, duel)
    dues += compare_repeats(overlay, parameters.duels, duel, now)
    if not duel.is_accused:
        dues += note_result(overlay, parameters.duels, duel, finding.verdict)
    elif finding.verdict is DuelVerdict.FRAUD:
        overlay.put(rating_key(duel.executor), note_fraud(parameters.duels, duel, overlay.rating(duel.executor)))
    if not finding.is_answer_unusable or duel.is_accused:
        return settle(overlay, parameters, hold_id, duel, finding.verdict, dues)
    seats = _draw_second_panel(overlay, hold_id, duel)
    cost = compute_cost(parameters.duels, duel.amount, len(seats), has_challenger=False)
    free = overlay.totals.treasury - overlay.totals.reserved + duel.reserved
    payments = sum(due.amount for due in dues if due.amount > 0)
    if len(duel.seats) < MIN_PANEL or len(seats) < SECOND_PANEL or cost + payments > free:
        return settle(overlay, parameters, hold_id, duel, finding.verdict, dues)
    overlay.reserve(cost - duel.reserved)
    moved = tuple(move(overlay, parameters, due) for due in dues if due.amount)
    first_seats = duel.all_seats
    duel = replace(duel, seats=seats, repeats=(), reserved=cost, is_accused=True)
    duel = enter_stage(overlay, parameters.duels, hold_id, duel, COMMIT, now)
    return ExecutorAccused(hold_id, duel, finding.verdict, moved, first_seats)


def _draw_second_panel(overlay: StateOverlay, hold_id: bytes, duel: Duel) -> tuple[JudgeSeat, ...]:
    """Judges that have had no part in the duel."""
    seed = compute_duel_seed(overlay.beacon.value, hold_id)
    seats = draw_seats(overlay, SECOND_PANEL, seed, _list_parties(duel))
    return face_forward(seats) if duel.challenger is None else seats


def _list_parties(duel: Duel) -> set[bytes]:
    """The accounts that have, or had, a part in a duel."""
    challengers = duel.silent if duel.challenger is None else (*duel.silent, duel.challenger)
    return {duel.payer, duel.executor, *challengers, *(seat.public_key for seat in duel.all_seats)}


def note_result(overlay: StateOverlay, parameters: DuelParameters, duel: Duel, verdict: DuelVerdict) -> list[Movement]:
    """Add a verdict to the executor's rating. Returns the penalty of the executor, since void duels add up to a
    fraud."""
    rating = overlay.rating(duel.executor).add(duel.payer, _RESULTS.get(verdict), duel.amount)
    is_fraud = rating.voids >= MAX_VOIDS
    overlay.put(rating_key(duel.executor), note_fraud(parameters, duel, rating) if is_fraud else rating)
    fine = compute_share(compute_weight(parameters, duel), parameters.fraud)
    return [Movement(duel.executor, -fine)] if is_fraud else []


def note_fraud(parameters: DuelParameters, duel: Duel, rating: ExecutorRating) -> ExecutorRating:
    """The rating of an executor after a duel was found a fraud."""
    return rating.note_fraud(parameters.probation_duels * compute_weight(parameters, duel))


def _end_silence(overlay: StateOverlay, parameters: Parameters, hold_id: bytes, duel: Duel, now: int) -> DuelEvent:
    """A challenger gave no answer: it pays, and another one takes its place.

    After :data:`MAX_CHALLENGERS` the executor pays too: it has probably withheld the request from them. If no other
    account is left, the judges look at the executor's answer alone.
    """
    assert duel.challenger is not None
    fine = Movement(duel.challenger, -compute_share(duel.amount, parameters.duels.silence))
    duel = replace(duel, challenger=None, silent=(*duel.silent, duel.challenger))
    if len(duel.silent) == MAX_CHALLENGERS:
        void = Movement(duel.executor, -compute_share(duel.amount, parameters.duels.void))
        fraud = note_result(overlay, parameters.duels, duel, DuelVerdict.UNANSWERED)
        return settle(overlay, parameters, hold_id, duel, DuelVerdict.UNANSWERED, (fine, void, *fraud))
    paid = move(overlay, parameters, fine)
    seed = compute_duel_seed(overlay.beacon.value, hold_id)
    challenger = draw_challenger(overlay, duel.model, seed, _list_parties(duel))
    stage, seats = (COMMIT, face_forward(duel.seats)) if challenger is None else (ANSWER, duel.seats)
    duel = replace(duel, challenger=challenger, seats=seats)
    return ChallengerReplaced(hold_id, enter_stage(overlay, parameters.duels, hold_id, duel, stage, now), paid)


def compute_dues(parameters: DuelParameters, duel: Duel, finding: Finding) -> list[Movement]:
    """What each account gets or (negative) pays after a finding, in micro-credits."""

    def share(thousandths: int) -> int:
        return compute_share(duel.amount, thousandths)

    verdict, dues = finding.verdict, []
    executor = {
        DuelVerdict.EXECUTOR_WON: share(parameters.executor_won),
        DuelVerdict.EXECUTOR_LOST: -share(parameters.executor_lost),
        DuelVerdict.EXECUTOR_MISSING: -share(parameters.void),
        DuelVerdict.FRAUD: -compute_share(compute_weight(parameters, duel), parameters.fraud),
    }
    dues.append(Movement(duel.executor, executor.get(verdict, 0)))
    if duel.challenger is not None and not duel.is_accused:  # who was paid by the first verdict
        challenger = {
            DuelVerdict.EXECUTOR_WON: share(parameters.challenger_lost),
            DuelVerdict.IDENTICAL: 0,  # a copy is no work
            DuelVerdict.CHALLENGER_MISSING: -share(parameters.silence),
        }
        amount = challenger.get(verdict, share(parameters.challenger))
        dues.append(Movement(duel.challenger, min(amount, 0) if finding.is_challenge_unusable else amount))
    for seat in duel.seats:
        key = seat.public_key
        if seat.ballot is None:
            dues.append(Movement(key, -share(parameters.silence)))
        elif key not in finding.voted:  # to abstain takes no work
            continue
        elif duel.is_accused:  # whichever way: they were asked because the first judges agreed
            dues.append(Movement(key, share(parameters.judge)))
        elif verdict in _PAID_IN_PART:
            dues.append(Movement(key, share(parameters.judge) // TIE_QUOTIENT))
        elif key in finding.agreed and verdict not in _UNPAID:
            dues.append(Movement(key, share(parameters.judge)))
    return dues


def settle(
    overlay: StateOverlay,
    parameters: Parameters,
    hold_id: bytes,
    duel: Duel,
    verdict: DuelVerdict,
    dues: Iterable[Movement],
) -> DuelSettled:
    """Close a duel: free what was set aside, and pay and take what is due."""
    unlock_bond(overlay, duel.executor, duel.locked)
    overlay.reserve(-duel.reserved)
    overlay.put(duel_key(hold_id), None)
    movements = tuple(move(overlay, parameters, due) for due in dues if due.amount)
    return DuelSettled(hold_id, duel, verdict, movements)
