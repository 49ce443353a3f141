"""Sections 7.1, 7.2 and 10: inclusion and fees; operations on credit and service; registration."""

from __future__ import annotations

import copy
from collections.abc import Callable

from nacl.pwhash import argon2id

from tests.chain.specification import checks, duels, payments, validators
from tests.chain.specification.ledger import NO_ACCOUNT, NO_VALIDATOR, Forbidden, Ledger, get_free_bond, need
from tests.chain.specification.notation import Record, encode, h, is_usable, number

MAX_OPERATION_BYTES, MAX_CAPTURE_BYTES = 4_096, 32_768
MAX_UNBONDINGS = 32
MODEL_ROOM, UNBONDING_ROOM = 448, 192

FREE = {"Register", "DuelAnswer", "DuelCommit", "DuelReveal", "CheckCommit", "CheckReveal"}
"""Operations without a fee."""

DONE, FAILED, REFUSED = "done", "failed", "refused"
"""Included; included, but only the fee and the nonce were used; cannot be included, so that nothing changed."""


def include(ledger: Ledger, signed: Record) -> str:
    """Execute an operation whose signature holds. Returns its outcome."""
    operation, signer, kind = signed["operation"], signed["signer"], signed["operation"]["record"]
    fee = compute_fee(ledger, signed)

    def charge_fee() -> None:
        ledger.spend(signer, fee)
        ledger.fill_treasury(fee)

    def charge_owner() -> None:
        account = ledger.account(signer)
        sources = [(account, "available", account["available"]), (account, "bonded", get_free_bond(account))]
        sources += [(part, "amount", part["amount"]) for part in account["unbonding"]]
        owed = fee
        for balance, name, most in sources:
            paid = min(owed, most)
            balance[name] -= paid
            owed -= paid
        need(not owed)
        account["unbonding"] = [part for part in account["unbonding"] if part["amount"]]
        ledger.fill_treasury(fee)

    def happen() -> None:
        EFFECTS[kind](ledger, operation, signer)

    if not is_well_formed(signed):
        return REFUSED
    if kind == "Capture":
        return DONE if attempt(ledger, lambda: payments.capture(ledger, operation, signer, fee)) else REFUSED
    if kind == "Dispute":
        return DONE if attempt(ledger, lambda: payments.dispute(ledger, operation, signer, fee)) else REFUSED
    if "nonce" not in operation:
        return DONE if attempt(ledger, charge_fee, happen) else REFUSED
    if operation["nonce"] != ledger.account(signer)["nonce"] or not attempt(ledger, charge_owner):
        return REFUSED
    ledger.account(signer)["nonce"] += 1
    return DONE if attempt(ledger, happen) else FAILED


def attempt(ledger: Ledger, *steps: Callable[[], None]) -> bool:
    """Take some steps, or none of them if one is forbidden."""
    before = copy.deepcopy(ledger.entries)
    try:
        for step in steps:
            step()
    except Forbidden:
        ledger.entries = before
        return False
    return True


def compute_fee(ledger: Ledger, signed: Record) -> int:
    """Of an operation, in micro-credits."""
    operation = signed["operation"]
    fee = ledger.parameters["fee_per_byte"] * len(encode(signed)) * (1 + operation.get("attempt", 0))
    return 0 if operation["record"] in FREE else int(fee)


def is_well_formed(signed: Record) -> bool:
    """The *form* of section 7.1."""
    operation, kind = signed["operation"], signed["operation"]["record"]
    if len(encode(signed)) > (MAX_CAPTURE_BYTES if kind == "Capture" else MAX_OPERATION_BYTES):
        return False
    match kind:
        case "Transfer":
            return is_usable(operation["recipient"])
        case "Serve" | "Register":
            models = [model.encode() for model in operation["models"]]
            named = [identity["model"].encode() for identity in operation.get("identities", [])]
            return models == sorted(set(models)) and named == sorted(set(named)) and set(named) <= set(models)
        case "Capture":
            holds = [item["delivery"]["hold"] for item in operation["items"]]
            return len(set(holds)) == len(holds)
        case "Evidence":
            first, second = operation["first"], operation["second"]
            return validators.is_slashable(first, second) and encode(first) < encode(second)
    return True


def transfer(ledger: Ledger, operation: Record, signer: bytes) -> None:
    recipient = ledger.account(operation["recipient"])
    is_new = operation["amount"] > 0 and recipient == NO_ACCOUNT
    ledger.spend(signer, operation["amount"])
    recipient["available"] += operation["amount"]
    if is_new:
        ledger.pay_entry(signer)


def bond(ledger: Ledger, operation: Record, signer: bytes) -> None:
    ledger.spend(signer, operation["amount"])
    ledger.add_bond(signer, operation["amount"])
    validator = ledger.entries.get(b"v" + signer, NO_VALIDATOR)
    if validator["is_enrolled"]:
        validator["waiting_since"] = ledger.height


def unbond(ledger: Ledger, operation: Record, signer: bytes) -> None:
    account, amount = ledger.account(signer), operation["amount"]
    need(0 < amount <= get_free_bond(account))
    account["bonded"] -= amount
    parts = {part["release_epoch"]: part["amount"] for part in account["unbonding"]}
    release = ledger.epoch + 2 + ledger.parameters["unbonding_epochs"]
    need(release in parts or amount >= ledger.price_room(UNBONDING_ROOM))
    parts[release] = parts.get(release, 0) + amount
    need(len(parts) <= MAX_UNBONDINGS)
    account["unbonding"] = [{"amount": parts[epoch], "release_epoch": epoch} for epoch in sorted(parts)]


def withdraw(ledger: Ledger, operation: Record, signer: bytes) -> None:
    account = ledger.account(signer)
    free = [part for part in account["unbonding"] if part["release_epoch"] <= ledger.epoch]
    need(free)
    account["available"] += sum(part["amount"] for part in free)
    account["unbonding"] = [part for part in account["unbonding"] if part not in free]


def serve(ledger: Ledger, operation: Record, signer: bytes) -> None:
    benched_until = ledger.entries.get(b"j" + signer, {"benched_until": 0})["benched_until"]
    need(operation["judge"] is None or ledger.now >= benched_until)
    account, window = ledger.account(signer), ledger.entries.get(b"w" + signer, payments.NO_WINDOW)
    deposit = payments.compute_deposit(ledger, len(payments.find_unused(window)))
    names = operation["models"] + ([operation["judge"]["model"]] if operation["judge"] else [])
    names += [identity["model"] for identity in operation["identities"]]
    deposit += ledger.price_room(sum(MODEL_ROOM + 2 * len(name) for name in names))
    ledger.spend(signer, deposit - account["deposit"])
    account |= {name: operation[name] for name in ("models", "judge", "identities")} | {"deposit": deposit}


def register(ledger: Ledger, operation: Record, signer: bytes) -> None:
    account, parameters, source = ledger.account(signer), ledger.parameters, ledger.find_source(operation["epoch"])
    need(parameters["register_grant"] and account == NO_ACCOUNT | {"available": account["available"]})
    registrations = ledger.get(b"r", {"count": 0})
    need(registrations["count"] < parameters["register_cap"])
    need(source is not None and ledger.entries[b"s"]["supply"] + parameters["register_grant"] < 1 << 63)
    work = compute_work(h("register", ledger.chain_id, source or b"", signer), operation["salt"])
    need(number(work) < 1 << (256 - parameters["register_difficulty"]))
    account |= dict.fromkeys(("bonded", "grant"), parameters["register_grant"])
    account["models"] = operation["models"]
    registrations["count"] += 1
    ledger.entries[b"s"]["supply"] += parameters["register_grant"]


def compute_work(challenge: bytes, salt: bytes) -> bytes:
    """Argon2id, as section 10 says."""
    return bytes(argon2id.kdf(32, challenge, salt, opslimit=1, memlimit=32768 * 1024))


EFFECTS: dict[str, Callable[[Ledger, Record, bytes], None]] = {
    "Transfer": transfer,
    "Bond": bond,
    "Unbond": unbond,
    "Withdraw": withdraw,
    "Serve": serve,
    "Enroll": validators.enroll,
    "Retire": validators.retire,
    "Unjail": validators.unjail,
    "Recommit": validators.recommit,
    "Hold": payments.hold,
    "Release": payments.release,
    "DuelAnswer": duels.answer,
    "DuelCommit": duels.commit,
    "DuelReveal": duels.reveal,
    "CheckCommit": checks.commit,
    "CheckReveal": checks.reveal,
    "Evidence": validators.punish,
    "Register": register,
}
"""The effect of each operation, which raises :class:`Forbidden`; those of captures and disputes include their fees."""
