"""Checks of the model on the ledger: who is drawn, what reports say, what follows, and what a liar gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from chain.crypto import KeyPair, hash_bytes
from chain.parameters.duels import MAX_DRAW_HEIGHTS
from chain.state.check_records import CHECK_COMMIT, CHECK_REVEAL, CHECK_STAGES, ModelCheck
from chain.state.duel_records import Duel, PaidCapture
from chain.state.keys import check_key
from chain.state.ratings import LOST, WON, ExecutorRating
from chain.state.records import Unbonding
from chain.state.sequential_test import AccountHistory
from chain.state.state import State, StateOverlay, compute_supply
from chain.transition.checks.events import CheckOpened, CheckSettled
from chain.transition.checks.finding import CheckOutcome
from chain.transition.checks.opening import draw_checkers, open_check
from chain.transition.checks.settlement import close_check_stages
from chain.transition.deposits import compute_models_deposit
from chain.transition.duels.money import Movement, compute_levy
from chain.transition.movements import Stage
from chain.types.checks import (
    ABSTAINED,
    MEASURED,
    NO_TRANSCRIPT,
    NOT_CHECKABLE,
    SHORTFALL_OFFSET,
    CheckReport,
    DeclaredIdentity,
    make_measured_report,
)
from tests.support.chain_builder import MODEL, do, refusal
from tests.support.chains.check_chain import CHECK_PARAMETERS, CHECKS, FAILED, IDENTITY, PASSED, CheckChain
from tests.support.chains.duel_chain import AMOUNT, DUELS, JUDGE, QUICK

FEW_FAILURES = replace(
    CHECK_PARAMETERS,
    deposit_per_byte=2,
    min_service_bond=2_000,
    checks=replace(CHECKS, honest_shortfall_ppm=100, honest_distance_ppm=100),
)
"""Two failed checks are proof."""
PAY, FINE, FRAUD = AMOUNT * 80 // 1_000, AMOUNT // 2, AMOUNT * 20
MISSING, UNCHECKABLE, SILENT_BACKEND = (CheckReport(kind) for kind in (NO_TRANSCRIPT, NOT_CHECKABLE, ABSTAINED))


@pytest.fixture(scope="module")
def opened() -> tuple[CheckChain, bytes]:
    """A chain with a check that was just opened; tests go on from copies of it."""
    chain = CheckChain()
    return chain, chain.open_check()


def fork(opened: tuple[CheckChain, bytes]) -> tuple[CheckChain, bytes]:
    """The chain of a fixture to go on from, and the hold of its check."""
    chain, hold = opened
    copy = object.__new__(CheckChain)
    copy.__dict__.update(chain.__dict__)
    copy.blocks, copy.states, copy.failures = [*chain.blocks], [*chain.states], [*chain.failures]
    copy.events = {key: [*events] for key, events in chain.events.items()}
    copy.check_events = {key: [*events] for key, events in chain.check_events.items()}
    return copy, hold


def assert_sound(chain: CheckChain) -> None:
    """All credit is there, and what is set aside is what open duels and checks need."""
    assert compute_supply(chain.state) == chain.state.totals.supply == chain.genesis.supply
    opened = [leaf.record for leaf in chain.state.entries() if isinstance(leaf.record, Duel | ModelCheck)]
    assert chain.state.totals.reserved == sum(each.reserved for each in opened) <= chain.state.totals.treasury
    for key, account in chain.state.accounts():
        assert account.locked == sum(each.locked for each in opened if each.executor == key)
        assert min(account.available, account.held, account.bonded, account.deposit) >= 0


def amounts(settled: CheckSettled) -> dict[bytes, int]:
    return {each.public_key: each.amount for each in settled.movements}


# Levy and draw.


@pytest.mark.parametrize("identified", [(), range(7)])
def test_only_an_executor_that_declares_an_identity_pays_for_checks(identified: Sequence[int]) -> None:
    chain = CheckChain(identified=identified)
    seq, key = chain.next_seq, chain.executor(chain.payer, chain.next_seq)
    do(chain, chain.hold(chain.payer, seq))
    before = chain.account(key).available
    fee = do(chain, chain.capture(key, chain.receipt(chain.payer, chain.deliver(seq, 3_000))))
    levy = compute_levy(DUELS, 3_000, 500) + (3_000 * CHECKS.levy * 500 // 1_000_000 if identified else 0)
    assert chain.account(key).available == before + 3_000 - levy - fee
    paid = chain.state.paid_captures(chain.head.height)
    assert paid is not None and paid.captures[0].identity == (IDENTITY if identified else None)


@pytest.mark.parametrize("without", ["duels", "checks", "identity"])
def test_nothing_is_checked_on_a_chain_without(without: str) -> None:
    changed = {
        "duels": replace(CHECK_PARAMETERS, duels=replace(DUELS, rate=0)),
        "checks": replace(CHECK_PARAMETERS, checks=replace(CHECKS, checkers=0)),
    }
    chain = CheckChain(
        identified=() if without == "identity" else None, parameters=changed.get(without, CHECK_PARAMETERS)
    )
    chain.pay_answers(16)
    for _ in range(MAX_DRAW_HEIGHTS):
        chain.append(elapsed=QUICK)
    assert not chain.check_events and bool(chain.events) == (without != "duels")


def test_what_is_drawn_for_a_duel_is_checked_too() -> None:
    chain = CheckChain()
    chain.pay_answers(12)
    for _ in range(MAX_DRAW_HEIGHTS):
        chain.append(elapsed=QUICK)
    assert chain.events.keys() == chain.check_events.keys() and 2 < len(chain.events) < 12
    assert_sound(chain)


def test_an_identity_that_is_dropped_after_the_payment_is_checked_all_the_same() -> None:
    """Or an executor would declare one for show, and drop it before each draw."""
    chain = CheckChain()
    chain.pay_answers(40)
    do(chain, *(chain.serve(key, MODEL, judge=JUDGE) for key in chain.validators[:2]), elapsed=QUICK)
    dropped = {key.public_key for key in chain.validators[:2]}
    for _ in range(MAX_DRAW_HEIGHTS + 2):
        chain.append(elapsed=QUICK)
    checks = [events[0].check for events in chain.check_events.values()]
    assert any(check.executor in dropped and check.identity == IDENTITY for check in checks)
    assert not any(seat.public_key in dropped for check in checks for seat in check.seats)


def test_payer_and_executor_never_check_and_no_account_twice(opened: tuple[CheckChain, bytes]) -> None:
    chain, hold = fork(opened)
    check = chain.check(hold)
    keys = [seat.public_key for seat in check.seats]
    assert len({*keys, check.payer, check.executor}) == 5
    assert (check.locked, check.reserved) == (20 * AMOUNT, 3 * PAY)
    assert check.transcript_digest == hash_bytes("test transcript", hold) and check.stage == CHECK_COMMIT
    identity = DeclaredIdentity(MODEL, IDENTITY)
    excluded = {check.payer, check.executor}
    for number in range(30):
        drawn = draw_checkers(chain.state, 3, identity, hash_bytes("test seed", bytes([number])), excluded)
        assert len({seat.public_key for seat in drawn} - excluded) == 3
    assert_sound(chain)


@pytest.mark.parametrize(("identified", "seats"), [((), 0), (range(1), 0), (range(2), 1), (range(3), 1), (range(4), 3)])
def test_checkers_are_drawn_among_those_with_the_very_identity(identified: Sequence[int], seats: int) -> None:
    chain = CheckChain(identified=identified)
    do(
        chain,
        *(
            chain.serve(key, MODEL, judge=JUDGE, identities=(DeclaredIdentity(MODEL, hash_bytes("other weights")),))
            for number, key in enumerate(chain.validators)
            if number not in identified
        ),
        elapsed=QUICK,
    )
    for _ in range(3 * CHECK_PARAMETERS.round_heights):
        chain.append(elapsed=QUICK)
    declared = {key.public_key for number, key in enumerate(chain.validators) if number in identified}
    executor = next(iter(declared), b"")
    drawn = draw_checkers(chain.state, 3, DeclaredIdentity(MODEL, IDENTITY), bytes(32), {executor})
    assert len(drawn) == seats and {seat.public_key for seat in drawn} <= declared - {executor}


def test_an_account_that_has_dropped_the_identity_or_just_declared_it_does_not_check() -> None:
    """The serving table is as it was for a while; who declares an identity must not choose the draws that it is in."""
    chain = CheckChain(identified=range(5))
    identities = (DeclaredIdentity(MODEL, IDENTITY),)
    do(
        chain,
        chain.serve(chain.validators[0], MODEL, judge=JUDGE),
        chain.serve(chain.validators[6], MODEL, judge=JUDGE, identities=identities),
        elapsed=QUICK,
    )
    seeds = [hash_bytes("test seed", bytes([number])) for number in range(50)]
    drawn = {seat.public_key for seed in seeds for seat in draw_checkers(chain.state, 3, identities[0], seed, ())}
    assert drawn == {key.public_key for key in chain.validators[1:5]}


def make_capture(check: ModelCheck) -> PaidCapture:
    """A capture with the parties and the terms of a check."""
    return PaidCapture(
        hash_bytes("another hold"),
        check.payer,
        check.executor,
        check.model,
        check.amount,
        check.request_digest,
        check.response_digest,
        check.transcript_digest,
        check.identity,
    )


def test_what_the_treasury_has_promised_to_others_pays_no_check(opened: tuple[CheckChain, bytes]) -> None:
    chain, hold = opened
    totals, capture = chain.state.totals, make_capture(chain.check(hold))
    for missing in (0, 1):
        overlay = StateOverlay(chain.state)
        overlay.reserve(totals.treasury - totals.reserved - 3 * PAY + missing)
        before = dict(overlay.changes)
        event = open_check(overlay, CHECK_PARAMETERS, capture, chain.head.chain_time)
        assert (event is None) == bool(missing) and (overlay.changes == before) == bool(missing)


# Duties.


def test_each_duty_is_done_once_in_its_stage_and_by_its_account(opened: tuple[CheckChain, bytes]) -> None:
    chain, hold = fork(opened)
    check = chain.check(hold)
    first, second, third = check.seats
    stranger = replace(first, public_key=check.executor)
    assert "no checker" in refusal(chain, chain.commit_report(hold, stranger, PASSED))
    assert "waits for commitments" in refusal(chain, chain.reveal_report(hold, first, PASSED))
    assert do(chain, chain.commit_report(hold, first, PASSED), elapsed=QUICK) == 0
    assert "committed already" in refusal(chain, chain.commit_report(hold, first, FAILED))
    copied = chain.sign(chain.keys[second.public_key], chain.commit_report(hold, first, PASSED).operation)
    do(chain, copied, chain.commit_report(hold, third, PASSED), elapsed=QUICK)
    assert chain.check(hold).stage == CHECK_REVEAL
    assert "waits for reports" in refusal(chain, chain.commit_report(hold, second, PASSED))
    assert "not the one" in refusal(chain, chain.reveal_report(hold, first, FAILED))
    assert "not the one" in refusal(chain, chain.reveal_report(hold, second, PASSED)), "a copy opens for no one"
    do(chain, chain.reveal_report(hold, first, PASSED), elapsed=QUICK)
    assert "revealed its report already" in refusal(chain, chain.reveal_report(hold, first, PASSED))
    do(chain, chain.reveal_report(hold, third, PASSED), elapsed=QUICK)
    chain.let_check_run_out(hold)
    settled = chain.get_settled(hold)
    assert amounts(settled) == {first.public_key: PAY, second.public_key: -FINE, third.public_key: PAY}
    assert chain.sum_moved(Stage.CHECKS) == amounts(settled)
    assert "no check about" in refusal(chain, chain.reveal_report(hold, first, PASSED))
    assert_sound(chain)


def test_stages_end_at_their_deadlines(opened: tuple[CheckChain, bytes]) -> None:
    chain, hold = fork(opened)
    first = chain.check(hold).seats[0]
    do(chain, chain.commit_report(hold, first, PASSED), elapsed=QUICK)
    chain.append(elapsed=chain.check(hold).ends_at - chain.head.chain_time - 1)
    assert chain.check(hold).stage == CHECK_COMMIT
    chain.append(elapsed=1)
    assert chain.check(hold).stage == CHECK_REVEAL
    chain.let_check_run_out(hold)
    settled = chain.get_settled(hold)
    assert settled.finding.outcome is CheckOutcome.INCONCLUSIVE
    assert amounts(settled) == dict.fromkeys((seat.public_key for seat in settled.check.seats), -FINE)
    assert_sound(chain)


def test_the_deadline_of_a_stage_that_has_ended_counts_for_nothing(opened: tuple[CheckChain, bytes]) -> None:
    chain, hold = fork(opened)
    check = chain.check(hold)
    chain.append(elapsed=check.ends_at - chain.head.chain_time - 1_000)
    do(chain, *(chain.commit_report(hold, seat, PASSED) for seat in check.seats), elapsed=QUICK)
    chain.append(elapsed=1_000)
    assert chain.head.chain_time >= check.ends_at and chain.check(hold).stage == CHECK_REVEAL
    do(chain, *(chain.reveal_report(hold, seat, PASSED) for seat in check.seats), elapsed=QUICK)
    assert chain.get_settled(hold).finding.outcome is CheckOutcome.PASSED


def test_a_block_ends_a_bounded_number_of_overdue_stages() -> None:
    chain = CheckChain(parameters=replace(CHECK_PARAMETERS, duels=replace(DUELS, max_deadlines=1)))
    chain.pay_answers(20)
    for _ in range(MAX_DRAW_HEIGHTS):
        chain.append(elapsed=QUICK)
    waiting = [hold for hold in chain.check_events if chain.state.model_check(hold) is not None]
    assert len(waiting) > 3
    for number in range(len(waiting)):
        assert sum(chain.state.model_check(hold) is not None for hold in waiting) == len(waiting) - number
        chain.append(elapsed=60_000)
    assert all(chain.state.deadline_queue(stage).end == 0 for stage in CHECK_STAGES)


# Findings.


def measure(shortfall: float, distance: float = 0.01) -> CheckReport:
    return make_measured_report(shortfall, distance)


@pytest.mark.parametrize(
    ("reports", "outcome", "moved", "failures"),
    [
        ([PASSED] * 3, CheckOutcome.PASSED, "+++", (0, 0)),
        ([FAILED] * 3, CheckOutcome.FAILED, "+++", (1, 1)),
        ([measure(3.0)] * 3, CheckOutcome.FAILED, "+++", (1, 0)),
        ([measure(0.0, 0.06)] * 3, CheckOutcome.FAILED, "+++", (0, 1)),
        ([measure(2.5, 0.05)] * 3, CheckOutcome.PASSED, "+++", (0, 0)),
        ([measure(-400.0)] * 3, CheckOutcome.PASSED, "+++", (0, 0)),
        ([measure(2.3), measure(2.6), measure(2.7)], CheckOutcome.FAILED, "+++", (1, 0)),
        ([measure(2.3), measure(2.4), measure(2.95)], CheckOutcome.PASSED, "++-", (0, 0)),
        ([measure(2.4), measure(2.9), measure(3.4)], CheckOutcome.FAILED, "+++", (1, 0)),
        ([PASSED, PASSED, FAILED], CheckOutcome.PASSED, "++-", (0, 0)),
        ([FAILED, PASSED, FAILED], CheckOutcome.FAILED, "+-+", (1, 1)),
        ([measure(0.0), measure(1.0), measure(2.0)], CheckOutcome.INCONCLUSIVE, "000", None),
        ([measure(0.0, 0.01), measure(0.0, 0.02), measure(0.0, 0.0301)], CheckOutcome.PASSED, "++-", (0, 0)),
        ([PASSED, PASSED, None], CheckOutcome.PASSED, "++-", (0, 0)),
        ([measure(2.4), measure(2.6), None], CheckOutcome.PASSED, "++-", (0, 0)),
        ([PASSED, FAILED, None], CheckOutcome.INCONCLUSIVE, "00-", None),
        ([PASSED, None, None], CheckOutcome.PASSED, "+--", None),
        ([FAILED, SILENT_BACKEND, SILENT_BACKEND], CheckOutcome.FAILED, "+00", None),
        ([PASSED, PASSED, SILENT_BACKEND], CheckOutcome.PASSED, "++0", (0, 0)),
        ([SILENT_BACKEND] * 3, CheckOutcome.INCONCLUSIVE, "000", None),
        ([MISSING] * 3, CheckOutcome.NO_TRANSCRIPT, "000", (1, 1)),
        ([MISSING, MISSING, PASSED], CheckOutcome.NO_TRANSCRIPT, "000", (1, 1)),
        ([MISSING, PASSED, PASSED], CheckOutcome.PASSED, "0++", (0, 0)),
        ([MISSING, SILENT_BACKEND, None], CheckOutcome.NO_TRANSCRIPT, "00-", None),
        ([UNCHECKABLE] * 3, CheckOutcome.NOT_CHECKABLE, "000", None),
        ([UNCHECKABLE, UNCHECKABLE, FAILED], CheckOutcome.NOT_CHECKABLE, "000", None),
        ([UNCHECKABLE, MISSING, PASSED], CheckOutcome.INCONCLUSIVE, "000", None),
        ([None] * 3, CheckOutcome.INCONCLUSIVE, "---", None),
    ],
)
def test_a_finding_moves_what_it_should(
    opened: tuple[CheckChain, bytes],
    reports: list[CheckReport | None],
    outcome: CheckOutcome,
    moved: str,
    failures: tuple[int, int] | None,
) -> None:
    chain, hold = fork(opened)
    check = chain.check(hold)
    settled = chain.report(hold, reports)
    assert settled.finding.outcome is outcome and settled.finding.is_counted == (failures is not None)
    signs = zip(moved, check.seats, strict=True)
    expected = {seat.public_key: {"+": PAY, "-": -FINE, "0": 0}[sign] for sign, seat in signs}
    assert amounts(settled) == {key: amount for key, amount in expected.items() if amount}
    history = chain.state.check_history(check.executor, IDENTITY)
    assert history == (settled.history if failures else AccountHistory())
    assert (history.shortfall.failures, history.distance.failures) == (failures or (0, 0))
    assert history.shortfall.checks == history.distance.checks == (failures is not None)
    assert chain.state.rating(check.executor) == ExecutorRating() or chain.events[hold]
    assert_sound(chain)


def test_the_median_of_what_is_confirmed_is_shown(opened: tuple[CheckChain, bytes]) -> None:
    chain, hold = fork(opened)
    settled = chain.report(hold, [measure(-0.2, 0.012), measure(0.1, 0.01), measure(0.2, 0.011)])
    assert (settled.finding.shortfall, settled.finding.distance) == (100, 11_000)


def test_one_checker_alone_is_paid_and_moves_nothing_else() -> None:
    """Its word cannot be compared with another: so it is proof of nothing."""
    chain = CheckChain(identified=range(2), parameters=FEW_FAILURES)
    hold = chain.open_check()
    (seat,) = chain.check(hold).seats
    settled = chain.report(hold, [FAILED])
    assert settled.finding.outcome is CheckOutcome.FAILED and not settled.finding.is_counted
    assert amounts(settled) == {seat.public_key: PAY}
    assert chain.state.check_history(settled.check.executor, IDENTITY) == AccountHistory()


# Liars.


def test_an_executor_without_a_transcript_cannot_be_measured(opened: tuple[CheckChain, bytes]) -> None:
    chain = CheckChain()
    chain.has_transcripts = False
    hold = chain.open_check()
    seats = chain.check(hold).seats
    assert chain.check(hold).transcript_digest is None
    said = [PASSED, MISSING, MISSING]
    do(chain, *(chain.commit_report(hold, *each) for each in zip(seats, said, strict=True)), elapsed=QUICK)
    assert "committed to no transcript" in refusal(chain, chain.reveal_report(hold, seats[0], PASSED))
    do(chain, *(chain.reveal_report(hold, seat, MISSING) for seat in seats[1:]), elapsed=QUICK)
    chain.let_check_run_out(hold)
    settled = chain.get_settled(hold)
    assert settled.finding.outcome is CheckOutcome.NO_TRANSCRIPT
    assert amounts(settled) == {seats[0].public_key: -FINE}, "a friend that measures nothing has lost"
    assert settled.history.shortfall.failures == settled.history.distance.failures == 1


def prove(chain: CheckChain, executor: bytes, report: CheckReport = FAILED) -> CheckSettled:
    """Have checks of an executor fail until they are proof."""
    for _ in range(10):
        settled = chain.report(chain.open_check(executor=executor), [report] * 3)
        if settled.is_substitution:
            return settled
    raise AssertionError("never proven")


@pytest.mark.parametrize("report", [FAILED, MISSING])
def test_failed_checks_add_up_to_a_substitution(report: CheckReport) -> None:
    chain = CheckChain(stakes=[200_000] * 7, parameters=FEW_FAILURES)
    executor = chain.check(chain.open_check()).executor
    before = chain.state.account(executor)
    settled = prove(chain, executor, report)
    assert settled.history.shortfall.failures == 2
    assert chain.state.check_history(executor, IDENTITY) == AccountHistory()
    account = chain.state.account(executor)
    assert account.identities == () and account.models == before.models
    assert account.deposit == compute_models_deposit(FEW_FAILURES, account.models, account.judge)
    assert settled.movements[-1].public_key == executor and settled.movements[-1].amount == -FRAUD
    assert chain.state.rating(executor).duels == 0
    assert_sound(chain)
    do(chain, chain.serve(chain.keys[executor], MODEL, judge=JUDGE, identities=before.identities), elapsed=QUICK)
    assert chain.state.account(executor).identities == before.identities, "it may declare again"


def test_a_rating_begins_anew_after_a_substitution() -> None:
    chain = CheckChain(stakes=[200_000] * 7, parameters=FEW_FAILURES)
    executor = chain.check(chain.open_check()).executor
    for hold in [hold for hold in chain.events if chain.state.duel(hold) and chain.duel(hold).executor == executor]:
        chain.judge(hold, chain.agree(hold, "executor"))
    assert chain.state.rating(executor).duels > 0
    prove(chain, executor)
    rating = chain.state.rating(executor)
    assert rating.duels == 0 and set(rating.results[8::9]) <= {LOST, WON}


def test_the_history_of_an_identity_outlives_its_declaration() -> None:
    """Or a cheat would drop it after each failed check, and declare it again."""
    chain = CheckChain(parameters=FEW_FAILURES)
    hold = chain.open_check()
    executor = chain.keys[chain.check(hold).executor]
    history = chain.report(hold, [FAILED] * 3).history
    do(chain, chain.serve(executor, MODEL, judge=JUDGE), elapsed=QUICK)
    identities = (DeclaredIdentity(MODEL, IDENTITY),)
    do(chain, chain.serve(executor, MODEL, judge=JUDGE, identities=identities), elapsed=QUICK)
    assert chain.state.check_history(executor.public_key, IDENTITY) == history != AccountHistory()


def fail_twice(chain: CheckChain) -> tuple[KeyPair, bytes]:
    """An executor with a failed check, and the hold of its second one; nothing else is open about it."""
    executor = chain.keys[chain.check(chain.open_check()).executor]
    chain.report(next(iter(chain.check_events)), [FAILED] * 3)
    hold = chain.open_check(executor=executor.public_key)
    return executor, hold


def settle_alone(chain: CheckChain, hold: bytes) -> tuple[State, CheckSettled]:
    """The state after a check was settled by three failures, and nothing else has happened."""
    overlay = StateOverlay(chain.state)
    check = chain.check(hold)
    seats = tuple(replace(seat, commitment=bytes(32), report=FAILED) for seat in check.seats)
    overlay.put(check_key(hold), replace(check, stage=CHECK_REVEAL, seats=seats))
    (event,) = close_check_stages(overlay, FEW_FAILURES, chain.head.chain_time)
    assert isinstance(event, CheckSettled)
    return chain.state.update(overlay.changes), event


def test_a_substitution_is_paid_out_of_a_bond_that_is_leaving() -> None:
    chain = CheckChain(stakes=[200_000] * 7, parameters=FEW_FAILURES)
    executor, hold = fail_twice(chain)
    account = chain.account(executor)
    overlay = StateOverlay(chain.state)  # as if it had unbonded before the check
    leaving = (Unbonding(account.bonded - 7_000, 99),)
    overlay.put_account(executor.public_key, replace(account, bonded=7_000, unbonding=leaving))
    chain.states[-1] = chain.state.update(overlay.changes)
    state, settled = settle_alone(chain, hold)
    assert settled.is_substitution and settled.movements[-1] == Movement(executor.public_key, -FRAUD)
    after = state.account(executor.public_key)
    assert after.bonded == 0 and after.unbonding == (Unbonding(account.bonded - FRAUD, 99),)
    assert compute_supply(state) == state.totals.supply


def test_an_executor_with_too_little_pays_what_it_has() -> None:
    chain = CheckChain(stakes=[200_000] * 7, parameters=FEW_FAILURES)
    executor, hold = fail_twice(chain)
    overlay = StateOverlay(chain.state)
    account = chain.account(executor)
    overlay.put_account(executor.public_key, replace(account, bonded=900, available=50))
    overlay.put_account(chain.payer.public_key, chain.account(chain.payer).credit(account.bonded + account.available))
    overlay.put_account(chain.payer.public_key, overlay.account(chain.payer.public_key).credit(-950))
    chain.states[-1] = chain.state.update(overlay.changes)
    state, settled = settle_alone(chain, hold)
    freed = account.deposit - state.account(executor.public_key).deposit
    assert freed > 0 and settled.movements[-1] == Movement(executor.public_key, -950 - freed)
    assert state.account(executor.public_key).total == state.account(executor.public_key).deposit
    assert compute_supply(state) == state.totals.supply


def test_a_passed_check_brings_a_false_accuser_back_to_the_beginning() -> None:
    """One accuser of three is outvoted, pays, and the history is that of an honest executor."""
    chain = CheckChain(parameters=FEW_FAILURES)
    executor = chain.check(chain.open_check()).executor
    for _ in range(3):
        settled = chain.report(chain.open_check(executor=executor), [FAILED, PASSED, PASSED])
        assert amounts(settled)[settled.check.seats[0].public_key] == -FINE
    history = chain.state.check_history(executor, IDENTITY)
    assert history.shortfall.failures == 0 and chain.state.account(executor).identities


@pytest.mark.parametrize("kind", [MEASURED, NO_TRANSCRIPT, NOT_CHECKABLE, ABSTAINED])
def test_no_report_pays_one_that_did_no_work(opened: tuple[CheckChain, bytes], kind: int) -> None:
    """Beside two that measure: a guess costs, and all that is no number brings nothing."""
    chain, hold = fork(opened)
    guess = CheckReport(kind, SHORTFALL_OFFSET, 60_000) if kind == MEASURED else CheckReport(kind)
    settled = chain.report(hold, [guess, PASSED, PASSED])
    assert amounts(settled).get(settled.check.seats[0].public_key, 0) == (-FINE if kind == MEASURED else 0)


def test_every_check_ends_and_leaves_nothing_behind() -> None:
    chain = CheckChain()
    chain.pay_answers(30)
    for _ in range(120):
        chain.append(elapsed=3_000)
    assert len(chain.check_events) > 5
    for events in chain.check_events.values():
        assert [type(event) for event in events] == [CheckOpened, CheckSettled]
    assert not any(leaf.key[:1] in b"gknuixy" for leaf in chain.state.entries())
    assert chain.state.totals.reserved == 0
    assert_sound(chain)
