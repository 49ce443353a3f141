"""Who may have which text of a duel, and how long it may be."""

from __future__ import annotations

from itertools import product

import pytest

from chain.parameters.parameters import Parameters, Price
from chain.state.check_records import CHECK_REVEAL
from chain.state.duel_records import ANSWER, COMMIT, REVEAL, STAGES
from chain.types.operations import Usage
from serving.offload.protocol import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES
from serving.quality.duels.texts import (
    FRAMING_BYTES,
    TextKind,
    compute_limit,
    compute_text_limit,
    find_check_refusal,
    find_refusal,
    list_kinds,
)
from serving.quality.same_model.transcript import MAX_TRANSCRIPT_BYTES
from tests.support.chains.checks import CHECKER, SECOND_CHECKER, make_check
from tests.support.chains.duels import CHALLENGER, EXECUTOR, PAYER, STRANGER, make_account, make_duel, make_seats

REQUEST, RESPONSE, OWN = TextKind.REQUEST, TextKind.RESPONSE, TextKind.ANSWER
SECOND_JUDGE = make_account(6)
SEATS = make_seats(3, first=5)
HOLDERS = {REQUEST: {EXECUTOR, PAYER}, RESPONSE: {EXECUTOR, PAYER}, OWN: {CHALLENGER}, TextKind.TRANSCRIPT: set()}
PEERS = (PAYER, EXECUTOR, CHALLENGER, SECOND_JUDGE, STRANGER)


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_challenger_and_the_judges_get_texts_and_each_in_its_stage(stage: int) -> None:
    duel = make_duel(stage=stage, seats=SEATS)
    for holder, peer, kind in product(PEERS, PEERS, TextKind):
        is_due = (stage, peer, kind) == (ANSWER, CHALLENGER, REQUEST) or (stage, peer) == (COMMIT, SECOND_JUDGE)
        is_given = find_refusal(duel, holder, peer, kind) is None
        assert is_given == (holder in HOLDERS[kind] and is_due), (stage, holder, peer, kind)


def test_nothing_is_handed_over_about_a_duel_that_is_not_open() -> None:
    assert all(find_refusal(None, EXECUTOR, peer, kind) for peer, kind in product(PEERS, TextKind))


def test_a_challenger_that_was_replaced_gets_and_gives_nothing() -> None:
    duel = make_duel(challenger=STRANGER, silent=(CHALLENGER,), seats=SEATS)
    assert find_refusal(duel, EXECUTOR, CHALLENGER, REQUEST) is not None
    assert find_refusal(duel, CHALLENGER, SECOND_JUDGE, OWN) is not None


def test_a_solo_check_is_about_one_answer() -> None:
    duel = make_duel(challenger=None, stage=COMMIT, seats=SEATS)
    assert list_kinds(duel) == (REQUEST, RESPONSE)
    assert list_kinds(make_duel()) == (REQUEST, RESPONSE, OWN)
    assert find_refusal(duel, CHALLENGER, SECOND_JUDGE, OWN) is not None


def test_judges_of_a_second_panel_replace_the_first() -> None:
    duel = make_duel(stage=COMMIT, seats=make_seats(5, first=10), is_accused=True)
    assert find_refusal(duel, EXECUTOR, SECOND_JUDGE, RESPONSE) is not None
    assert find_refusal(duel, EXECUTOR, make_account(12), RESPONSE) is None


def test_a_text_is_as_long_as_what_was_captured_allows() -> None:
    parameters = Parameters()
    amount = parameters.price.compute(Usage(700, 0))
    assert compute_limit(parameters, make_duel(amount=amount), REQUEST) == 700
    assert compute_limit(parameters, make_duel(amount=0), REQUEST) == 0
    assert compute_limit(parameters, make_duel(amount=0), RESPONSE) == FRAMING_BYTES
    for kind in (RESPONSE, OWN):
        limits = [compute_limit(parameters, make_duel(amount=amount), kind) for amount in (10**4, 10**5, 10**9)]
        assert sorted(limits) == limits and limits[0] > FRAMING_BYTES and limits[-1] == MAX_ANSWER_BYTES
    free = Parameters(price=Price(1, 0, 0))
    assert compute_limit(free, make_duel(), REQUEST) == MAX_REQUEST_BYTES
    assert compute_limit(free, make_duel(), RESPONSE) == MAX_ANSWER_BYTES


def test_the_reveal_needs_no_text() -> None:
    assert all(find_refusal(make_duel(stage=REVEAL), EXECUTOR, peer, kind) for peer, kind in product(PEERS, TextKind))


# Checks

CHECK_HOLDERS = {REQUEST: {EXECUTOR, PAYER}, RESPONSE: {EXECUTOR, PAYER}, OWN: set(), TextKind.TRANSCRIPT: {EXECUTOR}}
CHECK_PEERS = (PAYER, EXECUTOR, CHECKER, SECOND_CHECKER, STRANGER)


def test_checkers_get_request_answer_and_transcript_until_they_reveal() -> None:
    check = make_check()
    for holder, peer, kind in product(CHECK_PEERS, CHECK_PEERS, TextKind):
        is_given = find_check_refusal(check, None, holder, peer, kind) is None
        assert is_given == (holder in CHECK_HOLDERS[kind] and peer in (CHECKER, SECOND_CHECKER)), (holder, peer, kind)
        late = make_check(stage=CHECK_REVEAL)
        assert find_check_refusal(late, None, holder, peer, kind) is not None


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE, TextKind.TRANSCRIPT])
def test_a_checker_that_is_the_challenger_too_answers_first(kind: TextKind) -> None:
    check = make_check()
    answering = make_duel(challenger=CHECKER)
    assert find_check_refusal(check, answering, EXECUTOR, CHECKER, kind) == "answer the request first"
    assert find_check_refusal(check, answering, EXECUTOR, SECOND_CHECKER, kind) is None
    assert find_check_refusal(check, make_duel(challenger=CHECKER, stage=COMMIT), EXECUTOR, CHECKER, kind) is None


def test_a_transcript_has_a_limit_of_its_own() -> None:
    assert compute_text_limit(Parameters(), "m", 0, TextKind.TRANSCRIPT) == MAX_TRANSCRIPT_BYTES
