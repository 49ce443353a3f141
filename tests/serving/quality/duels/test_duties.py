"""Duties in duels, whatever happens in whatever order: one commitment a seat, the ballot revealed that it is of, no
text used but the ledger's, and no more under way than the bound."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.exceptions import InvalidOperation
from chain.parameters.parameters import Parameters
from chain.state.duel_records import ANSWER, COMMIT, REPEAT, REVEAL, Duel
from chain.store.kv import MemoryStore
from chain.transition.duels.duties import check_duty, find_seat
from chain.types.duels import (
    ABSTAIN,
    DRAW,
    A,
    B,
    DuelAnswer,
    DuelBallot,
    DuelCommit,
    DuelOperation,
    DuelReveal,
    compute_ballot_commitment,
)
from chain.types.operations import compute_digest
from serving.quality.duels.duties import (
    AnswerRequest,
    CastBallot,
    DuelDuties,
    Effect,
    Role,
    find_role,
    make_missing,
)
from serving.quality.duels.table import DuelTable
from serving.quality.duels.texts import Text, TextKind, get_digest
from serving.quality.duels.turns import MAX_ACTIVE, RETRY_DELAY_S, SUBMIT_INTERVAL_S, Fetch, Submit
from tests.support.chains.duels import (
    CHALLENGER,
    EXECUTOR,
    FIRST_JUDGE,
    JUDGE,
    PAYER,
    SALT,
    STRANGER,
    DuelState,
    make_account,
    make_duel,
    make_seats,
)
from tests.support.keys import make_key

REQUEST, RESPONSE, OWN = TextKind.REQUEST, TextKind.RESPONSE, TextKind.ANSWER
BODIES = {REQUEST: b"request", RESPONSE: b"response", OWN: b"answer"}
TEXTS = {kind: Text.make(SALT, body) for kind, body in BODIES.items()}
HOLD = make_account(100)
JUDGED: dict[str, Any] = {"stage": COMMIT, "answer_digest": TEXTS[OWN].digest}


class Party:
    """One account with its table on a disk; a crash takes all that was not saved."""

    def __init__(self, public_key: bytes) -> None:
        self.public_key = public_key
        self.store = MemoryStore()
        self.chance = Random(7)
        self.start()

    def start(self) -> None:
        self.table = DuelTable(make_key("party"), self.store, self.chance)
        self.duties = DuelDuties(self.public_key, Parameters(), self.table, self.chance.randbytes)

    def save(self) -> None:
        changes = self.table.get_unsaved()
        self.table.write(changes)
        self.table.note_saved(changes)

    def update(self, duel: Duel | None, time: int = 0, now: float = 0.0) -> list[Effect]:
        effects = self.duties.update({} if duel is None else {HOLD: duel}, 1, time, now)
        if any(isinstance(effect, Submit) for effect in effects):
            self.save()
        return effects

    def obtain(self, duel: Duel, now: float = 0.0) -> list[Effect]:
        """What is to be done once every text that is asked for has come."""
        for effect in self.update(duel, now=now):
            assert isinstance(effect, Fetch)
            assert self.duties.take_text(effect.turn, effect.kind, TEXTS[effect.kind])
        return self.update(duel, now=now)


def get_submitted(effects: list[Effect]) -> DuelOperation:
    (effect,) = effects
    assert isinstance(effect, Submit)
    return effect.operation


def commit(duel: Duel, public_key: bytes, operation: DuelCommit) -> Duel:
    seats = (
        replace(seat, commitment=operation.commitment) if seat.public_key == public_key else seat for seat in duel.seats
    )
    return replace(duel, seats=tuple(seats))


# The challenger


def test_a_challenger_gets_the_request_answers_it_and_says_so() -> None:
    party, duel = Party(CHALLENGER), make_duel()
    (fetch,) = party.update(duel)
    assert isinstance(fetch, Fetch) and fetch.kind is REQUEST and fetch.holders == (EXECUTOR, PAYER)
    assert party.update(duel) == [], "it is asked for already"
    assert party.duties.take_text(fetch.turn, REQUEST, TEXTS[REQUEST])
    (answer,) = party.update(duel)
    assert isinstance(answer, AnswerRequest) and answer.request == BODIES[REQUEST]
    party.duties.take_answer(answer.turn, TEXTS[OWN])
    assert get_submitted(party.update(duel)) == DuelAnswer(HOLD, TEXTS[OWN].digest)
    assert party.update(duel, now=SUBMIT_INTERVAL_S - 0.1) == []
    assert get_submitted(party.update(duel, now=SUBMIT_INTERVAL_S)) == DuelAnswer(HOLD, TEXTS[OWN].digest)
    assert party.update(replace(duel, answer_digest=TEXTS[OWN].digest), now=100) == []


def test_a_challenger_that_was_restarted_stands_by_its_answer() -> None:
    party, duel = Party(CHALLENGER), make_duel()
    (answer,) = party.obtain(duel)
    assert isinstance(answer, AnswerRequest)
    party.duties.take_answer(answer.turn, TEXTS[OWN])
    first = get_submitted(party.update(duel))
    party.start()
    assert get_submitted(party.update(duel)) == first
    assert party.table.load(HOLD, OWN) == (SALT, BODIES[OWN])


def test_what_failed_is_tried_again_after_a_while() -> None:
    party, duel = Party(CHALLENGER), make_duel()
    (fetch,) = party.update(duel)
    assert isinstance(fetch, Fetch)
    party.duties.note_not_obtained(fetch.turn, REQUEST, 10.0)
    assert party.update(duel, now=10.0 + RETRY_DELAY_S / 2) == []
    (fetch,) = party.update(duel, now=10.0 + RETRY_DELAY_S)
    assert isinstance(fetch, Fetch) and party.duties.take_text(fetch.turn, REQUEST, TEXTS[REQUEST])
    (answer,) = party.update(duel, now=20.0)
    party.duties.note_failed(answer.turn, 20.0, is_final=False)
    (again,) = party.update(duel, now=20.0 + RETRY_DELAY_S)
    assert again == answer
    party.duties.note_failed(again.turn, 30.0, is_final=True)
    assert party.update(duel, now=60.0) == [] and party.duties.active == 0


# Texts


@pytest.mark.parametrize("text", [Text.make(SALT, b"another"), Text.make(b"t" * 16, BODIES[RESPONSE])])
def test_a_text_that_the_ledger_does_not_know_is_dropped(text: Text) -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    fetches = party.update(duel)
    assert {fetch.kind for fetch in fetches if isinstance(fetch, Fetch)} == {REQUEST, RESPONSE, OWN}
    for fetch in fetches:
        assert isinstance(fetch, Fetch)
        assert not party.duties.take_text(fetch.turn, fetch.kind, text)
    assert party.update(duel) == []


def test_a_text_of_another_kind_is_dropped() -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    turn = party.update(duel)[0].turn  # type: ignore[union-attr]
    assert not party.duties.take_text(turn, OWN, TEXTS[RESPONSE])


def test_a_text_that_is_longer_than_was_paid_for_is_dropped() -> None:
    request = Text.make(SALT, b"q" * 2_000)
    party, duel = Party(CHALLENGER), make_duel(request=request.body, amount=2_000)
    (fetch,) = party.update(duel)
    assert isinstance(fetch, Fetch) and fetch.limit < 2_000
    assert not party.duties.take_text(fetch.turn, REQUEST, request)


# The judge


@pytest.mark.parametrize("number", [3, 4])
def test_a_judge_sees_the_answers_in_the_order_of_its_seat_commits_and_reveals(number: int) -> None:
    party, duel = Party(make_account(number)), make_duel(**JUDGED)
    seat = find_seat(duel, party.public_key)
    assert seat is not None
    (cast,) = party.obtain(duel)
    assert isinstance(cast, CastBallot) and cast.request == BODIES[REQUEST] and cast.declared == JUDGE
    order = (BODIES[OWN], BODIES[RESPONSE]) if seat.is_reversed else (BODIES[RESPONSE], BODIES[OWN])
    assert (cast.answer_a, cast.answer_b) == order
    party.duties.take_ballot(cast.turn, DuelBallot(A, B))
    operation = get_submitted(party.update(duel))
    assert isinstance(operation, DuelCommit)
    duel = commit(duel, party.public_key, operation)
    assert party.update(duel, now=100) == []
    duel = replace(duel, stage=REVEAL)
    reveal = get_submitted(party.update(duel))
    assert isinstance(reveal, DuelReveal) and reveal.ballot == DuelBallot(A, B)
    check_duty(DuelState({HOLD: duel}), reveal, party.public_key)


def test_a_judge_that_was_restarted_commits_to_the_same_ballot_and_reveals_it() -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    (cast,) = party.obtain(duel)
    assert isinstance(cast, CastBallot)
    party.duties.take_ballot(cast.turn, DuelBallot(A))
    first = get_submitted(party.update(duel))
    assert isinstance(first, DuelCommit)
    party.start()
    assert get_submitted(party.update(duel)) == first
    party.start()
    duel = replace(commit(duel, FIRST_JUDGE, first), stage=REVEAL)
    reveal = get_submitted(party.update(duel))
    check_duty(DuelState({HOLD: duel}), reveal, FIRST_JUDGE)


def test_nothing_is_revealed_to_another_commitment() -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    (cast,) = party.obtain(duel)
    assert isinstance(cast, CastBallot)
    party.duties.take_ballot(cast.turn, DuelBallot(A))
    party.update(duel)
    other = DuelCommit(HOLD, compute_ballot_commitment(HOLD, FIRST_JUDGE, SALT, DuelBallot(A)))
    assert party.update(replace(commit(duel, FIRST_JUDGE, other), stage=REVEAL)) == []


@pytest.mark.parametrize(
    ("missing", "executor", "challenger"),
    [({REQUEST}, True, False), ({RESPONSE}, True, False), ({OWN}, False, True), ({REQUEST, RESPONSE, OWN}, True, True)],
)
def test_a_judge_says_what_it_could_not_obtain_once_half_of_its_time_is_over(
    missing: set[TextKind], executor: bool, challenger: bool
) -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    seat = find_seat(duel, FIRST_JUDGE)
    assert seat is not None
    half = duel.ends_at - Parameters().duels.commit_ms // 2
    for effect in party.update(duel):
        assert isinstance(effect, Fetch)
        if effect.kind in missing:
            party.duties.note_not_obtained(effect.turn, effect.kind, 0.0)
        else:
            party.duties.take_text(effect.turn, effect.kind, TEXTS[effect.kind])
    assert {effect.kind for effect in party.update(duel, half - 1, 50.0) if isinstance(effect, Fetch)} == missing
    assert isinstance(get_submitted(party.update(duel, half, 51.0)), DuelCommit)
    kept = party.table.get_ballot(HOLD, False)
    own, other = (B, A) if seat.is_reversed else (A, B)
    assert kept is not None and kept.ballot == DuelBallot(DRAW, 0, own * executor + other * challenger)
    assert kept.ballot == make_missing(seat, sorted(missing))


def test_a_judge_that_comes_late_asks_once_before_it_says_that_a_text_is_missing() -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    fetches = party.update(duel, duel.ends_at - Parameters().duels.commit_ms // 4)
    assert {fetch.kind for fetch in fetches if isinstance(fetch, Fetch)} == {REQUEST, RESPONSE, OWN}


def test_a_judge_without_a_ballot_abstains_at_the_end_of_its_time() -> None:
    """A judge that says nothing pays for its silence."""
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    (cast,) = party.obtain(duel)
    assert isinstance(cast, CastBallot)
    last = duel.ends_at - Parameters().duels.commit_ms // 8
    assert party.update(duel, last - 1) == []
    assert isinstance(get_submitted(party.update(duel, last)), DuelCommit)
    party.duties.take_ballot(cast.turn, DuelBallot(A))  # too late: it has committed to another
    kept = party.table.get_ballot(HOLD, False)
    assert kept is not None and kept.ballot == DuelBallot(ABSTAIN)


def test_a_judge_whose_model_gives_no_ballot_abstains_at_once() -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    (cast,) = party.obtain(duel)
    assert isinstance(cast, CastBallot)
    party.duties.note_failed(cast.turn, 0.0, is_final=True)
    assert isinstance(get_submitted(party.update(duel)), DuelCommit)
    kept = party.table.get_ballot(HOLD, False)
    assert kept is not None and kept.ballot == DuelBallot(ABSTAIN)


def test_who_runs_a_vote_again_asks_for_the_very_ballot_in_a_stage_of_its_own() -> None:
    duel = make_duel(**JUDGED)
    (first,) = Party(FIRST_JUDGE).obtain(duel)
    of = find_seat(duel, FIRST_JUDGE)
    assert of is not None and isinstance(first, CastBallot)
    me = make_account(70)
    repeat = replace(of, public_key=me, repeats=FIRST_JUDGE)
    party = Party(me)
    assert party.update(replace(duel, repeats=(repeat,))) == []
    duel = replace(duel, stage=REPEAT, repeats=(repeat,), ends_at=duel.ends_at + 1)
    assert Party(FIRST_JUDGE).update(duel) == []
    (again,) = party.obtain(duel)
    assert isinstance(again, CastBallot)
    assert replace(again, turn=first.turn) == first
    party.duties.take_ballot(again.turn, DuelBallot(A))
    committed = get_submitted(party.update(duel))
    assert isinstance(committed, DuelCommit)
    duel = replace(duel, stage=REVEAL, repeats=(replace(repeat, commitment=committed.commitment),))
    assert isinstance(get_submitted(party.update(duel)), DuelReveal)


def test_an_accused_executor_is_judged_by_a_ballot_of_its_own() -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(**JUDGED)
    party.table.put_ballot(HOLD, False, DuelBallot(A), SALT, 1)
    accused = replace(duel, is_accused=True, seats=make_seats(5))
    (cast,) = party.obtain(accused)
    assert isinstance(cast, CastBallot)


def test_a_solo_check_has_one_answer() -> None:
    party, duel = Party(FIRST_JUDGE), make_duel(stage=COMMIT, challenger=None)
    (cast,) = party.obtain(duel)
    assert isinstance(cast, CastBallot) and cast.answer_a == BODIES[RESPONSE] and cast.answer_b is None


def test_what_is_drawn_for_a_ballot_follows_from_the_duel_the_answer_and_the_seat() -> None:
    def get_entropy(public_key: bytes, duel: Duel) -> bytes:
        (cast,) = Party(public_key).obtain(duel)
        assert isinstance(cast, CastBallot)
        return cast.entropy

    duel = make_duel(**JUDGED)
    assert get_entropy(FIRST_JUDGE, duel) == get_entropy(FIRST_JUDGE, replace(duel, ends_at=50_000))
    assert get_entropy(FIRST_JUDGE, duel) != get_entropy(make_account(4), duel)


@pytest.mark.parametrize("public_key", [PAYER, EXECUTOR, STRANGER])
@pytest.mark.parametrize("stage", [ANSWER, COMMIT, REVEAL])
def test_the_others_have_nothing_to_do_but_to_hand_texts_over(public_key: bytes, stage: int) -> None:
    assert Party(public_key).update(make_duel(stage=stage, seats=make_seats(3, first=10))) == []


def test_roles() -> None:
    duel = make_duel(seats=make_seats(3, first=10))
    found = [find_role(duel, key) for key in (EXECUTOR, PAYER, CHALLENGER, make_account(11), STRANGER)]
    assert found == [Role.EXECUTOR, Role.ORIGINATOR, Role.CHALLENGER, Role.JUDGE, None]


def test_few_turns_are_under_way_at_a_time_and_those_that_end_first_come_first() -> None:
    party = Party(CHALLENGER)
    duels = {make_account(100 + number): make_duel(ends_at=100_000 - number) for number in range(10)}
    effects = party.duties.update(duels, 1, 0, 0.0)
    assert [effect.turn.ends_at for effect in effects if isinstance(effect, Fetch)] == [
        99_991 + number for number in range(MAX_ACTIVE)
    ]
    first = effects[0]
    assert isinstance(first, Fetch)
    party.duties.note_failed(first.turn, 0.0, is_final=True)
    (fifth,) = party.duties.update(duels, 1, 0, 0.0)
    assert isinstance(fifth, Fetch) and fifth.turn.ends_at == 99_991 + MAX_ACTIVE


# Anything in any order


class Ledger:
    """Some duels, moved on at random, and one party in them."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.me = make_account(2)
        self.party = Party(self.me)
        self.duels: dict[bytes, Duel] = {}
        self.pending: list[DuelOperation] = []
        self.work: list[Fetch | AnswerRequest | CastBallot] = []
        self.said: dict[tuple[bytes, str, bool], DuelOperation] = {}
        self.time, self.now, self.opened, self.height = 0, 0.0, 0, 1

    def open(self) -> None:
        self.opened += 1
        number = self.chance.randrange(4)
        others = [make_account(20 + place) for place in range(6)]
        payer, executor, challenger, judge = (*others[:number], self.me, *others[number:])[:4]
        seats = (replace(make_seats(1)[0], public_key=judge), *make_seats(2, first=30))
        duel = make_duel(
            payer=payer, executor=executor, challenger=challenger, seats=seats, ends_at=self.time + 60_000,
        )  # fmt: skip
        if self.chance.random() < 0.3:
            duel = replace(duel, challenger=None, stage=COMMIT)
        self.duels[make_account(100 + self.opened)] = duel

    def move(self) -> None:
        """A stage ends, with or without what it waits for; at the end some executor is accused."""
        if not self.duels:
            return
        hold = self.chance.choice(sorted(self.duels))
        duel = replace(self.duels[hold], ends_at=self.time + 60_000)
        if duel.stage == ANSWER and duel.answer_digest is None and duel.challenger == self.me:
            duel = replace(duel, challenger=make_account(40), silent=(self.me,))
        elif duel.stage == ANSWER:
            duel = replace(duel, stage=COMMIT, answer_digest=duel.answer_digest or TEXTS[OWN].digest)
        elif duel.stage == COMMIT:
            duel = replace(duel, stage=REVEAL)
        elif not duel.is_accused and self.chance.random() < 0.5:
            seats = make_seats(5, first=50)
            if find_role(duel, self.me) is None:
                seats = (replace(seats[0], public_key=self.me), *seats[1:])
            duel = replace(duel, stage=COMMIT, is_accused=True, seats=seats)
        else:
            del self.duels[hold]
            return
        self.duels[hold] = duel

    def include(self) -> None:
        """A block takes some of what was submitted, if it is still in time."""
        self.height += 1
        self.chance.shuffle(self.pending)
        for operation in self.pending[: self.chance.randrange(4)]:
            duel = self.duels.get(operation.hold)
            try:
                check_duty(DuelState(self.duels), operation, self.me)
            except InvalidOperation:
                continue
            assert duel is not None
            if isinstance(operation, DuelAnswer):
                self.duels[operation.hold] = replace(duel, answer_digest=operation.answer_digest)
            elif isinstance(operation, DuelCommit):
                self.duels[operation.hold] = commit(duel, self.me, operation)
            else:
                seats = (
                    replace(seat, ballot=operation.ballot) if seat.public_key == self.me else seat
                    for seat in duel.seats
                )
                self.duels[operation.hold] = replace(duel, seats=tuple(seats))

    def look(self) -> None:
        """The party looks at the last final state."""
        party = self.party
        party.table.sweep(lambda hold: hold in self.duels, lambda hold: False, self.height, self.time)
        for effect in party.duties.update(self.duels, self.height, self.time, self.now):
            if isinstance(effect, Submit):
                self.check_operation(effect.operation)
                party.save()
                self.pending.append(effect.operation)
            else:
                self.check_work(effect)
                self.work.append(effect)
        assert party.duties.active <= MAX_ACTIVE

    def check_operation(self, operation: DuelOperation) -> None:
        """It fits the ledger, and is the same that was ever said there."""
        check_duty(DuelState(self.duels), operation, self.me)
        duel = self.duels[operation.hold]
        name = operation.hold, type(operation).__name__, duel.is_accused
        assert self.said.setdefault(name, operation) == operation
        if isinstance(operation, DuelReveal):
            committed = self.said[operation.hold, "DuelCommit", duel.is_accused]
            commitment = compute_ballot_commitment(operation.hold, self.me, operation.salt, operation.ballot)
            assert committed == DuelCommit(operation.hold, commitment)

    def check_work(self, effect: Fetch | AnswerRequest | CastBallot) -> None:
        """It is the party's turn, and what it works on is what the ledger has the digests of."""
        duel = self.duels[effect.turn.hold]
        if isinstance(effect, CastBallot):
            assert duel.stage == COMMIT and find_seat(duel, self.me) is not None
            answers = {compute_digest(SALT, body) for body in (effect.answer_a, effect.answer_b) if body is not None}
            known = {get_digest(duel, RESPONSE), get_digest(duel, OWN)} - {None}
            assert compute_digest(SALT, effect.request) == duel.request_digest and answers == known
        elif isinstance(effect, AnswerRequest):
            assert duel.stage == ANSWER and duel.challenger == self.me
            assert compute_digest(SALT, effect.request) == duel.request_digest
        else:
            assert self.me not in effect.holders

    def finish(self) -> None:
        """Something that was under way comes to its end, well or badly."""
        if not self.work:
            return
        effect = self.work.pop(self.chance.randrange(len(self.work)))
        duties, is_well = self.party.duties, self.chance.random() < 0.7
        if isinstance(effect, Fetch):
            if is_well:
                body = self.chance.choice([BODIES[effect.kind], BODIES[effect.kind], b"forged"])
                is_well = duties.take_text(effect.turn, effect.kind, Text.make(SALT, body))
            if not is_well:
                duties.note_not_obtained(effect.turn, effect.kind, self.now)
        elif not is_well:
            duties.note_failed(effect.turn, self.now, is_final=self.chance.random() < 0.2)
        elif isinstance(effect, AnswerRequest):
            duties.take_answer(effect.turn, Text.make(SALT, self.chance.choice([b"one answer", b"another answer"])))
        else:
            ballot = DuelBallot(self.chance.randrange(4), self.chance.randrange(4))
            duties.take_ballot(effect.turn, ballot)

    def crash(self) -> None:
        """The party begins again with what is on its disk; of what was under way some still arrives."""
        if self.chance.random() < 0.5:
            self.party.save()
        self.party.start()
        self.work = self.work if self.chance.random() < 0.5 else []

    def wait(self) -> None:
        self.time += self.chance.choice([100, 5_000, 20_000])
        self.now += self.chance.choice([0.1, 3.0, 20.0])


STEPS = {"open": 2, "move": 4, "include": 8, "look": 24, "finish": 24, "crash": 4, "wait": 8}
"""What happens, and how often."""


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_happens_no_duty_is_done_in_two_ways(seed: int) -> None:
    ledger = Ledger(seed)
    for step in ("open", "open", *ledger.chance.choices(list(STEPS), list(STEPS.values()), k=300)):
        getattr(ledger, step)()


def test_all_kinds_of_operations_come_to_pass_in_these_runs() -> None:
    said = set()
    for seed in range(20):
        ledger = Ledger(seed)
        for step in ledger.chance.choices(list(STEPS), list(STEPS.values()), k=300):
            getattr(ledger, step)()
        said |= {(kind, is_accused) for _, kind, is_accused in ledger.said}
    judged = {(kind, is_accused) for kind in ("DuelCommit", "DuelReveal") for is_accused in (False, True)}
    assert said == {("DuelAnswer", False), *judged}
