"""The core after many nullified views, and with votes that come late: what it waits for, repeats and keeps."""

from __future__ import annotations

import pytest

from chain.types.blocks import MAX_NULLIFICATIONS, Block, sign_proposal
from chain.types.votes import Certificate, VoteKind, make_certificate
from consensus.simplex.core import Simplex
from consensus.simplex.messages import (
    Broadcast,
    Build,
    Commit,
    Conflict,
    ExecuteBlock,
    PersistVote,
    Reject,
    Repropose,
    Send,
    SetTimer,
    UpdateFinality,
)
from consensus.simplex.replies import MAX_REPLIES, MAX_REPLY_CERTIFICATES
from consensus.simplex.validation import FinalizedBlock
from consensus.simplex.views import MAX_PAST_VIEWS, VIEW_WINDOW
from tests.support.agreement.committee import Committee, get_votes

NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE

VIEW = 2 * MAX_NULLIFICATIONS
"""A view with more nullified ones before it than a block may carry."""


@pytest.fixture(scope="module")
def committee() -> Committee:
    return Committee()


@pytest.fixture(scope="module")
def nullifications(committee: Committee) -> list[Certificate]:
    """Those of the views before ``VIEW``; the first is of view 1."""
    return [committee.certify(NULLIFY, view) for view in range(1, VIEW)]


def follow(committee: Committee, *views: int, **changes: object) -> Simplex:
    core = committee.make_core(committee.get_follower(*views), **changes)
    core.start()
    return core


def others(committee: Committee, core: Simplex) -> list[int]:
    return [number for number in range(4) if committee.keys[number].public_key != core._me]


def build_late(committee: Committee, nullifications: list[Certificate], view: int = VIEW) -> Block:
    """A block of ``view`` on the first parent, with what a body must carry."""
    return committee.build(committee.get_leader(view), view, nullifications=tuple(nullifications[-MAX_NULLIFICATIONS:]))


# Rule 1: the last nullifications only.


def test_a_leader_carries_the_last_nullifications(committee: Committee, nullifications: list[Certificate]) -> None:
    leader = committee.get_leader(VIEW)
    core = committee.make_core(committee.keys.index(leader))
    core.start()
    orders = [e for c in nullifications for e in core.on_message(c) if isinstance(e, Build) and e.view == VIEW]
    assert orders == [Build(VIEW, committee.final.block_id, None, tuple(nullifications[-MAX_NULLIFICATIONS:]))]
    assert get_votes(core.on_built(VIEW, build_late(committee, nullifications))) == [("notarize", VIEW)]


@pytest.mark.parametrize("count", [MAX_NULLIFICATIONS - 1, MAX_NULLIFICATIONS + 1, VIEW - 1])
def test_a_body_with_another_number_of_them_is_refused(
    committee: Committee, nullifications: list[Certificate], count: int
) -> None:
    core = follow(committee, VIEW)
    block = committee.build(committee.get_leader(VIEW), VIEW, nullifications=tuple(nullifications[-count:]))
    [reject] = core.on_message(committee.propose(block))
    assert isinstance(reject, Reject) and reject.reason.startswith("nullifications")


@pytest.mark.parametrize("view", [5, 6])
def test_a_parent_of_the_same_or_a_later_view_is_refused(committee: Committee, view: int) -> None:
    """No nullification is needed for no view between: the order of the views must be looked at by itself."""
    core = follow(committee, 5, 6)
    parent = committee.build(committee.get_leader(view), view)
    block = committee.build(committee.get_leader(5), 5, parent, committee.certify(NOTARIZE, view, parent.id))
    [reject] = core.on_message(committee.propose(block))
    assert isinstance(reject, Reject) and reject.reason.startswith("view")


# Rule 2: a vote only by who holds the others.


def test_no_vote_before_all_nullifications_are_held(committee: Committee, nullifications: list[Certificate]) -> None:
    """The proposal of a view that is near waits until rule 6 has brought what its body lacks."""
    core = follow(committee, VIEW)
    block = build_late(committee, nullifications)
    gap = VIEW - MAX_NULLIFICATIONS - 1
    for certificate in nullifications[: gap - VIEW_WINDOW + 1]:
        core.on_message(certificate)
    effects = core.on_message(committee.propose(block))
    assert core.view < gap, "nullifications are missing in between"
    for certificate in nullifications[gap - VIEW_WINDOW + 1 : gap - 1]:
        effects += core.on_message(certificate)
    assert core.view == gap
    assert not get_votes(effects)
    assert not [effect for effect in effects if isinstance(effect, ExecuteBlock)]
    effects = core.on_message(nullifications[gap - 1])
    assert core.view == VIEW
    # The proposal was too far ahead when it came, so that it was not kept; the leader's next word counts.
    assert not get_votes(effects)
    effects = core.on_message(committee.propose(block))
    assert ExecuteBlock(block) in effects
    assert get_votes(core.on_executed(block.id, True)) == [("notarize", VIEW)]


def test_a_proposal_that_is_a_little_early_is_kept() -> None:
    committee = Committee()
    view = MAX_NULLIFICATIONS + 3  # its body proves all but two of the views before
    block = build_late(committee, [committee.certify(NULLIFY, skipped) for skipped in range(1, view)], view)
    core = follow(committee, view)
    core.on_message(committee.propose(block))
    assert (core.view, core._views[view].proposal) == (1, None), "not that early"
    near = view - VIEW_WINDOW
    core.on_message(committee.certify(NOTARIZE, near - 1, b"x" * 32))
    assert core.view == view
    core = follow(committee, view)
    core.view = near  # as if it had come here by other ways
    effects = core.on_message(committee.propose(block))
    assert core.view == view
    assert not [effect for effect in effects if isinstance(effect, ExecuteBlock)]
    core.on_message(committee.certify(NULLIFY, 1))
    assert ExecuteBlock(block) in core.on_message(committee.certify(NULLIFY, 2))


def test_a_vote_needs_the_nullification_of_ones_own_tip(committee: Committee) -> None:
    """Who knows of a notarized block votes for none beside it, unless its view was nullified too.

    The body on the older parent does not reach back to the tip's view, which the leader need not prove any more.
    """
    tip = committee.build(committee.get_leader(2), 2, nullifications=(committee.certify(NULLIFY, 1),))
    nullifications = [committee.certify(NULLIFY, view) for view in range(1, VIEW)]
    block = build_late(committee, nullifications)
    for is_known in (False, True):
        core = follow(committee, VIEW)
        core.on_message(nullifications[0])
        if is_known:
            core.on_message(nullifications[1])
        core.on_message(committee.certify(NOTARIZE, 2, tip.id))
        for certificate in nullifications[2:]:
            core.on_message(certificate)
        assert core.view == VIEW
        effects = core.on_message(committee.propose(block))
        assert [effect.block for effect in effects if isinstance(effect, ExecuteBlock)] == [block] * is_known
        assert get_votes(core.on_executed(block.id, True)) == [("notarize", VIEW)] * is_known


def test_the_last_block_again_needs_them_too() -> None:
    committee = Committee(last_height=1)
    block = committee.build(committee.get_leader(1), 1)
    notarization = committee.certify(NOTARIZE, 1, block.id)
    nullifications = [committee.certify(NULLIFY, view) for view in range(2, VIEW)]
    proposal = sign_proposal(committee.get_leader(VIEW), committee.chain_id, 0, VIEW, block.id)
    again = Repropose(proposal, notarization, tuple(nullifications[-MAX_NULLIFICATIONS:]))
    core = follow(committee, VIEW)
    effects = core.on_message(committee.propose(block))
    core.on_executed(block.id, True)
    core.on_message(notarization)
    effects = core.on_message(again)
    assert core.view == 2
    assert not get_votes(effects)
    for certificate in nullifications:
        core.on_message(certificate)
    assert core.view == VIEW
    assert get_votes(core.on_message(again)) == [("notarize", VIEW)]
    whole = Repropose(proposal, notarization, tuple(nullifications))
    assert [type(effect) for effect in follow(committee, VIEW).on_message(whole)] == [Reject]


# Rule 5: no node waits alone, and one that is behind does not wait long.


def test_a_third_of_the_stake_need_not_be_waited_for(committee: Committee) -> None:
    core = follow(committee, 1)
    first, second, _ = others(committee, core)
    assert core.on_message(committee.vote(first, NULLIFY, 1)) == []
    effects = core.on_message(committee.vote(second, NULLIFY, 1))
    assert get_votes(effects) == [("nullify", 1)]
    assert core.view == 2, "three of four"

    core = follow(committee, 1, 2)
    core.on_message(committee.certify(NOTARIZE, 1, b"x" * 32))
    core._views[1].certificates.clear()
    core.view = 1
    for number in (first, second):
        assert get_votes(core.on_message(committee.vote(number, NULLIFY, 1))) == [], "it has finalized the view"


def test_who_is_behind_asks_soon_and_often(committee: Committee, nullifications: list[Certificate]) -> None:
    core = follow(committee, VIEW)
    assert SetTimer(1, 1.5) in core.on_message(nullifications[30])
    effects = [effect for certificate in nullifications[:20] for effect in core.on_message(certificate)]
    assert core.view == 21
    assert {effect.seconds for effect in effects if isinstance(effect, SetTimer)} == {1.5}
    assert get_votes(core.on_timeout(21)) == [("nullify", 21)]
    for certificate in nullifications[20:31]:
        core.on_message(certificate)
    assert core.view == 32
    assert core.on_work() == [SetTimer(32, 30.0)]


def test_answers_about_far_apart_views_are_counted_apart(
    committee: Committee, nullifications: list[Certificate]
) -> None:
    core = follow(committee, VIEW)
    for certificate in nullifications:
        core.on_message(certificate)
    laggard = others(committee, core)[0]
    received: list[Certificate] = []
    while len(received) < VIEW - 1:
        effects = core.on_message(committee.vote(laggard, NULLIFY, len(received) + 1))
        sent = [effect.message for effect in effects if isinstance(effect, Send)]
        received += [message for message in sent if isinstance(message, Certificate)]
    assert received == nullifications
    assert len(received) > MAX_REPLY_CERTIFICATES * MAX_REPLIES // 2


# Restarts.


def test_after_a_restart_the_votes_from_the_current_view_on_are_repeated(committee: Committee) -> None:
    number = committee.get_follower(VIEW)
    votes = [committee.vote(number, NULLIFY, view) for view in range(1, 2 * VIEW)]
    core = committee.make_core(number, votes=votes)
    started = [effect.message for effect in core.start() if isinstance(effect, Broadcast)]
    assert started == votes[:VIEW_WINDOW]
    repeated = []
    for view in range(1, VIEW):
        effects = core.on_message(committee.certify(NULLIFY, view))
        assert not [effect for effect in effects if isinstance(effect, PersistVote)]
        repeated += [effect.message for effect in effects if isinstance(effect, Broadcast)]
    assert set(votes[VIEW_WINDOW : VIEW + VIEW_WINDOW // 2 - 1]) <= set(repeated)
    core.on_work()
    again = [effect.message for effect in core.on_timeout(VIEW) if isinstance(effect, Broadcast)]
    assert [vote for vote in again if vote in votes] == votes[VIEW - 1 : VIEW + VIEW_WINDOW - 1]


def test_one_validator_alone_goes_through_its_own_votes_again() -> None:
    committee = Committee(1)
    votes = [committee.vote(0, NULLIFY, view) for view in range(1, VIEW)]
    core = committee.make_core(0, votes=votes)
    effects = core.start()
    assert core.view == VIEW
    assert [effect.view for effect in effects if isinstance(effect, Build)] == [VIEW]


# Votes that come late.


def make_branch(committee: Committee, length: int) -> list[tuple[Block, Certificate]]:
    branch: list[tuple[Block, Certificate]] = []
    for view in range(1, length + 1):
        parent = branch[-1] if branch else (None, None)
        block = committee.build(committee.get_leader(view), view, *parent)
        branch.append((block, committee.certify(NOTARIZE, view, block.id)))
    return branch


def test_notarize_votes_of_recent_blocks_are_kept_however_they_come(committee: Committee) -> None:
    core = follow(committee)
    branch = make_branch(committee, MAX_PAST_VIEWS + 4)
    for block, notarization in branch:
        core.on_message(committee.propose(block))
        core.on_message(notarization)  # by 0, 1 and 2
        core.on_message(committee.certify(FINALIZE, block.header.view, block.id))
    assert core.finalized.height == len(branch)
    blocks = [(block.header.view, block.id) for block, _ in branch]
    everybody = sorted(key.public_key for key in committee.keys)
    for block, _ in branch[-8:-1]:
        vote = committee.vote(3, NOTARIZE, block.header.view, block.id)
        assert core.on_message(vote) == []
        assert core.on_message(vote) == []
    found = core.get_notarize_votes(blocks[-8:-1])
    expected = [(block_id, signer) for _, block_id in blocks[-8:-1] for signer in everybody]
    assert {(vote.block_id, vote.signer) for vote in found} <= set(expected)
    assert [(vote.block_id, vote.signer) for vote in found if vote.signer != core._me] == [
        pair for pair in expected if pair[1] != core._me
    ]
    assert all(vote.is_valid(committee.chain_id) for vote in found)

    old, forged = blocks[0], committee.vote(3, NOTARIZE, blocks[-9][0], blocks[-9][1])
    assert core.on_message(committee.vote(3, NOTARIZE, *old)) == []
    assert core.get_notarize_votes([old]) == (), "bounded memory"
    wrong = committee.vote(3, NOTARIZE, blocks[-9][0], b"y" * 32)
    forged = type(forged)(**{name: getattr(forged, name) for name in forged.__slots__} | {"signature": bytes(64)})
    assert [type(effect) for effect in core.on_message(forged)] == [Reject]
    assert core.on_message(wrong) == []
    assert all(vote.signer != wrong.signer for vote in core.get_notarize_votes([blocks[-9]]))
    double = core.on_message(committee.vote(3, NOTARIZE, blocks[-9][0], blocks[-9][1]))
    assert double == [Conflict(wrong, committee.vote(3, NOTARIZE, *blocks[-9]))]


def test_votes_for_the_last_block_count_in_later_views_too() -> None:
    committee = Committee(last_height=1)
    block = committee.build(committee.get_leader(1), 1)
    core = follow(committee, 1, 2)
    core.on_message(committee.propose(block))
    core.on_message(committee.certify(NOTARIZE, 1, block.id))
    core.on_message(committee.certify(FINALIZE, 2, block.id))
    assert core.is_finished
    assert core.on_message(committee.vote(3, NOTARIZE, 2, block.id)) == []
    found = core.get_notarize_votes([(1, block.id)])
    assert {vote.signer: vote.view for vote in found if vote.signer != core._me}[committee.keys[3].public_key] == 2


def test_a_finalization_grows_until_the_next_one() -> None:
    committee = Committee(7)
    first = committee.build(committee.get_leader(1), 1)
    second = committee.build(committee.get_leader(2), 2, first, committee.certify(NOTARIZE, 1, first.id, 5))
    core = committee.make_core(None)
    core.start()
    for block in (first, second):
        core.on_message(committee.propose(block))
    final = committee.certify(FINALIZE, 1, first.id, 5)
    assert Commit(final, (first,)) in core.on_message(final)
    assert core.on_message(committee.vote(4, FINALIZE, 1, first.id)) == [], "it is inside"
    assert core.on_message(committee.vote(5, FINALIZE, 1, first.id)) == []
    effects = core.on_message(committee.certify(FINALIZE, 2, second.id, 5))
    assert effects[0] == UpdateFinality(committee.certify(FINALIZE, 1, first.id, 6))
    assert isinstance(effects[1], Commit)
    core.on_message(committee.vote(5, FINALIZE, 2, second.id))
    assert core.on_message(committee.vote(6, FINALIZE, 2, second.id)) == [
        UpdateFinality(committee.certify(FINALIZE, 2, second.id, 7))
    ]
    effects = core.on_message(committee.certify(FINALIZE, 3, b"x" * 32, 5))
    assert not [effect for effect in effects if isinstance(effect, UpdateFinality)], "nothing was gained since"


def test_the_last_finalization_of_an_epoch_grows_until_all_have_signed_it() -> None:
    committee = Committee(last_height=1)
    block = committee.build(committee.get_leader(1), 1)
    core = committee.make_core(None)
    core.start()
    core.on_message(committee.propose(block))
    core.on_message(committee.certify(FINALIZE, 1, block.id))
    assert core.is_finished
    effects = core.on_message(committee.vote(3, FINALIZE, 1, block.id))
    assert UpdateFinality(committee.certify(FINALIZE, 1, block.id, 4)) in effects


def test_nothing_grows_before_its_block_is_held(committee: Committee) -> None:
    block = committee.build(committee.get_leader(1), 1)
    core = committee.make_core(None)
    core.start()
    core.on_message(committee.certify(FINALIZE, 1, block.id))
    assert core.on_message(committee.vote(3, FINALIZE, 1, block.id)) == []
    assert [type(effect) for effect in core.on_block(block)] == [Commit]


def test_two_stories_told_to_two_sides_meet_in_a_certificate(committee: Committee) -> None:
    """The other side's story reaches us only inside a certificate, before or after we heard ours."""
    told = committee.vote(0, NOTARIZE, 1, b"y" * 32)
    certificate = committee.certify(NOTARIZE, 1, b"x" * 32)
    inside = committee.vote(0, NOTARIZE, 1, b"x" * 32)
    for first, second, pair in (
        (told, certificate, Conflict(told, inside)),
        (certificate, told, Conflict(inside, told)),
    ):
        core = committee.make_core(3)
        core.start()
        core.on_message(first)
        effects = core.on_message(second)
        assert [effect for effect in effects if isinstance(effect, Conflict)] == [pair]
        assert not [effect for effect in core.on_message(told) if isinstance(effect, Conflict)], "once"


def test_a_vote_first_met_in_a_certificate_is_no_repetition(committee: Committee) -> None:
    core = committee.make_core(3)
    core.start()
    core.on_message(committee.certify(NOTARIZE, 1, b"x" * 32))
    vote = committee.vote(0, NOTARIZE, 1, b"x" * 32)
    assert core.on_message(vote) == [], "it merely took longer than the certificate"
    assert [type(effect) for effect in core.on_message(vote)] == [Send], "its signer is stuck"


def test_own_votes_are_not_learned_from_others(committee: Committee) -> None:
    """What one's journal does not hold one did not say; a twin may have."""
    core = committee.make_core(0)
    core.start()
    core.on_message(make_certificate([committee.vote(n, NULLIFY, 1) for n in (0, 1, 2)], committee.validators))
    assert not core._views[1].votes[NULLIFY].get(committee.keys[0].public_key)


def test_a_restart_from_a_final_block_makes_its_finalization_stronger(committee: Committee) -> None:
    block = committee.build(committee.get_leader(1), 1)
    final = FinalizedBlock(block.id, 1, committee.certify(FINALIZE, 1, block.id))
    core = committee.make_core(None, finalized=final)
    core.start()
    vote = committee.vote(3, FINALIZE, 1, block.id)
    assert core.on_message(vote) == [UpdateFinality(committee.certify(FINALIZE, 1, block.id, 4))]
