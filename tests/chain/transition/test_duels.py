"""Duels on the ledger: which captures are drawn, who takes part, the stages, and what each verdict moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from chain.crypto import hash_bytes
from chain.parameters.duels import DRAW_DELAYS, MAX_DRAW_HEIGHTS, MIN_DRAW_DELAY
from chain.state.duel_records import ANSWER, COMMIT, REVEAL, STAGES
from chain.state.state import compute_supply
from chain.transition.duels.events import ChallengerReplaced, DuelOpened
from chain.transition.duels.money import compute_levy, compute_share
from chain.transition.duels.opening import draw_challenger, draw_seats
from chain.transition.duels.verdict import DuelVerdict
from chain.transition.movements import Stage
from chain.types.duels import DuelBallot
from chain.types.operations import CaptureItem, Dispute
from tests.support.chain_builder import MODEL, Chain, do, refusal
from tests.support.chains.duel_chain import (
    AMOUNT,
    CHALLENGER,
    DUEL_PARAMETERS,
    DUELS,
    EXECUTOR,
    JUDGE,
    NEITHER,
    QUICK,
    SAME,
    DuelChain,
    make_ballot,
)


@pytest.fixture(scope="module")
def opened() -> tuple[DuelChain, bytes]:
    """A chain with a duel that was just opened; tests go on from copies of it."""
    chain = DuelChain()
    return chain, chain.open_duel()


def fork(opened: tuple[DuelChain, bytes]) -> tuple[DuelChain, bytes]:
    """The chain of a fixture to go on from, and the hold of its duel."""
    chain, hold = opened
    copy = object.__new__(DuelChain)
    copy.__dict__.update(chain.__dict__)
    copy.blocks, copy.states, copy.failures = [*chain.blocks], [*chain.states], [*chain.failures]
    copy.events = {key: [*events] for key, events in chain.events.items()}
    return copy, hold


def assert_sound(chain: Chain) -> None:
    """All credit is there, and what is set aside is what open duels need."""
    assert compute_supply(chain.state) == chain.state.totals.supply == chain.genesis.supply
    duels = [leaf.record for leaf in chain.state.entries() if leaf.key[:1] == b"u"]
    assert chain.state.totals.reserved == sum(duel.reserved for duel in duels)  # type: ignore[attr-defined]
    assert chain.state.totals.reserved <= chain.state.totals.treasury
    for key, account in chain.state.accounts():
        locked = sum(duel.locked for duel in duels if duel.executor == key)  # type: ignore[attr-defined]
        assert account.locked == locked  # there is no unreceipted capture in these tests
        assert min(account.available, account.held, account.bonded) >= 0


# Levy and draw.


def test_every_capture_that_pays_brings_the_levy_to_the_treasury() -> None:
    chain = DuelChain()
    for reason in ("stop", "cancelled"):
        seq, key = chain.next_seq, chain.executor(chain.payer, chain.next_seq)
        chain.next_seq += 1
        do(chain, chain.hold(chain.payer, seq, amount=5_000))
        before, treasury = chain.account(key), chain.state.totals.treasury
        item = chain.receipt(chain.payer, chain.deliver(seq, 3_000, reason))
        fee = do(chain, chain.capture(key, item))
        levy = compute_levy(DUELS, 3_000, 500)
        assert levy == 3_000 * 1_750 * 500 // 1_000_000 == 2_625
        assert chain.account(key).available == before.available + 3_000 - levy - fee
        assert chain.state.totals.treasury == treasury + levy + fee


def test_without_a_rate_nothing_is_drawn_and_nothing_paid() -> None:
    chain = DuelChain(parameters=replace(DUEL_PARAMETERS, duels=replace(DUELS, rate=0)))
    key = chain.executor(chain.payer, 0)
    before = chain.account(key).available
    do(chain, chain.hold(chain.payer, 0))
    fee = do(chain, chain.capture(key, chain.receipt(chain.payer, chain.deliver(0, 3_000))))
    assert chain.account(key).available == before + 3_000 - fee
    assert not any(leaf.key[:1] in (b"k", b"n", b"u", b"x", b"y") for leaf in chain.state.entries())


def test_what_a_capture_leaves_in_the_state_is_gone_after_its_draw() -> None:
    chain = DuelChain()
    chain.pay_answers(6)
    paid_at = chain.head.height
    waiting = chain.state.paid_captures(paid_at)
    assert waiting is not None and len(waiting.captures) == 6
    assert len(waiting.encode()) < 6 * 250
    for _ in range(MIN_DRAW_DELAY - 1):
        chain.append(elapsed=QUICK)
    assert chain.state.paid_captures(paid_at) == waiting and not chain.events
    for _ in range(DRAW_DELAYS):
        chain.append(elapsed=QUICK)
    assert not any(leaf.key[:1] in (b"k", b"n") for leaf in chain.state.entries())
    assert chain.events and len(chain.events) < 6
    assert MAX_DRAW_HEIGHTS >= MIN_DRAW_DELAY + DRAW_DELAYS - 1
    assert_sound(chain)


def test_a_paid_capture_keeps_the_commitment_to_the_transcript() -> None:
    chain = DuelChain()
    seq, key = chain.next_seq, chain.executor(chain.payer, chain.next_seq)
    do(chain, chain.hold(chain.payer, seq))
    delivery = replace(chain.deliver(seq, AMOUNT), transcript_digest=hash_bytes("transcript"))
    signed = chain.receipt(chain.payer, delivery)
    forged = CaptureItem(replace(delivery, transcript_digest=hash_bytes("another")), signed.receipt)
    assert "the receipt is not the payer's" in refusal(chain, chain.capture(key, forged))
    do(chain, chain.capture(key, signed))
    paid = chain.state.paid_captures(chain.head.height)
    assert paid is not None and paid.captures[0].transcript_digest == hash_bytes("transcript")


def test_about_as_many_captures_become_duels_as_the_rate_says_and_at_all_heights() -> None:
    chain = DuelChain()
    paid = {}
    for _ in range(12):
        for hold in chain.pay_answers(16, amount=100):
            paid[hold] = chain.head.height
    opened = {}
    for _ in range(MAX_DRAW_HEIGHTS):
        chain.append(elapsed=QUICK)
    for height, state in enumerate(chain.states):
        for hold in paid:
            if hold not in opened and state.duel(hold) is not None:
                opened[hold] = height - paid[hold]
    assert 0.4 * len(paid) < len(opened) < 0.6 * len(paid)
    assert min(opened.values()) >= MIN_DRAW_DELAY and max(opened.values()) < MIN_DRAW_DELAY + DRAW_DELAYS
    assert len(set(opened.values())) > DRAW_DELAYS / 2


@pytest.mark.parametrize("reason", ["cancelled", "stop"])
def test_only_a_receipt_exempts_a_broken_off_answer(reason: str) -> None:
    """An executor that could say so itself would say so of every bad answer."""
    chain = DuelChain()
    chain.pay_answers(1, reason=reason)
    assert (chain.state.paid_captures(chain.head.height) is None) == (reason == "cancelled")
    seq, key = chain.next_seq, chain.executor(chain.payer, chain.next_seq)
    do(chain, chain.hold(chain.payer, seq))
    do(chain, chain.capture(key, chain.deliver(seq, AMOUNT, reason)))
    assert chain.state.paid_captures(chain.head.height) is None, "it is not paid yet"
    chain.append(elapsed=DUEL_PARAMETERS.capture_grace_ms)
    settled = chain.state.paid_captures(chain.head.height)
    assert settled is not None and [each.payee for each in settled.captures] == [key.public_key]


def test_an_answer_without_text_is_exempt_by_receipt() -> None:
    """Embeddings, for one."""
    chain = DuelChain()
    key = chain.executor(chain.payer, 0)
    do(chain, chain.hold(chain.payer, 0))
    do(chain, chain.capture(key, chain.receipt(chain.payer, chain.delivery(chain.payer, 0))))
    assert chain.state.paid_captures(chain.head.height) is None


def test_what_is_disputed_or_refunded_is_not_drawn() -> None:
    chain = DuelChain()
    keys = [chain.executor(chain.payer, seq) for seq in range(2)]
    do(chain, chain.hold(chain.payer, 0), chain.hold(chain.payer, 1))
    do(
        chain,
        chain.capture(keys[0], chain.deliver(0, AMOUNT)),
        chain.capture(keys[1], chain.receipt(chain.payer, chain.deliver(1, 0))),
    )
    do(chain, chain.sign(chain.payer, Dispute(chain.find_hold_id(chain.payer, 0))))
    chain.append(elapsed=DUEL_PARAMETERS.capture_grace_ms)
    assert not any(leaf.key[:1] == b"k" for leaf in chain.state.entries())


# Who takes part.


def test_the_parties_and_the_judges_are_all_distinct(opened: tuple[DuelChain, bytes]) -> None:
    chain, _ = fork(opened)
    chain.pay_answers(24)
    for _ in range(MAX_DRAW_HEIGHTS):
        chain.append(elapsed=QUICK)
    assert len(chain.events) > 8
    for hold, events in chain.events.items():
        assert isinstance(events[0], DuelOpened)
        duel = events[0].duel
        taking_part = [duel.payer, duel.executor, duel.challenger, *(seat.public_key for seat in duel.seats)]
        assert len({*taking_part}) == len(taking_part) == 6
        assert (duel.amount, duel.stage, {seat.judge for seat in duel.seats}) == (AMOUNT, ANSWER, {JUDGE})
        assert duel.response_digest == hash_bytes("test response", hold)


@pytest.mark.parametrize(("judges", "seats"), [(range(7), 3), (range(3), 1), ((), 0)])
def test_there_are_as_many_judges_as_an_odd_number_allows(judges: range, seats: int) -> None:
    """Three accounts judge; one or two of them are parties of any duel, or none is."""
    chain = DuelChain(7, judges=judges)
    if not seats:
        chain.pay_answers(8)
        for _ in range(MAX_DRAW_HEIGHTS):
            chain.append(elapsed=QUICK)
        assert not chain.events, "without a judge there is no duel"
        return
    sizes = set()
    while len(sizes) < 1 + (seats < 3):
        chain.pay_answers(8)
        for _ in range(MAX_DRAW_HEIGHTS):
            chain.append(elapsed=QUICK)
        sizes = {len(events[0].duel.seats) for events in chain.events.values()}
    assert sizes == {seats, 3}


def test_where_no_other_account_serves_the_model_the_answer_is_checked_alone() -> None:
    chain = DuelChain()
    hold = chain.open_duel(solo=True)
    duel = chain.duel(hold)
    assert duel.challenger is None and duel.stage == COMMIT
    assert not any(seat.is_reversed for seat in duel.seats)
    assert duel.reserved == 3 * compute_share(AMOUNT, DUELS.judge)
    assert "only the challenger answers" not in refusal(chain, chain.answer(hold))


def test_an_account_that_has_stopped_serving_or_judging_is_not_drawn() -> None:
    """From the very next block on, although the serving table still has it."""
    chain = DuelChain(7)
    gone = [key.public_key for key in chain.validators[2:4]]
    chain.append([chain.serve(chain.validators[2], MODEL), chain.serve(chain.validators[3], judge=JUDGE)])
    table = chain.state.serving_table(chain.first_round)
    assert table is not None and sum(entry.public_key in gone for entry in table.entries if entry.judge) == 2
    seeds = [hash_bytes("test seed", bytes([number])) for number in range(50)]
    judges = {seat.public_key for seed in seeds for seat in draw_seats(chain.state, 7, seed, ())}
    challengers = {draw_challenger(chain.state, MODEL, seed, ()) for seed in seeds}
    everybody = {key.public_key for key in chain.validators}
    assert (judges, challengers) == (everybody - {gone[0]}, everybody - {gone[1]})


def test_a_treasury_that_cannot_pay_a_challenger_pays_judges_alone_or_nothing() -> None:
    """What it has promised to other duels is not there for another."""
    poor = replace(DUEL_PARAMETERS, fee_per_byte=0, duels=replace(DUELS, levy=1_556))
    chain, kinds = DuelChain(7, parameters=poor), set()
    full, solo = compute_share(AMOUNT, 1_000 + 250 + 3 * 350), compute_share(AMOUNT, 3 * 350)
    chain.pay_answers(41)
    for _ in range(MAX_DRAW_HEIGHTS):
        free = chain.state.totals.treasury - chain.state.totals.reserved
        known = set(chain.events)
        chain.append(elapsed=QUICK)
        for hold in [each for each in chain.events if each not in known]:
            event = chain.events[hold][0]
            assert isinstance(event, DuelOpened)
            is_solo = event.duel.challenger is None
            kinds.add(is_solo)
            assert event.duel.reserved == (solo if is_solo else full) <= free
            assert is_solo == (free < full), "a challenger as long as there is enough"
            free -= event.duel.reserved
    assert kinds == {True, False}
    assert 0 <= chain.state.totals.treasury - chain.state.totals.reserved < solo


# What is set aside.


def test_a_duel_locks_bond_and_reserves_what_it_may_pay(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = fork(opened)
    duel = chain.duel(hold)
    assert duel.locked == 20 * AMOUNT
    assert duel.reserved == AMOUNT * (1_000 + 250 + 3 * 350) // 1_000
    account = chain.state.account(duel.executor)
    assert account.free_bond == account.bonded - account.locked
    assert account.locked >= duel.locked
    executor = chain.keys[duel.executor]
    chain.append([chain.unbond(executor, account.free_bond + 1)])
    assert "not locked" in (chain.failures[-1][0] or "")
    assert_sound(chain)


def test_an_executor_with_less_bond_stands_with_what_it_has() -> None:
    """It is compared all the same, and its penalty comes out of what it has, in the order in which it could use it."""
    chain = DuelChain(stakes=[10_000] * 7)
    hold = chain.open_duel(amount=4_000)
    duel = chain.duel(hold)
    assert duel.locked == 10_000 < 20 * 4_000
    result = chain.judge(hold, chain.agree(hold, CHALLENGER))
    assert result.movements[0].amount == -2_000
    assert chain.state.account(duel.executor).bonded == 8_000


def test_what_an_account_pays_comes_out_of_its_bond_then_what_leaves_it_then_the_rest() -> None:
    """A large penalty reaches an executor whose bond is on its way out; one that has nothing pays nothing."""
    chain = DuelChain(stakes=[5_000] * 7)
    hold = chain.open_duel(amount=100)
    executor = chain.keys[chain.duel(hold).executor]
    free = chain.account(executor).free_bond
    do(chain, chain.unbond(executor, free), elapsed=QUICK)
    duel = chain.duel(hold)
    before = chain.account(executor)
    assert before.bonded == before.locked >= duel.locked == 2_000
    result = chain.judge(hold, chain.agree(hold, NEITHER, missing=[EXECUTOR]))
    assert (result.verdict, result.movements[0].amount) == (DuelVerdict.EXECUTOR_MISSING, -200)
    after = chain.account(executor)
    assert (after.bonded, after.unbonding) == (before.bonded - 200, before.unbonding)


def test_a_penalty_follows_the_bond_out_of_the_account(opened: tuple[DuelChain, bytes]) -> None:
    """A judge that has unbonded, and given away what it had, pays from what is still leaving, then from the rest."""
    chain, hold = fork(opened)
    judges = [chain.keys[seat.public_key] for seat in chain.duel(hold).seats]
    key = next(key for key in judges if not chain.account(key).locked)
    do(chain, chain.unbond(key, chain.account(key).bonded - 300), elapsed=QUICK)
    before = chain.account(key)
    do(chain, chain.answer(hold), elapsed=QUICK)
    chain.let_run_out(hold)
    after, fine = chain.account(key), AMOUNT // 2
    assert (before.bonded, after.bonded) == (300, 0)
    assert after.unbonding == (replace(before.unbonding[0], amount=before.unbonding[0].amount - (fine - 300)),)
    assert after.available == before.available


# The stages.


def test_a_stage_ends_with_the_block_that_brings_all_of_it(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = fork(opened)
    do(chain, chain.answer(hold), elapsed=QUICK)
    duel = chain.duel(hold)
    assert (duel.stage, duel.ends_at) == (COMMIT, chain.head.chain_time + DUELS.commit_ms)
    assert duel.answer_digest == hash_bytes("test answer", hold)
    ballots = list(zip(duel.seats, chain.agree(hold, EXECUTOR), strict=True))
    do(chain, *[chain.commit(hold, *each) for each in ballots[:2]], elapsed=QUICK)
    assert chain.duel(hold).stage == COMMIT
    do(chain, chain.commit(hold, *ballots[2]), elapsed=QUICK)
    assert (chain.duel(hold).stage, chain.duel(hold).ends_at) == (REVEAL, chain.head.chain_time + DUELS.reveal_ms)
    do(chain, *[chain.reveal(hold, *each) for each in ballots], elapsed=QUICK)
    assert chain.settled(hold).verdict is DuelVerdict.EXECUTOR_WON
    assert_sound(chain)


def test_an_operation_in_the_block_at_the_deadline_is_in_time(opened: tuple[DuelChain, bytes]) -> None:
    """However far chain time has come: the stage ends after the operations of the block."""
    chain, hold = fork(opened)
    left = chain.duel(hold).ends_at - chain.head.chain_time
    do(chain, chain.answer(hold), elapsed=left)
    assert chain.duel(hold).stage == COMMIT and not chain.duel(hold).silent
    seats = chain.duel(hold).seats
    chain.let_run_out(hold)
    result = chain.settled(hold)
    assert result.verdict is DuelVerdict.TIE, "not one commitment: there is nothing to reveal"
    assert {each.public_key: each.amount for each in result.movements} == {
        result.duel.challenger: AMOUNT,
        **{seat.public_key: -AMOUNT // 2 for seat in seats},
    }


def test_the_deadline_of_a_stage_that_has_ended_counts_for_nothing(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = fork(opened)
    answer_ends = chain.duel(hold).ends_at
    do(chain, chain.answer(hold), elapsed=DUELS.answer_ms - 1_000)
    chain.append(elapsed=answer_ends - chain.head.chain_time)
    assert chain.duel(hold).stage == COMMIT and chain.head.chain_time < chain.duel(hold).ends_at


def test_each_duty_is_done_once_in_its_stage_and_by_its_account(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = fork(opened)
    duel = chain.duel(hold)
    first, second, third = duel.seats
    ballot, other = make_ballot(first, EXECUTOR), make_ballot(first, CHALLENGER)
    assert "waits for an answer" in refusal(chain, chain.commit(hold, first, ballot))
    assert "already" in refusal(chain, chain.answer(hold), chain.answer(hold))
    do(chain, chain.answer(hold), elapsed=QUICK)
    stranger = replace(first, public_key=duel.executor)
    assert "no judge" in refusal(chain, chain.commit(hold, stranger, ballot))
    do(chain, chain.commit(hold, first, ballot), elapsed=QUICK)
    assert "committed already" in refusal(chain, chain.commit(hold, first, other))
    assert "waits for commitments" in refusal(chain, chain.reveal(hold, first, ballot))
    do(chain, *[chain.commit(hold, seat, make_ballot(seat, EXECUTOR)) for seat in (second, third)], elapsed=QUICK)
    assert "waits for ballots" in refusal(chain, chain.commit(hold, first, ballot))
    assert "not the one" in refusal(chain, chain.reveal(hold, first, other))
    assert "no judge" in refusal(chain, chain.reveal(hold, stranger, ballot))
    do(chain, chain.reveal(hold, first, ballot), elapsed=QUICK)
    assert "revealed its ballot already" in refusal(chain, chain.reveal(hold, first, ballot))
    chain.let_run_out(hold)
    assert "no duel about" in refusal(chain, chain.reveal(hold, second, make_ballot(second, EXECUTOR)))


def test_the_operations_of_a_duel_cost_no_fee(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = fork(opened)
    before = chain.state.account(chain.duel(hold).challenger or b"")
    assert do(chain, chain.answer(hold), elapsed=QUICK) == 0
    assert chain.state.account(chain.duel(hold).challenger or b"") == before


def test_an_overdue_stage_waits_for_its_turn() -> None:
    """Of many that are overdue at once a block ends as many as it may, and none is lost."""
    chain = DuelChain(parameters=replace(DUEL_PARAMETERS, duels=replace(DUELS, max_deadlines=1)))
    chain.pay_answers(20)
    for _ in range(MAX_DRAW_HEIGHTS):
        chain.append(elapsed=QUICK)
    holds = [hold for hold in chain.events if chain.state.duel(hold) is not None]
    assert len(holds) > 3
    chain.append(elapsed=DUELS.answer_ms)
    assert sum(len(chain.duel(hold).silent) for hold in holds) == 1
    late = next(hold for hold in holds if not chain.duel(hold).silent)
    do(chain, chain.answer(late), elapsed=QUICK)
    assert chain.duel(late).stage == COMMIT, "it is in time as long as the stage has not ended"
    for _ in range(2 * len(holds)):
        chain.append(elapsed=QUICK)
    assert all(chain.duel(hold).silent for hold in holds if hold != late)
    assert_sound(chain)


def test_a_silent_challenger_pays_and_another_takes_its_place(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = fork(opened)
    first = chain.duel(hold)
    before = chain.state.account(first.challenger or b"")
    chain.let_run_out(hold)
    event, second = chain.events[hold][-1], chain.duel(hold)
    assert isinstance(event, ChallengerReplaced) and event.fine.amount == -AMOUNT // 2
    assert chain.state.account(first.challenger or b"").bonded == before.bonded - AMOUNT // 2
    assert second.silent == (first.challenger,) and second.challenger not in (None, first.challenger)
    assert second.seats == first.seats and second.reserved == first.reserved
    assert "only the challenger answers" in refusal(chain, chain.answer(hold, chain.keys[first.challenger or b""]))
    assert chain.judge(hold, chain.agree(hold, CHALLENGER)).verdict is DuelVerdict.EXECUTOR_LOST
    assert_sound(chain)


def test_after_three_silences_the_executor_pays(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = fork(opened)
    duel = chain.duel(hold)
    before = chain.state.account(duel.executor)
    for _ in range(3):
        chain.let_run_out(hold)
    result = chain.settled(hold)
    assert result.verdict is DuelVerdict.UNANSWERED
    assert [each.amount for each in result.movements] == [-AMOUNT // 2, -2 * AMOUNT]
    assert len({*result.duel.silent}) == 3
    after = chain.state.account(duel.executor)
    assert after == replace(before, bonded=before.bonded - 2 * AMOUNT, locked=before.locked - duel.locked)
    assert_sound(chain)


def test_a_duel_that_runs_out_of_challengers_becomes_a_solo_check() -> None:
    """In a small network the executor does not pay for the silence of the only other one."""
    chain = DuelChain(5)
    hold = chain.open_duel()
    assert len(chain.duel(hold).seats) == 3
    chain.let_run_out(hold)
    duel = chain.duel(hold)
    assert (duel.challenger, duel.stage, len(duel.silent)) == (None, COMMIT, 1)
    assert not any(seat.is_reversed for seat in duel.seats)
    assert chain.judge(hold, chain.agree(hold, NEITHER)).verdict is DuelVerdict.USABLE
    assert_sound(chain)


# What each verdict moves, in thousandths of what was captured.

W, L, T = EXECUTOR, CHALLENGER, NEITHER

VERDICTS = [
    # votes, verdict, executor, challenger, judges
    ((W, W, W), DuelVerdict.EXECUTOR_WON, 250, 600, (350, 350, 350)),
    ((W, W, L), DuelVerdict.EXECUTOR_WON, 250, 600, (350, 350, 0)),
    ((L, T, L), DuelVerdict.EXECUTOR_LOST, -500, 1_000, (350, 0, 350)),
    ((W, L, T), DuelVerdict.TIE, 0, 1_000, (87.5, 87.5, 87.5)),
    ((T, T, W), DuelVerdict.TIE, 0, 1_000, (87.5, 87.5, 87.5)),
    ((W, L, None), DuelVerdict.TIE, 0, 1_000, (87.5, 87.5, -500)),
    ((W, None, None), DuelVerdict.EXECUTOR_WON, 250, 600, (350, -500, -500)),
    ((SAME, SAME, W), DuelVerdict.IDENTICAL, 0, 0, (87.5, 87.5, 87.5)),
]


@pytest.mark.parametrize(("votes", "verdict", "executor", "challenger", "judges"), VERDICTS)
def test_a_verdict_moves_what_it_should(
    opened: tuple[DuelChain, bytes],
    votes: tuple[str | None, ...],
    verdict: DuelVerdict,
    executor: float,
    challenger: float,
    judges: tuple[float, ...],
) -> None:
    chain, hold = fork(opened)
    seats = chain.duel(hold).seats
    ballots = [None if vote is None else make_ballot(seat, vote) for seat, vote in zip(seats, votes, strict=True)]
    check(chain, hold, ballots, verdict, executor, challenger, judges)
    moved: Counter[bytes] = Counter()
    for each in chain.settled(hold).movements:
        moved[each.public_key] += each.amount
    assert chain.sum_moved(Stage.DUELS) == {key: amount for key, amount in moved.items() if amount}


@pytest.mark.parametrize(
    ("missing", "verdict", "executor", "challenger"),
    [
        ((EXECUTOR,), DuelVerdict.EXECUTOR_MISSING, -2_000, 1_000),
        ((CHALLENGER,), DuelVerdict.CHALLENGER_MISSING, 0, -500),
        ((EXECUTOR, CHALLENGER), DuelVerdict.EXECUTOR_MISSING, -2_000, 1_000),
    ],
)
def test_what_the_judges_could_not_obtain_is_charged_to_its_author(
    opened: tuple[DuelChain, bytes], missing: tuple[str, ...], verdict: DuelVerdict, executor: int, challenger: int
) -> None:
    """Saying so is not paid: it takes no work."""
    chain, hold = fork(opened)
    check(chain, hold, list(chain.agree(hold, W, missing=missing)), verdict, executor, challenger, (0, 0, 0))


@pytest.mark.parametrize("votes", [(W, W, W), (L, L, L), (W, L, T)])
def test_a_useless_challenge_is_not_paid_whatever_the_verdict(
    opened: tuple[DuelChain, bytes], votes: tuple[str, ...]
) -> None:
    chain, hold = fork(opened)
    seats = chain.duel(hold).seats
    ballots = [make_ballot(seat, vote, unusable=[CHALLENGER]) for seat, vote in zip(seats, votes, strict=True)]
    result = chain.judge(hold, ballots)
    assert result.duel.challenger not in {each.public_key for each in result.movements}
    chain, hold = fork(opened)
    both = [make_ballot(seat, vote, unusable=[CHALLENGER, EXECUTOR]) for seat, vote in zip(seats, votes, strict=True)]
    result = chain.judge(hold, both)
    assert result.duel.challenger in {each.public_key for each in result.movements}, "then the question was at fault"


def check(
    chain: DuelChain,
    hold: bytes,
    ballots: list[DuelBallot | None],
    verdict: DuelVerdict,
    executor: float,
    challenger: float,
    judges: tuple[float, ...],
) -> None:
    """Carry a duel through, and compare what was moved and what every account has after it."""
    duel = chain.duel(hold)
    expected = dict(zip((seat.public_key for seat in duel.seats), judges, strict=True))
    expected |= {duel.executor: executor, duel.challenger or b"": challenger}
    before, treasury = dict(chain.state.accounts()), chain.state.totals.treasury
    result = chain.judge(hold, ballots)
    assert result.verdict is verdict
    moved = {key: int(share * AMOUNT / 1_000) for key, share in expected.items() if share}
    assert {each.public_key: each.amount for each in result.movements} == moved
    for key, account in before.items():
        amount = moved.get(key, 0)
        assert chain.state.account(key).total == account.total + amount
        assert chain.state.account(key).bonded == account.bonded + min(0, amount)
    assert chain.state.totals.treasury == treasury - sum(moved.values())
    assert_sound(chain)


@pytest.mark.parametrize(
    ("unusable", "missing", "verdict", "executor", "judges"),
    [
        ((), (), DuelVerdict.USABLE, 0, 350),
        ((EXECUTOR,), (), DuelVerdict.UNUSABLE, 0, 350),
        ((), (EXECUTOR,), DuelVerdict.EXECUTOR_MISSING, -2_000, 0),
        ((EXECUTOR,), (EXECUTOR,), DuelVerdict.EXECUTOR_MISSING, -2_000, 0),
    ],
)
def test_a_solo_check_rates_one_answer(
    unusable: tuple[str, ...], missing: tuple[str, ...], verdict: DuelVerdict, executor: int, judges: int
) -> None:
    chain = DuelChain()
    hold = chain.open_duel(solo=True)
    result = chain.judge(hold, chain.agree(hold, NEITHER, unusable=unusable, missing=missing))
    assert result.verdict is verdict
    moved = {each.public_key: each.amount for each in result.movements}
    expected = {seat.public_key: judges * AMOUNT // 1_000 for seat in result.duel.seats if judges}
    assert moved == expected | ({result.duel.executor: executor * AMOUNT // 1_000} if executor else {})
    assert_sound(chain)


# The end.


def test_every_duel_ends_and_leaves_nothing_behind() -> None:
    chain = DuelChain()
    chain.pay_answers(16)
    for _ in range(MAX_DRAW_HEIGHTS):
        chain.append(elapsed=QUICK)
    assert chain.state.totals.reserved > 0
    chain.append(elapsed=DUELS.answer_ms)
    for _ in range(4):
        chain.append(elapsed=DUELS.answer_ms)
    assert not any(leaf.key[:1] in (b"k", b"n", b"u", b"x", b"y") for leaf in chain.state.entries())
    assert chain.state.totals.reserved == 0
    assert not any(account.locked for _, account in chain.state.accounts())
    assert all(chain.state.deadline_queue(stage).end == 0 for stage in STAGES)
    assert_sound(chain)
