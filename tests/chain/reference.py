"""A second opinion on the ledger: its rules once more, in plain dicts and ints.

Written from the description of the operations, not from ``chain.transition.operations`` or
``chain.transition.validators``, and kept naive on purpose: sets instead of windows and bit masks, a list walked from
its start instead of a prefix sum, a copy of everything instead of drafts. Only the names of things (hold ids, the
hashes that draws start from) are taken from the ledger. Signatures are the caller's business.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from chain.crypto import hash_bytes
from chain.genesis import Genesis
from chain.types.operations import (
    Bond,
    Capture,
    Delivery,
    Dispute,
    Enroll,
    Evidence,
    Hold,
    Operation,
    Recommit,
    Register,
    Release,
    Retire,
    Serve,
    Transfer,
    Unbond,
    Unjail,
    Withdraw,
)
from chain.types.votes import Vote

NOTARIZE, NULLIFY, FINALIZE = 1, 2, 3


class Refused(Exception):
    """The operation cannot stand in a block."""


def need(condition: object) -> None:
    if not condition:
        raise Refused


@dataclass(frozen=True)
class Entry:
    payer: bytes
    payee: bytes
    amount: int
    model: str
    digest: bytes
    deadline: int
    pending: Delivery | None = None


@dataclass(frozen=True)
class Service:
    """A validator's duty. ``coming`` is the next tip, its onion, and the epoch from which it counts."""

    enrolled: bool = False
    since: int = 0
    commitment: bytes = bytes(32)
    hash_chain: int = 0
    coming: tuple[bytes, int, int] = (bytes(32), 0, 0)
    jailed: int = 0
    clean: int = 0


def copy_book(book: Any) -> Any:
    """A copy that what happens to the original does not change; entries are replaced, never changed."""
    copied = copy.copy(book)
    if isinstance(book, dict):
        for key, value in book.items():
            if isinstance(value, dict | set | list):
                copied[key] = copy.copy(value)
    return copied


@dataclass
class Recent:
    """A block for which votes still count, and who has voted."""

    block: bytes
    view: int
    voters: set[bytes]


@dataclass
class Reference:
    """Everything the ledger knows. ``tables`` has, per epoch, who serves what with which stake."""

    genesis: Genesis
    time: int = 0
    epoch: int = 0
    height: int = 0
    view: int = 0
    treasury: int = 0
    supply: int = 0
    registered: int = 0
    beacon: bytes = b""
    nonce: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    available: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    bonded: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    unbonding: dict[bytes, dict[int, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    models: dict[bytes, tuple[str, ...]] = field(default_factory=lambda: defaultdict(tuple))
    grant: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    used: dict[bytes, set[tuple[int, int]]] = field(default_factory=lambda: defaultdict(set))
    holds: dict[bytes, Entry] = field(default_factory=dict)
    waiting: dict[int, tuple[int, list[bytes]]] = field(default_factory=dict)
    """What captures left unsettled, by number: when it is to be paid, and the holds."""
    numbered: int = 0
    validators: dict[bytes, Service] = field(default_factory=dict)
    tables: dict[int, dict[bytes, tuple[int, tuple[str, ...]]]] = field(default_factory=dict)
    committees: dict[int, dict[bytes, int]] = field(default_factory=dict)
    sources: dict[int, bytes] = field(default_factory=dict)
    recent: list[Recent] = field(default_factory=list)
    counted: dict[bytes, int] = field(default_factory=dict)
    blocks: int = 0

    def __post_init__(self) -> None:
        for account in self.genesis.accounts:
            self.available[account.public_key] = account.available
            self.bonded[account.public_key] = account.bonded
            self.models[account.public_key] = account.models
            if account.commitment is not None:
                self.validators[account.public_key] = Service(enrolled=True, commitment=account.commitment)
        self.supply = self.total()
        self.tables = {0: self.freeze(), 1: self.freeze()}
        self.committees = {epoch: {key: self.bonded[key] for key in self.validators} for epoch in (0, 1)}
        self.beacon = self.genesis.beacon
        self.sources = {-1: bytes(32), 0: self.beacon}

    def freeze(self) -> dict[bytes, tuple[int, tuple[str, ...]]]:
        """Who serves with which stake: 0 for a newcomer, who has less than the minimum."""
        rules = self.genesis.parameters
        rows = {key: (self.bonded[key], models) for key, models in self.models.items() if models}
        rows = {key: (bond if bond >= rules.min_service_bond else 0, models) for key, (bond, models) in rows.items()}
        return {key: row for key, row in rows.items() if row[0] or rules.newcomer_share}

    def total(self) -> int:
        unbonding = sum(sum(parts.values()) for parts in self.unbonding.values())
        return self.treasury + unbonding + sum(sum(x.values()) for x in (self.available, self.held, self.bonded))

    # Blocks.

    def leader(self, view: int) -> bytes:
        """Who leads a view of this epoch: tickets by stake, the largest first."""
        seats = sorted(self.committees[self.epoch].items(), key=lambda seat: (-seat[1], seat[0]))
        ticket = int.from_bytes(hash_bytes("leader", self.sources[self.epoch], view.to_bytes(8, "big")), "big")
        ticket %= sum(stake for _, stake in seats)
        while ticket >= seats[0][1]:
            ticket -= seats.pop(0)[1]
        return seats[0][0]

    def open_blocks(self, parent: bytes, signers: Collection[bytes]) -> list[Recent]:
        """The blocks of this epoch for which a child of ``parent``, the last block, may bring late votes."""
        if self.height % self.genesis.parameters.epoch_heights == 0:
            return []
        return [*copy.deepcopy(self.recent), Recent(parent, self.view, set(signers))][-8:]

    def count(self, parent: bytes, signers: Collection[bytes], late: Sequence[Vote]) -> bool:
        """Whether every late vote counts; if so they are counted, and those of the parent's certificate."""
        open_blocks, found = self.open_blocks(parent, signers), []
        for vote in late:
            for block in open_blocks:
                if (
                    (vote.kind, vote.epoch, vote.view, vote.block_id) == (NOTARIZE, self.epoch, block.view, block.block)
                    and vote.signer in self.committees[self.epoch]
                    and vote.signer not in block.voters
                ):
                    block.voters.add(vote.signer)
                    found.append(vote.signer)
        if len(found) != len(late):
            return False
        if not open_blocks:
            self.counted, self.blocks = dict.fromkeys(self.committees[self.epoch], 0), 0
        else:
            self.blocks += 1
            found += signers
        for key in found:
            self.counted[key] += 1
        self.recent = open_blocks
        return True

    def begin_block(self, elapsed: int, view: int, proposer: bytes, reveal: bytes) -> None:
        """Everything before the operations of a block, its votes counted already (:meth:`count`)."""
        assert self.leader(view) == proposer and hash_bytes("onion", reveal) == self.validators[proposer].commitment
        self.validators[proposer] = replace(self.validators[proposer], commitment=reveal)
        self.beacon = hash_bytes("beacon", self.beacon, reveal)
        begun = self.height % self.genesis.parameters.epoch_heights != 0
        for missed in range(max(self.view + 1 if begun else 1, view - 32), view):
            self.fine(self.leader(missed))
        self.view = view
        self.time += min(elapsed, self.genesis.parameters.idle_beat)

    def fine(self, key: bytes) -> None:
        owed = self.genesis.parameters.missed_lead_fee
        for purse in (self.available, self.bonded):
            paid = min(owed, purse[key])
            purse[key] -= paid
            self.treasury += paid
            owed -= paid
        leaving = self.unbonding[key]
        for release in sorted(leaving):
            paid = min(owed, leaving[release])
            leaving[release] -= paid
            self.treasury += paid
            owed -= paid
            if not leaving[release]:
                del leaving[release]

    def own(self, key: bytes) -> int:
        """The bond that was not given to a newcomer."""
        return max(0, self.bonded[key] - self.grant[key])

    def end_block(self) -> None:
        left = self.genesis.parameters.max_settlements
        for number in sorted(number for number, (due, _) in self.waiting.items() if due <= self.time):
            if left > 0:
                _, names = self.waiting.pop(number)
                left -= len(names)
                for name in names:
                    entry = self.holds.get(name)
                    if entry is not None and entry.pending is not None:
                        self.resolve(name, entry.payee, entry.pending.amount)
        if not self.waiting:
            self.numbered = 0
        self.height += 1
        if self.height % self.genesis.parameters.epoch_heights == 0:
            self.end_epoch()

    def end_epoch(self) -> None:
        for key, votes in self.counted.items():
            if self.blocks > 2 and 2 * votes < self.blocks and not self.validators[key].jailed:
                self.validators[key] = replace(self.validators[key], jailed=self.epoch + 1)
        for key, validator in self.validators.items():
            commitment, hash_chain, begins = validator.coming
            if begins == self.epoch + 1:
                self.validators[key] = replace(
                    validator, commitment=commitment, hash_chain=hash_chain, coming=Service.coming
                )
        asking = [
            (validator.since or 10**18, key)
            for key, validator in self.validators.items()
            if validator.enrolled
            and not validator.jailed
            and {validator.commitment, validator.coming[0]} != {bytes(32)}
            and self.own(key) >= self.genesis.parameters.min_validator_bond
        ]
        seats = self.elect(self.committees[self.epoch + 1], [key for _, key in sorted(asking)])
        for since, key in asking:
            served = seats.get(key, 0) >= self.own(key)
            since = 0 if served else self.height if since == 10**18 else since
            self.validators[key] = replace(self.validators[key], since=since)
        self.committees[self.epoch + 2] = seats
        self.tables[self.epoch + 2] = self.freeze()
        self.committees.pop(self.epoch - 1, None)
        self.tables.pop(self.epoch - 1, None)
        self.epoch += 1
        self.registered = 0
        self.sources[self.epoch] = self.beacon
        self.sources.pop(self.epoch - 2, None)

    def elect(self, before: dict[bytes, int], queue: list[bytes]) -> dict[bytes, int]:
        """Seats for those in the queue: what they had and still bond, then a tenth of the whole, first come first."""
        room = sum(before.values()) // 10
        seats = {key: min(before[key], self.own(key)) for key in queue if key in before}
        for key in queue:
            more = min(room, self.own(key) - seats.get(key, 0))
            if more and key not in seats and len(seats) == self.genesis.parameters.committee_size:
                weight, last = min((weight, key) for key, weight in seats.items())
                if more <= weight:
                    continue
                del seats[last]
            if more:
                seats[key] = seats.get(key, 0) + more
                room -= more
        return seats or before

    # Operations.

    def apply(self, signer: bytes, operation: Operation, size: int, good: tuple[bool | None, ...] = ()) -> str:
        """Execute: "done", "failed" (the fee is paid, nothing else happened) or "refused" (nothing happened at all).

        ``size`` is the operation's length in bytes; ``good`` says for each item of a capture whether its receipt is
        good, bad (False) or not there (None), for evidence whether its votes are signed, for a newcomer whether its
        proof of work holds.
        """
        fee = self.genesis.parameters.fee_per_byte * size * (1 + getattr(operation, "attempt", 0))
        if isinstance(operation, Register):
            fee = 0

        def pay() -> None:
            need(self.available[signer] >= fee)
            self.available[signer] -= fee
            self.treasury += fee

        def effect() -> None:
            self.execute(signer, operation, good)

        if not hasattr(operation, "nonce"):
            if isinstance(operation, Capture):
                before = [(item.delivery, self.holds.get(item.delivery.hold)) for item in operation.items]
                return "done" if self.attempt(effect, lambda: self.pay_capture(signer, before, fee)) else "refused"
            return "done" if self.attempt(pay, effect) else "refused"
        if operation.nonce != self.nonce[signer] or not self.attempt(pay):
            return "refused"
        self.nonce[signer] += 1
        return "done" if self.attempt(effect) else "failed"

    def attempt(self, *steps: Callable[[], None]) -> bool:
        before = {name: copy_book(book) for name, book in vars(self).items() if name not in FIXED}
        try:
            for step in steps:
                step()
        except Refused:
            vars(self).update(before)
            return False
        return True

    def execute(self, signer: bytes, operation: Operation, good: tuple[bool | None, ...]) -> None:
        match operation:
            case Enroll():
                self.grow(signer, signer not in self.validators)
                validator = self.validators.get(signer, Service())
                need(not validator.enrolled and self.own(signer) >= self.genesis.parameters.min_validator_bond)
                self.announce(signer, replace(validator, enrolled=True, since=self.height + 1), operation)
            case Recommit():
                self.announce(signer, self.serving(signer), operation)
            case Retire():
                self.validators[signer] = replace(self.serving(signer), enrolled=False)
            case Unjail():
                validator = self.serving(signer)
                need(0 < validator.jailed <= self.epoch)
                self.validators[signer] = replace(validator, jailed=0, since=self.height + 1)
            case Evidence():
                need(good == (True,))
                self.punish(operation.first, operation.second, signer)
            case Transfer():
                self.take(self.available, signer, operation.amount)
                books = (self.nonce, self.available, self.held, self.bonded, self.models, self.unbonding)
                is_known = operation.recipient == signer or any(book[operation.recipient] for book in books)
                self.grow(signer, bool(operation.amount) and not is_known)
                self.available[operation.recipient] += operation.amount
            case Serve():
                self.models[signer] = operation.models
            case Unbond():
                need(0 < operation.amount <= self.bonded[signer] - self.grant[signer])
                self.bonded[signer] -= operation.amount
                # One epoch more: the table of the next epoch is frozen, so that the stake still carries weight there.
                self.unbonding[signer][self.epoch + 2 + self.genesis.parameters.unbonding_epochs] += operation.amount
            case Withdraw():
                free = [epoch for epoch in self.unbonding[signer] if epoch <= self.epoch]
                need(free)
                self.available[signer] += sum(self.unbonding[signer].pop(epoch) for epoch in free)
            case Register():
                self.register(signer, operation, good == (True,))
            case Hold():
                self.hold(signer, operation)
            case Capture():
                for item, receipt in zip(operation.items, good, strict=True):
                    self.capture(signer, item.delivery, receipt)
                names = [item.delivery.hold for item in operation.items if item.delivery.hold in self.holds]
                if names:
                    self.waiting[self.numbered] = (self.time + self.genesis.parameters.capture_grace, names)
                    self.numbered += 1
            case Release():
                need(operation.hold in self.holds)
                entry = self.holds[operation.hold]
                need(entry.pending is None and self.time > entry.deadline)
                self.resolve(operation.hold, entry.payer, 0)
            case Dispute():
                need(operation.hold in self.holds)
                entry = self.holds[operation.hold]
                need(entry.payer == signer and entry.pending is not None)
                assert entry.pending is not None
                self.resolve(operation.hold, None, entry.pending.amount)
            case Bond():
                self.take(self.available, signer, operation.amount)
                self.bonded[signer] += operation.amount
                validator = self.validators.get(signer, Service())
                if validator.enrolled:
                    self.validators[signer] = replace(validator, since=self.height + 1)

    def register(self, key: bytes, operation: Register, good: bool) -> None:
        rules = self.genesis.parameters
        need(rules.register_grant and self.registered < rules.register_cap and good and operation.epoch in self.sources)
        books = (self.nonce, self.held, self.bonded, self.grant, self.models, self.unbonding)
        need(not any(book[key] for book in books))
        self.bonded[key] = self.grant[key] = rules.register_grant
        self.models[key] = operation.models
        self.registered += 1
        self.supply += rules.register_grant

    def serving(self, key: bytes) -> Service:
        need(key in self.validators and self.validators[key].enrolled)
        return self.validators[key]

    def announce(self, key: bytes, validator: Service, operation: Enroll | Recommit) -> None:
        need(operation.commitment != bytes(32) and validator.coming == Service.coming)
        self.validators[key] = replace(validator, coming=(operation.commitment, operation.hash_chain, self.epoch + 2))

    def punish(self, one: Vote, other: Vote, finder: bytes) -> None:
        """Two votes of one signer about one view, that no rule allows both."""
        need((one.signer, one.epoch, one.view) == (other.signer, other.epoch, other.view))
        twice = one.kind == other.kind and one.block_id != other.block_id
        need(twice or (one.kind, other.kind) in ((NULLIFY, FINALIZE), (FINALIZE, NULLIFY)))
        need(one.encode() < other.encode())
        key, years = one.signer, self.genesis.parameters.unbonding_epochs
        need(key in self.validators)
        need(max(self.validators[key].clean, self.epoch - years) <= one.epoch <= self.epoch)
        stake = self.bonded[key] + sum(self.unbonding[key].values())
        need(stake)
        reward = (self.own(key) + sum(self.unbonding[key].values())) // 10
        self.bonded[key] = self.grant[key] = 0
        self.unbonding[key].clear()
        self.available[finder] += reward
        self.treasury += stake - reward
        self.validators[key] = replace(self.validators[key], jailed=self.epoch + years, clean=self.epoch + 2)

    def grow(self, key: bytes, is_new: bool) -> None:
        """Pay for an entry that stays for good, if there will be one."""
        if is_new:
            self.take(self.available, key, self.genesis.parameters.entry_fee)
            self.treasury += self.genesis.parameters.entry_fee

    def take(self, source: dict[bytes, int], key: bytes, amount: int) -> None:
        need(source[key] >= amount)
        source[key] -= amount

    def draw(self, epoch: int, payer: bytes, seq: int, attempt: int, model: str) -> bytes | None:
        """Number ``attempt`` of the lottery: tickets in order of keys; who is drawn leaves with all its tickets."""
        if epoch not in self.sources:
            return None
        seed = hash_bytes("lottery", self.sources[epoch], payer, seq.to_bytes(8, "big"))
        rows = sorted(self.tables.get(epoch, {}).items())
        serving = [(key, stake) for key, (stake, models) in rows if model in models and key != payer]
        staked, newcomers = [row for row in serving if row[1]], [(key, 1) for key, stake in serving if not stake]
        drawn = None
        for number in range(attempt + 1):
            lot = int.from_bytes(hash_bytes("newcomer share", seed, number.to_bytes(4, "big")), "big") % 1000
            left = newcomers if newcomers and (not staked or lot < self.genesis.parameters.newcomer_share) else staked
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
        self.grow(signer, not self.used[signer])
        self.used[signer].add((hold.seq, hold.attempt))
        name = hash_bytes("hold", signer, hold.seq.to_bytes(8, "big"), hold.attempt.to_bytes(8, "big"))
        need(name not in self.holds)
        self.holds[name] = Entry(signer, hold.payee, hold.amount, hold.model, hold.request_digest, hold.deadline)

    def capture(self, signer: bytes, delivery: Delivery, receipt: bool | None) -> None:
        price, usage = self.genesis.parameters.price, delivery.usage
        cost = price.per_request + price.per_prompt_byte * usage.prompt_bytes
        cost += price.per_completion_token * usage.completion_tokens
        need(delivery.hold in self.holds)
        entry = self.holds[delivery.hold]
        need(entry.payee == signer and entry.pending is None)
        need(delivery.amount <= entry.amount and delivery.amount <= cost and receipt is not False)
        if receipt or not delivery.amount:
            self.resolve(delivery.hold, signer, delivery.amount)
        else:
            self.holds[delivery.hold] = replace(entry, pending=delivery)

    def pay_capture(self, signer: bytes, before: list[tuple[Delivery, Entry | None]], fee: int) -> None:
        """The fee of a capture: the payee's, then out of what it is to be paid, then out of what was given back."""

        def pay(purse: dict[bytes, int], key: bytes, most: int) -> int:
            nonlocal fee
            part = min(fee, most)
            purse[key] -= part
            self.treasury += part
            fee -= part
            return part

        pay(self.available, signer, self.available[signer])
        for delivery, _ in before:
            entry = self.holds.get(delivery.hold)
            if entry is not None and entry.pending is not None:
                part = pay(self.held, entry.payer, entry.pending.amount)
                less = replace(delivery, amount=delivery.amount - part)
                self.holds[delivery.hold] = replace(entry, amount=entry.amount - part, pending=less)
        for delivery, entry in before:
            if entry is not None and not delivery.amount:
                pay(self.available, entry.payer, entry.amount)
        need(not fee)

    def resolve(self, name: bytes, receiver: bytes | None, amount: int) -> None:
        entry = self.holds.pop(name)
        self.held[entry.payer] -= entry.amount
        self.available[entry.payer] += entry.amount - amount
        if receiver is None:
            self.treasury += amount
        else:
            self.available[receiver] += amount


FIXED = ("genesis", "tables", "committees", "sources", "recent", "counted")
"""What no operation changes."""
