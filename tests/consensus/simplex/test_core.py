"""The core, rule by rule, one input at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from chain.crypto import KeyPair, hash_bytes
from chain.types.blocks import Block, sign_block, sign_proposal
from chain.types.votes import NO_BLOCK, Certificate, VoteKind, is_slashable, make_certificate
from consensus.exceptions import InvalidMessage
from consensus.simplex.core import Simplex
from consensus.simplex.messages import (
    Broadcast,
    Build,
    Commit,
    Conflict,
    Effect,
    ExecuteBlock,
    Fetch,
    PersistVote,
    Propose,
    Reject,
    Repropose,
    Send,
    SetTimer,
    StopTimer,
)
from consensus.simplex.replies import MAX_REPLIES
from consensus.simplex.validation import FinalizedBlock
from consensus.simplex.views import VIEW_WINDOW
from tests.support.agreement.committee import Committee, get_votes

NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE


@pytest.fixture
def committee() -> Committee:
    return Committee()


def follow(committee: Committee, *views: int, **changes: object) -> Simplex:
    """The started core of a validator that leads none of ``views``."""
    core = committee.make_core(committee.get_follower(*views), **changes)
    core.start()
    return core


def propose(core: Simplex, message: Propose | Repropose, is_valid: bool = True) -> list[tuple[str, int]]:
    """Hand over a proposal and its check's verdict; the votes that follow."""
    effects = core.on_message(message)
    for effect in list(effects):
        if isinstance(effect, ExecuteBlock):
            effects += core.on_executed(effect.block.id, is_valid)
    return get_votes(effects)


# Rules 1 and 2: proposals and notarize.


def test_a_leader_builds_on_the_tip_and_votes_before_it_proposes(committee: Committee) -> None:
    leader = committee.get_leader(1)
    core = committee.make_core(committee.keys.index(leader))
    assert core.start() == [Build(1, committee.final.block_id, None, ())]
    block = committee.build(leader, 1)
    effects = core.on_built(1, block)
    vote = next(effect.vote for effect in effects if isinstance(effect, PersistVote))
    assert effects[0] == PersistVote(vote, block)
    assert effects[1] == Broadcast(committee.propose(block))
    assert effects[2] == Broadcast(vote)
    assert not core.on_built(1, committee.build(leader, 1, timestamp=5)), "one proposal in a view"


def test_a_block_that_was_not_asked_for_is_the_engines_fault(committee: Committee) -> None:
    leader = committee.get_leader(1)
    core = committee.make_core(committee.keys.index(leader))
    core.start()
    with pytest.raises(InvalidMessage):
        core.on_built(1, committee.build(leader, 2))
    assert core.on_built(7, committee.build(leader, 7)) == []


def test_notarize_once_and_only_what_was_checked(committee: Committee) -> None:
    core = follow(committee, 1)
    block = committee.build(committee.get_leader(1), 1)
    rival = committee.build(committee.get_leader(1), 1, timestamp=5)
    assert propose(core, committee.propose(block), is_valid=False) == []
    core = follow(committee, 1)
    assert propose(core, committee.propose(block)) == [("notarize", 1)]
    assert propose(core, committee.propose(rival)) == []
    assert propose(core, committee.propose(block)) == []


def test_a_block_refused_too_early_is_checked_again_once_a_quorum_wants_it(committee: Committee) -> None:
    leader = committee.get_leader(2)
    core = committee.make_core(committee.keys.index(leader))
    core.start()
    block = committee.build(committee.get_leader(1), 1)
    core.on_message(committee.propose(block))
    assert get_votes(core.on_executed(block.id, False)) == []
    effects = core.on_message(committee.certify(NOTARIZE, 1, block.id))
    assert ExecuteBlock(block) in effects
    assert [type(effect) for effect in core.on_executed(block.id, True)] == [Build]


def alter_header(message: Propose, key: KeyPair, **changes: Any) -> Propose:
    block = sign_block(key, dataclasses.replace(message.block.header, **changes), message.block.body)
    proposal = sign_proposal(key, block.header.chain_id, message.proposal.epoch, message.proposal.view, block.id)
    return Propose(proposal, block)


def alter_body(message: Propose, **changes: Any) -> Propose:
    """Another body under the same header."""
    body = dataclasses.replace(message.block.body, **changes)
    return Propose(message.proposal, dataclasses.replace(message.block, body=body))


def propose_of(committee: Committee, key: KeyPair, message: Propose) -> Propose:
    """The same in every respect but its proposer."""
    block = sign_block(key, dataclasses.replace(message.block.header, proposer=key.public_key), message.block.body)
    return committee.propose(block, key=key)


Alteration = Callable[[Committee, KeyPair, Propose], Propose]
ALTERATIONS: dict[str, tuple[str, Alteration]] = {
    "leader": ("leader", lambda c, key, m: propose_of(c, next(k for k in c.keys if k is not key), m)),
    "leader of the proposal": (
        "leader",
        lambda c, key, m: c.propose(m.block, key=next(k for k in c.keys if k is not key)),
    ),
    "epoch": ("header", lambda c, key, m: alter_header(m, key, epoch=1)),
    "view": ("header", lambda c, key, m: alter_header(m, key, view=2)),
    "chain": ("signature", lambda c, key, m: alter_header(m, key, chain_id=bytes(32))),
    "proposer": ("header", lambda c, key, m: alter_header(m, key, proposer=bytes(32))),
    "height": ("height", lambda c, key, m: alter_header(m, key, height=1001)),
    "parent": ("certificate", lambda c, key, m: alter_header(m, key, parent_id=bytes(32))),
    "header": ("header", lambda c, key, m: Propose(m.proposal, c.build(key, 3, timestamp=9))),
    "body": ("block", lambda c, key, m: alter_body(m, late_votes=(c.vote(0, NOTARIZE, 1, bytes(32)),))),
    "empty body": ("block", lambda c, key, m: alter_body(m, parent_certificate=None, nullifications=())),
    "signature": ("block", lambda c, key, m: Propose(m.proposal, dataclasses.replace(m.block, signature=bytes(64)))),
    "proposal": (
        "signature",
        lambda c, key, m: Propose(dataclasses.replace(m.proposal, signature=bytes(64)), m.block),
    ),
    "no nullification": ("nullifications", lambda c, key, m: c.propose(c.build(key, 3, *parent_of(c)))),
    "a nullification of another view": (
        "nullifications",
        lambda c, key, m: c.propose(c.build(key, 3, *parent_of(c), (c.certify(NULLIFY, 1),))),
    ),
    "too many nullifications": (
        "nullifications",
        lambda c, key, m: c.propose(c.build(key, 3, *parent_of(c), (c.certify(NULLIFY, 2), c.certify(NULLIFY, 3)))),
    ),
    "a nullification by too few": (
        "certificate",
        lambda c, key, m: c.propose(c.build(key, 3, *parent_of(c), (c.certify(NULLIFY, 2, signers=2),))),
    ),
    "a notarization by too few": (
        "certificate",
        lambda c, key, m: c.propose(
            c.build(key, 3, parent_of(c)[0], c.certify(NOTARIZE, 1, parent_of(c)[0].id, 2), (c.certify(NULLIFY, 2),))
        ),
    ),
    "a nullification for a notarization": (
        "certificate",
        lambda c, key, m: c.propose(c.build(key, 3, parent_of(c)[0], c.certify(NULLIFY, 1), (c.certify(NULLIFY, 2),))),
    ),
    "a forged certificate": (
        "certificate",
        lambda c, key, m: c.propose(
            c.build(
                key,
                3,
                parent_of(c)[0],
                dataclasses.replace(c.certify(NOTARIZE, 2, parent_of(c)[0].id), view=1),
                (c.certify(NULLIFY, 2),),
            )
        ),
    ),
}


def parent_of(committee: Committee) -> tuple[Block, Certificate]:
    parent = committee.build(committee.get_leader(1), 1)
    return parent, committee.certify(NOTARIZE, 1, parent.id)


@pytest.mark.parametrize("name", ALTERATIONS)
def test_a_proposal_with_something_wrong_is_refused(committee: Committee, name: str) -> None:
    """View 3 on the block of view 1, over a nullified view 2; each alteration is refused for what it is."""
    core = follow(committee, 1, 2, 3)
    leader = committee.get_leader(3)
    parent, notarization = parent_of(committee)
    good = committee.propose(committee.build(leader, 3, parent, notarization, (committee.certify(NULLIFY, 2),)))
    field, alter = ALTERATIONS[name]
    effects = core.on_message(alter(committee, leader, good))
    [reject] = effects
    assert isinstance(reject, Reject)
    assert reject.reason.startswith(field)
    assert core.view == 1

    assert Fetch(parent.id, tuple(key.public_key for key in committee.keys[:3])) in core.on_message(good)
    assert core.view == 3, "its proof leads to its view"
    [check] = [effect for effect in core.on_block(parent) if isinstance(effect, ExecuteBlock)]
    assert check.block == parent
    [check] = [effect for effect in core.on_executed(parent.id, True) if isinstance(effect, ExecuteBlock)]
    assert get_votes(core.on_executed(check.block.id, True)) == [("notarize", 3)]


def test_a_height_that_does_not_follow_the_parents_is_never_checked(committee: Committee) -> None:
    core = follow(committee, 1)
    block = committee.build(committee.get_leader(1), 1, height=2)
    effects = core.on_message(committee.propose(block))
    assert not [effect for effect in effects if isinstance(effect, ExecuteBlock | PersistVote)]


def test_a_height_that_is_final_already_is_neither_checked_nor_fetched(committee: Committee) -> None:
    """A peer that has the block could make us ask for it again and again."""
    first = committee.build(committee.get_leader(1), 1)
    core = follow(committee, 1, 2)
    propose(core, committee.propose(first))
    final = committee.certify(FINALIZE, 1, first.id)
    core.on_message(final)
    low = committee.build(committee.get_leader(2), 2, first, final, height=1)
    assert [type(effect) for effect in core.on_message(committee.propose(low))] == [SetTimer]
    assert core.on_block(low) == []


# Rule 3: entering views, finalize.


def test_a_notarization_is_finalized_and_enters_the_next_view(committee: Committee) -> None:
    core = follow(committee, 1, 2)
    certificate = committee.certify(NOTARIZE, 1, b"x" * 32)
    effects = core.on_message(certificate)
    assert get_votes(effects) == [("finalize", 1)]
    assert [e.support for e in effects if isinstance(e, PersistVote)] == [certificate]
    assert core.view == 2
    assert core.on_message(certificate) == []


def test_a_nullification_enters_the_next_view_and_one_further_ahead_waits(committee: Committee) -> None:
    core = follow(committee, *range(1, 6))
    core.on_message(committee.certify(NULLIFY, 3))
    core.on_message(committee.certify(NULLIFY, 2))
    assert core.view == 1
    core.on_message(committee.certify(NULLIFY, 1))
    assert core.view == 4


def test_no_finalize_after_nullify(committee: Committee) -> None:
    core = follow(committee, 1, 2)
    core.on_work()
    assert get_votes(core.on_timeout(1)) == [("nullify", 1)]
    assert get_votes(core.on_message(committee.certify(NOTARIZE, 1, b"x" * 32))) == []
    assert core.view == 2


def test_notarize_after_nullify_is_honest(committee: Committee) -> None:
    core = follow(committee, 1)
    core.on_work()
    core.on_timeout(1)
    block = committee.build(committee.get_leader(1), 1)
    assert propose(core, committee.propose(block)) == [("notarize", 1)]


def test_votes_of_a_quorum_become_one_broadcast_certificate(committee: Committee) -> None:
    core = follow(committee, 1, 2)
    others = [n for n in range(4) if committee.keys[n].public_key != core._me]
    block_id = b"x" * 32
    for number in others[:2]:
        assert core.on_message(committee.vote(number, NOTARIZE, 1, block_id)) == []
    effects = core.on_message(committee.vote(others[2], NOTARIZE, 1, block_id))
    votes = [committee.vote(number, NOTARIZE, 1, block_id) for number in others]
    assert effects[0] == Broadcast(make_certificate(votes, committee.validators))
    assert get_votes(effects) == [("finalize", 1)]


# Rule 4: finality.


def test_finality_waits_for_the_block_and_refuses_an_altered_one(committee: Committee) -> None:
    core = follow(committee, 1, 2)
    block = committee.build(committee.get_leader(1), 1)
    certificate = committee.certify(FINALIZE, 1, block.id)
    assert Fetch(block.id, tuple(key.public_key for key in committee.keys[:3])) in core.on_message(certificate)
    assert (core.view, core.finalized.height) == (2, 0)
    assert not core.is_settled
    altered = dataclasses.replace(block, signature=bytes(64))
    assert any(isinstance(effect, Reject) for effect in core.on_block(altered))
    assert Commit(certificate, (block,)) in core.on_block(block)
    assert core.finalized == FinalizedBlock(block.id, 1, certificate)
    assert core.is_settled
    assert core.on_block(block) == []


def test_a_commit_carries_its_branch_and_late_finalize_votes_count(committee: Committee) -> None:
    core = follow(committee, 1, 2, 3)
    first = committee.build(committee.get_leader(1), 1)
    notarization = committee.certify(NOTARIZE, 1, first.id)
    second = committee.build(committee.get_leader(2), 2, first, notarization)
    propose(core, committee.propose(first))
    core.on_message(notarization)
    propose(core, committee.propose(second))
    core.on_message(committee.certify(NOTARIZE, 2, second.id))
    assert core.view == 3
    mine = [n for n in range(4) if committee.keys[n].public_key != core._me]
    core.on_message(committee.vote(mine[0], FINALIZE, 2, second.id))
    [commit] = [e for e in core.on_message(committee.vote(mine[1], FINALIZE, 2, second.id)) if isinstance(e, Commit)]
    assert commit.blocks == (first, second)
    assert core.is_settled
    assert core.on_message(committee.certify(FINALIZE, 1, first.id)) == []


def test_one_validator_alone_finalizes_at_once() -> None:
    committee = Committee(1)
    core = committee.make_core(0)
    core.start()
    block = committee.build(committee.keys[0], 1)
    effects = core.on_built(1, block)
    assert get_votes(effects) == [("notarize", 1), ("finalize", 1)]
    assert any(isinstance(effect, Commit) for effect in effects)
    assert core.view == 2


# Rule 5: time.


def test_the_timer_runs_only_while_there_is_something_to_agree_about(committee: Committee) -> None:
    core = committee.make_core(committee.get_follower(1, 2))
    assert not [effect for effect in core.start() if isinstance(effect, SetTimer)]
    assert core.on_timeout(1) == []
    assert core.on_work() == [SetTimer(1, 1.5)]
    assert core.on_work() == []
    assert core.on_work(False) == [StopTimer()]
    assert core.on_timeout(1) == []
    block = committee.build(committee.get_leader(1), 1)
    assert SetTimer(1, 1.5) in core.on_message(committee.propose(block))
    assert SetTimer(2, 1.5) in core.on_message(committee.certify(NOTARIZE, 1, block.id))
    assert not core.is_settled
    assert core.on_message(committee.certify(FINALIZE, 1, block.id))[-1] == StopTimer()


def test_timeouts_double_per_nullified_view_up_to_the_cap_and_fall_back_at_finality(committee: Committee) -> None:
    core = follow(committee, *range(1, 10))
    core.on_work()
    seconds = []
    for view in range(1, 8):
        effects = core.on_message(committee.certify(NULLIFY, view))
        seconds += [effect.seconds for effect in effects if isinstance(effect, SetTimer)]
    assert seconds == [3.0, 6.0, 12.0, 24.0, 30.0, 30.0, 30.0]
    assert SetTimer(9, 1.5) in core.on_message(committee.certify(FINALIZE, 8, b"x" * 32))


def test_nullify_is_repeated_at_growing_intervals_with_the_way_into_the_view(committee: Committee) -> None:
    core = follow(committee, 1, 2)
    core.on_work()
    certificate = committee.certify(NULLIFY, 1)
    core.on_message(certificate)
    first, second = core.on_timeout(2), core.on_timeout(2)
    assert get_votes(first) == [("nullify", 2)]
    assert SetTimer(2, 6.0) in first
    assert SetTimer(2, 12.0) in second
    assert not [effect for effect in second if isinstance(effect, PersistVote)]
    for effects in (first, second):
        assert Broadcast(certificate) in effects
        assert [e for e in effects if isinstance(e, Broadcast) and getattr(e.message, "view", 0) == 2]


# Rule 6, and what others may do to our memory.


def test_who_is_behind_is_answered_with_what_it_missed_but_not_forever(committee: Committee) -> None:
    core = follow(committee, 1, 2, 3, 4)
    block = committee.build(committee.get_leader(1), 1)
    core.on_message(committee.propose(block))
    certificates = [committee.certify(NULLIFY, 1), committee.certify(NULLIFY, 2), committee.certify(NULLIFY, 3)]
    for certificate in certificates:
        core.on_message(certificate)
    laggard = next(n for n in range(4) if committee.keys[n].public_key != core._me)
    key = committee.keys[laggard].public_key
    answer: list[Effect] = [Send(key, certificate) for certificate in certificates[1:]]
    assert core.on_message(committee.vote(laggard, NULLIFY, 2)) == answer
    answers = [core.on_message(committee.vote(laggard, NULLIFY, 2)) for _ in range(3 * MAX_REPLIES)]
    assert answers.count(answer) == MAX_REPLIES - 1
    assert answers.count([]) == 2 * MAX_REPLIES + 1

    final = committee.certify(FINALIZE, 5, block.id)
    core.on_message(final)
    assert core.on_message(committee.vote(laggard, NULLIFY, 2)) == [Send(key, final)]
    assert core.on_message(committee.vote(laggard, NOTARIZE, 2, block.id)) == [], "merely late"
    forged = dataclasses.replace(committee.vote(laggard, NULLIFY, 3), signature=bytes(64))
    assert [type(effect) for effect in core.on_message(forged)] == [Reject]


def test_who_has_nothing_left_to_do_answers_in_the_current_view_too(committee: Committee) -> None:
    core = follow(committee, 1, 2)
    block = committee.build(committee.get_leader(1), 1)
    final = committee.certify(FINALIZE, 1, block.id)
    core.on_message(committee.propose(block))
    core.on_message(final)
    laggard = next(n for n in range(4) if committee.keys[n].public_key != core._me)
    assert Send(committee.keys[laggard].public_key, final) in core.on_message(committee.vote(laggard, NULLIFY, 2))
    core.on_work()
    assert core.on_message(committee.vote(laggard, NULLIFY, 2)) == [], "time will bring both on"


def test_a_conflicting_vote_is_evidence_and_does_not_count(committee: Committee) -> None:
    core = follow(committee, 1, 2)
    others = [n for n in range(4) if committee.keys[n].public_key != core._me]
    first = committee.vote(others[0], NOTARIZE, 1, b"x" * 32)
    second = committee.vote(others[0], NOTARIZE, 1, b"y" * 32)
    core.on_message(first)
    assert core.on_message(second) == [Conflict(first, second)]
    assert core.on_message(second) == []
    core.on_message(committee.vote(others[1], NOTARIZE, 1, b"y" * 32))
    core.on_message(committee.vote(others[2], NOTARIZE, 1, b"y" * 32))
    assert core.view == 1
    nullify, finalize = committee.vote(others[1], NULLIFY, 1), committee.vote(others[1], FINALIZE, 1, b"x" * 32)
    core.on_message(finalize)
    assert core.on_message(nullify) == [Conflict(finalize, nullify)]


def test_a_certificate_that_comes_too_late_still_shows_who_contradicted_itself(committee: Committee) -> None:
    """Two finals in one view: a third of the stake or more signed both, and each side must be able to punish it."""
    core = follow(committee, 1, 2)
    block = committee.build(committee.get_leader(1), 1)
    core.on_message(committee.propose(block))
    core.on_message(committee.certify(FINALIZE, 1, block.id))
    assert core.view == 2
    votes = [committee.vote(number, FINALIZE, 1, b"y" * 32) for number in (1, 2, 3)]
    other = make_certificate(votes, committee.validators)
    forged = dataclasses.replace(other, signatures=tuple(bytes(64) for _ in votes))
    assert [type(effect) for effect in core.on_message(forged)] == [Reject]
    conflicts = [effect for effect in core.on_message(other) if isinstance(effect, Conflict)]
    assert [conflict.second for conflict in conflicts] == votes[:2]
    assert all(is_slashable(conflict.first, conflict.second) for conflict in conflicts)
    assert core.on_message(other) == [], "once is enough"
    nowhere = dataclasses.replace(other, signers=(0, 1, 63))
    assert [type(effect) for effect in core.on_message(nowhere)] == [Reject]


def test_what_is_far_ahead_foreign_or_forged_is_not_kept(committee: Committee) -> None:
    core = follow(committee, 1)
    stranger = Committee(5).keys[-1]
    stranger = stranger if stranger.public_key not in committee.validators else Committee(5).keys[0]
    far = 1 + VIEW_WINDOW + 1
    assert core.on_message(committee.vote(0, NULLIFY, far)) == []
    assert core.on_message(Committee(epoch=1).vote(0, NULLIFY, 1)) == []
    assert core._views.find(far) is None
    for wrong in (
        dataclasses.replace(committee.vote(0, NULLIFY, 1), signature=bytes(64)),
        dataclasses.replace(committee.vote(0, NULLIFY, 1), signer=hash_bytes("stranger")),
        committee.vote(0, NULLIFY, 1, b"x" * 32),
        committee.vote(0, NOTARIZE, 1, NO_BLOCK),
        committee.certify(NOTARIZE, 1, b"x" * 32, signers=2),
        dataclasses.replace(committee.certify(NOTARIZE, 1, b"x" * 32), block_id=b"y" * 32),
    ):
        assert [type(effect) for effect in core.on_message(wrong)] == [Reject]
    assert core.view == 1


# The epoch's end and the next one's beginning.


def end_epoch() -> tuple[Committee, Block, Certificate]:
    """An epoch of one height, whose last block was notarized in view 1."""
    committee = Committee(last_height=1)
    block = committee.build(committee.get_leader(1), 1)
    return committee, block, committee.certify(NOTARIZE, 1, block.id)


def test_the_last_block_is_proposed_again_and_nothing_on_it() -> None:
    committee, block, notarization = end_epoch()
    nullification = committee.certify(NULLIFY, 2)
    leader = committee.get_leader(3)
    core = committee.make_core(committee.keys.index(leader))
    effects = core.start()
    for message in (committee.propose(block), notarization, nullification):
        effects += core.on_message(message)
        for check in [effect for effect in effects if isinstance(effect, ExecuteBlock)]:
            effects += core.on_executed(check.block.id, True)
    assert not [effect for effect in effects if isinstance(effect, Build) and effect.view > 2]
    again = Repropose(sign_proposal(leader, committee.chain_id, 0, 3, block.id), notarization, (nullification,))
    assert Broadcast(again) in effects

    other = follow(committee, 1, 2, 3)
    propose(other, committee.propose(block))
    child = committee.build(leader, 3, block, notarization, (nullification,))
    assert [type(effect) for effect in other.on_message(committee.propose(child))] == [Reject]
    assert propose(other, again) == [("finalize", 1), ("notarize", 3)]
    final = committee.certify(FINALIZE, 3, block.id)
    assert Commit(final, (block,)) in other.on_message(final)
    assert other.is_finished
    assert get_votes(other.on_message(committee.certify(NOTARIZE, 4, block.id))) == [], "it only answers now"
    laggard = next(n for n in range(4) if committee.keys[n].public_key != other._me)
    for view in (2, 4, 99):
        answer = other.on_message(committee.vote(laggard, NULLIFY, view))
        assert answer == [Send(committee.keys[laggard].public_key, final)]


def test_no_other_block_is_proposed_again(committee: Committee) -> None:
    block = committee.build(committee.get_leader(1), 1)
    notarization = committee.certify(NOTARIZE, 1, block.id)
    core = follow(committee, 1, 2)
    propose(core, committee.propose(block))
    again = Repropose(sign_proposal(committee.get_leader(2), committee.chain_id, 0, 2, block.id), notarization, ())
    assert propose(core, again) == [("finalize", 1)]
    assert core.view == 2


def test_an_epoch_starts_from_any_finalization_of_the_last_block() -> None:
    before = Committee(last_height=1)
    last = before.build(before.get_leader(1), 1)
    mine = before.certify(FINALIZE, 4, last.id)
    theirs = make_certificate([before.vote(n, FINALIZE, 2, last.id) for n in (1, 2, 3)], before.validators)
    committee = Committee(epoch=1)
    committee.final = FinalizedBlock(last.id, 1, theirs)
    leader = committee.get_leader(1)

    def receive(certificate: Certificate | None) -> list[tuple[str, int]]:
        core = follow(committee, 1, finalized=FinalizedBlock(last.id, 1, mine), previous_validators=before.validators)
        committee.final = FinalizedBlock(last.id, 1, certificate)
        return propose(core, committee.propose(committee.build(leader, 1)))

    assert receive(mine) == receive(theirs) == [("notarize", 1)]
    assert receive(before.certify(NOTARIZE, 4, last.id)) == []
    assert receive(before.certify(FINALIZE, 4, last.id, signers=2)) == []
    assert receive(before.certify(FINALIZE, 4, b"x" * 32)) == []
    assert receive(None) == []
    with pytest.raises(ValueError, match="epoch before"):
        follow(committee, 1, finalized=FinalizedBlock(last.id, 1, mine))


# Restarts.


def restart(committee: Committee, number: int, effects: list[Effect]) -> Simplex:
    """A new core with what the effects made durable, or without the evidence."""
    durable = [effect for effect in effects if isinstance(effect, PersistVote)]
    support = [effect.support for effect in durable if effect.support is not None]
    return committee.make_core(number, votes=[effect.vote for effect in durable], support=support)


def test_a_leader_proposes_the_same_block_after_a_restart(committee: Committee) -> None:
    leader = committee.get_leader(1)
    number = committee.keys.index(leader)
    core = committee.make_core(number)
    core.start()
    block = committee.build(leader, 1)
    effects = core.on_built(1, block)
    again = restart(committee, number, effects)
    effects = again.start()
    assert [e.block for e in effects if isinstance(e, ExecuteBlock)] == []
    assert Broadcast(committee.propose(block)) in effects
    assert not [effect for effect in effects if isinstance(effect, Build | PersistVote)]
    assert again.on_built(1, committee.build(leader, 1, timestamp=5)) == []


def test_after_a_restart_nothing_contradicts_the_journal(committee: Committee) -> None:
    number = committee.get_follower(1, 2)
    core = committee.make_core(number)
    core.start()
    block = committee.build(committee.get_leader(1), 1)
    rival = committee.build(committee.get_leader(1), 1, timestamp=5)
    effects = core.on_message(committee.propose(block)) + core.on_executed(block.id, True)
    again = restart(committee, number, effects)
    again.start()
    assert propose(again, committee.propose(rival)) == []

    notarization = committee.certify(NOTARIZE, 1, block.id)
    effects += core.on_message(notarization)
    again = restart(committee, number, effects)
    started = again.start()
    assert again.view == 2, "the notarization was durable"
    assert Broadcast(committee.vote(number, FINALIZE, 1, block.id)) in started
    assert get_votes(again.on_timeout(2)) == [("nullify", 2)]

    without = committee.make_core(number, votes=[e.vote for e in effects if isinstance(e, PersistVote)])
    without.start()
    without.on_work()
    assert without.view == 1
    assert not [effect for effect in without.on_timeout(1) if isinstance(effect, PersistVote)], "it finalized view 1"

    core = committee.make_core(number)
    core.start()
    core.on_work()
    effects = core.on_timeout(1)
    again = restart(committee, number, effects)
    again.start()
    assert get_votes(again.on_message(notarization)) == []


def test_a_restart_from_a_final_block_of_the_epoch(committee: Committee) -> None:
    """Its finalization alone makes it a parent, so that a chain stopped everywhere goes on."""
    block = committee.build(committee.get_leader(1), 1)
    final = FinalizedBlock(block.id, 1, committee.certify(FINALIZE, 1, block.id))
    leader = committee.get_leader(2)
    core = committee.make_core(committee.keys.index(leader), finalized=final)
    assert Build(2, block.id, final.certificate, ()) in core.start()
    child = committee.build(leader, 2, block, final.certificate)
    assert get_votes(core.on_built(2, child)) == [("notarize", 2)]
    other = follow(committee, 1, 2, finalized=final)
    assert propose(other, committee.propose(child)) == [("notarize", 2)]


def test_an_observer_never_signs_but_commits_and_answers(committee: Committee) -> None:
    core = committee.make_core(None)
    core.start()
    core.on_work()
    block = committee.build(committee.get_leader(1), 1)
    effects = core.on_message(committee.propose(block))
    effects += core.on_message(committee.certify(NOTARIZE, 1, block.id))
    effects += core.on_timeout(2)
    final = committee.certify(FINALIZE, 1, block.id)
    effects += core.on_message(final)
    assert [type(effect) for effect in effects] == [Commit]
    assert core.on_message(committee.vote(3, NULLIFY, 1)) == [Send(committee.keys[3].public_key, final)]
