"""An executor that owns nothing refunds as many holds as a capture may name: how much of its fee does one payer pay?"""

from __future__ import annotations

from chain.genesis import make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.keys import account_key, hold_key
from chain.state.records import Account, OpenHold
from chain.state.state import StateOverlay
from chain.transition.context import BlockContext
from chain.transition.deposits import compute_hold_deposit
from chain.transition.operations import process_operation
from chain.types.operations import MAX_CAPTURE_ITEMS, Capture, CaptureItem, Delivery, Usage, sign_operation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_key

HELD = 160_000
EXECUTOR, PAYERS = make_key("executor"), [make_key(f"payer {number}").public_key for number in range(MAX_CAPTURE_ITEMS)]


def run() -> Outcome:
    parameters = Parameters()
    validator = make_validator(make_key(1), bytes(32), parameters, 1_000 * CREDIT, 10_000 * CREDIT)
    genesis = make_genesis("attack", 1, bytes(32), [validator], parameters)
    held = HELD + compute_hold_deposit(parameters)
    holds = {hold_key(payer): OpenHold(payer, EXECUTOR.public_key, HELD, "m", bytes(32), 10**9) for payer in PAYERS}
    accounts = {account_key(payer): Account(held=held) for payer in PAYERS}
    overlay = StateOverlay(genesis.state.update({**holds, **accounts}))
    items = tuple(CaptureItem(Delivery(payer, 0, bytes(32), Usage(0, 0), "e" * 32), None) for payer in PAYERS)
    refund = sign_operation(EXECUTOR, genesis.chain_id, Capture(items))
    process_operation(overlay, BlockContext(genesis, 0, 1, 1), refund)
    losses = [held - overlay.account(payer).total for payer in PAYERS]
    assert sum(losses) == len(refund.encoded)
    return Outcome(0, 0, max(losses), f"of a fee of {sum(losses):,}")


ATTACK = Attack(
    "has one payer pay the fee for the refunds of all",
    Outcome(0, 0, 7_082, "the first payer pays all of the fee"),
    run,
)
