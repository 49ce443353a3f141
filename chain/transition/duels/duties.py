"""The operations of those who take part in a duel: answer, commit, reveal.

Each is a duty of one account in one stage. Everything else is refused, by the mempool before its signature is checked.
"""

from __future__ import annotations

from dataclasses import replace

from chain.exceptions import InvalidOperation
from chain.state.duel_records import ANSWER, COMMIT, REPEAT, REVEAL, STAGES, Duel, JudgeSeat
from chain.state.keys import duel_key
from chain.state.state import StateOverlay, StateReader
from chain.transition.context import BlockContext
from chain.types.duels import DuelAnswer, DuelCommit, DuelOperation, DuelReveal, compute_ballot_commitment

_STAGES_OF = {DuelAnswer: (ANSWER,), DuelCommit: (COMMIT, REPEAT), DuelReveal: (REVEAL,)}


def check_duty(state: StateReader, operation: DuelOperation, signer: bytes) -> Duel:
    """The duel of an operation, after making sure that it is the signer's turn.

    Raises:
        InvalidOperation: it is not, or the operation was done already, or the ballot is not the one committed to.
    """
    duel = state.duel(operation.hold)
    if duel is None:
        raise InvalidOperation(f"there is no duel about hold {operation.hold.hex()[:16]}")
    if duel.stage not in _STAGES_OF[type(operation)]:
        raise InvalidOperation(f"the duel {STAGES[duel.stage]}")
    if isinstance(operation, DuelAnswer):
        if signer != duel.challenger:
            raise InvalidOperation("only the challenger answers")
        if duel.answer_digest is not None:
            raise InvalidOperation("the challenger has answered already")
        return duel
    seat = find_seat(duel, signer)
    if seat is None:
        raise InvalidOperation("the account is no judge of the duel")
    if isinstance(operation, DuelCommit):
        if seat.commitment is not None:
            raise InvalidOperation("the judge has committed already")
        if duel.stage != seat.commit_stage:
            raise InvalidOperation("it is not the turn of the judge")
    elif seat.ballot is not None:
        raise InvalidOperation("the judge has revealed its ballot already")
    elif seat.commitment != compute_ballot_commitment(operation.hold, signer, operation.salt, operation.ballot):
        raise InvalidOperation("the ballot is not the one that the judge has committed to")
    return duel


def find_seat(duel: Duel, public_key: bytes) -> JudgeSeat | None:
    """The seat of a judge, or of an account that repeats a vote; None if the account is neither."""
    return next((seat for seat in duel.all_seats if seat.public_key == public_key), None)


def process_duel_answer(overlay: StateOverlay, context: BlockContext, operation: DuelAnswer, signer: bytes) -> None:
    duel = check_duty(overlay, operation, signer)
    overlay.put(duel_key(operation.hold), replace(duel, answer_digest=operation.answer_digest))


def process_duel_commit(overlay: StateOverlay, context: BlockContext, operation: DuelCommit, signer: bytes) -> None:
    duel = check_duty(overlay, operation, signer)
    _change_seat(overlay, operation.hold, duel, signer, commitment=operation.commitment)


def process_duel_reveal(overlay: StateOverlay, context: BlockContext, operation: DuelReveal, signer: bytes) -> None:
    duel = check_duty(overlay, operation, signer)
    _change_seat(overlay, operation.hold, duel, signer, ballot=operation.ballot)


def _change_seat(overlay: StateOverlay, hold_id: bytes, duel: Duel, signer: bytes, **fields: object) -> None:
    """Note what a judge has done."""

    def change(seats: tuple[JudgeSeat, ...]) -> tuple[JudgeSeat, ...]:
        return tuple(replace(seat, **fields) if seat.public_key == signer else seat for seat in seats)  # type: ignore[arg-type]

    overlay.put(duel_key(hold_id), replace(duel, seats=change(duel.seats), repeats=change(duel.repeats)))
