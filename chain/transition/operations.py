"""Executing one operation: its form, its fee, and the dispatch to the rule of its kind.

Every ``process_…`` function raises :class:`~chain.exceptions.InvalidOperation` with a reason. An operation with a
nonce has then failed: its fee stays paid and its nonce used. An operation without a nonce cannot be included at all, or
it could be replayed to drain fees.
"""

from __future__ import annotations

from chain import crypto
from chain.exceptions import InvalidNonce, InvalidOperation
from chain.state.state import StateOverlay
from chain.transition import slashing, validators
from chain.transition.context import BlockContext
from chain.transition.fees import charge_entry_fee, charge_fee, compute_fee
from chain.transition.payments import (
    charge_capture,
    process_capture,
    process_dispute,
    process_hold,
    process_release,
    process_transfer,
)
from chain.transition.registration import process_register
from chain.transition.staking import process_bond, process_serve, process_unbond, process_withdraw
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
    compute_operation_id,
)


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
        if isinstance(operation, Capture):  # its fee comes out of what it captures
            holds = process_capture(attempt, context, operation, signer)
            charge_capture(attempt, operation, holds, signer, fee)
        else:
            charge_fee(attempt, signer, fee)
            _process(attempt, context, operation, signer)
        overlay.merge(attempt)
        return None
    account = overlay.account(signer)
    if operation.nonce != account.nonce:
        raise InvalidNonce(f"the nonce is {operation.nonce}, the account's next is {account.nonce}")
    charge_fee(overlay, signer, fee, nonces=1)
    effect = StateOverlay(overlay)
    try:
        _process(effect, context, operation, signer)
    except InvalidOperation as error:
        return str(error)
    overlay.merge(effect)
    return None


def check_form(signed: SignedOperation) -> None:
    """Check what needs no state.

    Raises:
        InvalidOperation: too large, or malformed beyond what its encoding shows.
    """
    operation = signed.operation
    limit = MAX_CAPTURE_BYTES if isinstance(operation, Capture) else MAX_OPERATION_BYTES
    if len(signed.encoded) > limit:
        raise InvalidOperation(f"the operation has {len(signed.encoded)} bytes, more than {limit}")
    if isinstance(operation, Transfer) and not crypto.is_valid_public_key(operation.recipient):
        raise InvalidOperation("the recipient is not a usable key")
    if isinstance(operation, Serve | Register) and list(operation.models) != sorted(set(operation.models)):
        raise InvalidOperation("models must be sorted and distinct")
    if isinstance(operation, Capture):
        holds = [item.delivery.hold for item in operation.items]
        if len(set(holds)) != len(holds):
            raise InvalidOperation("a hold is captured twice")
    if isinstance(operation, Evidence):
        slashing.check_evidence(operation)


def _process(overlay: StateOverlay, context: BlockContext, operation: Operation, signer: bytes) -> None:
    match operation:
        case Transfer():
            process_transfer(overlay, context, operation, signer)
        case Bond():
            process_bond(overlay, context, operation, signer)
        case Unbond():
            process_unbond(overlay, context, operation, signer)
        case Withdraw():
            process_withdraw(overlay, context, signer)
        case Serve():
            process_serve(overlay, operation, signer)
        case Enroll():
            if overlay.validator_record(signer) is None:
                charge_entry_fee(overlay, context, signer)
            validators.process_enroll(overlay, context.genesis, context.epoch, context.height, operation, signer)
        case Retire():
            validators.process_retire(overlay, signer)
        case Unjail():
            validators.process_unjail(overlay, context.epoch, context.height, signer)
        case Recommit():
            validators.process_recommit(overlay, context.epoch, operation, signer)
        case Register():
            is_proven = compute_operation_id(operation, signer) in context.proven
            process_register(overlay, context.genesis, operation, signer, is_proven)
        case Evidence():
            slashing.process_evidence(overlay, context.genesis, context.epoch, operation, signer)
        case Hold():
            process_hold(overlay, context, operation, signer)
        case Release():
            process_release(overlay, context, operation)
        case Dispute():
            process_dispute(overlay, operation, signer)
