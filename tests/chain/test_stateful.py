"""The ledger against a second implementation: random histories must leave both with the same books.

Operations of every kind, sound and unsound, replayed and forged, go through ``build_block`` and ``state_transition`` in
blocks at random times; ``tests.chain.reference`` executes the same ones. After every block each balance, hold, window
and table must be equal, the outcome of each operation the same, and the sum of all credit what it was at genesis.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chain.crypto import KeyPair, hash_bytes
from chain.operations import (
    Bond,
    Capture,
    CaptureItem,
    Delivery,
    Dispute,
    Hold,
    NoncedOperation,
    Operation,
    Release,
    Serve,
    SignedOperation,
    Transfer,
    Unbond,
    Usage,
    Withdraw,
    compute_hold_id,
    sign_operation,
)
from chain.state import OpenHold, compute_supply, hold_key
from tests.chain.builders import MODEL, PARAMETERS, Chain, make_key
from tests.chain.reference import Reference

PEOPLE = 7
people = st.integers(0, PEOPLE - 1)
indices = st.integers(0, 1000)

amounts = st.sampled_from([0, 1, 700, 1_000, 1_000, 1_500, 2_500, 2_500, 4_000, "half", "all", "all + 1"])
"""An amount, or one relative to what there is to spend."""


def sometimes(*faults: str, one_in: int = 8) -> st.SearchStrategy[str]:
    """One of the faults now and then, "" mostly: of several faults only the first rule would be tested."""
    return st.sampled_from([""] * ((one_in - 1) * len(faults)) + list(faults))


def resolve(amount: int | str, whole: int) -> int:
    return amount if isinstance(amount, int) else {"all": whole, "all + 1": whole + 1, "half": whole // 2}[amount]


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        parameters = replace(PARAMETERS, unbonding_epochs=1)
        self.chain = Chain(4, 2, stakes=[2_000, 8_000, 4_000, 1_500], available=60_000, parameters=parameters)
        self.reference = Reference(self.chain.genesis)
        self.people = [*self.chain.validators, *self.chain.users, make_key("stranger")]
        self.supply = self.reference.total()
        self.queue: list[tuple[SignedOperation, tuple[bool | None, ...]]] = []
        self.signed: list[tuple[SignedOperation, tuple[bool | None, ...]]] = []
        self.holds: list[tuple[KeyPair, Hold, bytes]] = []
        self.tops = [0] * PEOPLE

    def ask(self, key: KeyPair, operation: Operation, receipts: tuple[bool | None, ...] = ()) -> None:
        entry = (sign_operation(key, self.chain.genesis.chain_id, operation), receipts)
        self.queue.append(entry)
        self.signed.append(entry)
        if len(self.queue) >= 6:
            self.make_block(1_000)

    @rule(
        who=people,
        to=people,
        kind=st.sampled_from([Transfer, Transfer, Bond, Bond, Unbond, Unbond, Withdraw, Withdraw, Serve]),
        amount=amounts,
        models=st.sampled_from([(MODEL,), (), ("large", MODEL), ("large",)]),
        fault=sometimes("used nonce", "later nonce"),
    )
    def change_account(
        self, who: int, to: int, kind: type[NoncedOperation], amount: int | str, models: tuple[str, ...], fault: str
    ) -> None:
        key = self.people[who]
        if kind is Withdraw and not fault:  # rather somebody who has something to withdraw
            ripe = [
                k
                for k in self.people
                if min(self.reference.unbonding[k.public_key], default=1e9) <= self.reference.epoch
            ]
            key = ripe[who % len(ripe)] if ripe else key
        queued = sum(hasattr(o.operation, "nonce") and o.signer == key.public_key for o, _ in self.queue)
        nonce = self.reference.nonce[key.public_key] + queued
        nonce = {"": nonce, "used nonce": max(0, nonce - 1), "later nonce": nonce + 1}[fault]
        whole = (self.reference.bonded if kind is Unbond else self.reference.available)[key.public_key]
        if kind is Transfer:
            self.ask(key, Transfer(nonce, self.people[to].public_key, resolve(amount, whole)))
        elif kind is Withdraw:
            self.ask(key, Withdraw(nonce))
        elif kind is Serve:
            self.ask(key, Serve(nonce, models))
        elif kind is Unbond:
            self.ask(key, Unbond(nonce, resolve(amount, whole)))
        else:
            self.ask(key, Bond(nonce, resolve(amount, whole)))

    @rule(
        who=people,
        amount=amounts,
        attempt=st.sampled_from([0, 0, 0, 1, 2]),
        lifetime=st.sampled_from([1_500, 5_000, 10_001, 12_000, 19_999, 20_000]),
        fault=sometimes(
            "used seq", "last seq", "too far", "attempt", "old epoch", "older epoch", "next epoch", "payee", "model",
            "deadline", one_in=3,
        ),
    )  # fmt: skip
    def hold(self, who: int, amount: int | str, attempt: int, lifetime: int, fault: str) -> None:
        key, reference = self.people[who], self.reference
        top = self.tops[who]
        seq = {"used seq": max(0, top - 1), "last seq": top + 255, "too far": top + 256}.get(fault, top)
        attempt = 3 if fault == "attempt" else attempt
        epoch = reference.epoch + {"old epoch": -1, "older epoch": -2, "next epoch": 1}.get(fault, 0)
        epoch = max(0, epoch)
        model = "unknown" if fault == "model" else MODEL
        payee = reference.draw(epoch, key.public_key, seq, attempt, model)
        if payee is None or fault == "payee":
            payee = self.people[(who + 1) % PEOPLE].public_key
        deadline = reference.time + (30_000 if fault == "deadline" else lifetime)
        digest = hash_bytes("request", bytes([attempt]))
        amount = resolve(amount, reference.available[key.public_key])
        operation = Hold(payee, amount, epoch, seq, attempt, model, digest, deadline)
        self.holds.append((key, operation, compute_hold_id(key.public_key, seq, attempt)))
        self.tops[who] = max(top, seq + 1) if fault != "too far" else top
        self.ask(key, operation)

    def pick(self, index: int, pending: bool | None, payee: bytes | None = None) -> tuple[KeyPair, Hold, bytes] | None:
        """A hold that is open and (not) captured, if there is one; any that ever was asked for when that is None."""
        entries = self.reference.holds
        fitting = [
            asked
            for asked in self.holds
            if payee in (None, asked[1].payee)
            and (pending is None or (asked[2] in entries and (entries[asked[2]].pending is not None) is pending))
        ]
        return fitting[-1 - index % len(fitting)] if fitting else None

    @rule(
        picks=st.lists(indices, min_size=1, max_size=3),
        amount=st.sampled_from(["all", "half", "all", "half", "nothing"]),
        receipt=st.sampled_from([True, None, None]),
        fault=sometimes("amount", "price", "forged", "other hold", "thief", "twice", one_in=3),
    )
    def capture(self, picks: list[int], amount: str, receipt: bool | None, fault: str) -> None:
        chosen: dict[bytes, tuple[CaptureItem, bool | None]] = {}
        payee: bytes | None = None
        for index in picks:
            picked = self.pick(index, None if fault == "twice" else False, payee)
            if picked is None:
                return
            payer, hold, name = picked
            payee = hold.payee
            asked = hold.amount + 1 if fault == "amount" else 0 if amount == "nothing" else resolve(amount, hold.amount)
            usage = Usage(0, 0) if fault == "price" else Usage(asked // 2, asked // 20 + 1)
            delivery = Delivery(name, asked, hash_bytes("answer"), usage, "stop")
            chosen[name] = self.accept(payer, delivery, receipt, fault)
        key = next(key for key in self.people if (key.public_key == payee) is not (fault == "thief"))
        self.ask(key, Capture(tuple(item for item, _ in chosen.values())), tuple(good for _, good in chosen.values()))

    def accept(
        self, payer: KeyPair, delivery: Delivery, receipt: bool | None, fault: str
    ) -> tuple[CaptureItem, bool | None]:
        """The delivery with its receipt, and whether that is good (None: there is none)."""
        chain_id = self.chain.genesis.chain_id
        if fault == "forged":
            payer = next(key for key in self.people if key is not payer)
        signed = replace(delivery, hold=bytes(32)) if fault == "other hold" else delivery
        if fault in ("forged", "other hold"):
            return CaptureItem(delivery, payer.sign("receipt", chain_id, signed.encode())), False
        if receipt is None:
            return CaptureItem(delivery, None), None
        return CaptureItem(delivery, payer.sign("receipt", chain_id, delivery.encode())), True

    @rule(
        who=people,
        index=indices,
        dispute=st.sampled_from([True, True, False]),
        fault=sometimes("any", "thief", one_in=4),
    )
    def release_or_dispute(self, who: int, index: int, dispute: bool, fault: str) -> None:
        if picked := self.pick(index, None if fault == "any" else dispute):
            if dispute:
                self.ask(self.people[who] if fault == "thief" else picked[0], Dispute(picked[2]))
            else:
                self.ask(self.people[who], Release(picked[2]))

    @rule(index=indices)
    def replay(self, index: int) -> None:
        if self.signed:
            self.queue.append(self.signed[index % len(self.signed)])

    @rule(
        elapsed=st.sampled_from([1, 400, 999, 1_000, 2_600, 5_000, 10_000, 10_001, 60_000]),
        blocks=st.sampled_from([1, 1, 1, 2, 8]),
        skipped=st.sampled_from([0] * 5 + [1]),
    )
    def blocks(self, elapsed: int, blocks: int, skipped: int) -> None:
        for _ in range(blocks):
            self.make_block(elapsed, skipped)

    def make_block(self, elapsed: int, skipped: int = 0) -> None:
        block, transition, rejected = self.chain.propose([o for o, _ in self.queue], elapsed=elapsed, skipped=skipped)
        self.reference.begin_block(elapsed)
        failures, refusals = iter(transition.failures), iter(rejected)
        for signed, receipts in self.queue:
            outcome = self.reference.apply(signed.signer, signed.operation, len(signed.encoded), receipts)
            if outcome == "refused":
                assert next(refusals)[0] is signed
            else:
                assert (next(failures) is None) is (outcome == "done"), signed.operation
        assert not [*failures, *refusals]
        self.reference.end_block()
        self.chain.accept(block, transition)
        self.queue.clear()
        self.compare()

    def compare(self) -> None:
        state, reference = self.chain.state, self.reference
        for key in self.people:
            who, account = key.public_key, state.account(key.public_key)
            assert account.nonce == reference.nonce[who]
            assert account.available == reference.available[who]
            assert account.held == reference.held[who]
            assert account.bonded == reference.bonded[who]
            assert {part.release_epoch: part.amount for part in account.unbonding} == reference.unbonding[who]
            assert account.models == reference.models[who]
            used, window = reference.used[who], state.window(who)
            top = 1 + max((seq for seq, _ in used), default=-1)
            assert window.top == top
            for seq in {
                0,
                *range(max(0, top - 6), top + 2),
                max(0, top - 256),
                max(0, top - 257),
                top + 255,
                top + 256,
            }:
                for attempt in range(3):
                    usable = (seq, attempt) not in used and top - 256 <= seq < top + 256
                    assert window.is_usable(seq, attempt) is usable, (seq, attempt, top)
        assert state.totals.treasury == reference.treasury
        for name, entry in reference.holds.items():
            hold = state.hold(name)
            assert hold is not None
            assert (hold.payer, hold.payee, hold.amount, hold.deadline) == (
                entry.payer, entry.payee, entry.amount, entry.deadline,
            )  # fmt: skip
            assert (None if hold.pending is None else hold.pending.amount) == entry.pending
        open_holds = {leaf.key for leaf in state.entries() if isinstance(leaf.record, OpenHold)}
        assert open_holds == {hold_key(name) for name in reference.holds}
        for epoch in range(reference.epoch + 4):
            table = state.serving_table(epoch)
            rows = None if table is None else {e.public_key: (e.stake, e.models) for e in table.entries}
            assert rows == reference.tables.get(epoch)

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        assert compute_supply(self.chain.state) == self.chain.state.totals.supply == self.supply
        assert self.reference.total() == self.supply
        for _, account in self.chain.state.accounts():
            parts = (account.available, account.held, account.bonded, *(part.amount for part in account.unbonding))
            assert all(0 <= part <= self.supply for part in parts)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=150, stateful_step_count=50)
