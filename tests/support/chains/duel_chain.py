"""A chain on which answers are compared: everybody on it serves one model and judges, unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from chain.crypto import KeyPair, hash_bytes
from chain.parameters.checks import CheckParameters
from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import Parameters
from chain.state.duel_records import ANSWER, Duel, JudgeSeat
from chain.transition.block import Transition
from chain.transition.duels.events import DuelEvent, DuelSettled, ExecutorAccused
from chain.types.blocks import Block
from chain.types.duels import (
    BALLOT_SALT_BYTES,
    DRAW,
    IDENTICAL,
    A,
    B,
    DeclaredJudge,
    DuelAnswer,
    DuelBallot,
    DuelCommit,
    DuelReveal,
    compute_ballot_commitment,
)
from chain.types.operations import Delivery, SignedOperation, Usage
from tests.support.chain_builder import MODEL, PARAMETERS, Chain

DUELS = DuelParameters(rate=500, answer_ms=10_000, commit_ms=5_000, reveal_ms=4_000, repeat_rate=10, guessing=1_000_000)
DUEL_PARAMETERS = replace(
    PARAMETERS,
    unbonding_epochs=100,
    min_service_bond=2_000,
    fee_per_byte=10,
    max_hold_time_ms=60_000,
    duels=DUELS,
    checks=CheckParameters(checkers=0),
)
"""Every second capture becomes a duel, and the fees soon fill the treasury. Hardly a vote is repeated."""
REPEATING = replace(
    DUEL_PARAMETERS,
    duels=replace(DUELS, rate=350, probation_rate=440, repeat_rate=400, guessing=35_000, levy=2_000, bench_ms=100_000),
)
"""Two votes of five are repeated."""
SOLO_MODEL = "solo"
"""A model that the first validator alone serves: answers of it are not compared, but checked."""
JUDGE = DeclaredJudge("judge-8b", hash_bytes("test prompt"), is_weak=False)
AMOUNT = 2_000
"""Micro-credits captured for an answer: each share of a duel is a whole number of them."""
QUICK = 1
"""Milliseconds between blocks in which no deadline is to run out."""

EXECUTOR, CHALLENGER, SAME, NEITHER = "executor", "challenger", "same", "neither"
"""Whose answer is better."""


class DuelChain(Chain):
    """A chain whose validators serve and judge.

    Attributes:
        events: what happened to duels, by hold.
        next_seq: the next number of the payer's holds.
    """

    def __init__(
        self,
        validators: int = 7,
        *,
        judges: Sequence[int] | None = None,
        servers: Sequence[int] | None = None,
        stakes: Sequence[int] | None = None,
        parameters: Parameters = DUEL_PARAMETERS,
    ) -> None:
        super().__init__(validators, 2, stakes=stakes, parameters=parameters, name="duels")
        self.events: dict[bytes, list[DuelEvent]] = {}
        self.next_seq = 0
        self.append(
            self.serve(
                key,
                *((MODEL,) if servers is None or number in servers else ()),
                *((SOLO_MODEL,) if number == 0 else ()),
                judge=JUDGE if judges is None or number in judges else None,
            )
            for number, key in enumerate(self.validators)
        )
        while self.head.height < 3 * parameters.round_heights:
            self.append(elapsed=QUICK)

    @property
    def payer(self) -> KeyPair:
        return self.users[0]

    def accept(self, block: Block, transition: Transition) -> None:
        super().accept(block, transition)
        for event in transition.duel_events:
            self.events.setdefault(event.hold, []).append(event)

    def pay_answers(
        self, count: int = 1, *, amount: int = AMOUNT, reason: str = "stop", model: str = MODEL
    ) -> list[bytes]:
        """Have requests of the payer answered and captured with receipts. Returns their holds."""
        seqs = range(self.next_seq, self.next_seq + count)
        self.next_seq += count
        keys = [self.executor(self.payer, seq, model=model) for seq in seqs]
        holds = [self.hold(self.payer, seq, amount=amount, model=model, lifetime=50_000) for seq in seqs]
        self.append(holds, elapsed=QUICK)
        self.append(
            [
                self.capture(key, self.receipt(self.payer, self.deliver(seq, amount, reason)))
                for key, seq in zip(keys, seqs, strict=True)
            ],
            elapsed=QUICK,
        )
        return [self.find_hold_id(self.payer, seq) for seq in seqs]

    def deliver(self, seq: int, amount: int, reason: str = "stop") -> Delivery:
        """The delivery of an answer with some text in it."""
        hold = self.find_hold_id(self.payer, seq)
        return Delivery(hold, amount, hash_bytes("test response", hold), Usage(amount, 1), reason)

    def open_duel(self, *, amount: int = AMOUNT, solo: bool = False) -> bytes:
        """The hold of a duel that was just opened, or of a solo check."""
        for _ in range(20):
            self.pay_answers(4, amount=amount, model=SOLO_MODEL if solo else MODEL)
            for _ in range(40):
                self.append(elapsed=QUICK)
                fresh = [key for key in self.events if len(self.events[key]) == 1 and self.state.duel(key) is not None]
                fitting = [key for key in fresh if (self.duel(key).challenger is None) == solo]
                if fitting:
                    return fitting[0]
        raise AssertionError("no duel was opened")

    def duel(self, hold: bytes) -> Duel:
        """An open duel."""
        duel = self.state.duel(hold)
        assert duel is not None
        return duel

    def settled(self, hold: bytes) -> DuelSettled:
        """How a duel came to its end."""
        event = self.events[hold][-1]
        assert isinstance(event, DuelSettled) and self.state.duel(hold) is None
        return event

    def let_run_out(self, hold: bytes) -> None:
        """Append one block at the very end of the duel's stage."""
        self.append(elapsed=self.duel(hold).ends_at - self.head.chain_time)

    # Operations of a duel.

    def answer(self, hold: bytes, key: KeyPair | None = None) -> SignedOperation:
        """The answer of the challenger, or of another account."""
        duel = self.duel(hold)
        signer = key or self.keys[duel.challenger or duel.executor]
        return self.sign(signer, DuelAnswer(hold, hash_bytes("test answer", hold)))

    def commit(self, hold: bytes, seat: JudgeSeat, ballot: DuelBallot) -> SignedOperation:
        key = self.keys[seat.public_key]
        commitment = compute_ballot_commitment(hold, key.public_key, make_salt(key), ballot)
        return self.sign(key, DuelCommit(hold, commitment))

    def reveal(self, hold: bytes, seat: JudgeSeat, ballot: DuelBallot) -> SignedOperation:
        key = self.keys[seat.public_key]
        return self.sign(key, DuelReveal(hold, ballot, make_salt(key)))

    def judge(
        self,
        hold: bytes,
        votes: Iterable[DuelBallot | None],
        again: Mapping[bytes, DuelBallot | None] | None = None,
    ) -> DuelSettled | ExecutorAccused:
        """Carry a duel to a verdict, with these ballots in the order of the seats; a judge with None does nothing.

        Repeated votes come out the same, but those in ``again``, by the judge that cast them first.
        """
        if self.duel(hold).stage == ANSWER:
            self.append([self.answer(hold)], elapsed=QUICK)
        seats = self.duel(hold).seats
        cast = [(seat, ballot) for seat, ballot in zip(seats, votes, strict=True) if ballot is not None]
        self.append([self.commit(hold, seat, ballot) for seat, ballot in cast], elapsed=QUICK)
        if len(cast) < len(seats):
            self.let_run_out(hold)
        if cast:
            cast += self.repeat(hold, {seat.public_key: ballot for seat, ballot in cast} | dict(again or {}))
            self.append([self.reveal(hold, seat, ballot) for seat, ballot in cast], elapsed=QUICK)
        event = self.events[hold][-1]
        assert isinstance(event, DuelSettled | ExecutorAccused)
        return event

    def repeat(self, hold: bytes, ballots: Mapping[bytes, DuelBallot | None]) -> list[tuple[JudgeSeat, DuelBallot]]:
        """Have repeated votes come out as these ``ballots`` of their first judges. Returns who committed."""
        repeats = [(seat, ballots[seat.voter]) for seat in self.duel(hold).repeats]
        cast = [(seat, ballot) for seat, ballot in repeats if ballot is not None]
        if repeats:
            self.append([self.commit(hold, seat, ballot) for seat, ballot in cast], elapsed=QUICK)
        if len(cast) < len(repeats):
            self.let_run_out(hold)
        return cast

    def agree(
        self, hold: bytes, better: str, *, unusable: Iterable[str] = (), missing: Iterable[str] = ()
    ) -> list[DuelBallot]:
        """The ballots of judges that agree, in the order of the seats."""
        return [make_ballot(seat, better, unusable, missing) for seat in self.duel(hold).seats]


def make_ballot(seat: JudgeSeat, better: str, unusable: Iterable[str] = (), missing: Iterable[str] = ()) -> DuelBallot:
    """The ballot of a judge that names answers by their authors."""
    bits = {EXECUTOR: B, CHALLENGER: A} if seat.is_reversed else {EXECUTOR: A, CHALLENGER: B}
    words = {**bits, SAME: IDENTICAL, NEITHER: DRAW}
    return DuelBallot(words[better], sum(bits[each] for each in unusable), sum(bits[each] for each in missing))


def make_salt(key: KeyPair) -> bytes:
    return hash_bytes("test salt", key.public_key)[:BALLOT_SALT_BYTES]
