"""Captures that cannot be included any more once a proposer comes to them: it checks their receipts for nothing.

All captures of an account count on the same credit for their fees. Its own transfer takes that away, earlier in the
same block.
"""

from __future__ import annotations

from unittest.mock import patch

from chain import crypto
from chain.codec import Record
from chain.genesis import Genesis, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.keys import account_key, hold_key
from chain.state.records import Account, OpenHold
from chain.state.state import State
from chain.transition.block import build_block
from chain.transition.deposits import compute_hold_deposit
from chain.transition.fees import compute_fee
from chain.types.blocks import MAX_BLOCK_BYTES
from chain.types.operations import (
    MAX_CAPTURE_ITEMS,
    Capture,
    CaptureItem,
    Delivery,
    Transfer,
    Usage,
    sign_operation,
)
from consensus.mempool.pool import Mempool
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.chain_builder import find_reveal
from tests.support.keys import make_key, make_keys

VALIDATOR, PAYER = make_key(1), make_key(2)
PAYEES = make_keys(40, "payee")


def run() -> Outcome:
    parameters = Parameters()
    validator = make_validator(VALIDATOR, bytes(32), parameters, 1_000 * CREDIT, 10_000 * CREDIT)
    genesis = make_genesis("attack", 1, bytes(32), [validator], parameters)
    holds: dict[bytes, Record | None] = {}
    captures = []
    for number, payee in enumerate(PAYEES * 2):
        items = []
        for seq in range(number * MAX_CAPTURE_ITEMS, (number + 1) * MAX_CAPTURE_ITEMS):
            name = seq.to_bytes(32, "big")
            holds[hold_key(name)] = OpenHold(PAYER.public_key, payee.public_key, 1_000, "x", bytes(32), 10**9)
            delivery = Delivery(name, 1, bytes(32), Usage(1, 1), "s")
            items.append(CaptureItem(delivery, PAYER.sign("receipt", genesis.chain_id, delivery.encode())))
        captures.append(sign_operation(payee, genesis.chain_id, Capture(tuple(items))))
    credit = compute_fee(genesis, captures[0]) + 20_000
    accounts = {account_key(payee.public_key): Account(available=credit) for payee in PAYEES}
    held = (1_000 + compute_hold_deposit(parameters)) * len(holds)
    accounts[account_key(PAYER.public_key)] = Account(available=1, held=held)
    state = genesis.state.update({**holds, **accounts})
    drain = Transfer(0, PAYER.public_key, credit - 200)
    drains = [sign_operation(payee, genesis.chain_id, drain) for payee in PAYEES]
    pool = Mempool(genesis, genesis.header, state)
    for operation in (*drains, *captures):
        pool.add(operation, 0.0)
    assert all(pool.is_ready(operation.id) for operation in (*drains, *captures)), "what waits is not tried"
    return _build(genesis, state, pool)


def _build(genesis: Genesis, state: State, pool: Mempool) -> Outcome:
    """Build the next block, and count what is checked of captures that it does not include."""
    checked: list[crypto.SignatureCheck] = []
    verify = crypto.verify_all

    def count(checks: list[crypto.SignatureCheck]) -> bool:
        checked.extend(checks)
        return verify(checks)

    operations = pool.draw(MAX_BLOCK_BYTES)
    with patch.object(crypto, "verify_all", count):
        block, _, rejected = build_block(
            genesis, VALIDATOR, genesis.header, state, operations,
            view=1, timestamp=genesis.timestamp + 1, reveal=find_reveal(VALIDATOR, genesis, state),
            parent_certificate=None, nullifications=(), on_rejected=operations.reject,
        )  # fmt: skip
    assert len(block.body.operations) == len(PAYEES) and rejected
    detail = f"{len(rejected)} captures turned down in one block, for no fee"
    return Outcome(0, len(checked), len(checked), detail, UNIT)


UNIT = "receipts checked"

ATTACK = Attack(
    "Captures that lose the credit for their fees",
    before=Outcome(0, 1_728, 1_728, "27 captures turned down in one block, for no fee", UNIT),
    run=run,
)
