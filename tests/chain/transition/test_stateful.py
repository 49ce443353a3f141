"""The ledger against its specification: random histories must leave both in the same state.

Operations of every kind, sound and unsound, replayed and forged, go through ``build_block`` and ``state_transition`` in
blocks at random times; :mod:`tests.chain.specification` checks the same blocks, and executes what went into them and
what was left out. The validators among the people vote on every block, some of them late or not at all, leave out views
when it is their turn, lie and are found out; people join them and leave. After every block the whole state must be what
the specification says, entry by entry, the outcome of each operation the same, and the sum of all credit what it was at
genesis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, get_args

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from chain import genesis
from chain.crypto import KeyPair, hash_bytes
from chain.exceptions import InvalidBlock
from chain.state.beacon import make_hash_chain
from chain.state.records import OpenHold
from chain.state.state import compute_supply
from chain.transition.deposits import compute_deposit, compute_hold_deposit, compute_models_deposit
from chain.transition.validators import registration
from chain.types.checks import CheckOperation, DeclaredIdentity
from chain.types.duels import DeclaredJudge, DuelOperation
from chain.types.operations import (
    REGISTRATION_SALT_BYTES,
    Bond,
    Capture,
    CaptureItem,
    Delivery,
    Dispute,
    Enroll,
    Evidence,
    Hold,
    NoncedOperation,
    Operation,
    Recommit,
    Register,
    Release,
    Retire,
    Serve,
    SignedOperation,
    Transfer,
    Unbond,
    Unjail,
    Usage,
    Withdraw,
    compute_hold_id,
    sign_operation,
)
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, sign_vote
from tests.chain.specification import draws, operations
from tests.chain.specification.blocks import check_block, execute
from tests.chain.specification.draws import compute_leader
from tests.chain.specification.epochs import count_participation
from tests.chain.specification.ledger import NO_VALIDATOR, Invalid, get_own_bond, make_ledger
from tests.chain.specification.merkle import state_root
from tests.chain.specification.notation import Record, decode
from tests.chain.specification.payments import find_executor
from tests.support.chain_builder import MODEL, PARAMETERS, Chain
from tests.support.keys import make_key

RULES = replace(
    PARAMETERS,
    epoch_heights=9,  # eight blocks whose votes count: exactly one half is possible
    round_heights=3,
    unbonding_epochs=1,
    committee_size=5,
    participation_span_ms=8_000,
    max_settlements=2,
    entry_fee=900,
    deposit_per_byte=1,
    unused_number_fee=20,
    register_grant=1_200,
    register_cap=1,
    register_difficulty=1,
    newcomer_share=200,
)


@pytest.fixture(autouse=True, scope="module")
def small_and_quick() -> Iterator[None]:
    """Full serving tables, and proofs of work that cost next to nothing; what they are worth is tested elsewhere."""
    patch = pytest.MonkeyPatch()
    for module, most_staked in ((genesis, "MAX_SERVERS"), (draws, "MAX_STAKED")):
        patch.setattr(module, most_staked, 4)
        patch.setattr(module, "MAX_NEWCOMERS", 1)
    patch.setattr(registration, "argon2id", lambda challenge, salt, *cost: hash_bytes("quick", challenge, salt))
    patch.setattr(operations, "compute_work", lambda challenge, salt: hash_bytes("quick", challenge, salt))
    registration.is_valid_proof_of_work.cache_clear()
    yield
    patch.undo()
    registration.is_valid_proof_of_work.cache_clear()


PEOPLE = 8
people = st.integers(0, PEOPLE - 1)
indices = st.integers(0, 1000)

amounts = st.sampled_from([0, 1, 700, 1_000, 1_000, 1_500, 2_500, 2_500, 4_000, "half", "all", "all + 1"])
"""An amount, or one relative to what there is to spend."""


def sometimes(*faults: str, one_in: int = 8) -> st.SearchStrategy[str]:
    """One of the faults now and then, "" mostly: of several faults only the first rule would be tested."""
    return st.sampled_from([""] * ((one_in - 1) * len(faults)) + list(faults))


pauses = st.sampled_from([400, 400, 0])
NONCE_FAULTS = sometimes("used nonce", "later nonce", one_in=3)
REGISTRY_FAULTS = sometimes("no tip", "foreign tip", "other account", "twice", one_in=3)


def resolve(amount: int | str, whole: int) -> int:
    return amount if isinstance(amount, int) else {"all": whole, "all + 1": whole + 1, "half": whole // 2}[amount]


EVENTS = (
    ("Absence", "jailed"),
    ("Applicant", "begins to wait"),
    ("Income", "bonded"),
    ("Fee", "paid out of the bond"),
    ("Missed lead", "paid out of what is unbonding"),
)
"""What happens without an operation that asks for it."""


class LedgerMachine(RuleBasedStateMachine):
    outcomes: ClassVar[Counter[tuple[str, str]]] = Counter()
    """How often each kind of operation was done, failed or was refused, and each event happened, in all histories."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = Chain(5, 1, stakes=[2_000, 8_000, 4_000, 1_500, 1_500], available=60_000, parameters=RULES)
        self.ledger = make_ledger(self.chain.genesis.encode())
        """What the specification says that there is."""
        self.people = [*self.chain.validators, *self.chain.users, *(make_key(f"stranger {n}") for n in range(2))]
        self.chain.keys = {key.public_key: key for key in self.people}
        self.queue: list[SignedOperation] = []
        self.signed: list[SignedOperation] = []
        self.holds: list[tuple[KeyPair, Hold, bytes]] = []
        self.tops = [0] * PEOPLE
        self.absent: set[int] = set()
        self.late: list[Vote] = []
        self.reveals: dict[bytes, bytes] = {}
        """By tip, of all hash chains in use."""
        for key in self.chain.validators:
            self.peel(key, 0)
        self.compare()

    def peel(self, key: KeyPair, number: int) -> bytes:
        """The tip of a hash chain, whose values the validators know from now on."""
        hash_chain = make_hash_chain(key, self.chain.genesis.beacon, number, RULES.epoch_heights)
        commitment: bytes | None = hash_chain.commitment
        for _ in range(120):
            if commitment is not None and (reveal := hash_chain.find_reveal(commitment)) is not None:
                self.reveals[commitment], commitment = reveal, reveal
        return hash_chain.commitment

    def account(self, key: KeyPair) -> Record:
        return self.ledger.account(key.public_key)

    def validator(self, key: KeyPair) -> Record:
        return self.ledger.entries.get(b"v" + key.public_key, NO_VALIDATOR)

    def is_known(self, key: KeyPair) -> bool:
        """Whether an account ever enrolled."""
        return b"v" + key.public_key in self.ledger.entries

    def ask(self, key: KeyPair, operation: Operation) -> None:
        signed = sign_operation(key, self.chain.genesis.chain_id, operation)
        self.queue.append(signed)
        self.signed.append(signed)
        if len(self.queue) >= 5:
            self.make_block(1_000)

    @rule(who=people, to=people, amount=amounts, fault=NONCE_FAULTS)
    def send(self, who: int, to: int, amount: int | str, fault: str) -> None:
        key = self.people[who]
        whole = self.account(key)["available"]
        self.ask(key, Transfer(self.next_nonce(key, fault), self.people[to].public_key, resolve(amount, whole)))

    @rule(who=people, amount=amounts, fault=NONCE_FAULTS)
    def bond(self, who: int, amount: int | str, fault: str) -> None:
        key = self.people[who]
        whole = self.account(key)["available"]
        self.ask(key, Bond(self.next_nonce(key, fault), resolve(amount, whole)))

    @rule(who=people, amount=amounts, fault=NONCE_FAULTS)
    def unbond(self, who: int, amount: int | str, fault: str) -> None:
        key = self.people[who]
        whole = self.account(key)["bonded"]
        self.ask(key, Unbond(self.next_nonce(key, fault), resolve(amount, whole)))

    @rule(who=people, fault=NONCE_FAULTS)
    def withdraw(self, who: int, fault: str) -> None:
        """Rather an account that has something to withdraw."""
        ripe = [key for key in self.people if min(self.get_parts(key), default=1e9) <= self.ledger.epoch]
        key = ripe[who % len(ripe)] if ripe and not fault else self.people[who]
        self.ask(key, Withdraw(self.next_nonce(key, fault)))

    @rule(
        who=people,
        models=st.sampled_from([(MODEL,), (MODEL,), (), ("large", MODEL), ("large",), (MODEL, "large")]),
        judge=st.sampled_from([None, None, DeclaredJudge("large", hash_bytes("prompt"), is_weak=True)]),
        identified=st.integers(0, 2),
        fault=NONCE_FAULTS,
    )
    def serve(
        self, who: int, models: tuple[str, ...], judge: DeclaredJudge | None, identified: int, fault: str
    ) -> None:
        key = self.people[who]
        identities = tuple(DeclaredIdentity(model, hash_bytes("identity")) for model in models[:identified])
        self.ask(key, Serve(self.next_nonce(key, fault), models, judge, identities))

    def next_nonce(self, key: KeyPair, fault: str = "") -> int:
        queued = sum(hasattr(o.operation, "nonce") and o.signer == key.public_key for o in self.queue)
        nonce = self.account(key)["nonce"] + queued
        return {"used nonce": max(0, nonce - 1), "later nonce": nonce + 1}.get(fault, nonce)

    @rule(who=people, kind=st.sampled_from([Enroll, Retire]), hash_chain=st.integers(1, 3), fault=REGISTRY_FAULTS)
    def come_or_go(self, who: int, kind: type[NoncedOperation], hash_chain: int, fault: str) -> None:
        self.change_registry(who, kind, hash_chain, fault)

    @rule(who=people, kind=st.sampled_from([Unjail, Recommit]), hash_chain=st.integers(1, 3), fault=REGISTRY_FAULTS)
    def go_on(self, who: int, kind: type[NoncedOperation], hash_chain: int, fault: str) -> None:
        self.change_registry(who, kind, hash_chain, fault)

    def change_registry(self, who: int, kind: type[NoncedOperation], hash_chain: int, fault: str) -> None:
        key = self.people[who]
        if fault != "other account":  # rather one that may
            known = [k for k in self.people if self.is_known(k)]
            fitting = {
                Enroll: [
                    k
                    for k in self.people
                    if not self.validator(k)["is_enrolled"] and self.account(k)["available"] > 5_000
                ],
                Unjail: [k for k in known if 0 < self.validator(k)["jailed_until"] <= self.ledger.epoch],
            }.get(kind, known)
            if not fitting and kind is Unjail and who % 2:
                kind, fitting = Recommit, known
            key = fitting[who % len(fitting)] if fitting else key
        nonce = self.next_nonce(key)
        if kind is Enroll and not fault and self.account(key)["bonded"] < RULES.min_validator_bond:
            self.ask(key, Bond(nonce, 2_000))
            nonce = self.next_nonce(key)
        has_no_commitment = kind in (Retire, Unjail)  # so that it can be wrong in one way only
        times = 2 if fault == "twice" or (fault and has_no_commitment) else 1
        if has_no_commitment:
            for number in range(nonce, nonce + times):
                self.ask(key, Retire(number) if kind is Retire else Unjail(number))
            return
        commitment = self.peel(key, hash_chain)
        if fault == "no tip":
            commitment = bytes(32)
        elif fault == "foreign tip" and key not in self.chain.validators:  # which it can never open
            commitment = hash_bytes("foreign", key.public_key)
        for number in range(nonce, nonce + times):
            self.ask(
                key,
                Enroll(number, commitment, hash_chain) if kind is Enroll else Recommit(number, commitment, hash_chain),
            )

    @rule(
        who=people,
        finder=people,
        kinds=st.sampled_from([(1, 1), (3, 3), (2, 3), (3, 2)]),
        ago=st.sampled_from([0, 0, 0, 1, 1, 2, -1]),
        view=st.integers(1, 2),
        fault=sometimes("honest", "order", "forged", "two views", "two signers", "any account", one_in=2),
        seldom=st.sampled_from(["", "no", "no"]),
    )
    def lie(self, who: int, finder: int, kinds: tuple[int, int], ago: int, view: int, fault: str, seldom: str) -> None:
        if seldom != "":
            return
        liars = [
            key for key in self.people if self.is_known(key) and self.validator(key)["clean_from"] <= self.ledger.epoch
        ]
        liar, epoch = self.people[who], max(0, self.ledger.epoch - ago)
        if fault != "any account" and liars:
            liar = liars[who % len(liars)]
        if fault == "honest":
            kinds = (1, 2) if view == 1 else (1, 3)
        votes = [
            sign_vote(
                self.people[(who + number) % PEOPLE] if fault == "two signers" else liar,
                self.chain.genesis.chain_id,
                VoteKind(kind),
                epoch,
                view + (number if fault == "two views" else 0),
                NO_BLOCK if kind == 2 else hash_bytes("lie", bytes([number])),
            )
            for number, kind in enumerate(kinds)
        ]
        if fault == "forged":
            votes[1] = replace(votes[1], signature=votes[0].signature)
        first, second = sorted(votes, key=Vote.encode, reverse=fault == "order")
        self.ask(self.people[finder], Evidence(first, second))

    @rule(who=st.sampled_from([PEOPLE - 1, PEOPLE - 2, PEOPLE - 2, 5]), ago=st.sampled_from([0, 0, 0, 1, 2]))
    def register(self, who: int, ago: int) -> None:
        key, epoch = self.people[who], max(0, self.ledger.epoch - ago)
        if ago == 0 and self.account(key)["bonded"]:  # seldom what must be refused
            return
        self.ask(key, Register(epoch, bytes(REGISTRATION_SALT_BYTES - 1) + bytes([ago]), (MODEL,)))

    @rule(absent=st.sets(st.integers(0, PEOPLE - 1), max_size=3))
    def leave_the_room(self, absent: set[int]) -> None:
        self.absent = absent

    @rule(
        who=people,
        amount=amounts,
        attempt=st.sampled_from([0, 0, 0, 1, 2]),
        lifetime=st.sampled_from([1_500, 5_000, 10_001, 12_000, 19_999, 20_000]),
        fault=sometimes(
            "used seq", "last seq", "too far", "attempt", "old period", "gone period", "next period", "payee", "model",
            "deadline", one_in=3,
        ),
    )  # fmt: skip
    def hold(self, who: int, amount: int | str, attempt: int, lifetime: int, fault: str) -> None:
        key, ledger = self.people[who], self.ledger
        top = self.tops[who]
        seq = {"used seq": max(0, top - 1), "last seq": top + 255, "too far": top + 256}.get(fault, top)
        attempt = 3 if fault == "attempt" else attempt
        begun, coming = self.find_periods()
        gone = max(0, begun[0] - 1)
        first_round = {"old period": begun[0], "gone period": gone, "next period": coming}.get(fault, begun[-1])
        model = "unknown" if fault == "model" else MODEL
        payee = find_executor(ledger, first_round, key.public_key, seq, attempt, model)
        if payee is None or fault == "payee":
            payee = self.people[(who + 1) % PEOPLE].public_key
        deadline = ledger.now + (30_000 if fault == "deadline" else lifetime)
        digest = hash_bytes("request", bytes([attempt]))
        amount = resolve(amount, self.account(key)["available"])
        operation = Hold(payee, amount, first_round, seq, attempt, model, digest, deadline)
        self.holds.append((key, operation, compute_hold_id(key.public_key, operation)))
        self.tops[who] = max(top, seq + 1) if fault != "too far" else top
        self.ask(key, operation)

    def find_periods(self) -> tuple[list[int], int]:
        """The first rounds of the serving periods that have begun, and of the next, whether it is known or not."""
        periods = self.ledger.entries[b"d"]["periods"]
        begun = [period["first_round"] for period in periods if period["source"] is not None]
        return begun, periods[-1]["first_round"] + (periods[-1]["source"] is not None)

    def pick(self, index: int, pending: bool | None, payee: bytes | None = None) -> tuple[KeyPair, Hold, bytes] | None:
        """A hold that is open and (not) captured, if there is one; any that ever was asked for when that is None."""
        fitting = [
            asked
            for asked in self.holds
            if payee in (None, asked[1].payee) and (pending is None or pending is self.is_captured(asked[2]))
        ]
        return fitting[-1 - index % len(fitting)] if fitting else None

    def is_captured(self, name: bytes) -> bool | None:
        """Whether something is pending on a hold, None if it is not open."""
        entry = self.ledger.entries.get(b"h" + name)
        return None if entry is None else entry["unsettled_delivery"] is not None

    @rule(
        index=indices,
        to=people,
        left=st.sampled_from([0, 0, 150]),
        amounts=st.lists(st.sampled_from([0, 30, 150, 700, 2_500]), min_size=1, max_size=3),
    )
    def capture_with_nothing(self, index: int, to: int, left: int, amounts: list[int]) -> None:
        """A payee spends all but what it was promised: the fee must come out of what it captures."""
        for seq in range(2):
            self.hold(who=(index + seq) % PEOPLE, amount=2_500, attempt=0, lifetime=20_000, fault="")
        self.make_block(1)  # what is queued is paid from the same balance
        if not (picked := self.pick(index, False)):
            return
        key = next(key for key in self.people if key.public_key == picked[1].payee)
        self.spend_all(key, to, left)
        found = [
            name[1:]
            for name, entry in self.ledger.entries.items()
            if name[:1] == b"h" and entry["payee"] == key.public_key and entry["unsettled_delivery"] is None
        ]
        items = [
            CaptureItem(Delivery(name, amount, hash_bytes("answer"), Usage(amount, 0), "stop"), None)
            for name, amount in zip(found, amounts, strict=False)
        ]
        if items:
            self.ask(key, Capture(tuple(items)))

    def spend_all(self, key: KeyPair, to: int, left: int) -> None:
        """A transfer after which so much is left of what an account has available now."""
        amount = whole = self.account(key)["available"]
        for _ in range(3):  # the fee is by the bytes of the operation that pays it
            transfer = Transfer(self.next_nonce(key), self.people[to].public_key, amount)
            signed = sign_operation(key, self.chain.genesis.chain_id, transfer)
            amount = max(0, whole - left - len(signed.encoded) * RULES.fee_per_byte)
        self.ask(key, replace(transfer, amount=amount))

    @rule(
        picks=st.lists(indices, min_size=1, max_size=3),
        amount=st.sampled_from(["all", "half", "all", "half", "nothing"]),
        receipt=st.sampled_from([True, None, None]),
        fault=sometimes("amount", "price", "forged", "other hold", "thief", "twice", one_in=3),
    )
    def capture(self, picks: list[int], amount: str, receipt: bool | None, fault: str) -> None:
        chosen: dict[bytes, CaptureItem] = {}
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
        self.ask(key, Capture(tuple(chosen.values())))

    def accept(self, payer: KeyPair, delivery: Delivery, receipt: bool | None, fault: str) -> CaptureItem:
        """The delivery with its receipt, which is not good if the fault is in it."""
        signed = delivery
        if fault == "forged":
            payer = next(key for key in self.people if key is not payer)
        elif fault == "other hold":
            signed = replace(delivery, hold=bytes(32))
        elif receipt is None:
            return CaptureItem(delivery, None)
        return CaptureItem(delivery, payer.sign("receipt", self.chain.genesis.chain_id, signed.encode()))

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

    @rule(
        who=people,
        by=people,
        end=st.sampled_from(
            ["dispute", "dispute", "dispute", "dispute by another", "dispute of nothing", "late dispute"]
        ),
        pause=pauses,
        amount=st.sampled_from([700, 1_500]),
    )
    def see_a_dispute_through(self, who: int, by: int, end: str, pause: int, amount: int) -> None:
        self.see_a_hold_through(who, by, end, pause, amount)

    @rule(
        who=people,
        by=people,
        end=st.sampled_from(
            ["release", "release", "release", "release at the deadline", "early release", "release of a capture"]
        ),
        pause=pauses,
        amount=st.sampled_from([700, 1_500]),
    )
    def see_a_release_through(self, who: int, by: int, end: str, pause: int, amount: int) -> None:
        self.see_a_hold_through(who, by, end, pause, amount)

    def see_a_hold_through(self, who: int, by: int, end: str, pause: int, amount: int) -> None:
        """A sound hold, mostly an unreceipted capture of it, and a dispute or release then, in time or not."""
        asked = self.ask_for_hold(who, amount)
        if asked is None:
            return
        payer, hold, name = asked
        self.wait(pause)
        if end in ("dispute", "dispute by another", "late dispute", "release of a capture"):
            payee = next(key for key in self.people if key.public_key == hold.payee)
            delivery = Delivery(name, amount, hash_bytes("answer"), Usage(amount // 2, amount // 20 + 1), "stop")
            self.ask(payee, Capture((CaptureItem(delivery, None),)))
            self.wait(3_001 if end == "late dispute" else pause)
        if "dispute" in end:
            self.ask(self.people[by] if end == "dispute by another" else payer, Dispute(name))
            self.wait(400)
        else:
            self.wait(pause)
            self.ask(self.people[by], Release(name))
            left = hold.deadline - self.ledger.now  # to the very millisecond
            self.wait({"release at the deadline": left, "early release": left - 1}.get(end, left + 1))

    def wait(self, elapsed: int) -> None:
        """For a block, unless no time is to pass."""
        if elapsed > 0:
            self.make_block(elapsed)

    def ask_for_hold(self, who: int, amount: int) -> tuple[KeyPair, Hold, bytes] | None:
        """A hold that nothing is wrong with, of ``who`` or, who cannot pay, of the richest."""
        if self.account(self.people[who])["available"] < amount + 5_000:
            who = max(range(PEOPLE), key=lambda number: self.account(self.people[number])["available"])
        key, seq, first_round = self.people[who], self.tops[who], self.find_periods()[0][-1]
        payee = find_executor(self.ledger, first_round, key.public_key, seq, 0, MODEL)
        if payee is None or not self.ledger.account(payee)["models"]:
            return None
        deadline = self.ledger.now + 9_000
        operation = Hold(payee, amount, first_round, seq, 0, MODEL, hash_bytes("request"), deadline)
        self.holds.append((key, operation, compute_hold_id(key.public_key, operation)))
        self.tops[who] += 1
        self.ask(key, operation)
        return self.holds[-1]

    @rule(who=people, early=st.sampled_from([0, 0, 1, 1, 2]), seldom=st.sampled_from(["", "no"]))
    def see_stake_leave(self, who: int, early: int, seldom: str) -> None:
        """An account unbonds, and withdraws in the first epoch that allows it, or in one of the last that do not."""
        if seldom != "":
            return
        epoch = self.ledger.epoch
        leaving = [key for key in self.people if any(e - early > epoch for e in self.get_parts(key))]
        key = leaving[who % len(leaving)] if leaving else self.people[who]
        if not leaving:
            bonded = [key for key in self.people if get_own_bond(self.account(key)) > 1]
            if not bonded:
                return
            key = bonded[who % len(bonded)]
            self.ask(key, Unbond(self.next_nonce(key), get_own_bond(self.account(key)) // 2))
            self.make_block(1_000)
        ripe = [e - early for e in self.get_parts(key) if e - early > self.ledger.epoch]
        self.wait_for_epoch(min(ripe, default=0))
        self.ask(key, Withdraw(self.next_nonce(key)))
        self.make_block(400)

    @rule(who=people, votes=st.sampled_from(["none", "none", "half"]), seldom=st.sampled_from(["", "no", "no"]))
    def stay_away(self, who: int, votes: str, seldom: str) -> None:
        """A member votes for nothing, or for half of the counted blocks, which is enough, until its span is over."""
        if seldom != "":
            return
        self.wait_for_epoch(self.ledger.epoch + 1)
        smallest = self.ledger.committee(self.ledger.epoch)[-3:]  # without whom there is a quorum
        who = self.people.index(self.chain.keys[smallest[who % len(smallest)]["public_key"]])
        for number in range(3 * RULES.epoch_heights):
            self.absent = {who} if votes == "none" or number % RULES.epoch_heights in (1, 2, 3, 4) else set()
            self.make_block(1_000, 0, "none")

    @rule(who=people, to=people, skipped=st.sampled_from([2, 8]), seldom=st.sampled_from(["", "no"]))
    def lead_with_nothing(self, who: int, to: int, skipped: int, seldom: str) -> None:
        """A leader that misses its views has nothing left but what is unbonding."""
        members = [each["public_key"] for each in self.ledger.committee(self.ledger.epoch)]
        key = self.chain.keys[members[who % len(members)]]
        if seldom != "" or not (own := get_own_bond(self.account(key))):
            return
        self.ask(key, Unbond(self.next_nonce(key), own))
        self.make_block(1_000)
        self.spend_all(key, to, 0)
        self.make_block(1_000)
        self.make_block(400, skipped)

    @rule(bond=st.sampled_from([2_000, 3_000]), seldom=st.sampled_from(["", "no", "no"]))
    def crowd_the_committee(self, bond: int, seldom: str) -> None:
        """More ask for a seat than there are."""
        if seldom != "":
            return
        for key in self.people:
            if not self.validator(key)["is_enrolled"] and self.account(key)["available"] > bond + 5_000:
                self.ask(key, Bond(self.next_nonce(key), bond))
                self.ask(key, Enroll(self.next_nonce(key), self.peel(key, 1), 1))
        self.wait_for_epoch(self.ledger.epoch + 3)

    @rule(who=people, finder=people, early=st.sampled_from([0, 0, 1]))
    def see_a_jail_term_through(self, who: int, finder: int, early: int) -> None:
        """A jailed validator asks to return in the first epoch that allows it, or in the last that does not."""
        if not self.find_jailed():
            self.lie(who, finder, (1, 1), 0, 1, "", "")
            self.make_block(400)
        if jailed := self.find_jailed():
            key = jailed[who % len(jailed)]
            self.wait_for_epoch(self.validator(key)["jailed_until"] - early)
            self.ask(key, Unjail(self.next_nonce(key)))
            self.make_block(400)

    def find_jailed(self) -> list[KeyPair]:
        return [
            key for key in self.people if self.validator(key)["jailed_until"] and self.validator(key)["is_enrolled"]
        ]

    def wait_for_epoch(self, epoch: int) -> None:
        for _ in range(4 * RULES.epoch_heights):
            if self.ledger.epoch < epoch:
                self.make_block(1_000)

    def get_parts(self, key: KeyPair) -> list[int]:
        """The epochs in which what an account has unbonding comes free."""
        return [part["release_epoch"] for part in self.account(key)["unbonding"]]

    @rule(index=indices)
    def replay(self, index: int) -> None:
        if self.signed:
            self.queue.append(self.signed[index % len(self.signed)])

    @rule(
        elapsed=st.sampled_from([1, 400, 999, 1_000, 2_600, 5_000, 10_000, 10_001, 60_000]),
        blocks=st.sampled_from([1, 2, 3, 4, 8]),
        skipped=st.sampled_from([0] * 12 + [1, 1, 2, 2, 40]),
        late=st.sampled_from(["all"] * 5 + ["none", "none", "old", "twice", "finalize", "view", "stranger"]),
    )
    def blocks(self, elapsed: int, blocks: int, skipped: int, late: str) -> None:
        for _ in range(blocks):
            self.make_block(elapsed, skipped, late)
            skipped, late = 0, "all" if late != "none" else late

    @rule(epochs=st.sampled_from([1, 1, 2, 3]), late=st.sampled_from(["all", "all", "none"]))
    def let_time_pass(self, epochs: int, late: str) -> None:
        for _ in range(epochs * RULES.epoch_heights):
            self.make_block(1_000, 0, late)

    def vote_on_parent(self) -> Certificate | None:
        """What those who are not absent say about the last block; the votes of the others come late."""
        if not self.chain.blocks:
            return None
        head = self.chain.head
        members = {each["public_key"]: each["stake"] for each in self.ledger.committee(head.epoch)}
        voters = [key for key in self.people if key.public_key in members]
        total = sum(members.values())
        for number in sorted(self.absent):
            rest = [key for key in voters if key is not self.people[number]]
            if 3 * sum(members[key.public_key] for key in rest) > 2 * total:
                voters = rest
        chain_id, epoch, view = self.chain.genesis.chain_id, head.epoch, head.view
        self.late += [
            sign_vote(key, chain_id, VoteKind.NOTARIZE, epoch, view, head.id)
            for key in self.people
            if key.public_key in members and key not in voters
        ]
        return self.chain.parent_certificate(voters)

    def choose_late(self, how: str) -> list[Vote]:
        """Votes that a block carries besides: all that came since, or some that it must not carry."""
        chain_id, epoch = self.chain.genesis.chain_id, self.ledger.epoch
        if how == "none":
            return []
        late = [vote for vote in self.late if vote.epoch == epoch][-6:]
        if how == "old" or not late:
            return self.late[-30:]
        last, key = late[-1], self.chain.keys[late[-1].signer]
        odd = {
            "twice": last,
            "finalize": sign_vote(key, chain_id, VoteKind.FINALIZE, epoch, last.view, last.block_id),
            "view": sign_vote(key, chain_id, VoteKind.NOTARIZE, epoch, last.view + 1, last.block_id),
            "stranger": sign_vote(make_key("x"), chain_id, VoteKind.NOTARIZE, epoch, last.view, last.block_id),
        }
        return [*late, odd[how]] if how in odd else late

    def make_block(self, elapsed: int, skipped: int = 0, late: str = "all") -> None:
        chain, ledger = self.chain, self.ledger
        first = ledger.header["view"] + 1 if ledger.height % RULES.epoch_heights else 1
        source = ledger.find_source(ledger.epoch)
        assert source is not None
        while True:  # who cannot open its tip cannot lead
            leader = compute_leader(ledger.committee(ledger.epoch), source, first + skipped)
            assert chain.leader(first + skipped).public_key == leader
            if (reveal := self.reveals.get(ledger.entries[b"v" + leader]["commitment"])) is not None:
                break
            skipped += 1
            if skipped > 60:
                return
        certificate = self.vote_on_parent()
        votes = self.choose_late(late)
        arguments = {"elapsed": elapsed, "skipped": skipped, "parent_certificate": certificate, "reveal": reveal}
        if not self.do_count(certificate, votes):
            with pytest.raises(InvalidBlock, match="late_votes"):
                chain.propose(self.queue, late_votes=votes, **arguments)
            votes = []
        self.late = [vote for vote in self.late if vote not in votes][-30:]
        block, transition, rejected = chain.propose(self.queue, late_votes=votes, **arguments)
        received = decode("Block", block.encoded)
        jailed, unbonding = self.find_jailed(), self.get_unbonding()
        bonds = {key: self.account(key)["bonded"] for key in self.people}
        check_block(ledger, received)
        outcomes = execute(ledger, received, [decode("SignedOperation", signed.encoded) for signed in self.queue])
        failures, refusals = iter(transition.failures), iter(rejected)
        for signed, outcome in zip(self.queue, outcomes, strict=True):
            self.outcomes[type(signed.operation).__name__, outcome] += 1
            if outcome == operations.REFUSED:
                refused = next(refusals, None)
                assert refused is not None and refused[0] is signed, signed.operation
            else:
                failure = next(failures)
                assert (failure is None) is (outcome == operations.DONE), (signed.operation, failure)
                assert len((failure or "").encode()) < len(signed.encoded), "what a store reserves for reasons"
        assert not [*failures, *refusals]
        kinds = {type(signed.operation) for signed in self.queue}
        if not kinds & {Bond, Register}:
            self.outcomes["Income", "bonded"] += any(self.account(key)["bonded"] > bonds[key] for key in self.people)
        if not kinds & {Unbond, Dispute, Evidence} and not skipped:
            paid = any(self.account(key)["bonded"] < bonds[key] for key in self.people)
            self.outcomes["Fee", "paid out of the bond"] += paid
        if not any(isinstance(signed.operation, Evidence) for signed in self.queue):
            self.outcomes["Absence", "jailed"] += sum(key not in jailed for key in self.find_jailed())
        if not self.queue:
            waiting = sum(self.validator(key)["waiting_since"] == ledger.height for key in self.people)
            self.outcomes["Applicant", "begins to wait"] += waiting
            self.outcomes["Missed lead", "paid out of what is unbonding"] += self.get_unbonding() < unbonding
        chain.accept(block, transition)
        self.queue.clear()
        self.compare()

    def get_unbonding(self) -> int:
        """All that is unbonding."""
        return sum(part["amount"] for key in self.people for part in self.account(key)["unbonding"])

    def do_count(self, certificate: Certificate | None, votes: list[Vote]) -> bool:
        """Whether the next block may carry these late votes."""
        parent = None if certificate is None else decode("Certificate", certificate.encode())
        try:
            count_participation(self.ledger, parent, [decode("Vote", vote.encode()) for vote in votes])
        except Invalid:
            return False
        return True

    def compare(self) -> None:
        """The whole state, entry by entry, and its root."""
        found, expected = {leaf.key: leaf for leaf in self.chain.state.entries()}, self.ledger.encode_entries()
        assert {
            key: (leaf.record, self.ledger.entries.get(key))
            for key, leaf in found.items()
            if expected.get(key) != leaf.encoded
        } == {}
        assert found.keys() == expected.keys()
        assert self.chain.head.id == self.ledger.ids[-1]
        assert self.chain.head.state_root == state_root(expected)

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        supply = self.chain.state.totals.supply
        assert compute_supply(self.chain.state) == supply
        assert self.ledger.compute_supply() == supply == self.ledger.entries[b"s"]["supply"]
        for _, account in self.chain.state.accounts():
            parts = (account.available, account.held, account.bonded, *(part.amount for part in account.unbonding))
            assert all(0 <= part <= supply for part in parts)

    @invariant()
    def deposits_are_those_of_what_is_there(self) -> None:
        """But models that no account left a deposit for, from the genesis or a registration, have none."""
        state, held = self.chain.state, Counter[bytes]()
        for leaf in state.entries():
            if isinstance(leaf.record, OpenHold):
                held[leaf.record.payer] += leaf.record.amount + compute_hold_deposit(RULES)
        for key, account in state.accounts():
            numbers = compute_deposit(RULES, state.replay_window(key).unused)
            assert account.held == held[key]
            models = compute_models_deposit(RULES, account.models, account.judge, account.identities)
            assert account.deposit - numbers in (models, 0)


def list_missing(enough: int) -> list[str]:
    """The operations that were not executed or not turned down often enough, and the events that were too rare.

    Those of duels and checks have histories of their own (``test_duels_stateful``, ``test_checks_stateful``).
    """
    outcomes, missing = LedgerMachine.outcomes, []
    for kind in (cls.__name__ for cls in get_args(Operation) if not issubclass(cls, DuelOperation | CheckOperation)):
        done, refusals = outcomes[kind, "done"], outcomes[kind, "failed"] + outcomes[kind, "refused"]
        if min(done, refusals) < enough:
            missing.append(f"{kind}: {done} done, {refusals} turned down")
    return missing + [f"{event}: {outcomes[event]}" for event in EVENTS if outcomes[event] < enough]


@pytest.mark.parametrize(
    ("seeds", "examples", "enough"), [((7, 6), 8, 1), pytest.param(range(10), 20, 10, marks=pytest.mark.long)]
)
def test_both_keep_the_same_books(seeds: Sequence[int], examples: int, enough: int) -> None:
    """Every kind of operation is executed, and turned down, often enough for its rules to be tested.

    Each round begins anew, from a seed of its own, since the examples of one resemble each other. There are more rounds
    if these have left something out: the seeds are of rounds that leave out little.
    """
    LedgerMachine.outcomes.clear()
    for number in (*seeds, *range(20, 40)):
        if number >= 20 and not list_missing(enough):
            break
        run_state_machine_as_test(
            seed(number)(LedgerMachine), settings=settings(max_examples=examples, stateful_step_count=40)
        )
    assert not list_missing(enough)
