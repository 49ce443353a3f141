"""Repeated votes: another account with an equal judge casts a vote again.

These votes are drawn after the judges have committed to their ballots, so that a judge who votes by chance does not
know when it is tested. The repeating account commits to its ballot before any ballot is revealed, so that it cannot
copy. No one needs to know which vote is right: honest ones agree (:mod:`chain.state.judge_records`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from chain import crypto
from chain.parameters.duels import DuelParameters
from chain.state.duel_records import Duel, JudgeSeat
from chain.state.judge_records import DIFFERENT, SAME, JudgeRecord
from chain.state.keys import judge_record_key
from chain.state.state import StateOverlay
from chain.transition.duels.draw import compute_duel_seed
from chain.transition.duels.money import Movement, compute_share
from chain.transition.duels.opening import get_table
from chain.types.duels import ABSTAIN, DuelBallot
from chain.types.validators import compute_draw


def draw_repeats(
    overlay: StateOverlay, parameters: DuelParameters, hold_id: bytes, duel: Duel, excluded: Collection[bytes]
) -> Duel:
    """The duel with the accounts that repeat votes, drawn among those that are not ``excluded``.

    The pay of each is reserved. A vote is not repeated if no other account has an equal judge, or the treasury cannot
    pay.
    """
    table, seed = get_table(overlay), compute_duel_seed(overlay.beacon.value, hold_id)
    pay = compute_share(duel.amount, parameters.judge)
    out = set(excluded)
    repeats: list[JudgeSeat] = []
    for seat in duel.seats:
        entropy = crypto.hash_bytes("repeat", seed, seat.public_key)
        if seat.commitment is None or compute_draw(entropy, 1_000) >= parameters.repeat_rate:
            continue
        drawn = table.draw_equal_judges(seat.judge, entropy, out)
        key = next((key for key in drawn if overlay.account(key).judge == seat.judge), None)
        if key is None or pay > overlay.totals.treasury - overlay.totals.reserved:
            continue
        overlay.reserve(pay)
        out.add(key)
        repeats.append(JudgeSeat(key, seat.judge, seat.is_reversed, repeats=seat.public_key))
    return replace(duel, repeats=tuple(repeats), reserved=duel.reserved + pay * len(repeats))


def compute_repeat_dues(parameters: DuelParameters, duel: Duel) -> list[Movement]:
    """What the accounts that repeated votes get, whatever their ballots, or pay if they revealed none."""
    dues = []
    for seat in duel.repeats:
        if seat.ballot is None:
            dues.append(Movement(seat.public_key, -compute_share(duel.amount, parameters.silence)))
        elif _is_vote(seat.ballot):
            dues.append(Movement(seat.public_key, compute_share(duel.amount, parameters.judge)))
    return dues


def compare_repeats(overlay: StateOverlay, parameters: DuelParameters, duel: Duel, now: int) -> list[Movement]:
    """Add the results of repeated votes to the records of both accounts. Returns the penalties for guessing."""
    seats = {seat.public_key: seat for seat in duel.seats}
    fines = []
    for seat in duel.repeats:
        assert seat.repeats is not None
        for key, result in _compare(seats[seat.repeats], seat):
            record = overlay.judge_record(key).add(result)
            if record.is_guessing:
                record = JudgeRecord(b"", now + parameters.bench_ms)
                overlay.put_account(key, replace(overlay.account(key), judge=None))
                fines.append(Movement(key, -compute_share(duel.amount, parameters.guessing)))
            overlay.put(judge_record_key(key), record)
    return fines


def _compare(seat: JudgeSeat, repeat: JudgeSeat) -> list[tuple[bytes, int]]:
    """What two runs of a vote show of the accounts that cast them."""
    first, second = seat.ballot, repeat.ballot
    if first is not None and second is not None:
        if not _is_vote(first) or not _is_vote(second):
            return []
        result = SAME if first == second else DIFFERENT
        return [(seat.public_key, result), (repeat.public_key, result)]
    # By now it is known that the vote was repeated: without this rule, a judge that has guessed would stay silent.
    return [(each.public_key, DIFFERENT) for each in (seat, repeat) if each.commitment and each.ballot is None]


def _is_vote(ballot: DuelBallot) -> bool:
    """Whether a ballot can be compared: not if texts were missing, which the other judge may have got."""
    return ballot.better != ABSTAIN and not ballot.missing
