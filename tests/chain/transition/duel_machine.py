"""Random histories of duels, played by the code and by the specification, which must come to the same state.

Answers are paid, compared, withheld and voted on in any order, by those whose turn it is and by others, in time and too
late, while bonds, models and judges change. After every block the whole state must be what
:mod:`tests.chain.specification` says, entry by entry, and no credit may be made or lost. In the end every duel must be
settled, and nothing be left set aside.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chain.crypto import KeyPair, hash_bytes
from chain.state.duel_records import ANSWER, COMMIT, REPEAT, REVEAL, STAGES, Duel, JudgeSeat
from chain.state.judge_records import JudgeRecord
from chain.state.state import compute_supply
from chain.transition.duels.events import DuelSettled, ExecutorAccused
from chain.transition.duels.verdict import DuelVerdict
from chain.types.duels import (
    BALLOT_SALT_BYTES,
    IDENTICAL,
    DuelAnswer,
    DuelBallot,
    DuelCommit,
    DuelReveal,
    compute_ballot_commitment,
)
from chain.types.operations import CaptureItem, Dispute, SignedOperation
from tests.chain.specification.blocks import check_block, execute
from tests.chain.specification.ledger import make_ledger
from tests.chain.specification.notation import decode
from tests.chain.specification.operations import REFUSED
from tests.support.chain_builder import MODEL
from tests.support.chains.duel_chain import JUDGE, REPEATING, SOLO_MODEL, DuelChain

RULES = replace(
    REPEATING,
    fee_per_byte=1,
    newcomer_share=300,
    max_settlements=2,
    duels=replace(REPEATING.duels, answer_ms=3_000, commit_ms=2_000, reveal_ms=2_000, max_deadlines=2),
)
STAKES = [60_000, 40_000, 30_000, 20_000, 18_000, 15_000, 12_000, 11_000, 9_000, 5_000, 1_500]

people = st.integers(0, len(STAKES) - 1)
indices = st.integers(0, 1_000)
faults = st.sampled_from([*[""] * 5, "another", "again", "early", "other ballot"])
ballots = st.builds(
    DuelBallot,
    st.sampled_from([0, 1, 1, 2, 2, 3, 4]),
    st.sampled_from([0, 0, 0, 1, 1, 2, 3]),
    st.sampled_from([0, 0, 0, 0, 0, 1, 2, 2]),
)


class DuelMachine(RuleBasedStateMachine):
    outcomes: ClassVar[Counter[tuple[str, str]]] = Counter()
    """How often each operation was included or refused, in all histories."""
    verdicts: ClassVar[Counter[DuelVerdict]] = Counter()
    """How the duels of all histories ended."""
    repeats: ClassVar[Counter[int]] = Counter()
    """What repeated votes showed, in all histories."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = self.make_chain()
        self.ledger = make_ledger(self.chain.genesis.encode())
        for block in self.chain.blocks:
            received = decode("Block", block.encoded)
            check_block(self.ledger, received)
            execute(self.ledger, received, received["body"]["operations"])
        self.queue: list[SignedOperation] = []
        self.unreceipted: list[bytes] = []
        self.cast: dict[tuple[bytes, bytes], DuelBallot] = {}
        """What each judge has committed to, by duel."""

    def make_chain(self) -> DuelChain:
        return DuelChain(len(STAKES), stakes=STAKES, parameters=RULES)

    def ask(self, signed: SignedOperation) -> None:
        self.queue.append(signed)
        if len(self.queue) >= 6:
            self.make_block(10)

    @rule(
        count=st.integers(1, 4),
        amount=st.sampled_from([100, 101, 777, 2_000, 9_000]),
        how=st.sampled_from(["receipt"] * 4 + ["cancelled", "none"]),
        model=st.sampled_from([MODEL, MODEL, MODEL, SOLO_MODEL]),
    )
    def pay(self, count: int, amount: int, how: str, model: str) -> None:
        """Requests are answered and captured; the executor may be one that has nothing at stake."""
        chain, payer = self.chain, self.chain.payer
        self.make_block(1)
        seqs, keys = [], []
        for seq in range(chain.next_seq, chain.next_seq + count):
            table = chain.state.serving_table(chain.first_round)
            if table is None or model not in {name for entry in table.entries for name in entry.models}:
                return
            key = chain.executor(payer, seq, model=model)
            if chain.account(key).models:
                seqs.append(seq)
                keys.append(key)
        chain.next_seq += count
        self.queue = [chain.hold(payer, seq, amount=amount, model=model, lifetime=50_000) for seq in seqs]
        self.make_block(1)
        for seq, key in zip(seqs, keys, strict=True):
            delivery = chain.deliver(seq, amount, "cancelled" if how == "cancelled" else "stop")
            if how == "none":
                self.unreceipted.append(delivery.hold)
            self.ask(
                chain.capture(key, CaptureItem(delivery, None) if how == "none" else chain.receipt(payer, delivery))
            )

    @rule(index=indices)
    def dispute(self, index: int) -> None:
        if self.unreceipted:
            self.ask(self.chain.sign(self.chain.payer, Dispute(self.unreceipted[index % len(self.unreceipted)])))

    def pick(self, index: int, stage: int) -> tuple[bytes, Duel] | None:
        """A duel in a stage, if there is one."""
        found = [(leaf.key[1:], leaf.record) for leaf in self.chain.state.entries() if leaf.key[:1] == b"u"]
        fitting = sorted((hold for hold, duel in found if isinstance(duel, Duel) and duel.stage == stage))
        if not fitting:
            return None
        hold = fitting[index % len(fitting)]
        return hold, self.chain.duel(hold)

    @rule(index=indices, fault=faults)
    def answer(self, index: int, fault: str) -> None:
        picked = self.pick(index, COMMIT if fault == "again" else ANSWER)
        if picked is not None and (key := picked[1].challenger) is not None:
            signer = picked[1].executor if fault == "another" else key
            self.ask(self.chain.sign(self.chain.keys[signer], DuelAnswer(picked[0], hash_bytes("answer"))))

    @rule(index=indices, seats=st.sets(st.integers(0, 2), min_size=1), ballot=ballots, fault=faults)
    def commit(self, index: int, seats: set[int], ballot: DuelBallot, fault: str) -> None:
        """Some judges commit to one ballot; what one sees first the other may see last."""
        picked = self.pick(index, ANSWER if fault == "early" else COMMIT)
        if picked is None:
            return
        hold, duel = picked
        for number in sorted(seats):
            seat = duel.seats[number % len(duel.seats)]
            key = duel.executor if fault == "another" else seat.public_key
            vote = swap(ballot) if seat.is_reversed else ballot
            self.cast.setdefault((hold, key), vote)
            self.ask(self.sign_commitment(hold, key))

    @rule(index=indices, other=st.one_of(st.none(), st.none(), ballots), fault=faults)
    def repeat(self, index: int, other: DuelBallot | None, fault: str) -> None:
        """Those who repeat votes come to the same ballot, or to another."""
        picked = self.pick(index, COMMIT if fault == "early" else REPEAT)
        if picked is not None:
            hold, duel = picked
            for seat in duel.all_seats if fault == "again" else duel.repeats or duel.seats:
                self.cast.setdefault((hold, seat.public_key), other or self.cast.get((hold, seat.voter), DuelBallot(0)))
                self.ask(self.sign_commitment(hold, seat.public_key))

    @rule(index=indices, seats=st.sets(st.integers(0, 4), min_size=1), ballot=ballots, fault=faults)
    def reveal(self, index: int, seats: set[int], ballot: DuelBallot, fault: str) -> None:
        picked = self.pick(index, COMMIT if fault == "early" else REVEAL)
        if picked is None:
            return
        hold, duel = picked
        for number in sorted(seats):
            seat = duel.all_seats[number % len(duel.all_seats)]
            key = duel.executor if fault == "another" else seat.public_key
            shown = ballot if fault == "other ballot" else self.cast.get((hold, key), ballot)
            self.ask(self.chain.sign(self.chain.keys[key], DuelReveal(hold, shown, bytes(BALLOT_SALT_BYTES))))

    @rule(
        index=indices,
        model=st.sampled_from([MODEL, MODEL, MODEL, SOLO_MODEL]),
        votes=st.lists(st.one_of(ballots, ballots, ballots, st.none()), min_size=3, max_size=3),
        does_agree=st.sampled_from([True, True, False]),
        silent=st.sampled_from([0, 0, 0, 0, 1, 3]),
        times=st.sampled_from([1, 1, 2]),
    )
    def see_a_duel_through(
        self, index: int, model: str, votes: list[DuelBallot | None], does_agree: bool, silent: int, times: int
    ) -> None:
        """A duel in which all do their part, mostly, while others may be under way."""
        self.pay(4, 2_000, "receipt", model)
        for _ in range(20):
            self.make_block(2)
        for _ in range(silent):
            self.make_block(RULES.duels.answer_ms)
        votes = [votes[0]] * 3 if does_agree else votes
        if (picked := self.pick(index, ANSWER)) is not None:
            key = self.chain.keys[picked[1].challenger or b""]
            self.queue += [self.chain.sign(key, DuelAnswer(picked[0], bytes(32)))] * times
            self.make_block(1)
        for vote, seat in self.find_seats(index, COMMIT, votes):
            self.cast[vote[0], seat.public_key] = vote[1]
            self.queue += [self.sign_commitment(vote[0], seat.public_key)] * times
        self.make_block(1)
        if None in votes:
            self.make_block(RULES.duels.commit_ms)
        if self.pick(index, REPEAT) is not None:
            self.repeat(index, None if does_agree else DuelBallot(IDENTICAL), "")
            self.make_block(1)
        if (picked := self.pick(index, REVEAL)) is not None:
            hold, salt = picked[0], bytes(BALLOT_SALT_BYTES)
            for seat in picked[1].all_seats:
                if (shown := self.cast.get((hold, seat.public_key))) is not None:
                    self.queue += [
                        self.chain.sign(self.chain.keys[seat.public_key], DuelReveal(hold, shown, salt))
                    ] * times
        self.make_block(1)

    def find_seats(
        self, index: int, stage: int, votes: list[DuelBallot | None]
    ) -> list[tuple[tuple[bytes, DuelBallot], JudgeSeat]]:
        """The judges of a duel in a stage that vote at all, each with the duel and its vote as it sees the answers."""
        picked = self.pick(index, stage)
        if picked is None:
            return []
        hold, duel = picked
        cast = [(vote, seat) for vote, seat in zip(votes, duel.seats, strict=False) if vote is not None]
        return [((hold, swap(vote) if seat.is_reversed else vote), seat) for vote, seat in cast]

    def sign_commitment(self, hold: bytes, judge: bytes) -> SignedOperation:
        commitment = compute_ballot_commitment(hold, judge, bytes(BALLOT_SALT_BYTES), self.cast[hold, judge])
        return self.chain.sign(self.chain.keys[judge], DuelCommit(hold, commitment))

    @rule(who=people, how=st.sampled_from(["bond", "unbond", "withdraw", "spend"]), part=st.sampled_from([1, 2, 3]))
    def move_credit(self, who: int, how: str, part: int) -> None:
        """An account has more or less to lose."""
        chain, key = self.chain, self.chain.validators[who]
        account, nonce = chain.account(key), self.next_nonce(key)
        if how == "bond":
            self.ask(chain.bond(key, account.available // 100, nonce=nonce))
        elif how == "unbond":
            self.ask(chain.unbond(key, account.free_bond // part, nonce=nonce))
        elif how == "withdraw":
            self.ask(chain.withdraw(key, nonce=nonce))
        else:
            self.ask(chain.transfer(key, chain.users[1], account.available // part, nonce=nonce))

    @rule(
        who=people,
        models=st.sampled_from([(), (MODEL,), (MODEL,), (MODEL, SOLO_MODEL)]),
        judge=st.sampled_from([None, JUDGE, JUDGE, replace(JUDGE, is_weak=True)]),
    )
    def serve(self, who: int, models: tuple[str, ...], judge: object) -> None:
        key = self.chain.validators[who]
        self.ask(self.chain.serve(key, *models, judge=judge, nonce=self.next_nonce(key)))  # type: ignore[arg-type]

    def next_nonce(self, key: KeyPair) -> int:
        queued = sum(hasattr(each.operation, "nonce") and each.signer == key.public_key for each in self.queue)
        return self.chain.account(key).nonce + queued

    @rule(elapsed=st.sampled_from([1, 10, 500, 2_000, 3_000]), blocks=st.sampled_from([1, 2, 8, 16]))
    def wait(self, elapsed: int, blocks: int) -> None:
        for _ in range(blocks):
            self.make_block(elapsed if blocks < 8 else 1)

    def make_block(self, elapsed: int) -> None:
        chain = self.chain
        block, transition, rejected = chain.propose(self.queue, elapsed=elapsed)
        received = decode("Block", block.encoded)
        check_block(self.ledger, received)
        outcomes = execute(self.ledger, received, [decode("SignedOperation", each.encoded) for each in self.queue])
        refused = iter(signed for signed, _ in rejected)
        for signed, outcome in zip(self.queue, outcomes, strict=True):
            self.outcomes[type(signed.operation).__name__, outcome] += 1
            assert outcome != REFUSED or next(refused, None) is signed, signed.operation
        assert next(refused, None) is None
        chain.accept(block, transition)
        self.queue = []
        found, expected = {leaf.key: leaf for leaf in chain.state.entries()}, self.ledger.encode_entries()
        assert {
            key: (leaf.record, self.ledger.entries.get(key))
            for key, leaf in found.items()
            if expected.get(key) != leaf.encoded
        } == {}
        assert found.keys() == expected.keys()

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        state = self.chain.state
        assert compute_supply(state) == state.totals.supply == self.chain.genesis.supply
        duels = [leaf.record for leaf in state.entries() if isinstance(leaf.record, Duel)]
        assert state.totals.reserved == sum(duel.reserved for duel in duels) <= state.totals.treasury
        for key, account in state.accounts():
            assert account.locked >= sum(duel.locked for duel in duels if duel.executor == key)
            assert all(part >= 0 for part in (account.available, account.held, account.bonded, account.locked))

    def teardown(self) -> None:
        """Nothing more is done by anyone: all duels end by themselves."""
        for _ in range(400):
            if all(leaf.key[:1] not in b"gknuxy" for leaf in self.chain.state.entries()):
                break
            self.make_block(4_000)
        state = self.chain.state
        for leaf in state.entries():
            if isinstance(leaf.record, JudgeRecord):
                self.repeats.update(leaf.record.repeats)
        assert not any(leaf.key[:1] in b"gknuxy" for leaf in state.entries())
        assert state.totals.reserved == 0 and not any(account.locked for _, account in state.accounts())
        assert all(state.deadline_queue(stage).end == 0 for stage in STAGES)
        for events in self.chain.events.values():
            assert isinstance(events[-1], DuelSettled)
            self.verdicts.update(each.verdict for each in events if isinstance(each, DuelSettled | ExecutorAccused))
        self.nothing_is_made_or_lost()


def swap(ballot: DuelBallot) -> DuelBallot:
    """The ballot of a judge that sees the answers in the other order."""
    other = (0, 2, 1, 3, 4)
    return DuelBallot(other[ballot.better], other[ballot.unusable], other[ballot.missing])
