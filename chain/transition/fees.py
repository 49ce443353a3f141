"""Fees: by the bytes of an operation, and for each entry that stays in the state for good.

The bytes of a block are paid once. But some entries are never removed, and stay in the memory of every node: the
account that a transfer creates, the replay window of a payer's first hold, the record of an account that enrolls for
the first time. An operation that makes one pays ``entry_fee`` as well; twice for the record of a validator, since it is
twice as large. All other entries are limited in number, or have a deposit until they are removed
(:mod:`chain.transition.deposits`).
"""

from __future__ import annotations

from chain.exceptions import CannotPay
from chain.genesis import Genesis
from chain.state.records import Account
from chain.state.state import StateOverlay
from chain.transition.context import BlockContext
from chain.types.checks import CheckOperation
from chain.types.duels import DuelOperation
from chain.types.operations import Hold, Register, SignedOperation


def compute_fee(genesis: Genesis, signed: SignedOperation) -> int:
    """Fee of an operation in micro-credits, by its bytes. For a hold it grows with the attempt: skipping candidates
    costs.

    A registration is free, since newcomers have nothing. So are the operations of duels and checks, which only drawn
    accounts may submit.
    """
    if isinstance(signed.operation, Register | DuelOperation | CheckOperation):
        return 0
    fee = genesis.parameters.fee_per_byte * len(signed.encoded)
    return fee * (1 + signed.operation.attempt) if isinstance(signed.operation, Hold) else fee


def take(overlay: StateOverlay, public_key: bytes, amount: int, what: str = "the amount is") -> Account:
    """Take ``amount`` micro-credits from the available credit of an account. Returns the account after that.

    Raises:
        CannotPay: it has less; the message begins with ``what``.
    """
    account = overlay.account(public_key)
    if account.available < amount:
        raise CannotPay(f"{what} {amount} micro-credits, {account.available} are available")
    account = account.credit(-amount)
    overlay.put_account(public_key, account)
    return account


def charge_fee(overlay: StateOverlay, signer: bytes, fee: int) -> Account:
    """Move the fee from an account to the treasury. Returns the account after that.

    Raises:
        CannotPay: the account has less available.
    """
    account = take(overlay, signer, fee, "the fee is")
    overlay.fill_treasury(fee)
    return account


def charge_nonced_fee(overlay: StateOverlay, signer: bytes, fee: int) -> Account:
    """Move the fee of an operation with a nonce to the treasury. Returns the account after that.

    If too little is available, the rest comes out of the free bond, then out of unbonding entries: an account whose
    income is bonded (:mod:`chain.transition.income`) must be able to pay for taking it back.

    Raises:
        CannotPay: all of this is less.
    """
    account = overlay.account(signer)
    if account.payable < fee:
        raise CannotPay(f"the fee is {fee} micro-credits, {account.payable} are available, bonded or unbonding")
    account = account.pay_fee(fee)
    overlay.put_account(signer, account)
    overlay.fill_treasury(fee)
    return account


def charge_entry_fee(overlay: StateOverlay, context: BlockContext, signer: bytes, count: int = 1) -> None:
    """Move the price of ``count`` entries that stay in the state for good to the treasury.

    Raises:
        CannotPay: the account has less available.
    """
    price = count * context.genesis.parameters.entry_fee
    take(overlay, signer, price, "a new entry in the ledger costs")
    overlay.fill_treasury(price)
