"""The operations of checkers: commit, reveal.

Each is a duty of one account in one stage. Everything else is refused, by the mempool before its signature is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chain.exceptions import InvalidOperation
from chain.state.check_records import CHECK_COMMIT, CHECK_REVEAL, CHECK_STAGES, CheckerSeat, ModelCheck
from chain.state.keys import check_key
from chain.state.state import StateOverlay, StateReader
from chain.transition.context import BlockContext
from chain.types.checks import MEASURED, CheckCommit, CheckOperation, CheckReveal, compute_report_commitment


def check_turn(state: StateReader, operation: CheckOperation, signer: bytes) -> ModelCheck:
    """The check of an operation, after making sure that it is the signer's turn.

    Raises:
        InvalidOperation: it is not, or the operation was done already, or the report is not the one committed to, or
            measures a missing transcript.
    """
    check = state.model_check(operation.hold)
    if check is None:
        raise InvalidOperation(f"there is no check about hold {operation.hold.hex()[:16]}")
    if check.stage != (CHECK_COMMIT if isinstance(operation, CheckCommit) else CHECK_REVEAL):
        raise InvalidOperation(f"the check {CHECK_STAGES[check.stage]}")
    seat = next((seat for seat in check.seats if seat.public_key == signer), None)
    if seat is None:
        raise InvalidOperation("the account is no checker of the answer")
    if isinstance(operation, CheckCommit):
        if seat.commitment is not None:
            raise InvalidOperation("the checker has committed already")
    elif seat.report is not None:
        raise InvalidOperation("the checker has revealed its report already")
    elif seat.commitment != compute_report_commitment(operation.hold, signer, operation.salt, operation.report):
        raise InvalidOperation("the report is not the one that the checker has committed to")
    elif operation.report.kind == MEASURED and check.transcript_digest is None:
        raise InvalidOperation("the executor has committed to no transcript that could be measured")
    return check


def process_check_commit(overlay: StateOverlay, context: BlockContext, operation: CheckCommit, signer: bytes) -> None:
    _change_seat(overlay, operation, signer, lambda seat: replace(seat, commitment=operation.commitment))


def process_check_reveal(overlay: StateOverlay, context: BlockContext, operation: CheckReveal, signer: bytes) -> None:
    _change_seat(overlay, operation, signer, lambda seat: replace(seat, report=operation.report))


def _change_seat(
    overlay: StateOverlay, operation: CheckOperation, signer: bytes, change: Callable[[CheckerSeat], CheckerSeat]
) -> None:
    check = check_turn(overlay, operation, signer)
    seats = tuple(change(seat) if seat.public_key == signer else seat for seat in check.seats)
    overlay.put(check_key(operation.hold), replace(check, seats=seats))
