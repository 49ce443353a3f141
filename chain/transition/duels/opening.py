"""Who takes part in a duel, and what is set aside for it.

Challenger and judges are drawn by stake from the serving table in force. The payer and the executor are never drawn,
nor is one account for two roles. An account that has stopped serving or judging is skipped. If no other account serves
the model, or the treasury cannot pay a challenger, the judges look at the executor's answer alone: a *solo check*. If
there is no judge, or the treasury cannot pay the judges either, there is no duel.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from itertools import islice

from chain import crypto
from chain.parameters.duels import DuelParameters
from chain.state.duel_records import ANSWER, COMMIT, Duel, JudgeSeat, PaidCapture
from chain.state.lottery import ServingTable
from chain.state.state import StateOverlay, StateReader
from chain.transition.duels.draw import compute_duel_seed
from chain.transition.duels.events import DuelOpened
from chain.transition.duels.money import compute_share, get_rate, lock_bond
from chain.transition.duels.stages import enter_stage
from chain.types.validators import compute_draw


def open_duel(overlay: StateOverlay, parameters: DuelParameters, capture: PaidCapture, now: int) -> DuelOpened | None:
    """Open the duel about a capture that was drawn in this block, at chain time ``now``; None if there can be none."""
    seed = compute_duel_seed(overlay.beacon.value, capture.hold)
    parties = {capture.payer, capture.payee}
    found = draw_challenger(overlay, capture.model, seed, parties)
    for challenger in (None,) if found is None else (found, None):
        seats = draw_seats(overlay, parameters.judges, seed, parties if challenger is None else {*parties, challenger})
        if challenger is None:
            seats = face_forward(seats)
        cost = compute_cost(parameters, capture.amount, len(seats), has_challenger=challenger is not None)
        if seats and cost <= overlay.totals.treasury - overlay.totals.reserved:
            break
    else:
        return None
    locked = lock_bond(overlay, parameters, capture.payee, capture.amount)
    overlay.reserve(cost)
    stage = COMMIT if challenger is None else ANSWER
    duel = Duel(
        payer=capture.payer,
        executor=capture.payee,
        model=capture.model,
        amount=capture.amount,
        rate=get_rate(overlay, parameters, capture.payee, capture.amount),
        request_digest=capture.request_digest,
        response_digest=capture.response_digest,
        stage=stage,
        ends_at=now,
        challenger=challenger,
        answer_digest=None,
        silent=(),
        seats=seats,
        locked=locked,
        reserved=cost,
    )
    return DuelOpened(capture.hold, enter_stage(overlay, parameters, capture.hold, duel, stage, now))


def draw_challenger(state: StateReader, model: str, seed: bytes, excluded: Collection[bytes]) -> bytes | None:
    """The account that answers a request for ``model`` again; None if no other account serves it."""
    drawn = get_table(state).draw_challengers(model, seed, excluded)
    return next((key for key in drawn if model in state.account(key).models), None)


def draw_seats(state: StateReader, size: int, seed: bytes, excluded: Collection[bytes]) -> tuple[JudgeSeat, ...]:
    """``size`` judges, or the largest odd number available, each with its order of the answers."""
    drawn = get_table(state).draw_judges(seed, excluded)
    ready = list(islice(((key, judge) for key, judge in drawn if state.account(key).judge == judge), size))
    seated = ready if len(ready) % 2 else ready[:-1]
    return tuple(
        JudgeSeat(key, judge, bool(compute_draw(crypto.hash_bytes("judge order", seed, key), 2)))
        for key, judge in seated
    )


def face_forward(seats: tuple[JudgeSeat, ...]) -> tuple[JudgeSeat, ...]:
    """The seats of a solo check, in which there is one answer to see."""
    return tuple(replace(seat, is_reversed=False) for seat in seats)


def compute_cost(parameters: DuelParameters, amount: int, judges: int, has_challenger: bool) -> int:
    """The most that a duel about a capture of ``amount`` may pay out."""
    cost = judges * compute_share(amount, parameters.judge)
    if has_challenger:
        cost += compute_share(amount, parameters.challenger) + compute_share(amount, parameters.executor_won)
    return cost


def get_table(state: StateReader) -> ServingTable:
    """That of the serving period which the block is in."""
    table = state.serving_table(state.serving_periods.current.first_round)
    assert table is not None
    return table
