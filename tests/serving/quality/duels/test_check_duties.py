"""What a checker does next, from the state and its table alone."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import hash_bytes
from chain.parameters.checks import CheckParameters
from chain.parameters.parameters import Parameters
from chain.state.check_records import CHECK_REVEAL, ModelCheck
from chain.store.kv import MemoryStore
from chain.types.checks import (
    ABSTAINED,
    NO_TRANSCRIPT,
    CheckCommit,
    CheckOperation,
    CheckReport,
    CheckReveal,
    compute_report_commitment,
    make_measured_report,
)
from serving.quality.duels.check_duties import CheckDuties, CheckEffect, ScoreTranscript
from serving.quality.duels.table import DuelTable
from serving.quality.duels.texts import Text, TextKind
from serving.quality.duels.turns import END_SHARE, RETRY_DELAY_S, SUBMIT_INTERVAL_S, Fetch, Submit
from tests.support.chains.checks import CHECKER, make_check
from tests.support.chains.duels import EXECUTOR, PAYER, SALT, STRANGER
from tests.support.keys import make_key

REQUEST, RESPONSE, TRANSCRIPT = TextKind.REQUEST, TextKind.RESPONSE, TextKind.TRANSCRIPT
BODIES = {REQUEST: b"request", RESPONSE: b"response", TRANSCRIPT: b"transcript"}
TEXTS = {kind: Text.make(SALT, body) for kind, body in BODIES.items()}
HOLD = hash_bytes("test hold")
COMMIT_MS = 80_000
ENDS_AT = 100_000
PARAMETERS = Parameters(checks=CheckParameters(commit_ms=COMMIT_MS))
MEASURED_REPORT = make_measured_report(0.25, 0.003)


class Checker:
    """A checker with its table on a disk; a crash takes all that was not saved."""

    def __init__(self, public_key: bytes = CHECKER) -> None:
        self.public_key = public_key
        self.store = MemoryStore()
        self.chance = Random(7)
        self.start()

    def start(self) -> None:
        self.table = DuelTable(make_key("checker"), self.store, self.chance)
        self.duties = CheckDuties(self.public_key, PARAMETERS, self.table, self.chance.randbytes)

    def update(self, check: ModelCheck | None, time: int = ENDS_AT - COMMIT_MS, now: float = 0.0) -> list[CheckEffect]:
        effects = self.duties.update({} if check is None else {HOLD: check}, 1, time, now)
        if any(isinstance(effect, Submit) for effect in effects):
            changes = self.table.get_unsaved()
            self.table.write(changes)
            self.table.note_saved(changes)
        return effects

    def obtain(self, check: ModelCheck, time: int = ENDS_AT - COMMIT_MS) -> ScoreTranscript:
        """The work once every text that is asked for has come."""
        for effect in self.update(check, time):
            assert isinstance(effect, Fetch)
            assert self.duties.take_text(effect.turn, effect.kind, TEXTS[effect.kind])
        (work,) = self.update(check, time)
        assert isinstance(work, ScoreTranscript)
        return work

    def fail_to_obtain(self, check: ModelCheck, kinds: set[TextKind], time: int) -> list[CheckEffect]:
        """What is to be done after those texts did not come."""
        for effect in self.update(check, time):
            assert isinstance(effect, Fetch)
            if effect.kind in kinds:
                self.duties.note_not_obtained(effect.turn, effect.kind, 0.0)
            else:
                assert self.duties.take_text(effect.turn, effect.kind, TEXTS[effect.kind])
        return self.update(check, time)


def get_submitted(effects: list[CheckEffect]) -> CheckOperation:
    (effect,) = effects
    assert isinstance(effect, Submit) and isinstance(effect.operation, CheckCommit | CheckReveal)
    return effect.operation


def reveal(check: ModelCheck, operation: CheckOperation) -> ModelCheck:
    """The check in which a checker has committed, and is to reveal."""
    assert isinstance(operation, CheckCommit)
    seats = tuple(
        replace(seat, commitment=operation.commitment) if seat.public_key == CHECKER else seat for seat in check.seats
    )
    return replace(check, seats=seats, stage=CHECK_REVEAL, ends_at=ENDS_AT + 1)


def read_report(check: ModelCheck, operation: CheckOperation, checker: Checker) -> CheckReport:
    """The report behind a commitment, as it is revealed."""
    assert isinstance(operation, CheckCommit)
    revealed = get_submitted(checker.update(reveal(check, operation)))
    assert isinstance(revealed, CheckReveal)
    assert operation.commitment == compute_report_commitment(HOLD, CHECKER, revealed.salt, revealed.report)
    return revealed.report


def test_a_checker_gets_all_texts_scores_commits_and_reveals() -> None:
    checker, check = Checker(), make_check()
    fetches = checker.update(check)
    assert {fetch.kind: fetch.holders for fetch in fetches if isinstance(fetch, Fetch)} == {
        REQUEST: (EXECUTOR, PAYER),
        RESPONSE: (EXECUTOR, PAYER),
        TRANSCRIPT: (EXECUTOR,),
    }
    assert checker.update(check) == [], "they are asked for already"
    for fetch in fetches:
        assert isinstance(fetch, Fetch) and not checker.duties.take_text(fetch.turn, fetch.kind, Text.make(SALT, b"x"))
        assert checker.duties.take_text(fetch.turn, fetch.kind, TEXTS[fetch.kind])
    (work,) = checker.update(check)
    assert isinstance(work, ScoreTranscript) and work.check == check
    assert (work.request, work.answer, work.transcript) == tuple(BODIES.values())
    assert checker.update(check) == [], "the backend is asked already"
    checker.duties.take_report(work.turn, MEASURED_REPORT)
    commit = get_submitted(checker.update(check))
    assert checker.update(check, now=SUBMIT_INTERVAL_S - 0.1) == []
    assert get_submitted(checker.update(check, now=SUBMIT_INTERVAL_S)) == commit
    assert read_report(check, commit, checker) == MEASURED_REPORT
    assert checker.update(None) == [] and checker.duties.active == 0


def test_who_has_no_seat_has_nothing_to_do() -> None:
    for public_key in (STRANGER, EXECUTOR, PAYER):
        assert Checker(public_key).update(make_check()) == []


def test_where_nothing_was_committed_to_no_transcript_is_asked_for() -> None:
    checker = Checker()
    work = checker.obtain(make_check(transcript=None))
    assert work.transcript is None and work.answer == BODIES[RESPONSE]


@pytest.mark.parametrize("missing", [{TRANSCRIPT}, {RESPONSE}, {REQUEST}, {REQUEST, RESPONSE, TRANSCRIPT}])
def test_what_cannot_be_had_is_no_transcript_once_half_of_the_time_is_over(missing: set[TextKind]) -> None:
    checker, check = Checker(), make_check()
    assert checker.fail_to_obtain(check, missing, ENDS_AT - COMMIT_MS) == []
    again = checker.update(check, now=RETRY_DELAY_S)
    assert {fetch.kind for fetch in again if isinstance(fetch, Fetch)} == missing, "it is asked for once more"
    commit = get_submitted(checker.update(check, ENDS_AT - COMMIT_MS // 2, now=RETRY_DELAY_S))
    assert read_report(check, commit, checker) == CheckReport(NO_TRANSCRIPT)


def test_a_checker_that_comes_late_asks_once_before_it_says_so() -> None:
    checker, check, late = Checker(), make_check(), ENDS_AT - 4_000
    fetches = checker.update(check, late)
    assert {fetch.kind for fetch in fetches if isinstance(fetch, Fetch)} == set(BODIES)
    assert all(isinstance(fetch, Fetch) and fetch.seconds == 2.0 for fetch in fetches)


def test_a_backend_without_time_is_asked_again_until_the_stage_ends_and_then_the_checker_abstains() -> None:
    checker, check = Checker(), make_check()
    work = checker.obtain(check)
    checker.duties.note_failed(work.turn, 10.0, is_final=False)
    assert checker.update(check, now=10.0 + RETRY_DELAY_S / 2) == []
    assert checker.update(check, now=10.0 + RETRY_DELAY_S) == [work]
    end = ENDS_AT - COMMIT_MS // END_SHARE
    assert checker.update(check, end - 1, now=60.0) == [], "it may still succeed"
    commit = get_submitted(checker.update(check, end, now=60.0))
    checker.duties.take_report(work.turn, MEASURED_REPORT)
    assert read_report(check, commit, checker) == CheckReport(ABSTAINED), "what comes then comes too late"


def test_a_restart_at_any_step_changes_no_report_that_was_committed_to() -> None:
    checker, check = Checker(), make_check()
    checker.obtain(check)
    checker.start()
    work = checker.obtain(check)
    checker.duties.take_report(work.turn, MEASURED_REPORT)
    commit = get_submitted(checker.update(check))
    checker.start()
    assert get_submitted(checker.update(check)) == commit
    checker.start()
    assert read_report(check, commit, checker) == MEASURED_REPORT


def test_a_commitment_that_is_not_its_own_is_not_opened() -> None:
    checker, check = Checker(), make_check()
    work = checker.obtain(check)
    checker.duties.take_report(work.turn, MEASURED_REPORT)
    get_submitted(checker.update(check))
    assert checker.update(reveal(check, CheckCommit(HOLD, bytes(32)))) == []


def test_a_table_without_room_keeps_no_report() -> None:
    checker, check = Checker(), make_check()
    checker.table = DuelTable(make_key("checker"), checker.store, checker.chance, max_entries=0)
    checker.duties = CheckDuties(CHECKER, PARAMETERS, checker.table, checker.chance.randbytes)
    work = checker.obtain(check)
    checker.duties.take_report(work.turn, MEASURED_REPORT)
    assert checker.update(check) == [] and checker.duties.active == 0


STEPS = st.lists(st.sampled_from(["update", "later", "restart", "fail", "text", "report"]), max_size=25)


@given(STEPS, st.randoms(use_true_random=False))
def test_whatever_happens_it_commits_to_one_report(steps: list[str], chance: Random) -> None:
    checker, check, time, now = Checker(), make_check(), ENDS_AT - COMMIT_MS, 0.0
    pending: list[CheckEffect] = []
    commits: set[bytes] = set()
    for step in steps:
        if step == "restart":
            checker.start()
            pending = []
        elif step == "later":
            time, now = min(ENDS_AT, time + 9_000), now + 9.0
        for effect in pending if step in ("fail", "text", "report") else ():
            if isinstance(effect, Fetch):
                if step == "text":
                    checker.duties.take_text(effect.turn, effect.kind, TEXTS[effect.kind])
                else:
                    checker.duties.note_not_obtained(effect.turn, effect.kind, now)
            elif isinstance(effect, ScoreTranscript):
                checker.duties.take_report(effect.turn, make_measured_report(chance.random(), chance.random()))
        effects = checker.update(check, time, now)
        pending = [effect for effect in [*pending, *effects] if not isinstance(effect, Submit)]
        for effect in effects:
            if isinstance(effect, Submit):
                assert isinstance(effect.operation, CheckCommit)
                commits.add(effect.operation.commitment)
    assert len(commits) <= 1
