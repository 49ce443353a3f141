"""Captures without receipts, gathered over many blocks, whose grace time ends in one: every leader has to settle them.

Each costs its author the fees of a hold and a capture; what is locked comes back.
"""

from __future__ import annotations

from chain.genesis import make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.keys import SETTLEMENTS_KEY, account_key, due_captures_key, hold_key
from chain.state.records import Account, DueCaptures, OpenHold, SettlementQueue
from chain.state.state import StateOverlay
from chain.transition.deposits import compute_hold_deposit
from chain.transition.payments import settle_due_captures
from chain.types.operations import MAX_CAPTURE_ITEMS, Delivery, Usage
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_key

CAPTURES = 160
"""Of as many holds each as a capture may name: more than twice of what a block settles."""

PAYER, PAYEE = make_key(2).public_key, make_key(3).public_key


def run() -> Outcome:
    parameters = Parameters()
    validator = make_validator(make_key(1), bytes(32), parameters, 1_000 * CREDIT, 10_000 * CREDIT)
    genesis = make_genesis("attack", 1, bytes(32), [validator], parameters)
    entries = {}
    for number in range(CAPTURES):
        names = []
        for seq in range(number * MAX_CAPTURE_ITEMS, (number + 1) * MAX_CAPTURE_ITEMS):
            names.append(seq.to_bytes(32, "big"))
            delivery = Delivery(names[-1], 1_000, bytes(32), Usage(1, 1), "s")
            entries[hold_key(names[-1])] = OpenHold(PAYER, PAYEE, 1_000, "x", bytes(32), 10**9, delivery)
        entries[due_captures_key(number)] = DueCaptures(60_000 + number // 10, tuple(names))
    total = CAPTURES * MAX_CAPTURE_ITEMS
    entries[SETTLEMENTS_KEY] = SettlementQueue(0, CAPTURES)
    held = 1_000 + compute_hold_deposit(parameters)
    entries[account_key(PAYER)] = Account(held=held * total)
    entries[account_key(PAYEE)] = Account(bonded=1_000 * total, locked=1_000 * total)
    state = genesis.state.update(entries)
    settled, height = [], 0
    while (open_holds := state.account(PAYER).held // held) > 0:
        height += 1
        overlay = StateOverlay(state)
        settle_due_captures(overlay, parameters, height, 70_000)
        state = state.update(overlay.changes)
        settled.append(open_holds - state.account(PAYER).held // held)
    assert sum(settled) == total and state.account(PAYEE).available == 1_000 * total
    return Outcome(0, max(settled), max(settled), f"{total:,} due at once, settled in {len(settled)} blocks", UNIT)


UNIT = "settlements in a block"

ATTACK = Attack(
    "Captures that are all settled in one block",
    before=Outcome(0, 256_000, 256_000, "256,000 due at once, settled in one block: 6.1 s of every validator", UNIT),
    run=run,
    accepted="the most that a block settles, for all payees together, takes some tenths of a second",
)
