"""Executing one operation: its form, its fee, and the dispatch to the rule of its kind.

Every ``process_…`` function takes the overlay, the context of the block, the operation and its signer, and raises
:class:`~chain.exceptions.InvalidOperation` with a reason. An operation with a nonce has then failed: its fee is paid
and its nonce used. An operation without a nonce cannot be included at all, or it could be replayed to drain fees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from chain import crypto
from chain.exceptions import InvalidNonce, InvalidOperation
from chain.state.state import StateOverlay
from chain.transition.checks.duties import process_check_commit, process_check_reveal
from chain.transition.context import BlockContext
from chain.transition.duels.duties import process_duel_answer, process_duel_commit, process_duel_reveal
from chain.transition.fees import charge_fee, charge_nonced_fee, compute_fee
from chain.transition.income import bond_income
from chain.transition.payments import (
    charge_capture,
    check_receipts,
    process_capture,
    process_dispute,
    process_hold,
    process_release,
    process_transfer,
)
from chain.transition.validators.registration import process_register
from chain.transition.validators.registry import process_enroll, process_recommit, process_retire, process_unjail
from chain.transition.validators.slashing import check_evidence, process_evidence
from chain.transition.validators.staking import process_bond, process_serve, process_unbond, process_withdraw
from chain.types.checks import CheckCommit, CheckReveal
from chain.types.duels import DuelAnswer, DuelCommit, DuelReveal
from chain.types.operations import (
    MAX_CAPTURE_BYTES,
    MAX_OPERATION_BYTES,
    Bond,
    Capture,
    Dispute,
    Enroll,
    Evidence,
    Hold,
    NoncedOperation,
    Operation,
    Recommit,
    Register,
    Release,
    Retire,
    Serve,
    SignedOperation,
    Transfer,
    Unbond,
    Unjail,
    Withdraw,
)

_PROCESS: Mapping[type[Operation], Callable[[StateOverlay, BlockContext, Any, bytes], None]] = {
    Transfer: process_transfer,
    Bond: process_bond,
    Unbond: process_unbond,
    Withdraw: process_withdraw,
    Serve: process_serve,
    Enroll: process_enroll,
    Retire: process_retire,
    Unjail: process_unjail,
    Recommit: process_recommit,
    Register: process_register,
    Evidence: process_evidence,
    Hold: process_hold,
    Release: process_release,
    DuelAnswer: process_duel_answer,
    DuelCommit: process_duel_commit,
    DuelReveal: process_duel_reveal,
    CheckCommit: process_check_commit,
    CheckReveal: process_check_reveal,
}
"""The rule of each type of operation, but for those whose fee comes out of what they settle."""


def process_operation(overlay: StateOverlay, context: BlockContext, signed: SignedOperation) -> str | None:
    """Execute one operation whose signature holds. Returns None, or why it failed although its fee was paid.

    Raises:
        InvalidOperation: it cannot be included here; ``overlay`` is then unchanged.
    """
    operation, signer = signed.operation, signed.signer
    check_form(signed)
    fee = compute_fee(context.genesis, signed)
    if not isinstance(operation, NoncedOperation):
        attempt = StateOverlay(overlay)
        if isinstance(operation, Capture):
            holds, earned = process_capture(attempt, context, operation, signer)
            charge_capture(attempt, operation, holds, signer, fee)
            bond_income(attempt, context.genesis.parameters, signer, earned)
            # Last, because they cost most: no work goes into them if a capture cannot be included for another reason.
            check_receipts(context, operation, holds)
        elif isinstance(operation, Dispute):
            process_dispute(attempt, context, operation, signer, fee)
        else:
            charge_fee(attempt, signer, fee)
            _PROCESS[type(operation)](attempt, context, operation, signer)
        overlay.merge(attempt)
        return None
    account = overlay.account(signer)
    if operation.nonce != account.nonce:
        raise InvalidNonce(f"the nonce is {operation.nonce}, the account's next is {account.nonce}")
    account = charge_nonced_fee(overlay, signer, fee)
    overlay.put_account(signer, replace(account, nonce=operation.nonce + 1))
    effect = StateOverlay(overlay)
    try:
        _PROCESS[type(operation)](effect, context, operation, signer)
    except InvalidOperation as error:
        return str(error)
    overlay.merge(effect)
    return None


def check_form(signed: SignedOperation) -> None:
    """Check everything that needs no state.

    Raises:
        InvalidOperation: too large, or malformed in a way that decoding does not detect.
    """
    operation = signed.operation
    limit = MAX_CAPTURE_BYTES if isinstance(operation, Capture) else MAX_OPERATION_BYTES
    if len(signed.encoded) > limit:
        raise InvalidOperation(f"the operation has {len(signed.encoded)} bytes, more than {limit}")
    if isinstance(operation, Transfer) and not crypto.is_valid_public_key(operation.recipient):
        raise InvalidOperation("the recipient is not a usable key")
    if isinstance(operation, Serve | Register) and list(operation.models) != sorted(set(operation.models)):
        raise InvalidOperation("models must be sorted and distinct")
    if isinstance(operation, Serve):
        named = [identity.model for identity in operation.identities]
        if named != sorted(set(named)) or not set(named) <= set(operation.models):
            raise InvalidOperation("identities must be sorted by model, each of another model that is served")
    if isinstance(operation, Capture):
        holds = [item.delivery.hold for item in operation.items]
        if len(set(holds)) != len(holds):
            raise InvalidOperation("a hold is captured twice")
    if isinstance(operation, Evidence):
        check_evidence(operation)
