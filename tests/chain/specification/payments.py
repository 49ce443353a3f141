"""Sections 7.3 and 7.4: hold, capture, release, dispute."""

from __future__ import annotations

import math
from fractions import Fraction

from tests.chain.specification.draws import order_executors
from tests.chain.specification.duels import note_paid
from tests.chain.specification.ledger import Ledger, get_free_bond, get_own_bond, need
from tests.chain.specification.notation import Record, encode, h, is_signed, u64

WINDOW = 256
"""Numbers of holds on each side of the top that are usable."""
HOLD_ROOM = 2_400
"""Bytes that an open hold counts for."""

NO_WINDOW: Record = {"top": 0, "used": b""}
NO_QUEUE: Record = {"first": 0, "end": 0}


def get_hold_id(payer: bytes, operation: Record) -> bytes:
    return h("operation", payer, encode(operation))


def is_unused(window: Record, seq: int, attempt: int) -> bool:
    """Whether a number is usable."""
    top, used = window["top"], window["used"]
    place = top - 1 - seq
    byte = used[place] if 0 <= place < len(used) else 0
    return top <= seq < top + WINDOW or (top - WINDOW <= seq < top and not byte >> attempt & 1)


def mark(window: Record, seq: int, attempt: int) -> Record:
    """The window once a number was used."""
    top, used = window["top"], window["used"]
    if seq >= top:
        used, top = bytes(seq + 1 - top) + used, seq + 1
    row = bytearray(used.ljust(WINDOW, b"\0"))
    row[top - 1 - seq] |= 1 << attempt
    return {"top": top, "used": bytes(row[:WINDOW]).rstrip(b"\0")}


def find_unused(window: Record) -> set[int]:
    """The numbers of a window below its top under which no hold was made."""
    top, used = window["top"], window["used"].ljust(WINDOW, b"\0")
    return {seq for seq in range(max(0, top - WINDOW), top) if not used[top - 1 - seq]}


def change_deposit(ledger: Ledger, signer: bytes, before: Record, after: Record) -> None:
    """The deposit of a payer whose window changes; that for numbers that leave it unused is lost."""
    unused = find_unused(before)
    left = {seq for seq in unused if seq >= after["top"] - WINDOW}
    forfeited = compute_deposit(ledger, len(unused)) - compute_deposit(ledger, len(left))
    due = compute_deposit(ledger, len(find_unused(after))) - compute_deposit(ledger, len(left))
    ledger.spend(signer, due)
    ledger.fill_treasury(forfeited)
    ledger.account(signer)["deposit"] += due - forfeited


def compute_deposit(ledger: Ledger, unused: int) -> int:
    return int(ledger.parameters["unused_number_fee"] * unused * (64 + unused) // 64)


def find_executor(ledger: Ledger, first_round: int, payer: bytes, seq: int, attempt: int, model: str) -> bytes | None:
    """Number ``attempt`` of the lottery of a serving period, if there is one."""
    periods = {period["first_round"]: period["source"] for period in ledger.entries[b"d"]["periods"]}
    table, source = ledger.entries.get(b"t" + u64(first_round)), periods.get(first_round)
    if table is None or source is None:
        return None
    return dict(enumerate(order_executors(table, source, payer, seq, model))).get(attempt)


def get_price(ledger: Ledger, model: str) -> Record:
    own = [each["price"] for each in ledger.parameters["model_prices"] if each["model"] == model]
    price: Record = own[0] if own else ledger.parameters["price"]
    return price


def compute_price(ledger: Ledger, model: str, usage: Record) -> int:
    """The price of an answer (section 5)."""
    price = get_price(ledger, model)
    cost = price["per_request"] + price["per_prompt_byte"] * usage["prompt_bytes"]
    return int(cost + price["per_completion_byte"] * usage["completion_bytes"])


def hold(ledger: Ledger, operation: Record, signer: bytes) -> None:
    parameters, seq, attempt = ledger.parameters, operation["seq"], operation["attempt"]
    first_round = operation["round"]
    need(attempt < parameters["max_attempts"])
    need(operation["amount"] >= get_price(ledger, operation["model"])["per_request"])
    need(ledger.now < operation["deadline"] <= ledger.now + parameters["max_hold_time_ms"])
    is_new = b"w" + signer not in ledger.entries
    window = ledger.get(b"w" + signer, NO_WINDOW)
    need(is_unused(window, seq, attempt))
    need(operation["payee"] == find_executor(ledger, first_round, signer, seq, attempt, operation["model"]))
    need(ledger.account(operation["payee"])["models"])
    held = operation["amount"] + ledger.price_room(HOLD_ROOM)
    ledger.spend(signer, held)
    ledger.account(signer)["held"] += held
    if is_new:
        ledger.pay_entry(signer)
    after = mark(window, seq, attempt)
    change_deposit(ledger, signer, window, after)
    ledger.entries[b"w" + signer] = after
    ledger.entries[b"h" + get_hold_id(signer, operation)] = {
        "payer": signer, "payee": operation["payee"], "amount": operation["amount"], "model": operation["model"],
        "request_digest": operation["request_digest"], "deadline": operation["deadline"],
        "unsettled_delivery": None,
    }  # fmt: skip


def find_hold(ledger: Ledger, hold_id: bytes) -> Record:
    """An open hold."""
    need(b"h" + hold_id in ledger.entries)
    return ledger.entries[b"h" + hold_id]


def resolve(ledger: Ledger, hold_id: bytes, receiver: bytes | None, amount: int) -> None:
    """Pay a part of a hold to ``receiver``, or to the treasury, the rest and the deposit to its payer; remove it."""
    entry = ledger.entries.pop(b"h" + hold_id)
    payer = ledger.account(entry["payer"])
    held = entry["amount"] + ledger.price_room(HOLD_ROOM)
    payer["held"] -= held
    payer["available"] += held - amount
    if receiver is None:
        ledger.fill_treasury(amount)
    else:
        ledger.account(receiver)["available"] += amount


def capture(ledger: Ledger, operation: Record, signer: bytes, fee: int) -> None:
    """Its effect and its fee, which comes out of what it captures if need be."""
    for item in operation["items"]:
        delivery = item["delivery"]
        entry = find_hold(ledger, delivery["hold"])
        need(entry["unsettled_delivery"] is None and entry["payee"] == signer)
        need(delivery["amount"] <= min(entry["amount"], compute_price(ledger, entry["model"], delivery["usage"])))
        if item["receipt"] is not None:
            need(is_signed(entry["payer"], "receipt", ledger.chain_id, encode(delivery), item["receipt"]))
    unsettled, refunded, income = [], [], 0
    for item in operation["items"]:
        delivery = item["delivery"]
        entry = find_hold(ledger, delivery["hold"])
        if not delivery["amount"]:
            refunded.append((entry["payer"], entry["amount"]))
        if item["receipt"] is not None or not delivery["amount"]:
            resolve(ledger, delivery["hold"], signer, delivery["amount"])
            if delivery["amount"]:
                income += note_paid(ledger, delivery["hold"], entry, delivery, has_receipt=True)
            continue
        need(get_free_bond(ledger.account(signer)) >= delivery["amount"])
        ledger.account(signer)["locked"] += delivery["amount"]
        entry["unsettled_delivery"] = dict(delivery)
        unsettled.append((delivery["hold"], entry))
    if unsettled:
        queue, pays_at = ledger.get(b"q", NO_QUEUE), ledger.now + ledger.parameters["capture_grace_ms"]
        due = {"pays_at": pays_at, "holds": [hold_id for hold_id, _ in unsettled]}
        ledger.entries[b"g" + u64(queue["end"])] = due
        queue["end"] += 1
    ledger.fill_treasury(fee)
    paid = min(fee, ledger.account(signer)["available"])
    ledger.account(signer)["available"] -= paid
    for _, entry in unsettled:
        fee, paid = fee - paid, min(fee - paid, entry["unsettled_delivery"]["amount"])
        entry["amount"] -= paid
        entry["unsettled_delivery"]["amount"] -= paid
        ledger.account(entry["payer"])["held"] -= paid
        ledger.account(signer)["locked"] -= paid
    for place, (payer, amount) in enumerate(refunded):
        fee = fee - paid
        paid = min(math.ceil(Fraction(fee, len(refunded) - place)), amount)
        ledger.account(payer)["available"] -= paid
    need(fee == paid)
    ledger.bond_income(signer, income)


def settle_due_captures(ledger: Ledger) -> None:
    """Pay the captures at the head of the settlement queue that are due, until enough holds were taken from it."""
    queue, taken = ledger.get(b"q", NO_QUEUE), 0
    while queue["first"] < queue["end"] and taken < ledger.parameters["max_settlements"]:
        key = b"g" + u64(queue["first"])
        if ledger.entries[key]["pays_at"] > ledger.now:
            break
        hold_ids = ledger.entries.pop(key)["holds"]
        for hold_id in hold_ids:
            if b"h" + hold_id in ledger.entries:
                entry = ledger.entries[b"h" + hold_id]
                ledger.account(entry["payee"])["locked"] -= entry["unsettled_delivery"]["amount"]
                resolve(ledger, hold_id, entry["payee"], entry["unsettled_delivery"]["amount"])
                income = note_paid(ledger, hold_id, entry, entry["unsettled_delivery"], has_receipt=False)
                ledger.bond_income(entry["payee"], income)
        taken += len(hold_ids)
        queue["first"] += 1
    if queue["first"] == queue["end"]:
        del ledger.entries[b"q"]


def release(ledger: Ledger, operation: Record, signer: bytes) -> None:
    entry = find_hold(ledger, operation["hold"])
    need(entry["unsettled_delivery"] is None and ledger.now > entry["deadline"])
    resolve(ledger, operation["hold"], None, 0)


def dispute(ledger: Ledger, operation: Record, signer: bytes, fee: int) -> None:
    """Its effect, and its fee, of which the payer owes no more than it has left."""
    entry = find_hold(ledger, operation["hold"])
    need(entry["payer"] == signer and entry["unsettled_delivery"] is not None)
    amount, payee = entry["unsettled_delivery"]["amount"], ledger.account(entry["payee"])
    payee["locked"] -= amount
    burned = min(amount, get_own_bond(payee))
    payee["bonded"] -= burned
    ledger.fill_treasury(burned)
    resolve(ledger, operation["hold"], None, burned)
    left = ledger.account(signer)["available"]
    need(fee <= left + burned)
    ledger.spend(signer, min(fee, left))
    ledger.fill_treasury(min(fee, left))
