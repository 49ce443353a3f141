"""Fees: by the bytes of an operation, and for each entry that stays in the state for good.

Bytes of a block are carried out once. An entry that nobody removes stays in the memory of every node: the account that
a transfer creates, the replay window of a payer's first hold, the record of an account that enrolls for the first time.
Such an operation pays ``entry_fee`` as well. All other entries are removed again or limited in number.
"""

from __future__ import annotations

from dataclasses import replace

from chain.exceptions import CannotPay
from chain.genesis import Genesis
from chain.state.records import Account
from chain.state.state import StateOverlay
from chain.transition import validators as validators
from chain.transition.context import BlockContext
from chain.types.operations import (
    Hold,
    Register,
    SignedOperation,
)


def compute_fee(genesis: Genesis, signed: SignedOperation) -> int:
    """Fee of an operation in micro-credits: by its bytes. For a hold it grows with the attempt: skipping costs."""
    if isinstance(signed.operation, Register):
        return 0
    fee = genesis.parameters.fee_per_byte * len(signed.encoded)
    return fee * (1 + signed.operation.attempt) if isinstance(signed.operation, Hold) else fee


def charge_fee(overlay: StateOverlay, signer: bytes, fee: int, nonces: int = 0) -> None:
    """Take the fee, and use up ``nonces`` of the account's numbers."""
    account = overlay.account(signer)
    if account.available < fee:
        raise CannotPay(f"the fee is {fee} micro-credits, {account.available} are available")
    overlay.put_account(signer, replace(account, available=account.available - fee, nonce=account.nonce + nonces))
    overlay.fill_treasury(fee)


def spend(account: Account, amount: int) -> Account:
    if account.available < amount:
        raise CannotPay(f"{amount} micro-credits asked, {account.available} available")
    return account.credit(-amount)


def charge_entry_fee(overlay: StateOverlay, context: BlockContext, signer: bytes) -> None:
    """Take the price of an entry that stays in the state for good."""
    price = context.genesis.parameters.entry_fee
    account = overlay.account(signer)
    if account.available < price:
        raise CannotPay(f"a new entry in the ledger costs {price} micro-credits, {account.available} are available")
    overlay.put_account(signer, account.credit(-price))
    overlay.fill_treasury(price)
