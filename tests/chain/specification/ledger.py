"""Sections 5 and 6.6: what stands between two blocks, and how it begins."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from tests.chain.specification.draws import compute_serving_table
from tests.chain.specification.merkle import history_root, list_root, state_root
from tests.chain.specification.notation import Record, decode, encode, h, u64

VERSION = 4
"""Of blocks."""
MAX_GENESIS_BYTES = 8 << 20

NO_ACCOUNT: Record = {
    "nonce": 0, "available": 0, "held": 0, "bonded": 0, "unbonding": [], "models": [], "grant": 0,
    "locked": 0, "deposit": 0, "judge": None, "identities": [],
}  # fmt: skip
NO_VALIDATOR: Record = {
    "is_enrolled": False, "waiting_since": 0, "commitment": bytes(32), "hash_chain": 0, "next_commitment": bytes(32),
    "next_hash_chain": 0, "next_epoch": 0, "jailed_until": 0, "clean_from": 0, "counted_since": 0,
    "counted_blocks": 0, "counted_votes": 0,
}  # fmt: skip


class Invalid(Exception):
    """A block that breaks a rule; the argument is the field at fault."""


def demand(field: str, condition: object) -> None:
    """A rule of section 6."""
    if not condition:
        raise Invalid(field)


class Forbidden(Exception):
    """A rule of section 7 forbids the effect of an operation."""


def need(condition: object) -> None:
    """A rule of section 7."""
    if not condition:
        raise Forbidden


def get_own_bond(account: Record) -> int:
    """What is bonded beside the grant."""
    return int(max(0, account["bonded"] - account["grant"]))


def get_free_bond(account: Record) -> int:
    """What of the own bond is not locked."""
    return int(max(0, get_own_bond(account) - account["locked"]))


@dataclass
class Ledger:
    """A chain of blocks: its genesis, and where it stands.

    Attributes:
        chain_id, parameters: of the genesis.
        ids: of all blocks, genesis first.
        header: of the last block; while a block is executed, its own.
        entries: the state. Records are changed in place; an account may be there with nothing in it.
    """

    chain_id: bytes
    parameters: Record
    ids: list[bytes]
    header: Record
    entries: dict[bytes, Record]

    @property
    def epoch(self) -> int:
        """Of the block that is executed, or comes next."""
        epoch: int = self.entries[b"b"]["epoch"]
        return epoch

    @property
    def height(self) -> int:
        """Of the last block, or of that which is executed; so is :attr:`now`."""
        height: int = self.header["height"]
        return height

    @property
    def now(self) -> int:
        """Chain time, ms."""
        chain_time: int = self.header["chain_time"]
        return chain_time

    def get(self, key: bytes, default: Record) -> Record:
        """An entry to change in place; a copy of ``default`` is put where there is none."""
        if key not in self.entries:
            self.entries[key] = copy.deepcopy(default)
        return self.entries[key]

    def account(self, key: bytes) -> Record:
        return self.get(b"a" + key, NO_ACCOUNT)

    def committee(self, epoch: int) -> list[Record]:
        """The members of a committee, in order."""
        members: list[Record] = self.entries[b"c" + u64(epoch)]["validators"]
        return members

    def find_source(self, epoch: int) -> bytes | None:
        """The source of an epoch's draws (section 8.3), if it is known."""
        beacon = self.entries[b"b"]
        source: bytes | None = {self.epoch: beacon["previous"], self.epoch - 1: beacon["earlier"]}.get(epoch)
        return source if epoch >= 0 else None

    def spend(self, key: bytes, amount: int) -> None:
        """Take from what an account has available."""
        account = self.account(key)
        need(account["available"] >= amount)
        account["available"] -= amount

    def add_bond(self, key: bytes, amount: int) -> None:
        """Section 6.6: what was taken of a grant is no grant any more when something is bonded."""
        account = self.account(key)
        account["grant"] = min(account["grant"], account["bonded"])
        account["bonded"] += amount

    def bond_income(self, key: bytes, income: int) -> None:
        """Section 7.4: what an account was paid, and still has available, fills up its own bond."""
        account = self.account(key)
        missing = self.parameters["min_service_bond"] - get_own_bond(account)
        amount = min(income, account["available"], missing)
        if amount > 0:
            account["available"] -= amount
            self.add_bond(key, amount)

    def pay_entry(self, key: bytes, times: int = 1) -> None:
        """The price of an entry that nothing removes again."""
        self.spend(key, times * self.parameters["entry_fee"])
        self.fill_treasury(times * self.parameters["entry_fee"])

    def price_room(self, room: int) -> int:
        """The deposit for bytes that leave the state again."""
        return int(room * self.parameters["deposit_per_byte"])

    def fill_treasury(self, amount: int) -> None:
        self.entries[b"s"]["treasury"] += amount

    def collect(self, key: bytes, amount: int, available: str) -> None:
        """An account pays to the treasury, as far as it can: what is ``available`` is taken "first" or "last"."""
        account = self.account(key)
        stake = [(account, "bonded"), *((part, "amount") for part in account["unbonding"])]
        purse = [(account, "available")]
        for balance, name in purse + stake if available == "first" else stake + purse:
            paid = min(amount, balance[name])
            balance[name] -= paid
            amount -= paid
            self.fill_treasury(paid)
        account["unbonding"] = [part for part in account["unbonding"] if part["amount"]]

    def encode_entries(self) -> dict[bytes, bytes]:
        """The state as it is hashed, without accounts that are wholly empty."""
        return {key: encode(record) for key, record in self.entries.items() if record != NO_ACCOUNT}

    def compute_supply(self) -> int:
        """All credit there is."""
        accounts = [record for key, record in self.entries.items() if key[:1] == b"a"]
        owned = sum(each["available"] + each["held"] + each["bonded"] + each["deposit"] for each in accounts)
        owned += sum(part["amount"] for each in accounts for part in each["unbonding"])
        return int(owned + self.entries[b"s"]["treasury"])


def get_chain_id(genesis: Record) -> bytes:
    return h("genesis", encode({**genesis, "restarts": []}))


def compute_body_root(body: Record) -> bytes:
    """Section 6.2."""
    certificate = body["parent_certificate"]
    evidence = [
        None if certificate is None else encode(certificate),
        [encode(each) for each in body["nullifications"]],
        [encode(each) for each in body["late_votes"]],
        body["removed"],
    ]
    return h("body root", list_root([encode(each) for each in body["operations"]]), h("evidence", encode(evidence)))


EMPTY_BODY: Record = {
    "operations": [], "parent_certificate": None, "nullifications": [], "late_votes": [], "removed": [],
}  # fmt: skip


def make_ledger(raw: bytes) -> Ledger:
    """The ledger that begins with an encoded genesis."""
    genesis = decode("Genesis", raw, MAX_GENESIS_BYTES)
    chain_id, parameters, beacon = get_chain_id(genesis), genesis["parameters"], genesis["beacon"]
    entries: dict[bytes, Record] = {}
    for each in genesis["accounts"]:
        key = each["public_key"]
        entries[b"a" + key] = NO_ACCOUNT | {name: each[name] for name in ("available", "bonded", "models")}
        if each["commitment"] is not None:
            entries[b"v" + key] = NO_VALIDATOR | {"is_enrolled": True, "commitment": each["commitment"]}
    accounts = {key[1:]: record for key, record in entries.items() if key[:1] == b"a"}
    members = [{"public_key": key[1:], "stake": accounts[key[1:]]["bonded"]} for key in entries if key[:1] == b"v"]
    members.sort(key=lambda each: (-each["stake"], each["public_key"]))
    supply = sum(each["available"] + each["bonded"] for each in accounts.values())
    for epoch in (0, 1):
        entries[b"c" + u64(epoch)] = {"validators": members}
    entries[b"t" + u64(0)] = compute_serving_table(accounts, beacon, parameters, {})
    entries[b"d"] = {"changed_in": None, "periods": [{"first_round": 0, "source": beacon}]}
    entries[b"s"] = {"treasury": 0, "supply": supply, "reserved": 0}
    entries[b"m"] = {"count": 0, "peaks": []}
    entries[b"b"] = {"epoch": 0, "value": beacon, "previous": beacon, "earlier": bytes(32)}
    entries[b"p"] = {"blocks": 0, "votes": [], "recent": []}
    header: Record = {}
    ledger = Ledger(chain_id, parameters, [], header, entries)
    committee = h("validators", encode(entries[b"c" + u64(0)]))
    header |= {
        "version": VERSION, "chain_id": chain_id, "epoch": 0, "height": 0, "view": 0, "parent_id": bytes(32),
        "timestamp": genesis["timestamp"], "chain_time": 0, "proposer": bytes(32),
        "body_root": compute_body_root(EMPTY_BODY), "state_root": state_root(ledger.encode_entries()),
        "history_root": history_root([]), "validators_hash": committee, "next_validators_hash": committee,
        "beacon_reveal": bytes(32),
    }  # fmt: skip
    ledger.ids.append(h("header", encode(header)))
    return ledger
