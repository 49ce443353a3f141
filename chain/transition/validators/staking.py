"""Bonds, and the models that they stand behind: bond, unbond, withdraw, serve."""

from __future__ import annotations

from dataclasses import replace

from chain.exceptions import CannotPay, InvalidOperation
from chain.state.records import MAX_UNBONDINGS, Unbonding
from chain.state.state import StateOverlay
from chain.transition.context import BlockContext
from chain.transition.deposits import compute_least_unbonding, update_models
from chain.transition.fees import take
from chain.transition.validators import registry
from chain.types.operations import Bond, Serve, Unbond, Withdraw


def process_bond(overlay: StateOverlay, context: BlockContext, operation: Bond, signer: bytes) -> None:
    account = take(overlay, signer, operation.amount)
    overlay.put_account(signer, account.add_bond(operation.amount))
    registry.note_larger_bond(overlay, context.height, signer)


def process_unbond(overlay: StateOverlay, context: BlockContext, operation: Unbond, signer: bytes) -> None:
    account = overlay.account(signer)
    if not operation.amount:  # an empty entry could never be withdrawn, and would keep its place for ever
        raise InvalidOperation("nothing to unbond")
    if account.free_bond < operation.amount:
        asked, free = operation.amount, account.free_bond
        raise CannotPay(f"{asked} micro-credits asked, {free} bonded, not granted and not locked")
    # The tables of this and the next epoch are frozen already: the stake carries weight until the end of the next, and
    # from then on it takes the unbonding epochs in full.
    release = context.epoch + 2 + context.genesis.parameters.unbonding_epochs
    parts = {part.release_epoch: part.amount for part in account.unbonding}
    least = compute_least_unbonding(context.genesis.parameters)
    if release not in parts and operation.amount < least:
        raise InvalidOperation(f"unbonds {operation.amount} micro-credits, less than the {least} of a new entry")
    parts[release] = parts.get(release, 0) + operation.amount
    if len(parts) > MAX_UNBONDINGS:
        raise InvalidOperation(f"{MAX_UNBONDINGS} amounts are unbonding already; withdraw what is free first")
    unbonding = tuple(Unbonding(amount, epoch) for epoch, amount in sorted(parts.items()))
    overlay.put_account(signer, replace(account, bonded=account.bonded - operation.amount, unbonding=unbonding))


def process_serve(overlay: StateOverlay, context: BlockContext, operation: Serve, signer: bytes) -> None:
    """Replace the models that an account serves, their identities, and how it judges."""
    benched_until = overlay.judge_record(signer).benched_until
    if operation.judge is not None and context.chain_time < benched_until:
        raise InvalidOperation(f"the account was found guessing, and does not judge before chain time {benched_until}")
    parameters = context.genesis.parameters
    update_models(overlay, parameters, signer, operation.models, operation.judge, operation.identities)


def process_withdraw(overlay: StateOverlay, context: BlockContext, operation: Withdraw, signer: bytes) -> None:
    account = overlay.account(signer)
    free = sum(part.amount for part in account.unbonding if part.release_epoch <= context.epoch)
    if not free:
        raise InvalidOperation("nothing has finished unbonding")
    rest = tuple(part for part in account.unbonding if part.release_epoch > context.epoch)
    overlay.put_account(signer, replace(account, available=account.available + free, unbonding=rest))
