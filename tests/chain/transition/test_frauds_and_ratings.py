"""What follows from useless and withheld answers: the second panel, frauds, probation, ratings and exposure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.codec import MAX_INT
from chain.crypto import hash_bytes
from chain.genesis import compute_serving_table
from chain.parameters.parameters import Parameters
from chain.state.duel_records import COMMIT
from chain.state.keys import rating_key
from chain.state.lottery import ServingEntry, ServingTable
from chain.state.ratings import (
    FULL_EXPOSURE,
    LOST,
    MAX_OF_ONE_PAYER,
    RATED_DUELS,
    TIED,
    VOID,
    WON,
    ExecutorRating,
)
from chain.state.state import State
from chain.transition.duels.events import DuelSettled, ExecutorAccused
from chain.transition.duels.money import get_rate
from chain.transition.duels.verdict import DuelVerdict
from chain.types.duels import SECOND_PANEL
from tests.support.chain_builder import MODEL
from tests.support.chains.duel_chain import (
    AMOUNT,
    CHALLENGER,
    DUEL_PARAMETERS,
    DUELS,
    EXECUTOR,
    JUDGE,
    NEITHER,
    QUICK,
    DuelChain,
    make_ballot,
)


def accuse(chain: DuelChain, solo: bool = False) -> bytes:
    """A duel in which all judges call the executor's answer unusable."""
    hold = chain.open_duel(solo=solo)
    better = NEITHER if solo else CHALLENGER
    chain.judge(hold, chain.agree(hold, better, unusable=[EXECUTOR]))
    return hold


def confirm(chain: DuelChain, hold: bytes, votes: int, absent: int = 0) -> DuelSettled:
    """The verdict of a second panel of which so many accuse, and some do not vote."""
    seats = chain.duel(hold).seats
    ballots = [make_ballot(seat, NEITHER, [EXECUTOR] if number < votes else []) for number, seat in enumerate(seats)]
    event = chain.judge(hold, [*ballots[: len(seats) - absent], *[None] * absent])
    assert isinstance(event, DuelSettled)
    return event


# The second panel.


@pytest.mark.parametrize("solo", [False, True])
def test_a_useless_answer_is_looked_at_by_five_others(solo: bool) -> None:
    chain = DuelChain(11)
    hold = accuse(chain, solo)
    event, duel = chain.events[hold][-1], chain.duel(hold)
    assert isinstance(event, ExecutorAccused)
    assert event.verdict is (DuelVerdict.UNUSABLE if solo else DuelVerdict.EXECUTOR_LOST)
    assert duel.is_accused and duel.stage == COMMIT and len(duel.seats) == SECOND_PANEL
    taking_part = [duel.payer, duel.executor, *(seat.public_key for seat in (*event.first_seats, *duel.seats))]
    taking_part += [duel.challenger] if duel.challenger else []
    assert len({*taking_part}) == len(taking_part)
    assert duel.locked == 20 * AMOUNT and duel.reserved == 5 * AMOUNT * 350 // 1_000
    moved = {each.public_key: each.amount for each in event.movements}
    assert moved.get(duel.executor) == (None if solo else -AMOUNT // 2), "the first verdict is carried out"


@pytest.mark.parametrize(("votes", "absent", "is_fraud"), [(5, 0, True), (4, 0, True), (4, 1, True), (3, 0, False)])
def test_four_of_five_make_a_fraud(votes: int, absent: int, is_fraud: bool) -> None:
    chain = DuelChain(11)
    hold = accuse(chain)
    duel, before = chain.duel(hold), chain.state.account(chain.duel(hold).executor)
    result = confirm(chain, hold, votes, absent)
    assert result.verdict is (DuelVerdict.FRAUD if is_fraud else DuelVerdict.NOT_CONFIRMED)
    moved = {each.public_key: each.amount for each in result.movements}
    assert moved.pop(duel.executor, 0) == (-20 * AMOUNT if is_fraud else 0)
    judges = [350 * AMOUNT // 1_000] * (SECOND_PANEL - absent) + [-AMOUNT // 2] * absent
    assert [moved[seat.public_key] for seat in duel.seats] == judges, "asked to look again, whatever they find"
    after = chain.state.account(duel.executor)
    assert after.locked == before.locked - duel.locked
    assert after.bonded == before.bonded - (20 * AMOUNT if is_fraud else 0)
    rating = chain.state.rating(duel.executor)
    assert (rating.duels, rating.probation) == ((0, DUELS.probation_duels * AMOUNT) if is_fraud else (1, 0))


def test_a_fraud_costs_less_where_answers_are_drawn_more_often() -> None:
    """On probation twice as often here: it costs half, and adds half to the probation."""
    chain = DuelChain(11, parameters=replace(DUEL_PARAMETERS, duels=replace(DUELS, rate=250)))
    hold = accuse(chain)
    executor = chain.duel(hold).executor
    assert chain.duel(hold).rate == DUELS.probation_rate == 500
    moved = {each.public_key: each.amount for each in confirm(chain, hold, 5).movements}
    assert moved[executor] == -20 * AMOUNT // 2
    assert chain.state.rating(executor).probation == DUELS.probation_duels * AMOUNT // 2


def test_a_question_that_no_one_can_answer_accuses_no_one() -> None:
    chain = DuelChain(11)
    hold = chain.open_duel()
    event = chain.judge(hold, chain.agree(hold, CHALLENGER, unusable=[EXECUTOR, CHALLENGER]))
    assert isinstance(event, DuelSettled)


ONE_JUDGE = replace(DUEL_PARAMETERS, duels=replace(DUELS, judges=1, judge=700))


@pytest.mark.parametrize(("validators", "parameters"), [(9, DUEL_PARAMETERS), (11, ONE_JUDGE)])
def test_without_enough_judges_no_executor_is_accused(validators: int, parameters: Parameters) -> None:
    """Five besides the parties and the first three; and three at first."""
    chain = DuelChain(validators, parameters=parameters)
    hold = chain.open_duel()
    event = chain.judge(hold, chain.agree(hold, CHALLENGER, unusable=[EXECUTOR]))
    assert isinstance(event, DuelSettled) and event.verdict is DuelVerdict.EXECUTOR_LOST


def test_a_fraud_takes_what_there_is() -> None:
    chain = DuelChain(11, stakes=[10_000] * 11)
    hold = accuse(chain)
    executor = chain.duel(hold).executor
    before = chain.state.account(executor)
    result = confirm(chain, hold, 5)
    taken = -next(each.amount for each in result.movements if each.public_key == executor)
    assert taken == 20 * AMOUNT, "the bond, and then what it has available"
    assert chain.state.account(executor).bonded == 0
    assert chain.state.account(executor).total == before.total - taken


# Void duels.


def test_three_void_duels_in_twenty_count_as_a_fraud_once() -> None:
    payer, rating = hash_bytes("payer"), ExecutorRating()
    for number in range(3):
        assert rating.voids == number
        rating = rating.add(payer, VOID, AMOUNT)
    after = rating.note_fraud(AMOUNT)
    assert (rating.voids, after.voids, after.duels, after.points) == (3, 0, 2, rating.points)
    for _ in range(19):
        rating = rating.add(hash_bytes("other"), WON, AMOUNT)
    assert rating.voids == 1


def test_every_third_void_duel_of_an_executor_costs_as_much_as_a_fraud() -> None:
    chain = DuelChain(8)
    for _ in range(4):
        chain.pay_answers(16, amount=100)
        for _ in range(40):
            chain.append(elapsed=QUICK)
    for _ in range(6):
        chain.append(elapsed=DUELS.answer_ms)
    paid: dict[bytes, list[int]] = {}
    for events in chain.events.values():
        if isinstance(last := events[-1], DuelSettled) and last.verdict is DuelVerdict.UNANSWERED:
            owed = sum(-each.amount for each in last.movements if each.public_key == last.duel.executor)
            paid.setdefault(last.duel.executor, []).append(owed)
    assert max(map(len, paid.values())) >= 3
    for amounts in paid.values():
        assert {*amounts} <= {200, 200 + 2_000}
        assert amounts.count(200 + 2_000) == len(amounts) // 3


# Probation.


def test_the_first_duels_come_more_often_and_pay_for_it() -> None:
    """So do those after a fraud, if they cost no more than what duels have yet to be about."""
    rules = replace(DUELS, rate=50, probation_duels=2, probation_rate=500)
    executor, payer = hash_bytes("executor"), hash_bytes("payer")

    def rate(rating: ExecutorRating, amount: int = AMOUNT) -> int:
        return get_rate(State().update({rating_key(executor): rating}), rules, executor, amount)

    rating = ExecutorRating()
    for expected in (500, 500, 50, 50):
        assert rate(rating) == expected
        rating = rating.add(payer, None, AMOUNT)
    rating = rating.note_fraud(AMOUNT).note_fraud(AMOUNT + 1)
    assert rating.duels == 2
    assert rate(rating, 2 * AMOUNT + 1) == 500 and rate(rating, 2 * AMOUNT + 2) == 50
    for expected in (500, 500, 50):
        assert rate(rating) == expected
        rating = rating.add(payer, WON, AMOUNT)
    assert rating.probation == 0 and rate(rating.begin_anew()) == 500
    assert rating.note_fraud(MAX_INT).note_fraud(1).probation == MAX_INT
    assert get_rate(State(), replace(rules, rate=600), executor, AMOUNT) == 600


# Ratings and exposure.

results = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([LOST, TIED, WON, VOID])), max_size=400)


@given(results=results)
def test_a_rating_remembers_the_last_duels_and_few_of_one_payer(results: list[tuple[int, int]]) -> None:
    rating, kept = ExecutorRating(), list[tuple[int, int]]()
    for payer, result in results:
        rating = rating.add(hash_bytes("payer", bytes([payer])), result, AMOUNT)
        same = [entry for entry in kept if entry[0] == payer]
        if len(same) == MAX_OF_ONE_PAYER:
            kept.remove(same[0])
        kept = [*kept, (payer, result)][-RATED_DUELS:]
    assert len(rating.results) == 9 * len(kept) and rating.duels == len(results)
    points = sum(result for _, result in kept if result != VOID) + RATED_DUELS - len(kept)
    assert rating.points == max(40, points)
    assert rating.voids == sum(result == VOID for _, result in kept[-20:])
    assert ExecutorRating.decode(rating.encode()) == rating


def test_exposure_falls_with_the_cube_of_the_odds_and_never_rises_above_the_stake() -> None:
    def rate(won: int, lost: int) -> ExecutorRating:
        rating = ExecutorRating()
        for number in range(won + lost):
            payer = hash_bytes("payer", bytes([number % 100]))
            rating = rating.add(payer, WON if number < won else LOST, AMOUNT)
        return rating

    assert ExecutorRating().compute_exposure(3) == FULL_EXPOSURE
    assert rate(200, 0).compute_exposure(3) == FULL_EXPOSURE, "there is nothing to farm"
    assert rate(80, 120).compute_exposure(3) == FULL_EXPOSURE * 160**3 // 240**3 == 296_296
    assert rate(80, 120).compute_exposure(0) == FULL_EXPOSURE
    assert rate(0, 200).compute_exposure(3) == FULL_EXPOSURE * 40**3 // 360**3 == 1_371, "and never falls to nothing"
    assert rate(0, 20).compute_exposure(1) == FULL_EXPOSURE * 180 // 220, "few duels say little"


def test_a_payer_sinks_no_executor_alone() -> None:
    """Its duels beyond twenty replace its own."""
    rating = ExecutorRating()
    for _ in range(200):
        rating = rating.add(hash_bytes("payer"), LOST, AMOUNT)
    assert rating.points == 200 - 20 and rating.compute_exposure(3) > FULL_EXPOSURE // 2


def test_the_serving_table_freezes_exposure_and_draws_by_it() -> None:
    chain = DuelChain(4)
    bad = chain.validators[0].public_key
    rating = ExecutorRating()
    for number in range(200):
        rating = rating.add(hash_bytes("payer", bytes([number])), LOST, AMOUNT)
    state = chain.state.update({rating_key(bad): rating})
    table = compute_serving_table(state, DUEL_PARAMETERS, bytes(32))
    exposures = {entry.public_key: entry.exposure for entry in table.entries}
    assert exposures == {key.public_key: FULL_EXPOSURE for key in chain.validators} | {bad: 1_371}
    without = replace(DUEL_PARAMETERS, duels=replace(DUELS, rate=0))
    assert {e.exposure for e in compute_serving_table(state, without, bytes(32)).entries} == {FULL_EXPOSURE}
    lottery = table.lottery(MODEL)
    first = [lottery.get_executor(hash_bytes("seed", bytes([a, b])), b"", 0) for a in range(4) for b in range(250)]
    assert first.count(bad) < 10
    challengers = [next(table.draw_challengers(MODEL, hash_bytes("s", bytes([a])), ())) for a in range(200)]
    assert challengers.count(bad) > 20, "it is still asked to compare others"


def test_an_exposed_account_keeps_a_ticket() -> None:
    entry = ServingEntry(bytes(32), 5, (MODEL,), JUDGE, 1)
    assert entry.tickets == 1
    assert ServingTable((entry,), 0).lottery(MODEL).get_executor(bytes(32), b"", 0) == bytes(32)
