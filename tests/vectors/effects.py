"""Which blocks are valid and what they do to the state, after sections 6 to 8 of docs/protocol.md alone.

It goes on where :mod:`tests.vectors.independent` ends, and uses nothing else.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import msgpack
from nacl.pwhash import argon2id

from tests.vectors.independent import (
    OPERATIONS,
    check_epoch_end,
    count_participation,
    decode,
    encode,
    executors,
    get_body_root,
    h,
    history_peaks,
    history_root,
    holds,
    is_certificate,
    leader,
    number,
    pick,
    state_root,
    u64,
)

Record = dict[str, Any]

RECORDS = {
    b"a": "Account", b"w": "ReplayWindow", b"h": "OpenHold", b"g": "DueCaptures", b"v": "ValidatorRecord",
    b"c": "ValidatorSet", b"t": "ServingTable", b"s": "Totals", b"m": "MountainRange", b"b": "Beacon",
    b"p": "Participation", b"r": "Registrations", b"q": "SettlementQueue",
}  # fmt: skip
NO_ACCOUNT: Record = {
    "nonce": 0, "available": 0, "held": 0, "bonded": 0, "unbonding": [], "models": [], "grant": 0,
}  # fmt: skip
NO_VALIDATOR: Record = {
    "is_enrolled": False, "waiting_since": 0, "commitment": bytes(32), "hash_chain": 0, "next_commitment": bytes(32),
    "next_hash_chain": 0, "next_epoch": 0, "jailed_until": 0, "clean_from": 0,
}  # fmt: skip


class Refused(Exception):
    """An operation that cannot be included; with a nonce, one that failed."""


def need(condition: object) -> None:
    if not condition:
        raise Refused


class Invalid(Exception):
    """A block that breaks a rule; says where."""


def demand(field: str, condition: object) -> None:
    if not condition:
        raise Invalid(field)


@dataclass
class Head:
    """Where a chain stands: the state, the ids of all blocks, and the header of the last."""

    entries: dict[bytes, bytes]
    ids: list[bytes]
    header: Record


def check_block(head: Head, raw: bytes, genesis: Record, chain_id: bytes, after: dict[bytes, bytes]) -> list[int]:
    """Whether a block is valid; ``after`` is the state that it is said to leave. Returns which operations failed.

    Raises:
        Invalid: it is not.
    """
    block, (header_wire, _, body_wire) = decode("Block", raw), msgpack.unpackb(raw, raw=False)
    header, body, parent, parameters = block["header"], block["body"], head.header, genesis["parameters"]
    height, heights = len(head.ids), parameters["epoch_heights"]
    epoch, is_first = (height - 1) // heights, (height - 1) % heights == 0
    beacon, entries = decode("Beacon", head.entries[b"b"]), head.entries
    committees = [
        decode("ValidatorSet", entries[b"c" + u64(each)])["validators"] for each in (epoch, max(epoch - 1, 0))
    ]
    demand("version", header["version"] == 3)
    demand("chain_id", header["chain_id"] == chain_id)
    demand("height", header["height"] == height)
    demand("epoch", header["epoch"] == epoch == beacon["epoch"])
    demand("view", header["view"] > (0 if is_first else parent["view"]))
    demand("parent_id", header["parent_id"] == head.ids[-1])
    demand("timestamp", header["timestamp"] > parent["timestamp"])
    passed = min(header["timestamp"] - parent["timestamp"], parameters["idle_beat"])
    demand("chain_time", header["chain_time"] == parent["chain_time"] + passed)
    demand("proposer", header["proposer"] == leader(committees[0], beacon["previous"], header["view"]))
    for field, number_of in (("validators_hash", epoch), ("next_validators_hash", epoch + 1)):
        demand(field, header[field] == h("validators", entries[b"c" + u64(number_of)]))
    demand("body_root", header["body_root"] == get_body_root(raw))
    demand("signature", holds(header["proposer"], "header", chain_id, encode(header_wire), block["signature"]))
    validator = decode("ValidatorRecord", entries[b"v" + header["proposer"]])
    demand(
        "beacon_reveal",
        validator["commitment"] == h("onion", header["beacon_reveal"]) and validator["commitment"] != bytes(32),
    )
    demand("history_root", header["history_root"] == history_root(head.ids))
    demand("removed", not body["removed"])
    certificate = body["parent_certificate"]
    demand("parent_certificate", (certificate is None) == (height == 1))
    if certificate is not None:
        of_parent = certificate["block_id"] == head.ids[-1] and certificate["epoch"] == parent["epoch"]
        kind_fits = certificate["kind"] == 3 if is_first else certificate["kind"] != 2
        view_fits = is_first or certificate["view"] == parent["view"]
        demand("parent_certificate", of_parent and kind_fits and view_fits)
        demand("parent_certificate", is_certificate(chain_id, committees[is_first], certificate))
    shown = range(max(0 if is_first else certificate["view"], header["view"] - 33) + 1, header["view"])
    said = [(each["kind"], each["epoch"], each["view"]) for each in body["nullifications"]]
    demand("nullifications", said == [(2, epoch, view) for view in shown])
    demand("nullifications", all(is_certificate(chain_id, committees[0], each) for each in body["nullifications"]))
    for vote in body["late_votes"]:
        message = encode([vote["epoch"], vote["view"], vote["block_id"]])
        demand("late_votes", holds(vote["signer"], "notarize", chain_id, message, vote["signature"]))
    for signed, wire in zip(body["operations"], body_wire[0], strict=True):
        domain = "operation"
        demand("operations", holds(signed["signer"], domain, chain_id, encode(wire[0]), signed["signature"]))
    ledger = Ledger(entries, genesis, chain_id, header)
    try:
        failed = ledger.execute(entries, body, body_wire[0], head.ids)
    except Refused:
        raise Invalid("operations") from None
    except (AssertionError, StopIteration):
        raise Invalid("late_votes") from None
    computed = ledger.get_entries()
    if height % heights == 0:
        check_epoch_end(computed, after, parameters, header)
        value = h("beacon", beacon["value"], header["beacon_reveal"])
        assert after[b"b"] == encode([epoch + 1, value, value, beacon["previous"]])
        computed = {key: value for key, value in computed.items() if key[:1] not in LAST}
        computed |= {key: value for key, value in after.items() if key[:1] in LAST[:-1]}  # all of them checked above
    assert computed == after
    demand("state_root", header["state_root"] == state_root(after))
    return failed


LAST = (b"b", b"c", b"t", b"v", b"r")
"""Entries of the kinds that the end of an epoch changes; the last is gone."""


def flatten(value: Any) -> Any:
    """A record without the names of its fields."""
    if isinstance(value, dict):
        return [flatten(each) for each in value.values()]
    return [flatten(each) for each in value] if isinstance(value, list) else value


def is_slashable(first: Record, second: Record) -> bool:
    same = all(first[name] == second[name] for name in ("signer", "epoch", "view"))
    kinds = {first["kind"], second["kind"]}
    return same and (kinds == {2, 3} or (len(kinds) == 1 and first["block_id"] != second["block_id"]))


def is_usable(window: Record, seq: int, attempt: int) -> bool:
    top, used = window["top"], window["used"]
    place = top - 1 - seq
    byte = used[place] if 0 <= place < len(used) else 0
    return top <= seq < top + 256 or (top - 256 <= seq < top and not byte >> attempt & 1)


def mark(window: Record, seq: int, attempt: int) -> Record:
    """The window once a number was used."""
    top, used = window["top"], window["used"]
    if seq >= top:
        used, top = bytes(seq + 1 - top) + used, seq + 1
    row = bytearray(used.ljust(256, b"\0"))
    row[top - 1 - seq] |= 1 << attempt
    return {"top": top, "used": bytes(row[:256]).rstrip(b"\0")}


class Ledger:
    """The state while one block is executed."""

    def __init__(self, entries: dict[bytes, bytes], genesis: Record, chain_id: bytes, header: Record) -> None:
        self.state = {key: decode(RECORDS[key[:1]], value) for key, value in entries.items()}
        self.parameters, self.chain_id, self.header = genesis["parameters"], chain_id, header
        self.epoch, self.height, self.now = header["epoch"], header["height"], header["chain_time"]
        self.beacon: Record = {}

    def get(self, key: bytes, default: Record) -> Record:
        """An entry to change in place."""
        record: Record = self.state.setdefault(key, copy.deepcopy(default))
        return record

    def account(self, key: bytes) -> Record:
        return self.get(b"a" + key, NO_ACCOUNT)

    def earn(self, amount: int) -> None:
        self.state[b"s"]["treasury"] += amount

    def spend(self, key: bytes, amount: int) -> None:
        account = self.account(key)
        need(account["available"] >= amount)
        account["available"] -= amount

    def get_entries(self) -> dict[bytes, bytes]:
        return {key: encode(flatten(record)) for key, record in self.state.items() if record != NO_ACCOUNT}

    # Section 6.7.

    def execute(self, before: dict[bytes, bytes], body: Record, wires: list[Any], ids: list[bytes]) -> list[int]:
        """All but what the end of an epoch brings; the entries are those before. Returns which operations failed."""
        header, committee = self.header, self.state[b"c" + u64(self.epoch)]["validators"]
        self.state[b"m"] = {"count": len(ids), "peaks": history_peaks(ids)}
        self.beacon = self.state[b"b"]
        self.beacon["value"] = h("beacon", self.beacon["value"], header["beacon_reveal"])
        self.state[b"v" + header["proposer"]]["commitment"] = header["beacon_reveal"]
        self.state[b"p"] = decode("Participation", encode(count_participation(before, committee, header, body)))
        for nullification in body["nullifications"]:
            self.charge(leader(committee, self.beacon["previous"], nullification["view"]))
        failed = [
            index
            for index, (signed, wire) in enumerate(zip(body["operations"], wires, strict=True))
            if not self.include(pick(OPERATIONS, list(wire[0])), signed["operation"], signed["signer"], wire)
        ]
        self.settle()
        return failed

    def settle(self) -> None:
        queue = self.state.pop(b"q", {"first": 0, "end": 0})
        settled = 0
        while queue["first"] < queue["end"] and settled < self.parameters["max_settlements"]:
            key = b"g" + u64(queue["first"])
            if self.state[key]["pays_at"] > self.now:
                break
            names = self.state.pop(key)["holds"]
            for name in names:
                if hold := self.state.get(b"h" + name):
                    self.resolve(name, hold["payee"], hold["unsettled_delivery"]["amount"])
            settled += len(names)
            queue["first"] += 1
        if queue["first"] < queue["end"]:
            self.state[b"q"] = queue

    def charge(self, key: bytes) -> None:
        owed, account = self.parameters["missed_lead_fee"], self.account(key)
        for purse, name in (
            (account, "available"),
            (account, "bonded"),
            *((p, "amount") for p in account["unbonding"]),
        ):
            paid = min(owed, purse[name])
            purse[name] -= paid
            owed -= paid
            self.earn(paid)
        account["unbonding"] = [part for part in account["unbonding"] if part["amount"]]

    # Section 7.1.

    def include(self, kind: str, operation: Record, signer: bytes, wire: Any) -> bool:
        """Whether it did what it is there for; one that cannot be included raises :class:`Refused`."""
        fee = self.parameters["fee_per_byte"] * len(encode(wire)) * (1 + operation.get("attempt", 0))
        if kind == "Capture":
            self.capture(operation["items"], wire[0][1], signer, fee)
            return True
        if kind != "Register":
            self.spend(signer, fee)
            self.earn(fee)
        if "nonce" not in operation:
            self.act(kind, operation, signer)
            return True
        account = self.account(signer)
        need(operation["nonce"] == account["nonce"])
        account["nonce"] += 1
        before = copy.deepcopy(self.state)
        try:
            self.act(kind, operation, signer)
        except Refused:
            self.state = before
            return False
        return True

    def pay_entry(self, signer: bytes, is_new: object) -> None:
        if is_new:
            self.spend(signer, self.parameters["entry_fee"])
            self.earn(self.parameters["entry_fee"])

    def act(self, kind: str, operation: Record, signer: bytes) -> None:
        """The effect of anything but a capture."""
        account, parameters = self.account(signer), self.parameters
        match kind:
            case "Transfer":
                recipient = self.account(operation["recipient"])
                is_new = operation["amount"] > 0 and recipient == NO_ACCOUNT
                self.spend(signer, operation["amount"])
                recipient["available"] += operation["amount"]
                self.pay_entry(signer, is_new)
            case "Bond":
                self.spend(signer, operation["amount"])
                account["bonded"] += operation["amount"]
                validator = self.state.get(b"v" + signer, NO_VALIDATOR)
                if validator["is_enrolled"]:
                    validator["waiting_since"] = self.height
            case "Unbond":
                need(0 < operation["amount"] <= account["bonded"] - account["grant"])
                account["bonded"] -= operation["amount"]
                parts = {part["release_epoch"]: part["amount"] for part in account["unbonding"]}
                release = self.epoch + 2 + parameters["unbonding_epochs"]
                parts[release] = parts.get(release, 0) + operation["amount"]
                need(len(parts) <= 32)
                account["unbonding"] = [{"amount": parts[each], "release_epoch": each} for each in sorted(parts)]
            case "Withdraw":
                free = [part for part in account["unbonding"] if part["release_epoch"] <= self.epoch]
                need(free)
                account["available"] += sum(part["amount"] for part in free)
                account["unbonding"] = [part for part in account["unbonding"] if part not in free]
            case "Serve":
                account["models"] = operation["models"]
            case "Enroll" | "Recommit" | "Retire" | "Unjail":
                self.change_registry(kind, operation, signer)
            case "Hold":
                self.hold(operation, signer)
            case "Release":
                hold = self.find_hold(operation["hold"])
                need(hold["unsettled_delivery"] is None and self.now > hold["deadline"])
                self.resolve(operation["hold"], hold["payee"], 0)
            case "Dispute":
                hold = self.find_hold(operation["hold"])
                need(hold["payer"] == signer and hold["unsettled_delivery"] is not None)
                self.resolve(operation["hold"], None, hold["unsettled_delivery"]["amount"])
            case "Evidence":
                self.punish(operation["first"], operation["second"], signer)
            case "Register":
                self.register(operation, signer)
            case _:
                raise AssertionError(kind)

    # Sections 7.3 and 7.4.

    def get_epoch_seed(self, epoch: int) -> bytes:
        need(0 <= self.epoch - epoch <= 1)
        seed: bytes = self.beacon["previous" if epoch == self.epoch else "earlier"]
        return seed

    def hold(self, terms: Record, signer: bytes) -> None:
        parameters = self.parameters
        need(terms["attempt"] < parameters["max_attempts"])
        need(terms["amount"] >= self.get_price(terms["model"])["per_request"])
        need(self.now < terms["deadline"] <= self.now + parameters["max_hold_time"])
        is_new = b"w" + signer not in self.state
        window = self.get(b"w" + signer, {"top": 0, "used": b""})
        need(is_usable(window, terms["seq"], terms["attempt"]))
        table = self.state[b"t" + u64(terms["epoch"])]
        order = executors(table, terms["model"], self.get_epoch_seed(terms["epoch"]), signer, terms["seq"])
        need(terms["payee"] in list(order)[terms["attempt"] :][:1])
        need(self.account(terms["payee"])["models"])
        self.spend(signer, terms["amount"])
        self.pay_entry(signer, is_new)
        self.account(signer)["held"] += terms["amount"]
        self.state[b"w" + signer] = mark(window, terms["seq"], terms["attempt"])
        name = h("hold", signer, u64(terms["seq"]), u64(terms["attempt"]))
        self.state[b"h" + name] = {
            "payer": signer, "payee": terms["payee"], "amount": terms["amount"], "model": terms["model"],
            "request_digest": terms["request_digest"], "deadline": terms["deadline"], "unsettled_delivery": None,
        }  # fmt: skip

    def get_price(self, model: str) -> Record:
        own = [each["price"] for each in self.parameters["model_prices"] if each["model"] == model]
        price: Record = own[0] if own else self.parameters["price"]
        return price

    def find_hold(self, name: bytes) -> Record:
        need(b"h" + name in self.state)
        return self.state[b"h" + name]

    def resolve(self, name: bytes, receiver: bytes | None, amount: int) -> None:
        hold = self.state.pop(b"h" + name)
        payer = self.account(hold["payer"])
        payer["held"] -= hold["amount"]
        payer["available"] += hold["amount"] - amount
        if receiver is None:
            self.earn(amount)
        else:
            self.account(receiver)["available"] += amount

    def capture(self, items: list[Record], wires: list[Any], signer: bytes, fee: int) -> None:
        for item, wire in zip(items, wires, strict=True):
            delivery, usage = item["delivery"], item["delivery"]["usage"]
            hold = self.find_hold(delivery["hold"])
            need(hold["unsettled_delivery"] is None and hold["payee"] == signer)
            price = self.get_price(hold["model"])
            cost = price["per_request"] + price["per_prompt_byte"] * usage["prompt_bytes"]
            need(
                delivery["amount"]
                <= min(hold["amount"], cost + price["per_completion_token"] * usage["completion_tokens"])
            )
            if item["receipt"] is not None:
                need(holds(hold["payer"], "receipt", self.chain_id, encode(wire[0]), item["receipt"]))
        unsettled, refunds = [], []
        for item in items:
            delivery = item["delivery"]
            hold = self.state[b"h" + delivery["hold"]]
            if not delivery["amount"]:
                refunds.append((hold["payer"], hold["amount"]))
            if item["receipt"] is not None or not delivery["amount"]:
                self.resolve(delivery["hold"], signer, delivery["amount"])
                continue
            hold["unsettled_delivery"] = delivery
            unsettled.append((delivery["hold"], hold))
        if unsettled:
            queue = self.get(b"q", {"first": 0, "end": 0})
            pays_at = self.now + self.parameters["capture_grace"]
            self.state[b"g" + u64(queue["end"])] = {"pays_at": pays_at, "holds": [name for name, _ in unsettled]}
            queue["end"] += 1
        self.earn(fee)
        paid = min(fee, self.account(signer)["available"])
        self.account(signer)["available"] -= paid
        for _, hold in unsettled:
            fee, paid = fee - paid, min(fee - paid, hold["unsettled_delivery"]["amount"])
            hold["amount"] -= paid
            hold["unsettled_delivery"]["amount"] -= paid
            self.account(hold["payer"])["held"] -= paid
        for payer, amount in refunds:
            fee, paid = fee - paid, min(fee - paid, amount)
            self.account(payer)["available"] -= paid
        need(fee == paid)

    # Sections 7.5, 7.6 and 10.

    def change_registry(self, kind: str, operation: Record, signer: bytes) -> None:
        is_new = b"v" + signer not in self.state
        account, validator = self.account(signer), self.get(b"v" + signer, NO_VALIDATOR)
        need(validator["is_enrolled"] == (kind != "Enroll"))
        if kind == "Retire":
            validator["is_enrolled"] = False
            return
        if kind == "Unjail":
            need(0 < validator["jailed_until"] <= self.epoch)
            validator |= {"jailed_until": 0, "waiting_since": self.height}
            return
        if kind == "Enroll":
            need(account["bonded"] - account["grant"] >= self.parameters["min_validator_bond"])
            validator |= {"is_enrolled": True, "waiting_since": self.height}
            self.pay_entry(signer, is_new)
        need(operation["commitment"] != bytes(32) and not validator["next_epoch"])
        validator |= {
            "next_commitment": operation["commitment"],
            "next_hash_chain": operation["hash_chain"],
            "next_epoch": self.epoch + 2,
        }

    def punish(self, first: Record, second: Record, finder: bytes) -> None:
        need(is_slashable(first, second))
        need(encode(flatten(first)) < encode(flatten(second)))
        for vote in (first, second):
            domain = ("notarize", "nullify", "finalize")[vote["kind"] - 1]
            message = encode([vote["epoch"], vote["view"], vote["block_id"]])
            need((vote["kind"] == 2) == (vote["block_id"] == bytes(32)))
            need(holds(vote["signer"], domain, self.chain_id, message, vote["signature"]))
        offender, epoch, years = first["signer"], first["epoch"], self.parameters["unbonding_epochs"]
        need(b"v" + offender in self.state)
        validator, account = self.state[b"v" + offender], self.account(offender)
        need(max(validator["clean_from"], self.epoch - years) <= epoch <= self.epoch)
        stake = account["bonded"] + sum(part["amount"] for part in account["unbonding"])
        need(stake)
        reward = (stake - account["grant"]) // 10
        account |= {"bonded": 0, "unbonding": [], "grant": 0}
        self.account(finder)["available"] += reward
        self.earn(stake - reward)
        validator |= {"jailed_until": self.epoch + years, "clean_from": self.epoch + 2}

    def register(self, operation: Record, signer: bytes) -> None:
        account, parameters = self.account(signer), self.parameters
        need(parameters["register_grant"] and account == {**NO_ACCOUNT, "available": account["available"]})
        count = self.get(b"r", {"count": 0})
        need(count["count"] < parameters["register_cap"])
        challenge = h("register", self.chain_id, self.get_epoch_seed(operation["epoch"]), signer)
        digest = argon2id.kdf(32, challenge, operation["salt"], opslimit=1, memlimit=32768 * 1024)
        need(number(digest) < 1 << (256 - parameters["register_difficulty"]))
        account |= dict.fromkeys(("bonded", "grant"), parameters["register_grant"])
        account["models"] = operation["models"]
        count["count"] += 1
        self.state[b"s"]["supply"] += parameters["register_grant"]
