"""The owner's orders to the wallet: what each must say, and which operation it becomes.

Amounts are in micro-credits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

import trio
from pydantic import AfterValidator, Field

from chain.crypto import parse_address
from chain.exceptions import InvalidOperation, KeyFormatError
from chain.state.beacon import make_hash_chain
from chain.state.state import StateOverlay
from chain.transition.context import BlockContext
from chain.transition.fees import compute_fee
from chain.transition.operations import process_operation
from chain.types.operations import (
    MAX_MODELS,
    Bond,
    Enroll,
    NoncedOperation,
    Retire,
    Serve,
    SignedOperation,
    Transfer,
    Unbond,
    Unjail,
    Withdraw,
)
from serving.accounting.registration import register
from serving.admin.node_view import NodeView
from serving.config.fields import MAX_AMOUNT, ModelName, Section

MAX_FINALITY_WAIT_S = 300.0
"""Longest time that a request may wait for finality."""
MAX_MEMO_BYTES = 64
"""Longest memo of a transfer."""


class OrderRefused(Exception):
    """The operation would fail. The message says why."""


def _check_recipient(address: str) -> str:
    try:
        parse_address(address)
    except KeyFormatError as error:
        raise ValueError(str(error)) from None
    return address


def _check_memo(memo: str) -> str:
    size = len(memo.encode())
    if size > MAX_MEMO_BYTES:
        raise ValueError(f"has {size} bytes, more than {MAX_MEMO_BYTES}")
    return memo


class Order(Section):
    """Any order; the answer waits up to ``wait`` seconds for the operation to be final. A dry run only says what the
    operation would cost."""

    wait: float = Field(default=0.0, ge=0, le=MAX_FINALITY_WAIT_S)
    dry_run: bool = False


class AmountOrder(Order):
    """An order that moves an amount."""

    amount: int = Field(ge=1, le=MAX_AMOUNT)


class TransferOrder(AmountOrder):
    """An order that pays another account."""

    recipient: Annotated[str, AfterValidator(_check_recipient)]
    memo: Annotated[str, AfterValidator(_check_memo)] = ""


class ServeOrder(Order):
    """An order that declares models."""

    models: list[ModelName] = Field(max_length=MAX_MODELS)


class WalletOrder(NamedTuple):
    """One kind of order: its body, and the operation that it becomes with the nonce given."""

    body: type[Order]
    make: Callable[[NodeView, Any, int], NoncedOperation]


def _make_transfer(node: NodeView, order: TransferOrder, nonce: int) -> Transfer:
    return Transfer(nonce, parse_address(order.recipient), order.amount, order.memo.encode())


def _make_enroll(node: NodeView, order: Order, nonce: int) -> Enroll:
    genesis = node.engine.genesis
    number = nonce + 1  # 0 is that of genesis
    hash_chain = make_hash_chain(node.key, genesis.beacon, number, genesis.parameters.epoch_heights)
    return Enroll(nonce, hash_chain.commitment, number)


def _make_serve(node: NodeView, order: ServeOrder, nonce: int) -> Serve:
    """The operation for other models. The judge of the account stays, and so do the identities of models that stay."""
    account = node.engine.state.account(node.key.public_key)
    identities = tuple(identity for identity in account.identities if identity.model in order.models)
    return Serve(nonce, tuple(sorted(set(order.models))), account.judge, identities)


WALLET_ORDERS: Mapping[str, WalletOrder] = {
    "transfer": WalletOrder(TransferOrder, _make_transfer),
    "bond": WalletOrder(AmountOrder, lambda node, order, nonce: Bond(nonce, order.amount)),
    "unbond": WalletOrder(AmountOrder, lambda node, order, nonce: Unbond(nonce, order.amount)),
    "withdraw": WalletOrder(Order, lambda node, order, nonce: Withdraw(nonce)),
    "serve": WalletOrder(ServeOrder, _make_serve),
    "enroll": WalletOrder(Order, _make_enroll),
    "retire": WalletOrder(Order, lambda node, order, nonce: Retire(nonce)),
    "unjail": WalletOrder(Order, lambda node, order, nonce: Unjail(nonce)),
}
"""The orders that become an operation with a nonce, by the last part of their path."""


async def carry_out(node: NodeView, kind: WalletOrder, order: Order) -> dict[str, Any]:
    """Sign and submit the operation of an order, unless it would fail; returns what became of it.

    Of a dry run it returns the fee, what the account would have afterwards, and from which epoch on that counts.

    Raises:
        OrderRefused: it would fail, which on the ledger would still cost its fee.
    """

    def make(nonce: int) -> NoncedOperation:
        return kind.make(node, order, nonce)

    obstacle, foreseen = _foresee(node, make)
    if obstacle is not None:
        raise OrderRefused(obstacle)
    if order.dry_run:
        return {"operation": None, **foreseen, "height": None, "failure": None}
    try:
        signed = await node.wallet.submit(make)
    except InvalidOperation as error:
        raise OrderRefused(str(error)) from None
    return await _wait_outcome(node, signed, order.wait)


async def carry_out_registration(node: NodeView, order: Order) -> dict[str, Any]:
    """Do the proof of work for a newcomer's bond and submit it; returns what became of it.

    Raises:
        OrderRefused: the chain grants nothing, or the account exists already.
    """
    models = node.backend_pool.get_models()[:MAX_MODELS]
    try:
        signed = await register(node.engine, node.key, models, node.runtime)
    except InvalidOperation as error:
        raise OrderRefused(str(error)) from None
    return await _wait_outcome(node, signed, order.wait)


async def _wait_outcome(node: NodeView, signed: SignedOperation, wait: float) -> dict[str, Any]:
    """The outcome of an operation, after at most ``wait`` seconds; ``height`` is None while it is not final."""
    height, failure = None, None
    if wait:
        with suppress(trio.TooSlowError):
            height, failure = await node.engine.wait_final(signed.id, wait)
    fee = compute_fee(node.engine.genesis, signed)
    return {"operation": signed.id.hex(), "fee": fee, "height": height, "failure": failure}


def _foresee(node: NodeView, make: Callable[[int], NoncedOperation]) -> tuple[str | None, dict[str, int | None]]:
    """Why the operation would fail if it were the next on the ledger (None if it would not), and what it would do.

    ``votes_from_epoch`` is the first epoch whose committee is not fixed yet. ``free_from_epoch`` is when the last of
    what is unbonding then would be free, None if nothing is.
    """
    engine, signer = node.engine, node.key.public_key
    state, context = engine.state, BlockContext.after(engine.genesis, engine.header)
    unsigned = SignedOperation(make(state.account(signer).nonce), signer, bytes(64))
    after = StateOverlay(state)
    try:
        obstacle = process_operation(after, context, unsigned)
    except InvalidOperation as error:
        obstacle = str(error)
    account = after.account(signer)
    return obstacle, {
        "fee": compute_fee(engine.genesis, unsigned),
        "available_after": account.available,
        "bonded_after": account.bonded,
        "free_from_epoch": max((part.release_epoch for part in account.unbonding), default=None),
        "votes_from_epoch": engine.status().epoch + 2,
    }
