"""A second opinion on the ledger: its rules once more, in plain dicts and ints.

Written from the description of the operations, not from ``chain.ledger``, and kept naive on purpose: sets instead of
windows, a list walked from its start instead of a prefix sum, a copy of everything instead of drafts. Only the names of
things (hold ids, the hash that a draw starts from) are taken from the ledger. Signatures are the caller's business.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from chain.crypto import hash_bytes
from chain.genesis import Genesis
from chain.operations import Capture, Dispute, Hold, Operation, Release, Serve, Transfer, Unbond, Withdraw


class Refused(Exception):
    """The operation cannot stand in a block."""


def need(condition: object) -> None:
    if not condition:
        raise Refused


@dataclass
class Entry:
    payer: bytes
    payee: bytes
    amount: int
    deadline: int
    pending: int | None = None
    due: int = 0


@dataclass
class Reference:
    """Everything the ledger knows. ``tables`` has, per epoch, who serves what with which stake."""

    genesis: Genesis
    time: int = 0
    epoch: int = 0
    height: int = 0
    treasury: int = 0
    nonce: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    available: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    bonded: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    unbonding: dict[bytes, dict[int, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    models: dict[bytes, tuple[str, ...]] = field(default_factory=lambda: defaultdict(tuple))
    used: dict[bytes, set[tuple[int, int]]] = field(default_factory=lambda: defaultdict(set))
    holds: dict[bytes, Entry] = field(default_factory=dict)
    tables: dict[int, dict[bytes, tuple[int, tuple[str, ...]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for account in self.genesis.accounts:
            self.available[account.public_key] = account.available
            self.bonded[account.public_key] = account.bonded
            self.models[account.public_key] = account.models
        self.tables = {0: self.freeze(), 1: self.freeze()}

    def freeze(self) -> dict[bytes, tuple[int, tuple[str, ...]]]:
        least = max(1, self.genesis.parameters.min_service_bond)
        return {
            key: (bond, self.models[key]) for key, bond in self.bonded.items() if bond >= least and self.models[key]
        }

    def total(self) -> int:
        unbonding = sum(sum(parts.values()) for parts in self.unbonding.values())
        return self.treasury + unbonding + sum(sum(x.values()) for x in (self.available, self.held, self.bonded))

    def begin_block(self, elapsed: int) -> None:
        self.time += min(elapsed, self.genesis.parameters.idle_beat)
        for key, entry in list(self.holds.items()):
            if entry.pending is not None and self.time // 1000 * 1000 >= entry.due:  # settled at whole seconds
                self.resolve(key, entry.payee, entry.pending)

    def end_block(self) -> None:
        self.height += 1
        if self.height % self.genesis.parameters.epoch_heights == 0:
            self.tables[self.epoch + 2] = self.freeze()
            self.tables.pop(self.epoch - 1, None)
            self.epoch += 1

    def apply(self, signer: bytes, operation: Operation, size: int, receipts: tuple[bool | None, ...] = ()) -> str:
        """Execute: "done", "failed" (the fee is paid, nothing else happened) or "refused" (nothing happened at all).

        ``size`` is the operation's length in bytes; ``receipts`` says for each item of a capture whether its receipt
        is good, bad (False) or not there (None).
        """
        fee = self.genesis.parameters.fee_per_byte * size * (1 + getattr(operation, "attempt", 0))

        def pay() -> None:
            need(self.available[signer] >= fee)
            self.available[signer] -= fee
            self.treasury += fee

        def effect() -> None:
            self.execute(signer, operation, receipts)

        if not hasattr(operation, "nonce"):
            steps = (effect, pay) if isinstance(operation, Capture) else (pay, effect)
            return "done" if self.attempt(*steps) else "refused"
        if operation.nonce != self.nonce[signer] or not self.attempt(pay):
            return "refused"
        self.nonce[signer] += 1
        return "done" if self.attempt(effect) else "failed"

    def attempt(self, *steps: Callable[[], None]) -> bool:
        before = copy.deepcopy({name: value for name, value in vars(self).items() if name not in ("genesis", "tables")})
        try:
            for step in steps:
                step()
        except Refused:
            vars(self).update(before)
            return False
        return True

    def execute(self, signer: bytes, operation: Operation, receipts: tuple[bool | None, ...]) -> None:
        match operation:
            case Transfer():
                self.take(self.available, signer, operation.amount)
                self.available[operation.recipient] += operation.amount
            case Serve():
                self.models[signer] = operation.models
            case Unbond():
                need(operation.amount)
                self.take(self.bonded, signer, operation.amount)
                # One epoch more: the table of the next epoch is frozen, so that the stake still carries weight there.
                self.unbonding[signer][self.epoch + 2 + self.genesis.parameters.unbonding_epochs] += operation.amount
            case Withdraw():
                free = [epoch for epoch in self.unbonding[signer] if epoch <= self.epoch]
                need(free)
                self.available[signer] += sum(self.unbonding[signer].pop(epoch) for epoch in free)
            case Hold():
                self.hold(signer, operation)
            case Capture():
                for item, good in zip(operation.items, receipts, strict=True):
                    self.capture(signer, item.delivery.hold, item.delivery.amount, item.delivery.usage.prompt_bytes,
                                 item.delivery.usage.completion_tokens, good)  # fmt: skip
            case Release():
                need(operation.hold in self.holds)
                entry = self.holds[operation.hold]
                need(entry.pending is None and self.time > entry.deadline)
                self.resolve(operation.hold, entry.payer, 0)
            case Dispute():
                need(operation.hold in self.holds)
                entry = self.holds[operation.hold]
                need(entry.payer == signer and entry.pending is not None)
                self.resolve(operation.hold, None, entry.pending or 0)
            case _:  # Bond
                self.take(self.available, signer, operation.amount)
                self.bonded[signer] += operation.amount

    def take(self, source: dict[bytes, int], key: bytes, amount: int) -> None:
        need(source[key] >= amount)
        source[key] -= amount

    def draw(self, epoch: int, payer: bytes, seq: int, attempt: int, model: str) -> bytes | None:
        """Number ``attempt`` of the lottery: tickets in order of keys; who is drawn leaves with all its tickets."""
        beacon = hash_bytes("beacon", self.genesis.beacon, epoch.to_bytes(8, "big"))
        seed = hash_bytes("lottery", beacon, payer, seq.to_bytes(8, "big"))
        rows = sorted(self.tables.get(epoch, {}).items())
        left = [(key, stake) for key, (stake, models) in rows if model in models and key != payer]
        drawn = None
        for number in range(attempt + 1):
            if not left:
                return None
            ticket = int.from_bytes(hash_bytes("executor", seed, number.to_bytes(4, "big")), "big")
            ticket %= sum(stake for _, stake in left)
            position = 0
            while ticket >= left[position][1]:
                ticket -= left[position][1]
                position += 1
            drawn, _ = left.pop(position)
        return drawn

    def hold(self, signer: bytes, hold: Hold) -> None:
        rules = self.genesis.parameters
        top = 1 + max((seq for seq, _ in self.used[signer]), default=-1)
        need(hold.attempt < rules.max_attempts and hold.amount >= rules.get_price(hold.model).per_request)
        need(self.time < hold.deadline <= self.time + rules.max_hold_time)
        need(hold.epoch in (self.epoch, self.epoch - 1))
        need((hold.seq, hold.attempt) not in self.used[signer] and top - 256 <= hold.seq < top + 256)
        need(hold.payee == self.draw(hold.epoch, signer, hold.seq, hold.attempt, hold.model))
        need(self.models[hold.payee])
        self.take(self.available, signer, hold.amount)
        self.held[signer] += hold.amount
        self.used[signer].add((hold.seq, hold.attempt))
        name = hash_bytes("hold", signer, hold.seq.to_bytes(8, "big"), hold.attempt.to_bytes(8, "big"))
        need(name not in self.holds)
        self.holds[name] = Entry(signer, hold.payee, hold.amount, hold.deadline)

    def capture(self, signer: bytes, name: bytes, amount: int, prompt: int, completion: int, good: bool | None) -> None:
        price = self.genesis.parameters.price
        cost = price.per_request + price.per_prompt_byte * prompt + price.per_completion_token * completion
        need(name in self.holds)
        entry = self.holds[name]
        need(entry.payee == signer and entry.pending is None)
        need(amount <= entry.amount and amount <= cost and good is not False)
        if good or not amount:
            self.resolve(name, signer, amount)
        else:
            entry.pending = amount
            entry.due = self.time + self.genesis.parameters.capture_grace

    def resolve(self, name: bytes, receiver: bytes | None, amount: int) -> None:
        entry = self.holds.pop(name)
        self.held[entry.payer] -= entry.amount
        self.available[entry.payer] += entry.amount - amount
        if receiver is None:
            self.treasury += amount
        else:
            self.available[receiver] += amount
