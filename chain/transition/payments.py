"""Transfers, and payment for requests: hold, capture, release, dispute.

A hold sets credit aside for one request to one executor, drawn by the lottery. A capture with the payer's receipt pays
at once, less the levies for duels and checks; one without waits in the settlement queue for the grace time, in which
the payer may dispute it. Until then the same amount of the payee's bond is locked, and a dispute takes the amount from
both: a lie costs the liar as much as the other. A block settles a bounded number of captures, and the rest stays in the
queue. Once its deadline has passed, a hold that was not captured is released to its payer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from chain import crypto
from chain.exceptions import CannotPay, InvalidOperation, InvalidSignature
from chain.parameters.parameters import Parameters
from chain.state.keys import SETTLEMENTS_KEY, account_key, due_captures_key, hold_key, replay_window_key
from chain.state.lottery import compute_lottery_seed
from chain.state.records import DueCaptures, OpenHold, SettlementQueue
from chain.state.state import StateOverlay, StateReader
from chain.transition.checks.opening import charge_check_levy
from chain.transition.context import BlockContext
from chain.transition.deposits import compute_hold_deposit, update_deposit
from chain.transition.duels.draw import is_exempt, note_paid_capture
from chain.transition.duels.money import charge_levy
from chain.transition.fees import charge_entry_fee, charge_fee, take
from chain.transition.income import bond_income
from chain.types.operations import (
    Capture,
    Delivery,
    Dispute,
    Hold,
    Release,
    Transfer,
    compute_hold_id,
)


def settle_due_captures(overlay: StateOverlay, parameters: Parameters, height: int, now: int) -> None:
    """Pay the unsettled captures whose grace time has ended, in order, as many as a block may.

    The block is that of ``height``, at chain time ``now``. Disputed ones count towards the limit too: each takes time
    to look at.
    """
    queue, settled = overlay.settlement_queue, 0
    number = queue.first
    while number < queue.end and settled < parameters.max_settlements:
        due_captures = overlay.due_captures(number)
        assert due_captures is not None
        if due_captures.pays_at > now:
            break
        for hold_id in due_captures.holds:
            hold = overlay.hold(hold_id)
            if hold is not None and hold.unsettled_delivery is not None:  # else disputed in the meantime
                _unlock(overlay, hold.payee, hold.unsettled_delivery.amount)
                earned = _pay(overlay, parameters, height, hold, hold.unsettled_delivery)
                bond_income(overlay, parameters, hold.payee, earned)
        overlay.put(due_captures_key(number), None)
        number, settled = number + 1, settled + len(due_captures.holds)
    if number > queue.first:
        overlay.put(SETTLEMENTS_KEY, SettlementQueue(number, queue.end) if number < queue.end else None)


def process_transfer(overlay: StateOverlay, context: BlockContext, operation: Transfer, signer: bytes) -> None:
    take(overlay, signer, operation.amount)
    if operation.amount and overlay.get(account_key(operation.recipient)) is None:
        charge_entry_fee(overlay, context, signer)
    recipient = overlay.account(operation.recipient)
    overlay.put_account(operation.recipient, recipient.credit(operation.amount))


def process_hold(overlay: StateOverlay, context: BlockContext, operation: Hold, signer: bytes) -> None:
    parameters = context.genesis.parameters
    if operation.attempt >= parameters.max_attempts:
        raise InvalidOperation(f"attempt {operation.attempt} is beyond the {parameters.max_attempts} allowed")
    least = parameters.get_price(operation.model).per_request
    if operation.amount < least:
        raise InvalidOperation(f"holds {operation.amount} micro-credits, less than the {least} of any request")
    if not context.chain_time < operation.deadline <= context.chain_time + parameters.max_hold_time_ms:
        raise InvalidOperation(
            f"the deadline {operation.deadline} is not within {parameters.max_hold_time_ms} ms from now"
        )
    if overlay.serving_periods.get_source(operation.round) is None:
        raise InvalidOperation(f"the serving period of round {operation.round} has not begun, or has ended")
    window = overlay.replay_window(signer)
    if not window.is_usable(operation.seq, operation.attempt):
        raise InvalidOperation(
            f"hold {operation.seq}/{operation.attempt} is used or outside the window at {window.top}"
        )
    payee = get_executor(overlay, operation.round, signer, operation.seq, operation.attempt, operation.model)
    if payee != operation.payee:
        raise InvalidOperation(f"the payee is not number {operation.attempt} of the lottery")
    if not overlay.account(operation.payee).models:
        raise InvalidOperation("the payee has left the lottery")
    held = operation.amount + compute_hold_deposit(parameters)
    account = take(overlay, signer, held, "the amount and the deposit for the hold are")
    overlay.put_account(signer, replace(account, held=account.held + held))
    if not window.top:
        charge_entry_fee(overlay, context, signer)
    after = window.use(operation.seq, operation.attempt)
    update_deposit(overlay, parameters, signer, window, after)
    overlay.put(replay_window_key(signer), after)
    hold = OpenHold(
        signer, operation.payee, operation.amount, operation.model, operation.request_digest, operation.deadline
    )
    overlay.put(hold_key(compute_hold_id(signer, operation)), hold)


def get_executor(
    state: StateReader, first_round: int, payer: bytes, seq: int, attempt: int, model: str
) -> bytes | None:
    """The account that request ``seq`` of ``payer`` must be offered to at ``attempt``, or None if there is none.

    The draw is that of the serving period which began with ``first_round``.
    """
    table, source = state.serving_table(first_round), state.serving_periods.get_source(first_round)
    if table is None or source is None:
        return None
    seed = compute_lottery_seed(source, payer, seq)
    return table.lottery(model).get_executor(seed, payer, attempt)


def process_capture(
    overlay: StateOverlay, context: BlockContext, operation: Capture, signer: bytes
) -> tuple[list[OpenHold], int]:
    """Execute a capture, without its fee, its receipts and the bonding of the payee's income.

    Returns the holds of its items as they were before, and the amount paid for items with a receipt, less the levies.
    """
    holds = [_check_delivery(overlay, context, item.delivery, signer) for item in operation.items]
    unsettled, earned = [], 0
    for item, hold in zip(operation.items, holds, strict=True):
        delivery = item.delivery
        if not delivery.amount:
            _resolve(overlay, context.genesis.parameters, delivery.hold, hold, None, 0)
        elif item.receipt is not None:
            parameters, height = context.genesis.parameters, context.height
            earned += _pay(overlay, parameters, height, hold, delivery, is_exempt=is_exempt(delivery))
        else:
            _lock(overlay, signer, delivery.amount)
            overlay.put(hold_key(delivery.hold), replace(hold, unsettled_delivery=delivery))
            unsettled.append(delivery.hold)
    if unsettled:
        queue, pays_at = overlay.settlement_queue, context.chain_time + context.genesis.parameters.capture_grace_ms
        overlay.put(due_captures_key(queue.end), DueCaptures(pays_at, tuple(unsettled)))
        overlay.put(SETTLEMENTS_KEY, SettlementQueue(queue.first, queue.end + 1))
    return holds, earned


def check_receipts(context: BlockContext, operation: Capture, holds: list[OpenHold]) -> None:
    """Check the receipts of a capture on the ``holds`` that it names.

    Raises:
        InvalidSignature: one is not the payer's.
    """
    for item, hold in zip(operation.items, holds, strict=True):
        if item.receipt is not None:
            check_receipt(hold.payer, context.genesis.chain_id, item.delivery, item.receipt)


@lru_cache(maxsize=1024)  # of receipts that hold: a node checks each in a session, in the mempool and in blocks
def check_receipt(payer: bytes, chain_id: bytes, delivery: Delivery, receipt: bytes) -> None:
    """Check that a receipt is the payer's signature over a delivery.

    Raises:
        InvalidSignature: it is not.
    """
    claim = crypto.SignatureCheck(payer, "receipt", chain_id, delivery.encode(), receipt)
    if not crypto.verify_all([claim]):
        raise InvalidSignature("the receipt is not the payer's")


def charge_capture(overlay: StateOverlay, operation: Capture, holds: list[OpenHold], signer: bytes, fee: int) -> None:
    """Take the fee of a capture that was executed.

    The payee pays from its available credit. A payee with too little, such as a newcomer, must be able to capture all
    the same, or it would work for nothing and its payers would wait for the deadline. So the rest comes out of the
    amounts that wait for their grace time, and then, in equal shares, out of the holds that were returned whole.
    """
    available = overlay.account(signer).available
    if fee > available:
        _charge_holds(overlay, operation, holds, fee - available)
    charge_fee(overlay, signer, min(fee, available))


def _charge_holds(overlay: StateOverlay, operation: Capture, holds: list[OpenHold], owed: int) -> None:
    """Take the part of its fee that the payee of an executed capture cannot pay out of the ``holds`` that it names."""
    overlay.fill_treasury(owed)
    items = list(zip(operation.items, holds, strict=True))
    for item, _ in items:
        hold = overlay.hold(item.delivery.hold)
        if hold is None or hold.unsettled_delivery is None:
            continue
        part = min(owed, hold.unsettled_delivery.amount)
        unsettled_delivery = replace(hold.unsettled_delivery, amount=hold.unsettled_delivery.amount - part)
        overlay.put(
            hold_key(item.delivery.hold),
            replace(hold, amount=hold.amount - part, unsettled_delivery=unsettled_delivery),
        )
        payer = overlay.account(hold.payer)
        overlay.put_account(hold.payer, replace(payer, held=payer.held - part))
        _unlock(overlay, hold.payee, part)
        owed -= part
    refunded = [hold for item, hold in items if not item.delivery.amount]
    for left, hold in zip(range(len(refunded), 0, -1), refunded, strict=True):
        part = min(-(-owed // left), hold.amount)
        overlay.put_account(hold.payer, overlay.account(hold.payer).credit(-part))
        owed -= part
    if owed:
        raise CannotPay(f"the fee is {owed} micro-credits more than is available and captured")


def _check_delivery(overlay: StateOverlay, context: BlockContext, delivery: Delivery, signer: bytes) -> OpenHold:
    """The open hold of a delivery that ``signer`` may capture.

    Raises:
        InvalidOperation: it may not.
    """
    hold = _open_hold(overlay, delivery.hold)
    if hold.payee != signer:
        raise InvalidOperation("only the payee captures a hold")
    if hold.unsettled_delivery is not None:
        raise InvalidOperation("the hold is captured already")
    price = context.genesis.parameters.get_price(hold.model).compute(delivery.usage)
    if delivery.amount > min(hold.amount, price):
        raise InvalidOperation(
            f"captures {delivery.amount}, more than the hold of {hold.amount} or the price of {price}"
        )
    return hold


def process_release(overlay: StateOverlay, context: BlockContext, operation: Release, signer: bytes) -> None:
    hold = _open_hold(overlay, operation.hold)
    if hold.unsettled_delivery is not None:
        raise InvalidOperation("the hold is captured already")
    if context.chain_time <= hold.deadline:
        raise InvalidOperation(f"the deadline {hold.deadline} has not passed at {context.chain_time}")
    _resolve(overlay, context.genesis.parameters, operation.hold, hold, hold.payer, 0)


def process_dispute(overlay: StateOverlay, context: BlockContext, operation: Dispute, signer: bytes, fee: int) -> None:
    """Take the amount of an unreceipted capture from its payer and from its payee, and then the fee.

    The fee comes out of the payer's available credit. A payer with too little must be able to dispute all the same, or
    its holds could be captured without risk: the rest of the fee counts as paid by the amount that is taken from it
    here.

    Raises:
        InvalidOperation: there is nothing to dispute, or all of this is less than the fee.
    """
    hold = _open_hold(overlay, operation.hold)
    if hold.payer != signer:
        raise InvalidOperation("only the payer disputes a capture")
    if hold.unsettled_delivery is None:
        raise InvalidOperation("nothing was captured from the hold")
    amount = hold.unsettled_delivery.amount
    _unlock(overlay, hold.payee, amount)
    payee = overlay.account(hold.payee)
    burned = min(amount, payee.own_bond)  # it has less if it was slashed meanwhile: then the payer keeps the rest
    overlay.put_account(hold.payee, replace(payee, bonded=payee.bonded - burned))
    overlay.fill_treasury(burned)
    _resolve(overlay, context.genesis.parameters, operation.hold, hold, None, burned)
    available = overlay.account(signer).available
    if fee > available + burned:
        raise CannotPay(f"the fee is {fee} micro-credits, {available + burned} are available and disputed")
    charge_fee(overlay, signer, min(fee, available))


def _open_hold(overlay: StateOverlay, hold_id: bytes) -> OpenHold:
    hold = overlay.hold(hold_id)
    if hold is None:
        raise InvalidOperation(f"no open hold {hold_id.hex()[:16]}")
    return hold


def _lock(overlay: StateOverlay, payee: bytes, amount: int) -> None:
    """Lock the same amount of the payee's own bond behind a capture without a receipt.

    A grant does not count: it cost its owner nothing, so that lying would cost nothing.

    Raises:
        CannotPay: less than the amount is free.
    """
    account = overlay.account(payee)
    if account.free_bond < amount:
        raise CannotPay(
            f"a capture without a receipt locks {amount} micro-credits of the bond, {account.free_bond} are free"
        )
    overlay.put_account(payee, replace(account, locked=account.locked + amount))


def _unlock(overlay: StateOverlay, payee: bytes, amount: int) -> None:
    """A capture without a receipt is settled, or worth ``amount`` less."""
    account = overlay.account(payee)
    overlay.put_account(payee, replace(account, locked=account.locked - amount))


def _pay(
    overlay: StateOverlay,
    parameters: Parameters,
    height: int,
    hold: OpenHold,
    delivery: Delivery,
    is_exempt: bool = False,
) -> int:
    """Pay a delivery to the payee of its hold, less the levies. Returns the amount paid.

    The delivery may be drawn for a duel, unless it ``is_exempt``.
    """
    _resolve(overlay, parameters, delivery.hold, hold, hold.payee, delivery.amount)
    if not parameters.duels.rate:
        return delivery.amount
    levies = charge_levy(overlay, parameters.duels, hold.payee, delivery.amount)
    levies += charge_check_levy(overlay, parameters, hold.payee, hold.model, delivery.amount)
    if not is_exempt:
        note_paid_capture(overlay, height, hold, delivery)
    return delivery.amount - levies


def _resolve(
    overlay: StateOverlay,
    parameters: Parameters,
    hold_id: bytes,
    hold: OpenHold,
    receiver: bytes | None,
    amount: int,
) -> None:
    """Pay ``amount`` of a hold to ``receiver`` (None: the treasury), the rest and the deposit back to its payer, and
    close it."""
    payer = overlay.account(hold.payer)
    held = hold.amount + compute_hold_deposit(parameters)
    overlay.put_account(hold.payer, replace(payer, held=payer.held - held, available=payer.available + held - amount))
    if receiver is None:
        overlay.fill_treasury(amount)
    else:
        account = overlay.account(receiver)
        overlay.put_account(receiver, account.credit(amount))
    overlay.put(hold_key(hold_id), None)
