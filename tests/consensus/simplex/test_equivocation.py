"""A validator that contradicts itself is found out, by whatever way its votes come and however late."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.types.blocks import Block
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, is_slashable, make_certificate
from consensus.simplex.core import Simplex
from consensus.simplex.equivocation import MAX_REMEMBERED_VIEWS, EquivocationDetector
from consensus.simplex.messages import Conflict, Effect, Send
from consensus.simplex.replies import VAIN_VOTE_PEERS
from tests.support.agreement.committee import Committee

NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE
X, Y = b"x" * 32, b"y" * 32
C = Committee(4)
ME = C.get_follower(1, 2, 3)
LIAR, *OTHERS = [number for number in range(4) if number != ME]
PAIRS = [
    (C.vote(LIAR, NOTARIZE, 1, X), C.vote(LIAR, NOTARIZE, 1, Y)),
    (C.vote(LIAR, FINALIZE, 1, X), C.vote(LIAR, FINALIZE, 1, Y)),
    (C.vote(LIAR, NULLIFY, 1), C.vote(LIAR, FINALIZE, 1, X)),
]


def certify(
    kind: VoteKind, view: int, block_id: bytes = NO_BLOCK, signers: tuple[int, ...] = (LIAR, *OTHERS)
) -> Certificate:
    return make_certificate([C.vote(number, kind, view, block_id) for number in signers], C.validators)


def get_pairs(effects: list[Effect]) -> list[tuple[Vote, Vote]]:
    return [(effect.first, effect.second) for effect in effects if isinstance(effect, Conflict)]


def give_up_and_go_on(*, number: int | None = ME) -> tuple[Simplex, Block]:
    """A core for which view 1 was nullified and the block of view 2 is final."""
    core = C.make_core(number)
    core.start()
    nullification = certify(NULLIFY, 1)
    core.on_message(nullification)
    block = C.build(C.get_leader(2), 2, None, None, (nullification,))
    core.on_message(C.propose(block))
    core.on_executed(block.id, True)
    core.on_message(certify(NOTARIZE, 2, block.id))
    core.on_message(certify(FINALIZE, 2, block.id))
    assert core.finalized.height == 1
    return core, block


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("is_turned", [False, True])
def test_the_three_pairs(pair: tuple[Vote, Vote], is_turned: bool) -> None:
    first, second = pair[::-1] if is_turned else pair
    detector = EquivocationDetector(C.chain_id)
    assert detector.is_new(first) and detector.observe([first]) == []
    assert not detector.is_new(first)
    assert detector.observe([second]) == [(first, second)] and is_slashable(first, second)
    assert detector.has_equivocated(first) and detector.observe([first, second]) == [], "once"
    assert detector.observe([C.vote(OTHERS[0], VoteKind(second.kind), 1, second.block_id)]) == []


def test_what_is_honest_is_no_contradiction() -> None:
    detector = EquivocationDetector(C.chain_id)
    honest = [
        C.vote(LIAR, NOTARIZE, 1, X), C.vote(LIAR, NULLIFY, 1), C.vote(LIAR, NOTARIZE, 2, X),
        C.vote(LIAR, FINALIZE, 2, X), replace(C.vote(LIAR, NOTARIZE, 1, Y), epoch=1),
    ]  # fmt: skip
    assert detector.observe(honest) == []


def test_a_forged_vote_accuses_no_validator() -> None:
    """As when the signers of a certificate were looked up in the wrong committee."""
    detector = EquivocationDetector(C.chain_id)
    real, other = C.vote(LIAR, NOTARIZE, 1, X), C.vote(OTHERS[0], NOTARIZE, 1, Y)
    mistaken = replace(other, signer=real.signer)
    assert detector.observe([real, mistaken]) == []
    assert detector.observe([C.vote(LIAR, NOTARIZE, 1, Y)]) == [(real, C.vote(LIAR, NOTARIZE, 1, Y))]
    detector = EquivocationDetector(C.chain_id)
    assert detector.observe([mistaken, real]) == []
    assert detector.observe([C.vote(LIAR, NOTARIZE, 1, Y)]) == [(real, C.vote(LIAR, NOTARIZE, 1, Y))]


def test_the_latest_views_are_remembered() -> None:
    detector = EquivocationDetector(C.chain_id)
    detector.observe(C.vote(LIAR, NOTARIZE, view, X) for view in range(1, MAX_REMEMBERED_VIEWS + 11))
    assert not detector.is_new(C.vote(LIAR, NOTARIZE, 5, Y)) and detector.observe([C.vote(LIAR, NOTARIZE, 5, Y)]) == []
    assert detector.observe([C.vote(LIAR, NOTARIZE, 11, Y)])
    assert len(detector._views) == MAX_REMEMBERED_VIEWS


@pytest.mark.parametrize("number", [ME, None])
def test_a_finalize_in_a_view_that_was_given_up_long_ago(number: int | None) -> None:
    core, _ = give_up_and_go_on(number=number)
    late = C.vote(LIAR, FINALIZE, 1, X)
    assert get_pairs(core.on_message(late)) == [(C.vote(LIAR, NULLIFY, 1), late)]
    assert get_pairs(core.on_message(late)) == []
    forged = replace(C.vote(OTHERS[0], FINALIZE, 1, X), signature=bytes(64))
    assert get_pairs(core.on_message(forged)) == []


def test_a_second_certificate_of_the_same_kind_is_compared_too() -> None:
    """The first has not the liar's vote; it told us something else."""
    core = C.make_core(ME)
    core.start()
    told = C.vote(LIAR, NOTARIZE, 1, Y)
    core.on_message(told)
    assert get_pairs(core.on_message(certify(NOTARIZE, 1, X, (*OTHERS, ME)))) == []
    assert get_pairs(core.on_message(certify(NOTARIZE, 1, X))) == [(told, C.vote(LIAR, NOTARIZE, 1, X))]


def test_the_body_of_a_block_says_what_others_voted_for() -> None:
    told = C.vote(LIAR, NOTARIZE, 2, Y)
    parent = certify(NOTARIZE, 2, X)
    block = C.build(C.get_leader(3), 3, C.build(C.get_leader(2), 2), parent)
    for body in (
        block.body,
        replace(block.body, parent_certificate=None, late_votes=tuple(parent.votes(C.validators))),
    ):
        detector = EquivocationDetector(C.chain_id)
        detector.observe([told])
        found = detector.observe_block(replace(block, body=body), lambda epoch: C.validators)
        assert found == [(told, C.vote(LIAR, NOTARIZE, 2, X))]
    detector.observe_block(block, lambda epoch: None)  # of a committee that is not known


def test_votes_that_came_to_nothing_are_shown_to_others() -> None:
    """Two sides saw one block each of a leader that made two; neither was notarized."""
    core = C.make_core(ME)
    core.start()
    votes = [C.vote(LIAR, NOTARIZE, 1, X), C.vote(OTHERS[0], NOTARIZE, 1, X)]
    for vote in votes:
        core.on_message(vote)
    nullification = certify(NULLIFY, 1)
    core.on_message(nullification)
    block = C.build(C.get_leader(2), 2, None, None, (nullification,))
    core.on_message(C.propose(block))
    core.on_executed(block.id, True)
    effects = core.on_message(certify(FINALIZE, 2, block.id))
    shown = [effect for effect in effects if isinstance(effect, Send)]
    assert {effect.message for effect in shown} == set(votes)
    assert len(shown) == len(votes) * (VAIN_VOTE_PEERS - 1)  # not to its signer, and all of four are asked
    assert not any(effect.peer == core._me for effect in shown)
    other = C.make_core(OTHERS[1])
    other.start()
    other.on_message(C.vote(LIAR, NOTARIZE, 1, Y))
    [pair] = [pair for effect in shown for pair in get_pairs(other.on_message(effect.message))]
    assert pair == (C.vote(LIAR, NOTARIZE, 1, Y), votes[0])


def test_what_was_agreed_on_is_not_passed_on() -> None:
    core = C.make_core(ME)
    core.start()
    block = C.build(C.get_leader(1), 1)
    core.on_message(C.propose(block))
    core.on_executed(block.id, True)
    core.on_message(C.vote(LIAR, NOTARIZE, 1, block.id))
    core.on_message(certify(NOTARIZE, 1, block.id))
    effects = core.on_message(certify(FINALIZE, 1, block.id))
    assert not [effect for effect in effects if isinstance(effect, Send)]


def test_a_certificate_has_news_exactly_if_one_of_its_votes_is_new() -> None:
    detector = EquivocationDetector(C.chain_id)
    first, *rest = (C.vote(number, NOTARIZE, 1, X) for number in range(4))
    certificates = [certify(NOTARIZE, 1, X), certify(NOTARIZE, 1, Y), certify(NULLIFY, 1), certify(NOTARIZE, 2, X)]
    for votes in ([], [first], rest, [C.vote(LIAR, NOTARIZE, 1, Y)], certify(NOTARIZE, 2, X).votes(C.validators)):
        detector.observe(votes)
        for certificate in certificates:
            is_new = any(map(detector.is_new, list(certificate.votes(C.validators))))
            assert detector.has_new_votes(certificate, C.validators) is is_new
    assert detector.has_new_votes(replace(certify(NOTARIZE, 2, X), signers=(0, 1, 4)), C.validators), "to be refused"
    old = EquivocationDetector(C.chain_id, 1)
    old.observe([C.vote(LIAR, NOTARIZE, 2, X)])
    assert not old.has_new_votes(certify(NOTARIZE, 1, X), C.validators)
