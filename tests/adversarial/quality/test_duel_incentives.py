"""What each party of a duel gains by lying, in credit on the real ledger and in work saved.

Amounts are thousandths of what was captured. An answer is assumed to cost half of its price and a verdict as much as
the genesis check assumes; what is measured is what the ledger moves.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.parameters.duel_economics import JUDGEMENT_COST
from chain.state.duel_records import Duel
from chain.transition.duels.events import ChallengerReplaced, DuelOpened
from chain.transition.duels.money import compute_levy
from chain.transition.duels.verdict import DuelVerdict
from chain.types.operations import CaptureItem
from tests.support.chain_builder import MODEL, do, refusal
from tests.support.chains.duel_chain import (
    AMOUNT,
    CHALLENGER,
    DUEL_PARAMETERS,
    DUELS,
    EXECUTOR,
    NEITHER,
    QUICK,
    SAME,
    DuelChain,
    make_ballot,
)

ANSWER_COST = 500

W, L = EXECUTOR, CHALLENGER


@pytest.fixture
def opened() -> tuple[DuelChain, bytes]:
    chain = DuelChain()
    return chain, chain.open_duel()


def run(chain: DuelChain, hold: bytes, votes: list[str | None], unusable: tuple[str, ...] = ()) -> dict[bytes, int]:
    """Carry a duel through. Returns what each account got, in thousandths."""
    seats = chain.duel(hold).seats
    ballots = [
        None if vote is None else make_ballot(seat, vote, unusable) for seat, vote in zip(seats, votes, strict=True)
    ]
    result = chain.judge(hold, ballots)
    return {each.public_key: each.amount * 1_000 // AMOUNT for each in result.movements}


# The challenger.


@pytest.mark.parametrize("votes", [[W, W, W], [L, L, L], [W, L, NEITHER]])
def test_a_challenger_earns_more_than_its_answer_costs_whatever_the_verdict(
    opened: tuple[DuelChain, bytes], votes: list[str | None]
) -> None:
    chain, hold = opened
    assert run(chain, hold, votes)[chain.events[hold][-1].duel.challenger or b""] > ANSWER_COST


def test_a_silent_challenger_pays_for_its_silence(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = opened
    lazy = chain.duel(hold).challenger
    chain.let_run_out(hold)
    event = chain.events[hold][-1]
    assert isinstance(event, ChallengerReplaced)
    assert (event.fine.public_key, event.fine.amount) == (lazy, -AMOUNT // 2)


def test_a_challenger_that_answers_rubbish_or_copies_earns_nothing(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = opened
    lazy = chain.duel(hold).challenger or b""
    assert lazy not in run(chain, hold, [W, W, W], unusable=(CHALLENGER,))
    hold = chain.open_duel()
    copyist = chain.duel(hold).challenger or b""
    assert copyist not in run(chain, hold, [SAME, SAME, SAME])


# The executor.


def test_an_executor_that_withholds_pays_more_than_one_that_loses(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = opened
    executor = chain.duel(hold).executor
    lost = run(chain, hold, [L, L, L])[executor]
    hold = chain.open_duel()
    executor = chain.duel(hold).executor
    result = chain.judge(hold, chain.agree(hold, NEITHER, missing=[EXECUTOR]))
    withheld = {each.public_key: each.amount * 1_000 // AMOUNT for each in result.movements}[executor]
    hold = chain.open_duel()
    executor = chain.duel(hold).executor
    for _ in range(3):
        chain.let_run_out(hold)
    moved = {each.public_key: each.amount * 1_000 // AMOUNT for each in chain.settled(hold).movements}
    unanswered = moved[executor]
    assert withheld == unanswered == -2_000 < lost == -500


def test_a_bond_that_is_leaving_is_reached_by_the_verdict(opened: tuple[DuelChain, bytes]) -> None:
    """An executor that unbonds everything once its answer is paid loses as much."""
    chain, hold = opened
    key = chain.keys[chain.duel(hold).executor]
    do(chain, chain.unbond(key, chain.account(key).free_bond), chain.serve(key, nonce=chain.account(key).nonce + 1))
    before = chain.account(key).total
    assert run(chain, hold, [L, L, L])[key.public_key] == -500
    assert chain.account(key).total == before - AMOUNT // 2


def test_an_executor_without_a_bond_pays_out_of_its_income() -> None:
    """A newcomer is compared like all others, and what it was paid for the answer was bonded, and is locked."""
    parameters = replace(DUEL_PARAMETERS, newcomer_share=1_000)
    chain = DuelChain(parameters=parameters)
    newcomer = chain.users[1]
    chain.append([chain.serve(newcomer, MODEL)])
    for _ in range(3 * parameters.round_heights):
        chain.append(elapsed=QUICK)
    for _ in range(30):
        hold = chain.open_duel()
        if chain.duel(hold).executor == newcomer.public_key:
            break
    duel = chain.duel(hold)
    before = chain.account(newcomer)
    assert duel.executor == newcomer.public_key
    assert duel.locked == before.locked == before.bonded > 0
    assert run(chain, hold, [L, L, L])[newcomer.public_key] == -500
    assert chain.account(newcomer) == replace(before, bonded=before.bonded - AMOUNT // 2, locked=0)


def test_an_answer_that_its_executor_calls_cancelled_is_drawn_all_the_same() -> None:
    chain = DuelChain()
    key = chain.executor(chain.payer, 0)
    do(chain, chain.hold(chain.payer, 0))
    do(chain, chain.capture(key, CaptureItem(chain.deliver(0, AMOUNT, "cancelled"), None)))
    chain.append(elapsed=DUEL_PARAMETERS.capture_grace_ms)
    assert chain.state.paid_captures(chain.head.height) is not None


# The judges.


def test_an_honest_judge_earns_more_than_its_verdict_costs(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = opened
    judge = chain.duel(hold).seats[0].public_key
    earned = run(chain, hold, [W, W, L])[judge]
    assert earned * 83 // 100 > JUDGEMENT_COST, "with the share of verdicts that agree with the majority"


def test_a_judge_that_keeps_its_ballot_back_pays_and_saves_no_one(opened: tuple[DuelChain, bytes]) -> None:
    """With one vote each way it could make a tie of a defeat; that costs it more than the defeat costs the executor."""
    chain, hold = opened
    executor, seats = chain.duel(hold).executor, chain.duel(hold).seats
    do(chain, chain.answer(hold), elapsed=QUICK)
    ballots = [make_ballot(seat, vote) for seat, vote in zip(seats, (W, L, L), strict=True)]
    cast = list(zip(seats, ballots, strict=True))
    do(chain, *[chain.commit(hold, *each) for each in cast], elapsed=QUICK)
    do(chain, *[chain.reveal(hold, *each) for each in cast[:2]], elapsed=QUICK)
    chain.let_run_out(hold)
    result = chain.settled(hold)
    moved = {each.public_key: each.amount * 1_000 // AMOUNT for each in result.movements}
    assert result.verdict is DuelVerdict.TIE and executor not in moved
    given_up = DUELS.judge - moved[seats[2].public_key]
    assert given_up == 850 > DUELS.executor_lost + DUELS.executor_won


def test_a_copied_commitment_cannot_be_opened(opened: tuple[DuelChain, bytes]) -> None:
    chain, hold = opened
    seats = chain.duel(hold).seats
    do(chain, chain.answer(hold), elapsed=QUICK)
    ballot = make_ballot(seats[0], W)
    copyist = chain.keys[seats[1].public_key]
    original = chain.commit(hold, seats[0], ballot)
    copied = chain.sign(copyist, original.operation)
    do(chain, original, copied, chain.commit(hold, seats[2], make_ballot(seats[2], W)), elapsed=QUICK)
    shown = chain.reveal(hold, seats[0], ballot)
    do(chain, shown, elapsed=QUICK)
    assert "not the one" in refusal(chain, chain.sign(copyist, shown.operation))
    chain.let_run_out(hold)
    moved = {each.public_key: each.amount for each in chain.settled(hold).movements}
    assert moved[copyist.public_key] == -AMOUNT // 2


def test_two_judges_of_three_cannot_be_bought_for_what_a_verdict_is_worth(opened: tuple[DuelChain, bytes]) -> None:
    """Each of them could earn as much with the truth."""
    chain, hold = opened
    duel = chain.duel(hold)
    lost = run(chain, hold, [L, L, L])
    hold = chain.open_duel()
    duel = chain.duel(hold)
    won = run(chain, hold, [W, W, L])
    worth = won[duel.executor] - min(lost.values())
    assert worth == 750
    judge = duel.seats[0].public_key
    assert worth <= 2 * won[judge] + 50


# Coalitions.


@pytest.mark.parametrize("share", [0.0, 1 / 3])
def test_requests_of_ones_own_cost_more_than_their_duels_bring(opened: tuple[DuelChain, bytes], share: float) -> None:
    """A payer and its own executor, whose friends hold a share of the other seats, and which wins every duel."""
    chain, hold = opened
    duel = chain.duel(hold)
    moved = run(chain, hold, [W, W, W])
    seats = moved[duel.challenger or b""] + sum(moved[seat.public_key] for seat in duel.seats)
    gain = (moved[duel.executor] + share * seats) * DUELS.rate / 1_000
    assert gain < compute_levy(DUELS, 1_000, 500)


def test_no_proposer_changes_a_draw_by_what_it_puts_into_its_block() -> None:
    """Who takes part is fixed before its operations; another time, or other operations, change nothing."""
    chain = DuelChain()
    chain.pay_answers(8)
    while True:
        leaving = [chain.serve(key) for key in chain.validators if key is not chain.leader(find_view(chain))]
        _, plain, _ = chain.propose(elapsed=QUICK)
        _, crowded, rejected = chain.propose(leaving, elapsed=DUELS.answer_ms)
        assert not rejected
        first, second = (
            [read_parties(event.duel) for event in found.duel_events if isinstance(event, DuelOpened)]
            for found in (plain, crowded)
        )
        assert first == second
        if first:
            return
        chain.append(elapsed=QUICK)


def find_view(chain: DuelChain) -> int:
    return chain.head.view + 1 if chain.head.epoch == chain.next_epoch else 1


def read_parties(duel: Duel) -> tuple[bytes | None, ...]:
    return (duel.executor, duel.challenger, *(seat.public_key for seat in duel.seats))


def test_three_silent_friends_pay_for_what_they_make_their_victim_pay(opened: tuple[DuelChain, bytes]) -> None:
    """All three challengers of a duel are of one coalition: it takes luck, and three quarters of the damage."""
    chain, hold = opened
    victim = chain.duel(hold).executor
    for _ in range(3):
        chain.let_run_out(hold)
    moved = [event.fine for event in chain.events[hold] if isinstance(event, ChallengerReplaced)]
    moved += chain.settled(hold).movements
    damage = -sum(each.amount for each in moved if each.public_key == victim)
    paid = -sum(each.amount for each in moved if each.public_key != victim)
    assert (paid, damage) == (AMOUNT * 3 // 2, 2 * AMOUNT)
