"""Repeated votes: which, by whom, what that shows of both accounts, and what it moves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.crypto import hash_bytes
from chain.state.duel_records import COMMIT, REPEAT, REVEAL, Duel, JudgeSeat
from chain.state.judge_records import DIFFERENT, MAX_DIFFERENCES, REPEATS, SAME, JudgeRecord
from chain.state.state import compute_supply
from chain.transition.duels.events import DuelSettled
from chain.types.duels import ABSTAIN, DRAW, DuelBallot
from tests.support.chain_builder import MODEL, do, failure, refusal
from tests.support.chains.duel_chain import (
    AMOUNT,
    CHALLENGER,
    DUELS,
    EXECUTOR,
    JUDGE,
    QUICK,
    REPEATING,
    DuelChain,
    make_ballot,
)

OTHER_JUDGE = replace(JUDGE, prompt_digest=hash_bytes("another prompt"))
PAY, FINE = AMOUNT * DUELS.judge // 1_000, AMOUNT * DUELS.silence // 1_000


def commit_all(chain: DuelChain, hold: bytes, votes: list[DuelBallot]) -> Duel:
    """Bring a duel to the point at which repeated votes are drawn."""
    chain.append([chain.answer(hold)], elapsed=QUICK)
    seats = chain.duel(hold).seats
    assert chain.duel(hold).stage == COMMIT and not chain.duel(hold).repeats
    chain.append([chain.commit(hold, seat, vote) for seat, vote in zip(seats, votes, strict=True)], elapsed=QUICK)
    return chain.duel(hold)


def find_repeated(chain: DuelChain) -> tuple[bytes, Duel]:
    """A duel in which one vote is repeated, and all judges are for the executor."""
    for _ in range(20):
        hold = chain.open_duel()
        duel = commit_all(chain, hold, chain.agree(hold, EXECUTOR))
        if len(duel.repeats) == 1:
            return hold, duel
        chain.append([chain.commit(hold, seat, vote(seat)) for seat in duel.repeats])
        chain.append([chain.reveal(hold, seat, vote(seat)) for seat in duel.all_seats])
    raise AssertionError("no vote was repeated")


def vote(seat: JudgeSeat, better: str = EXECUTOR) -> DuelBallot:
    return make_ballot(seat, better)


def settle(
    chain: DuelChain, hold: bytes, *, again: DuelBallot | None, shown: bool = True, first_shown: bool = True
) -> DuelSettled:
    """Settle a duel in which one vote is repeated with this outcome (None: not at all)."""
    [repeat] = chain.duel(hold).repeats
    if again is None:
        chain.let_run_out(hold)
    else:
        chain.append([chain.commit(hold, repeat, again)], elapsed=QUICK)
    duel = chain.duel(hold)
    assert duel.stage == REVEAL
    shown_by = [seat for seat in duel.seats if first_shown or seat.public_key != repeat.repeats]
    reveals = [chain.reveal(hold, seat, vote(seat)) for seat in shown_by]
    if again is not None and shown:
        reveals.append(chain.reveal(hold, repeat, again))
    chain.append(reveals, elapsed=QUICK)
    if chain.state.duel(hold) is not None:
        chain.let_run_out(hold)
    assert compute_supply(chain.state) == chain.state.totals.supply
    return chain.settled(hold)


def moved(event: DuelSettled, key: bytes) -> int:
    return sum(each.amount for each in event.movements if each.public_key == key)


def record(chain: DuelChain, key: bytes) -> bytes:
    return chain.state.judge_record(key).repeats


# Which votes, and by whom.


def test_a_judge_learns_that_its_vote_is_repeated_after_it_has_committed() -> None:
    chain = DuelChain(10, parameters=REPEATING)
    run, all_votes = 0, 0
    for _ in range(25):
        hold = chain.open_duel()
        duel = commit_all(chain, hold, chain.agree(hold, EXECUTOR))  # asserts that there are none before
        run, all_votes = run + len(duel.repeats), all_votes + len(duel.seats)
        for seat in duel.repeats:
            of = next(each for each in duel.seats if each.public_key == seat.repeats)
            assert (seat.judge, seat.is_reversed, seat.voter) == (of.judge, of.is_reversed, of.public_key)
        parties = [duel.payer, duel.executor, duel.challenger, *(seat.public_key for seat in duel.all_seats)]
        assert len(set(parties)) == len(parties)
        chain.append([chain.commit(hold, seat, vote(seat)) for seat in duel.repeats], elapsed=QUICK)
        chain.append([chain.reveal(hold, seat, vote(seat)) for seat in duel.all_seats], elapsed=QUICK)
    assert 0.3 * all_votes < run < 0.5 * all_votes


def test_a_vote_is_repeated_by_an_equal_judge_or_not_at_all() -> None:
    chain = DuelChain(10, parameters=REPEATING)
    do(chain, *(chain.serve(key, MODEL, judge=OTHER_JUDGE) for key in chain.validators[:5]))
    for _ in range(2 * REPEATING.round_heights):
        chain.append(elapsed=QUICK)
    kinds = set()
    for _ in range(12):
        hold = chain.open_duel()
        duel = commit_all(chain, hold, chain.agree(hold, EXECUTOR))
        for seat in duel.repeats:
            assert chain.account(chain.keys[seat.public_key]).judge == seat.judge
            kinds.add(seat.judge)
        chain.append([chain.commit(hold, seat, vote(seat)) for seat in duel.repeats], elapsed=QUICK)
        chain.append([chain.reveal(hold, seat, vote(seat)) for seat in duel.all_seats], elapsed=QUICK)
    assert kinds == {JUDGE, OTHER_JUDGE}


def test_a_judge_of_a_kind_of_its_own_is_not_drawn() -> None:
    """Nobody could repeat its votes."""
    chain = DuelChain(10, parameters=REPEATING)
    loner = chain.validators[0]
    do(chain, chain.serve(loner, MODEL, judge=OTHER_JUDGE))
    for _ in range(2 * REPEATING.round_heights):
        chain.append(elapsed=QUICK)
    table = chain.state.serving_table(chain.first_round)
    assert table is not None and table.min_judge_share == 200
    assert loner.public_key not in [key for key, _ in table.draw_judges(bytes(32), ())]
    assert loner.public_key in [key for key, _ in replace(table, min_judge_share=100).draw_judges(bytes(32), ())]
    assert not list(table.draw_equal_judges(OTHER_JUDGE, bytes(32), ()))


def test_each_commits_in_its_own_stage() -> None:
    chain = DuelChain(10, parameters=REPEATING)
    hold, duel = find_repeated(chain)
    [repeat], first = duel.repeats, duel.seats[0]
    assert duel.stage == REPEAT
    assert duel.ends_at == chain.head.chain_time + DUELS.commit_ms
    assert "already" in refusal(chain, chain.commit(hold, first, vote(first)))
    assert "waits for repeated votes" in refusal(chain, chain.reveal(hold, first, vote(first)))
    stranger = replace(repeat, public_key=duel.executor)
    assert "no judge" in refusal(chain, chain.commit(hold, stranger, vote(repeat)))
    chain.append([chain.commit(hold, repeat, vote(repeat))], elapsed=QUICK)
    assert "already" not in refusal(chain, chain.commit(hold, repeat, vote(repeat)))  # it waits for ballots by now
    assert chain.duel(hold).stage == REVEAL


def test_a_judge_that_missed_its_stage_cannot_commit_in_the_next() -> None:
    chain = DuelChain(10, parameters=REPEATING)
    for _ in range(20):
        hold = chain.open_duel()
        chain.append([chain.answer(hold)], elapsed=QUICK)
        *others, late = chain.duel(hold).seats
        chain.append([chain.commit(hold, seat, vote(seat)) for seat in others], elapsed=QUICK)
        chain.let_run_out(hold)
        if chain.duel(hold).stage == REPEAT:
            assert "not the turn" in refusal(chain, chain.commit(hold, late, vote(late)))
            return
    raise AssertionError("no vote was repeated")


# What it moves and shows.


def test_votes_that_agree_cost_no_one_anything() -> None:
    chain = DuelChain(10, parameters=REPEATING)
    hold, duel = find_repeated(chain)
    [repeat] = duel.repeats
    before = record(chain, repeat.voter), record(chain, repeat.public_key)
    event = settle(chain, hold, again=vote(repeat))
    assert moved(event, repeat.public_key) == PAY
    assert moved(event, repeat.voter) == PAY
    after = record(chain, repeat.voter), record(chain, repeat.public_key)
    assert after == tuple((each + bytes([SAME]))[-REPEATS:] for each in before)
    duels = [leaf.record for leaf in chain.state.entries() if isinstance(leaf.record, Duel)]
    assert chain.state.totals.reserved == sum(duel.reserved for duel in duels)


@pytest.mark.parametrize("again", ["other answer", "unusable"])
def test_votes_that_differ_count_for_both_and_the_verdict_stays(again: str) -> None:
    chain = DuelChain(10, parameters=REPEATING)
    hold, duel = find_repeated(chain)
    [repeat] = duel.repeats
    ballot = vote(repeat, CHALLENGER) if again == "other answer" else make_ballot(repeat, EXECUTOR, [CHALLENGER])
    event = settle(chain, hold, again=ballot)
    assert event.verdict.value == "executor won"
    assert moved(event, repeat.public_key) == PAY, "it is not known who is right"
    for key in (repeat.voter, repeat.public_key):
        assert record(chain, key)[-1] == DIFFERENT


@pytest.mark.parametrize("ballot", [DuelBallot(ABSTAIN), DuelBallot(DRAW, 0, 1)])
def test_a_ballot_that_compares_nothing_is_not_compared_and_not_paid(ballot: DuelBallot) -> None:
    chain = DuelChain(10, parameters=REPEATING)
    hold, duel = find_repeated(chain)
    [repeat] = duel.repeats
    before = record(chain, repeat.voter), record(chain, repeat.public_key)
    event = settle(chain, hold, again=ballot)
    assert moved(event, repeat.public_key) == 0
    assert (record(chain, repeat.voter), record(chain, repeat.public_key)) == before


def test_who_hides_its_ballot_once_the_vote_is_repeated_has_guessed() -> None:
    """Else a guesser would pay for its silence each time, and never be found."""
    chain = DuelChain(10, parameters=REPEATING)
    hold, duel = find_repeated(chain)
    [repeat] = duel.repeats
    before = record(chain, repeat.public_key)
    event = settle(chain, hold, again=vote(repeat), first_shown=False)
    assert moved(event, repeat.voter) == -FINE and moved(event, repeat.public_key) == PAY
    assert record(chain, repeat.voter)[-1] == DIFFERENT and record(chain, repeat.public_key) == before
    hold, duel = find_repeated(chain)
    [repeat] = duel.repeats
    before = record(chain, repeat.voter)
    event = settle(chain, hold, again=vote(repeat), shown=False)
    assert moved(event, repeat.public_key) == -FINE
    assert record(chain, repeat.public_key)[-1] == DIFFERENT and record(chain, repeat.voter) == before


def test_who_does_not_repeat_its_vote_pays_for_its_silence() -> None:
    chain = DuelChain(10, parameters=REPEATING)
    hold, duel = find_repeated(chain)
    [repeat] = duel.repeats
    before = record(chain, repeat.voter), record(chain, repeat.public_key)
    event = settle(chain, hold, again=None)
    assert moved(event, repeat.public_key) == -FINE
    assert (record(chain, repeat.voter), record(chain, repeat.public_key)) == before


def test_five_votes_of_eight_that_differ_are_guesses() -> None:
    sound = JudgeRecord(bytes([SAME] * REPEATS))
    for count in range(1, REPEATS + 1):
        sound = sound.add(DIFFERENT)
        assert sound.is_guessing == (count >= MAX_DIFFERENCES)
    assert len(sound.repeats) == REPEATS
    assert not JudgeRecord(bytes([DIFFERENT] * 4)).is_guessing
    assert JudgeRecord(bytes([DIFFERENT] * 5)).is_guessing


def test_who_is_found_guessing_pays_and_judges_no_more_for_a_while() -> None:
    chain = DuelChain(10, parameters=REPEATING)
    for _ in range(200):
        hold, duel = find_repeated(chain)
        [repeat] = duel.repeats
        keys = [repeat.voter, repeat.public_key]
        event = settle(chain, hold, again=vote(repeat, CHALLENGER))
        found = [key for key in keys if chain.state.judge_record(key).benched_until]
        for key in set(keys) - set(found):
            assert moved(event, key) == PAY
        if found:
            break
    guesser = chain.keys[found[0]]
    fine = AMOUNT * 35_000 // 1_000
    assert moved(event, guesser.public_key) == PAY - fine
    assert chain.account(guesser).judge is None
    benched_until = chain.state.judge_record(guesser.public_key).benched_until
    assert benched_until == chain.head.chain_time + REPEATING.duels.bench_ms
    assert record(chain, guesser.public_key) == b""
    assert "found guessing" in failure(chain, chain.serve(guesser, MODEL, judge=JUDGE))
    do(chain, chain.serve(guesser, MODEL), chain.transfer(chain.payer, guesser, 10_000))
    while chain.head.chain_time < benched_until:
        chain.append(elapsed=10_000)
    do(chain, chain.serve(guesser, MODEL, judge=JUDGE))
    assert chain.account(guesser).judge == JUDGE


# Abstentions.


def test_an_abstention_costs_and_earns_nothing_and_is_left_out_of_the_majority() -> None:
    chain = DuelChain(10)
    hold = chain.open_duel()
    ballots = chain.agree(hold, EXECUTOR)
    ballots[0] = DuelBallot(ABSTAIN)
    ballots[2] = make_ballot(chain.duel(hold).seats[2], CHALLENGER)
    seats = chain.duel(hold).seats
    event = chain.judge(hold, ballots)
    assert isinstance(event, DuelSettled)
    assert event.verdict.value == "tie", "one of two is no majority"
    assert [moved(event, seat.public_key) for seat in seats] == [0, PAY // 4, PAY // 4]
    hold = chain.open_duel()
    seats, ballots = chain.duel(hold).seats, [DuelBallot(ABSTAIN)] * 2 + chain.agree(hold, EXECUTOR)[2:]
    event = chain.judge(hold, ballots)
    assert isinstance(event, DuelSettled)
    assert event.verdict.value == "executor won"
    assert [moved(event, seat.public_key) for seat in seats] == [0, 0, PAY]
    hold = chain.open_duel(solo=True)
    event = chain.judge(hold, [DuelBallot(ABSTAIN)] * len(chain.duel(hold).seats))
    assert isinstance(event, DuelSettled)
    assert event.verdict.value == "tie" and not event.movements
