"""The validator registry: when voting begins and ends, who counts as present, what absence and lies cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import KeyPair
from chain.exceptions import InvalidBlock, InvalidOperation
from chain.state.beacon import NO_COMMITMENT, make_hash_chain
from chain.state.records import Participation, Unbonding, ValidatorRecord
from chain.state.state import compute_supply
from chain.transition.block import state_transition
from chain.transition.fees import compute_fee
from chain.transition.operations import check_form
from chain.transition.validators.jailing import Standing, get_standing
from chain.transition.validators.registry import CommitteeApplicant, compute_committee
from chain.types.blocks import Block, sign_block
from chain.types.operations import Enroll, Evidence, Recommit
from chain.types.validators import LATE_VOTE_BLOCKS, ValidatorSet
from chain.types.votes import NO_BLOCK, Vote, VoteKind, is_slashable, make_certificate, sign_vote
from tests.support.chain_builder import PARAMETERS, Chain, do, failure, find_reveal, refusal
from tests.support.keys import make_key

STRANGER = make_key("stranger")
LONG = replace(PARAMETERS, epoch_heights=12)
FEE = PARAMETERS.missed_lead_fee


def weights(chain: Chain, epoch: int) -> dict[bytes, int]:
    """Who votes in an epoch with what weight."""
    committee = chain.state.committee(epoch)
    assert committee is not None
    return {validator.public_key: validator.stake for validator in committee}


def make_applicant(chain: Chain, bonded: int = 30_000) -> KeyPair:
    """A user with a bond that is ready to enroll."""
    user = chain.users[0]
    do(chain, chain.bond(user, bonded))
    return user


# Joining and leaving.


@pytest.mark.parametrize("waited", [0, 3])
def test_enrolling_is_in_force_two_epochs_later(waited: int) -> None:
    """From the first block of epoch e + 2, whether it was in the first block of e or in its last."""
    chain = Chain()
    user = make_applicant(chain)
    chain.append_epochs(1)
    for _ in range(waited):
        chain.append()
    assert chain.next_epoch == 1
    do(chain, chain.enroll(user))
    validator = chain.validator_record(user)
    assert validator.is_enrolled and validator.commitment == NO_COMMITMENT and validator.next_epoch == 3
    chain.append_epochs(1 if chain.next_epoch == 1 else 0)
    assert chain.next_epoch == 2 and weights(chain, 3)[user.public_key] == 30_000
    assert user.public_key not in weights(chain, 1) and user.public_key not in weights(chain, 2)
    assert chain.validator_record(user).commitment == NO_COMMITMENT, "its tip is in force with its weight, not before"
    chain.append_epochs(1)
    assert chain.next_epoch == 3
    commitment = make_hash_chain(user, chain.genesis.beacon, 0, PARAMETERS.epoch_heights).commitment
    assert chain.validator_record(user) == ValidatorRecord(
        is_enrolled=True, commitment=commitment, counted_since=chain.head.chain_time
    )
    view = next(view for view in range(1, 99) if chain.leader(view) is user)
    chain.append(skipped=view - 1)
    assert (
        chain.head.proposer == user.public_key and chain.validator_record(user).commitment == chain.head.beacon_reveal
    )


def test_who_enrolls_bonds_the_minimum() -> None:
    chain = Chain()
    user = make_applicant(chain, 999)
    assert "bonds 1000 micro-credits at least" in failure(chain, chain.enroll(user))
    do(chain, chain.bond(user, 1), chain.enroll(user, nonce=chain.account(user).nonce + 1))
    assert "enrolled already" in failure(chain, chain.enroll(user))
    assert "enrolled already" in failure(chain, chain.enroll(chain.validators[0]))


def test_a_bond_below_the_minimum_at_the_freeze_has_no_weight() -> None:
    chain = Chain(stakes=[100_000, 100_000, 100_000, 1_000])
    small = chain.validators[3]
    do(chain, chain.unbond(small, 1))
    chain.append_epochs(1)
    assert weights(chain, 1)[small.public_key] == 1_000 and small.public_key not in weights(chain, 2)
    assert chain.validator_record(small).is_enrolled, (
        "it is a validator still, and returns with a bond that is large enough"
    )
    do(chain, chain.bond(small, 1))
    chain.append_epochs(1)
    assert weights(chain, 3)[small.public_key] == 1_000


def test_retiring_is_in_force_two_epochs_later_and_keeps_the_bond() -> None:
    chain = Chain()
    leaver = chain.validators[0]
    do(chain, chain.retire(leaver))
    assert "not enrolled" in failure(chain, chain.retire(leaver))
    chain.append_epochs(1)
    assert leaver.public_key in weights(chain, 1) and leaver.public_key not in weights(chain, 2)
    assert len(chain.epoch.validators) == 4  # it votes until the end of epoch 1
    chain.append_epochs(1)
    assert len(chain.epoch.validators) == 3 and chain.account(leaver).bonded == 100_000
    do(chain, chain.enroll(leaver, hash_chain=1))
    chain.append_epochs(2)
    assert weights(chain, 4)[leaver.public_key] == 300_000 // 10, "who returns waits for weight as a newcomer does"


def test_a_retired_validator_that_comes_back_at_once_never_left() -> None:
    chain = Chain()
    leaver = chain.validators[0]
    nonce = chain.account(leaver).nonce
    do(chain, chain.retire(leaver), chain.enroll(leaver, hash_chain=1, nonce=nonce + 1))
    chain.append_epochs(1)
    assert weights(chain, 2)[leaver.public_key] == 100_000


def test_only_the_enrolled_retire_recommit_and_return() -> None:
    chain = Chain()
    user = chain.users[0]
    for operation in (chain.retire, chain.unjail, lambda key: chain.recommit(key, 1)):
        assert "not enrolled" in failure(chain, operation(user))
    assert "not jailed" in failure(chain, chain.unjail(chain.validators[0]))
    assert chain.state.validator_record(user.public_key) is None


@pytest.mark.parametrize("late", [False, True])
def test_another_hash_chain_takes_over_two_epochs_later(late: bool) -> None:
    chain = Chain(1)  # it leads every view
    (only,) = chain.validators
    for _ in range(3 if late else 0):
        chain.append()
    do(chain, chain.recommit(only, 7))
    hash_chain = make_hash_chain(only, chain.genesis.beacon, 7, PARAMETERS.epoch_heights)
    assert "announced already" in failure(chain, chain.recommit(only, 8))
    while chain.next_epoch < 2:
        assert (
            chain.validator_record(only).hash_chain == 0
            and hash_chain.count_reveals(chain.validator_record(only).commitment) == 0
        )
        chain.append()
    assert (
        chain.validator_record(only).commitment,
        chain.validator_record(only).hash_chain,
        chain.validator_record(only).next_epoch,
    ) == (hash_chain.commitment, 7, 0)
    chain.append()
    assert chain.head.beacon_reveal == hash_chain.find_reveal(hash_chain.commitment)
    do(chain, chain.recommit(only, 8))


def test_a_tip_of_nothing_is_refused() -> None:
    chain = Chain()
    user = make_applicant(chain)
    nonce = chain.account(user).nonce
    assert "of no hash chain" in failure(chain, chain.sign(user, Enroll(nonce, NO_COMMITMENT, 0)))
    assert "of no hash chain" in failure(chain, chain.sign(chain.validators[0], Recommit(0, NO_COMMITMENT, 0)))


def test_the_tip_of_another_can_be_announced_but_is_opened_only_by_who_knows_what_is_under_it() -> None:
    """A copied tip opens with the copied reveal alone: no one gains a choice, and the copy is worth nothing before."""
    chain = Chain(1)
    (only,) = chain.validators
    user = make_applicant(chain, 1_000_000 // 100)
    do(chain, chain.sign(user, Enroll(chain.account(user).nonce, chain.validator_record(only).commitment, 0)))
    chain.append_epochs(2)
    copied = chain.validator_record(user).commitment
    assert copied != NO_COMMITMENT
    original = make_hash_chain(only, chain.genesis.beacon, 0, PARAMETERS.epoch_heights)
    assert find_reveal(only, chain.genesis, chain.state) != original.find_reveal(copied) is not None


# Weight.


def stake_of(weight: dict[bytes, int]) -> int:
    return sum(weight.values())


def of(committee: ValidatorSet) -> dict[bytes, int]:
    return {validator.public_key: validator.stake for validator in committee}


names = st.integers(0, 11).map(lambda number: bytes([number]) * 32)
stakes = st.one_of(st.integers(1, 60), st.integers(1, 5_000))
committees = st.dictionaries(names, stakes, min_size=1, max_size=8)
applicants = st.dictionaries(
    names, st.tuples(st.one_of(st.integers(1, 60), st.integers(1, 9_000)), st.integers(0, 5)), max_size=12
)


@settings(max_examples=400)
@given(before=committees, asked=applicants, size=st.integers(8, 10), order=st.randoms(use_true_random=False))
def test_a_committee_grows_slowly_and_shrinks_at_once(
    before: dict[bytes, int], asked: dict[bytes, tuple[int, int]], size: int, order: Random
) -> None:
    old = ValidatorSet.of(before.items())
    waiting = [CommitteeApplicant(key, bonded, since) for key, (bonded, since) in asked.items()]
    new = of(compute_committee(old, waiting, size))
    whole, room = old.total_stake, old.total_stake // 10
    if not asked or (not room and not asked.keys() & before.keys()):
        assert new == before, "no member is left, none can join: better the old committee than none"
        return
    assert new and len(new) <= size and min(new.values()) > 0
    assert all(key in asked and weight <= asked[key][0] for key, weight in new.items())
    added = sum(max(0, weight - before.get(key, 0)) for key, weight in new.items())
    assert added <= room
    displaced = sum(min(before[key], asked[key][0]) for key in before.keys() & asked.keys() - new.keys())
    assert displaced <= room, "what is pushed out is bounded by what came in"
    assert stake_of(new) <= whole + room
    for key in new.keys() & before.keys() & asked.keys():
        assert new[key] >= min(before[key], asked[key][0]) or displaced, "no member's weight is cut that did not leave"
    # A member that left, or took out its bond, left in full.
    assert not (before.keys() - asked.keys()) & new.keys()
    # The same whatever the order of the applicants.
    order.shuffle(waiting)
    assert of(compute_committee(old, waiting, size)) == of(compute_committee(old, reversed(waiting), size)) == new


@settings(max_examples=200)
@given(before=committees, asked=applicants)
def test_who_waited_longest_is_served_first_and_one_at_most_in_part(
    before: dict[bytes, int], asked: dict[bytes, tuple[int, int]]
) -> None:
    old = ValidatorSet.of(before.items())
    new = of(compute_committee(old, [CommitteeApplicant(key, *terms) for key, terms in asked.items()], 99))
    if new == before:
        return
    room = old.total_stake // 10
    queue = sorted(asked, key=lambda key: (asked[key][1] or 10**9, key))
    for key in queue:
        kept = min(before.get(key, 0), asked[key][0])
        given_more = new.get(key, 0) - kept
        assert given_more == min(asked[key][0] - kept, room), "in full, or all that is left"
        room -= given_more


def test_a_newcomer_needs_more_than_the_smallest_member_for_its_seat() -> None:
    before = ValidatorSet.of([(bytes([1]) * 32, 700), (bytes([2]) * 32, 30), (bytes([3]) * 32, 70)])
    members = [CommitteeApplicant(validator.public_key, validator.stake, 0) for validator in before]
    for bonded, enters in ((29, False), (30, False), (31, True), (500, True)):
        new = of(compute_committee(before, [*members, CommitteeApplicant(bytes([9]) * 32, bonded, 5)], 3))
        assert (bytes([9]) * 32 in new) is enters and (bytes([2]) * 32 in new) is not enters
        assert len(new) == 3
        assert new.get(bytes([9]) * 32, 31) == min(max(bonded, 31), 80)
    # Two newcomers for one small seat: the second would push out a larger member than it is itself.
    two = [*members, CommitteeApplicant(bytes([8]) * 32, 40, 5), CommitteeApplicant(bytes([9]) * 32, 40, 6)]
    assert set(of(compute_committee(before, two, 3))) == {bytes([number]) * 32 for number in (1, 3, 8)}


def test_who_is_pushed_out_waits_from_then_on() -> None:
    parameters = replace(PARAMETERS, committee_size=4)
    chain = Chain(stakes=[100_000, 100_000, 100_000, 1_000], parameters=parameters)
    small, user = chain.validators[3], make_applicant(chain)
    do(chain, chain.enroll(user))
    assert chain.validator_record(small).waiting_since == 0
    chain.append_epochs(1)
    assert small.public_key not in weights(chain, 2) and weights(chain, 2)[user.public_key] == 30_000
    assert chain.validator_record(small).waiting_since == chain.head.height == parameters.epoch_heights
    do(chain, chain.retire(user))
    chain.append_epochs(1)
    assert weights(chain, 3)[small.public_key] == 1_000 and chain.validator_record(small).waiting_since == 0


@settings(max_examples=150)
@given(members=st.lists(st.integers(1, 400), min_size=11, max_size=16), more=st.integers(1, 10_000))
def test_a_full_committee_of_more_than_ten_seats_opens_to_who_is_first_and_has_more_than_the_smallest(
    members: list[int], more: int
) -> None:
    """With ten seats or less of equal weight, what may be added in one epoch is not enough for a seat, ever."""
    stakes = {bytes([number]) * 32: 10 * stake for number, stake in enumerate(members)}
    before = ValidatorSet.of(stakes.items())
    newcomer = CommitteeApplicant(bytes([99]) * 32, min(stakes.values()) + more, 1)
    waiting = [*(CommitteeApplicant(key, stake, 0) for key, stake in stakes.items()), newcomer]
    assert newcomer.public_key in compute_committee(before, waiting, len(members))
    equal = ValidatorSet.of((bytes([number]) * 32, 100) for number in range(10))
    waiting = [*(CommitteeApplicant(each.public_key, each.stake, 0) for each in equal), replace(newcomer, bonded=10**9)]
    assert compute_committee(equal, waiting, 10) == equal


def test_if_no_member_is_left_the_old_committee_stays() -> None:
    chain = Chain(2)
    do(chain, *[chain.retire(key) for key in chain.validators])
    chain.append_epochs(4)
    assert weights(chain, 5) == {key.public_key: 100_000 for key in chain.validators}
    user = make_applicant(chain)
    do(chain, chain.enroll(user))
    chain.append_epochs(1)
    assert weights(chain, 6) == {user.public_key: 20_000}, "the first to come takes over, with what may be added"


def test_growth_is_a_tenth_of_the_epoch_before_until_all_is_served() -> None:
    chain = Chain()
    user = make_applicant(chain, 100_000)
    do(chain, chain.enroll(user))
    since = chain.head.height
    served = []
    for _ in range(4):
        chain.append_epochs(1)
        served.append(chain.weight(user, chain.next_epoch + 1))
        assert chain.validator_record(user).waiting_since == (since if served[-1] < 100_000 else 0)
    assert served == [40_000, 84_000, 100_000, 100_000]


def test_who_bonds_more_waits_from_then_on() -> None:
    chain = Chain()
    first, second = chain.validators[:2]
    do(chain, chain.bond(second, 30_000))
    height = chain.head.height
    do(chain, chain.bond(first, 30_000))
    assert (
        chain.validator_record(second).waiting_since == height
        and chain.validator_record(first).waiting_since == height + 1
    )
    do(chain, chain.bond(second, 5_000))
    assert chain.validator_record(second).waiting_since == height + 2, "who asks for more goes to the end of the line"
    chain.append_epochs(1)
    assert chain.weight(first, 2) == 130_000 and chain.weight(second, 2) == 110_000, "one in full, the other in part"
    assert (
        chain.validator_record(first).waiting_since == 0 and chain.validator_record(second).waiting_since == height + 2
    )
    chain.append_epochs(1)
    assert chain.weight(second, 3) == 135_000


def test_what_is_unbonded_counts_no_more_two_epochs_later() -> None:
    chain = Chain()
    one = chain.validators[0]
    do(chain, chain.unbond(one, 60_000))
    chain.append_epochs(1)
    assert chain.weight(one, 1) == 100_000 and chain.weight(one, 2) == 40_000
    assert chain.account(one).unbonding == (Unbonding(60_000, 4),), "and can be slashed for as long as it counted"
    do(chain, chain.bond(one, 60_000))
    chain.append_epochs(1)
    assert chain.weight(one, 3) == 40_000 + 34_000


# Frozen tables and the hand-over.


def test_what_is_frozen_for_an_epoch_never_changes_again() -> None:
    chain = Chain()
    user = make_applicant(chain)
    seen: dict[int, bytes] = {}
    chain.append([chain.enroll(user)])
    for number in range(22):
        if number % 5 == 0:
            chain.append([chain.bond(chain.validators[number % 4], 5_000)])
        chain.append()
        for epoch in range(chain.next_epoch - 1, chain.next_epoch + 2):
            committee = chain.state.committee(epoch)
            if epoch < 0:
                assert committee is None
                continue
            assert committee is not None and seen.setdefault(epoch, committee.hash) == committee.hash
        outside = (chain.next_epoch - 2, chain.next_epoch + 2)
        assert all(chain.state.committee(epoch) is None for epoch in outside if epoch >= 0)
    assert len(set(seen.values())) > 3
    for block in chain.blocks:
        header = block.header
        assert header.validators_hash == seen[header.epoch]
        assert header.next_validators_hash == seen[header.epoch + 1]


def test_a_committee_is_frozen_before_the_beacon_of_its_draws_exists() -> None:
    chain = Chain()
    chain.append_epochs(1)
    frozen = chain.state.committee(2)
    assert frozen is not None
    sources = set()
    for skipped in range(3):  # three ways for epoch 1 to go
        other = Chain()
        other.append_epochs(1)
        other.append(skipped=skipped)
        other.append_epochs(1)
        assert other.epoch.validators == frozen
        sources.add(other.epoch.beacon)
    assert len(sources) == 3


def make_changing_chain() -> Chain:
    """A chain whose committee is another in each of its first epochs."""
    chain = Chain(5)
    user = make_applicant(chain)
    do(chain, chain.retire(chain.validators[0]), chain.enroll(user))
    chain.append_epochs(1)
    do(chain, chain.retire(chain.validators[1]))
    chain.append_epochs(1)
    return chain


def test_across_the_border_the_old_committee_signs_for_the_parent() -> None:
    chain = make_changing_chain()
    assert chain.next_epoch == 2 and chain.head.height % PARAMETERS.epoch_heights == 0
    before, now = chain.state.committee(1), chain.state.committee(2)
    assert before is not None and now is not None and before != now
    block, transition, _ = chain.propose()
    certificate = block.body.parent_certificate
    assert certificate is not None and certificate.kind == VoteKind.FINALIZE and certificate.epoch == 1
    # The leader is of the new committee, and the new committee alone certifies from here on.
    assert block.header.proposer in now
    chain.accept(block, transition)
    signed = chain.parent_certificate()
    assert signed is not None and len(signed.signers) == len(now)
    new_votes = [
        sign_vote(chain.keys[v.public_key], chain.genesis.chain_id, VoteKind.FINALIZE, 1, certificate.view,
                  certificate.block_id)
        for v in now
    ]  # fmt: skip
    forged = make_certificate(new_votes, now)
    body = replace(block.body, parent_certificate=forged)
    header = replace(block.header, body_root=body.root)
    bad = sign_block(chain.keys[header.proposer], header, body)
    with pytest.raises(InvalidBlock) as caught:
        state_transition(chain.genesis, chain.blocks[-2].header, chain.states[-2], bad)
    assert caught.value.field == "parent_certificate"


@pytest.mark.parametrize("field", ["validators_hash", "next_validators_hash"])
def test_a_header_names_the_committees_in_force(field: str) -> None:
    chain = make_changing_chain()
    block, _, _ = chain.propose()
    hashes = {chain.state.committee(epoch) for epoch in (1, 2, 3)}
    right = getattr(block.header, field)
    assert len(hashes) == 3
    for committee in hashes:
        assert committee is not None
        if committee.hash != right:
            fields: dict[str, Any] = {field: committee.hash}
            header = replace(block.header, **fields)
            with pytest.raises(InvalidBlock) as caught:
                state_transition(
                    chain.genesis, chain.head, chain.state, sign_block(chain.keys[header.proposer], header, block.body)
                )
            assert caught.value.field == field


# Taking part.


def spoil(chain: Chain, late_votes: Sequence[Vote]) -> str:
    """Why a block with these late votes is refused, by its builder and by everybody else."""
    with pytest.raises(InvalidBlock) as built:
        chain.propose(late_votes=late_votes)
    block, _, _ = chain.propose()
    body = replace(block.body, late_votes=tuple(late_votes))
    header = replace(block.header, body_root=body.root)
    forged = sign_block(chain.keys[header.proposer], header, body)
    with pytest.raises(InvalidBlock) as checked:
        state_transition(chain.genesis, chain.head, chain.state, Block.decode(forged.encoded))
    assert built.value.field == checked.value.field == "late_votes"
    return checked.value.reason


def count_votes(chain: Chain, key: KeyPair) -> tuple[int, int]:
    """Votes of a validator that were counted in this epoch, and the blocks."""
    participation = chain.state.participation
    return participation.votes[chain.epoch.validators.get_position(key.public_key)], participation.blocks


def test_votes_in_certificates_count() -> None:
    chain = Chain(parameters=LONG)
    present, absent = chain.validators[:3], chain.validators[3]
    chain.append()
    assert chain.state.participation.blocks == 0, "no validator has voted on the first block of an epoch yet"
    for number in range(1, 6):
        chain.append(voters=present if number % 2 else None)
        assert count_votes(chain, present[0]) == (number, number)
        assert count_votes(chain, absent) == (number // 2, number)


def test_late_votes_count_once_for_each_block() -> None:
    chain = Chain(parameters=LONG)
    present, late = chain.validators[:3], chain.validators[3]
    first = chain.append()
    chain.append(voters=present)
    assert count_votes(chain, late) == (0, 1)
    vote = chain.vote(late, first)
    chain.append(late_votes=[vote], voters=present)
    assert count_votes(chain, late) == (1, 2)
    assert "counted before" in spoil(chain, [vote])
    assert "counted before" in spoil(chain, [chain.vote(present[0], first)]), "nor that of one in the certificate"
    second = chain.blocks[1]
    twice = [chain.vote(late, second), chain.vote(late, second)]
    assert "counted before" in spoil(chain, twice)
    chain.append(late_votes=twice[:1])
    assert count_votes(chain, late) == (3, 3)


def test_a_late_vote_may_be_for_the_parent_itself() -> None:
    chain = Chain(parameters=LONG)
    chain.append()
    late = chain.validators[3]
    chain.append(voters=chain.validators[:3], late_votes=[chain.vote(late, chain.blocks[-1])])
    assert count_votes(chain, late) == (1, 1)
    assert "counted before" in spoil(chain, [chain.vote(late, chain.blocks[-1])]), "unless its certificate has it"


def test_late_votes_count_for_eight_blocks() -> None:
    chain = Chain(parameters=LONG)
    late = chain.validators[3]
    first = chain.append()
    for _ in range(LATE_VOTE_BLOCKS - 1):
        chain.append(voters=chain.validators[:3])
    _, transition, _ = chain.propose(late_votes=[chain.vote(late, first)])
    position = chain.epoch.validators.get_position(late.public_key)
    assert transition.state.participation.votes[position] == 2  # this one, and that in the certificate of the parent
    chain.append()
    assert "not a vote to notarize a recent block" in spoil(chain, [chain.vote(late, first)])
    second = chain.blocks[1]
    chain.append(late_votes=[chain.vote(late, second)])


def test_what_is_no_late_vote() -> None:
    chain = Chain(parameters=LONG)
    late, user = chain.validators[3], chain.users[0]
    first = chain.append()
    chain.append(voters=chain.validators[:3])
    header, chain_id = first.header, chain.genesis.chain_id
    bad: dict[str, Vote] = {
        "to finalize": chain.vote(late, first, VoteKind.FINALIZE),
        "to nullify": sign_vote(late, chain_id, VoteKind.NULLIFY, header.epoch, header.view, NO_BLOCK),
        "in another view": sign_vote(late, chain_id, VoteKind.NOTARIZE, header.epoch, header.view + 1, first.id),
        "in another epoch": sign_vote(late, chain_id, VoteKind.NOTARIZE, 1, header.view, first.id),
        "for another block": sign_vote(late, chain_id, VoteKind.NOTARIZE, 0, header.view, bytes([1]) * 32),
        "for genesis": sign_vote(late, chain_id, VoteKind.NOTARIZE, 0, 0, chain.genesis.header.id),
        "of no member of the committee": chain.vote(user, first),
        "for another block, in the view of a recent one": sign_vote(
            late, chain_id, VoteKind.NOTARIZE, 0, chain.head.view, first.id
        ),
        "forged": replace(chain.vote(late, first), signature=bytes(64)),
        "of another chain": sign_vote(late, bytes(32), VoteKind.NOTARIZE, 0, header.view, first.id),
    }
    for name, vote in bad.items():
        good = chain.vote(late, first)
        with pytest.raises(InvalidBlock) as caught:
            block, _, _ = chain.propose(late_votes=[vote])
            state_transition(chain.genesis, chain.head, chain.state, block)
            pytest.fail(name)
        assert caught.value.field == "late_votes"
        with pytest.raises(InvalidBlock):
            block, _, _ = chain.propose(late_votes=[good, vote])
            state_transition(chain.genesis, chain.head, chain.state, block)
    chain.append(late_votes=[chain.vote(late, first)])


def test_no_vote_counts_across_the_border_of_an_epoch() -> None:
    chain = Chain(parameters=replace(PARAMETERS, participation_span_ms=12_000))
    late = chain.validators[3]
    for _ in range(PARAMETERS.epoch_heights):
        chain.append(voters=chain.validators[:3])
    record = chain.validator_record(late)
    assert (record.counted_votes, record.counted_blocks) == (0, 3), "the votes for an epoch's last block do not count"
    assert chain.state.participation == Participation(0, (), ())
    for number in range(2):
        for block in chain.blocks[:4]:
            spoil(chain, [chain.vote(late, block)])
        chain.append()
        assert chain.state.participation.blocks == number
    assert all(entry.view == chain.blocks[4].header.view for entry in chain.state.participation.recent)


def test_who_enrolls_for_the_first_time_pays_for_the_entry() -> None:
    chain = Chain(parameters=replace(PARAMETERS, entry_fee=5_000), available=25_000)
    user = chain.users[0]
    chain.append([chain.bond(user, 10_000)])
    before = chain.account(user).available
    enroll = chain.enroll(user)
    chain.append([enroll])
    assert chain.failures[-1] == (None,)
    assert chain.account(user).available == before - 2 * 5_000 - compute_fee(chain.genesis, enroll)
    chain.append([chain.retire(user)])
    chain.append_epochs(2)
    before, enroll = chain.account(user).available, chain.enroll(user, hash_chain=1)
    chain.append([enroll])
    assert chain.failures[-1] == (None,) and compute_supply(chain.state) == chain.genesis.supply
    assert chain.account(user).available == before - compute_fee(chain.genesis, enroll), "it is a validator already"
    other = chain.users[1]
    chain.append([chain.bond(other, 15_500)])
    chain.append([chain.enroll(other)])
    assert "a new entry" in (chain.failures[-1][0] or "") and chain.state.validator_record(other.public_key) is None


def attend(heights: int, missed: int, *, late: int = 0) -> Chain:
    """A chain after its first epoch, in which one of five missed the votes for ``missed`` blocks but sent ``late``."""
    chain = Chain(5, parameters=replace(PARAMETERS, epoch_heights=heights, round_heights=1))
    absent = chain.validators[4]
    for height in range(1, heights + 1):
        votes = [chain.vote(absent, chain.blocks[number]) for number in range(late)] if height == heights else []
        voters = chain.validators[:4] if 2 <= height <= missed + 1 else None
        chain.append(voters=voters, late_votes=votes)
    assert chain.next_epoch == 1
    return chain


@pytest.mark.parametrize(
    ("heights", "missed", "late", "jailed"),
    [
        (5, 2, 0, False),  # 2 of 4: one half is enough
        (5, 3, 0, True),  # 1 of 4
        (5, 3, 1, False),
        (5, 4, 1, True),
        (6, 2, 0, False),  # 3 of 5
        (6, 3, 0, True),  # 2 of 5
        (6, 3, 1, False),
        (4, 3, 0, True),  # 0 of 3
        (3, 2, 0, False),  # 0 of 2, which are too few to tell
        (2, 1, 0, False),
        (2, 0, 0, False),
        (1, 0, 0, False),  # of none
    ],
)
def test_who_misses_more_than_half_is_jailed(heights: int, missed: int, late: int, jailed: bool) -> None:
    chain = attend(heights, missed, late=late)
    absent = chain.validators[4]
    assert chain.validator_record(absent).jailed_until == (1 if jailed else 0)
    assert (absent.public_key in weights(chain, 2)) is not jailed
    assert chain.weight(absent, 1) == 100_000, "the committee of the next epoch was frozen before"
    assert chain.account(absent).bonded == 100_000
    assert all(chain.validator_record(key).jailed_until == 0 for key in chain.validators[:4])


def test_a_jailed_validator_returns_when_it_asks() -> None:
    chain = attend(5, 4)
    absent = chain.validators[4]
    chain.append_epochs(2)
    assert absent.public_key not in weights(chain, 4), "never by itself"
    height = chain.head.height + 1
    do(chain, chain.unjail(absent))
    assert chain.validator_record(absent) == replace(
        chain.validator_record(absent), jailed_until=0, waiting_since=height
    )
    assert "not jailed" in failure(chain, chain.unjail(absent))
    assert chain.next_epoch == 3
    chain.append_epochs(1)
    assert absent.public_key not in weights(chain, 4) and weights(chain, 5)[absent.public_key] == 40_000


SPAN = replace(PARAMETERS, participation_span_ms=12_000)
"""Blocks are made every second, four in an epoch: a span lasts three epochs, with three counted blocks in each."""


def read_span(chain: Chain, key: KeyPair) -> tuple[int, int, int]:
    record = chain.validator_record(key)
    return record.counted_since, record.counted_votes, record.counted_blocks


@pytest.mark.parametrize(("away", "jailed"), [((0,), False), ((1, 2), True), ((0, 2), True), ((2, 3), False)])
def test_absence_is_counted_over_a_span_of_whole_epochs(away: tuple[int, ...], jailed: bool) -> None:
    """Who is away for one epoch of three is not jailed, however short that is; nor is who is away in two spans."""
    chain = Chain(5, parameters=SPAN)
    absent = chain.validators[4]
    for epoch in range(6):
        chain.append_epochs(1, voters=chain.validators[:4] if epoch in away else None)
        if epoch == 1:
            assert read_span(chain, chain.validators[0]) == (0, 6, 6)
            assert read_span(chain, absent) == (0, 3 * ((0 not in away) + (1 not in away)), 6)
        if epoch == 2:
            assert read_span(chain, absent) == (12_000, 0, 0)
        assert bool(chain.validator_record(absent).jailed_until) == (jailed and epoch >= 2)


def test_a_slow_chain_counts_one_epoch() -> None:
    """Where an epoch takes longer than the span does."""
    chain = Chain(5, parameters=SPAN)
    chain.append_epochs(1, elapsed=3_000, voters=chain.validators[:4])
    assert chain.validator_record(chain.validators[4]).jailed_until == 1


def test_a_span_begins_with_the_first_epoch_of_a_member() -> None:
    """What happened before does not count, and after the last epoch nothing is kept."""
    chain = Chain(5, parameters=SPAN)
    user = chain.users[0]
    chain.append([chain.bond(user, 50_000)])
    chain.append([chain.enroll(user)])
    chain.append_epochs(1)
    assert chain.weight(user, 2) == 50_000 and read_span(chain, user) == (0, 0, 0)
    chain.append_epochs(1)
    began = chain.head.chain_time
    assert read_span(chain, user) == (began, 0, 0)
    chain.append_epochs(2, voters=chain.validators)
    assert read_span(chain, user) == (began, 0, 6) and not chain.validator_record(user).jailed_until
    assert read_span(chain, chain.validators[0])[0] != began
    chain.append_epochs(1, voters=chain.validators)
    assert chain.validator_record(user).jailed_until == 5
    chain.append_epochs(2)
    assert chain.weight(user, 7) == 0 and read_span(chain, user) == (0, 0, 0)


@pytest.mark.parametrize(("others", "spared"), [(0, True), (1, False)])
def test_no_validator_is_jailed_where_fewer_than_four_would_be_left(others: int, spared: bool) -> None:
    """One that is away costs less than the next fault, of three validators that all have to be there."""
    chain = Chain(4 + others)
    absent = chain.validators[3]
    chain.append_epochs(3, voters=[key for key in chain.validators if key is not absent])
    assert (chain.validator_record(absent).jailed_until == 0) is spared
    assert len(weights(chain, 4)) == 4 and all(weight == 100_000 for weight in weights(chain, 4).values())


def test_those_with_the_least_participation_are_jailed_first() -> None:
    """Of three that were absent, as many as leave four with weight."""
    chain = Chain(6, stakes=[100_000] * 3 + [40_000] * 3, parameters=replace(PARAMETERS, epoch_heights=8))
    worse, bad, worst = chain.validators[3:]
    present = {3: [bad, worse], 4: [bad]}
    for height in range(1, 9):
        chain.append(voters=[*chain.validators[:3], *present.get(height, [])] if height > 1 else None)
    jailed = {key for key in (bad, worse, worst) if chain.validator_record(key).jailed_until}
    assert jailed == {worse, worst}
    assert set(weights(chain, 2)) == {key.public_key for key in (*chain.validators[:3], bad)}


def test_a_validator_that_has_left_the_next_committee_is_jailed_all_the_same() -> None:
    """It takes no weight away from that."""
    chain = Chain(5)
    leaving = chain.validators[4]
    do(chain, chain.retire(leaving))
    chain.append_epochs(1)
    chain.append_epochs(2, voters=chain.validators[:4])
    assert leaving.public_key not in weights(chain, 3) and len(weights(chain, 3)) == 4
    assert chain.validator_record(leaving).jailed_until == 2


def test_what_an_owner_is_told_is_what_counts_at_the_end_of_the_span() -> None:
    chain = Chain(5, parameters=SPAN)
    absent, user = chain.validators[4], chain.users[0]
    assert get_standing(chain.state, absent.public_key) == Standing(0, 0) and Standing(0, 0).share == 1.0
    assert get_standing(chain.state, user.public_key) is None
    chain.append_epochs(1)
    assert get_standing(chain.state, absent.public_key) == Standing(3, 3)
    for votes, blocks in ((3, 3), (3, 4), (3, 5), (3, 6)):
        chain.append(voters=chain.validators[:4] if blocks > 3 else None)
        standing = get_standing(chain.state, absent.public_key)
        assert standing == Standing(votes, blocks) and standing.needed == (blocks + 1) // 2
    assert not chain.validator_record(absent).jailed_until
    assert (Standing(2, 5).votes < Standing(2, 5).needed) and Standing(3, 6).votes == Standing(3, 6).needed


def test_a_jailed_validator_cannot_shake_it_off_by_enrolling_again() -> None:
    chain = attend(5, 4)
    absent = chain.validators[4]
    nonce = chain.account(absent).nonce
    do(chain, chain.retire(absent), chain.enroll(absent, hash_chain=1, nonce=nonce + 1))
    assert chain.validator_record(absent).jailed_until == 1
    chain.append_epochs(1)
    assert absent.public_key not in weights(chain, 3)


def test_absent_validators_cannot_empty_the_committee_below_a_quorum_of_those_present() -> None:
    """More than two thirds sign every certificate, so that more than a third is above one half whatever happens."""
    chain = Chain(parameters=replace(PARAMETERS, epoch_heights=10))
    for number in range(10):
        out = number % 4
        chain.append(voters=[key for index, key in enumerate(chain.validators) if index != out])
    assert not any(chain.validator_record(key).jailed_until for key in chain.validators)


# Missed leads.


def test_the_leader_of_a_nullified_view_pays() -> None:
    chain = Chain()
    before = {key: chain.account(key) for key in chain.validators}
    leaders = [chain.leader(view) for view in (1, 2, 3)]
    chain.append(skipped=3)
    for key in chain.validators:
        paid = FEE * leaders.count(key)
        assert chain.account(key) == replace(before[key], available=before[key].available - paid)
    assert chain.state.totals.treasury == 3 * FEE and compute_supply(chain.state) == chain.genesis.supply
    treasury = chain.state.totals.treasury
    chain.append()
    assert chain.state.totals.treasury == treasury, "once"


@pytest.mark.parametrize(
    ("available", "bonded", "left"),
    [
        (FEE, 100_000, (0, 100_000)),
        (FEE - 1, 100_000, (0, 99_999)),
        (FEE + 1, 100_000, (1, 100_000)),
        (0, 100_000, (0, 100_000 - FEE)),
        (100, FEE - 101, (0, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_a_missed_lead_is_paid_of_what_is_there(available: int, bonded: int, left: tuple[int, int]) -> None:
    chain = Chain()
    leader = chain.leader(1)
    account = chain.account(leader)
    poor = replace(account, available=available, bonded=bonded)
    taken = account.total - poor.total
    totals = chain.state.totals
    chain.states[-1] = chain.state.update(
        {b"a" + leader.public_key: poor, b"s": replace(totals, supply=totals.supply - taken)}
    )
    _, transition, _ = chain.propose(skipped=1)
    after = transition.state.account(leader.public_key)
    assert (after.available, after.bonded) == left
    assert transition.state.totals.treasury == available + bonded - sum(left) <= FEE
    assert compute_supply(transition.state) == transition.state.totals.supply


@pytest.mark.parametrize(
    ("available", "bonded", "unbonding", "left"),
    [
        (FEE, 0, (70, 80), (70, 80)),
        (100, 100, (70, 2 * FEE), (2 * FEE - FEE + 270,)),
        (0, FEE - 30, (70, 80), (40, 80)),
        (0, FEE - 70, (70, 80), (80,)),
        (0, 0, (70, 80), ()),
        (0, 0, (70, 80, FEE), (150,)),
    ],
)
def test_a_missed_lead_is_paid_of_what_is_unbonding_too(
    available: int, bonded: int, unbonding: tuple[int, ...], left: tuple[int, ...]
) -> None:
    """The weight of who has unbonded is frozen for up to two epochs, in which it leads as before."""
    chain = Chain()
    leader = chain.leader(1)
    parts = tuple(Unbonding(amount, 5 + number) for number, amount in enumerate(unbonding))
    poor = replace(chain.account(leader), available=available, bonded=bonded, unbonding=parts)
    totals = chain.state.totals
    supply = totals.supply - chain.account(leader).total + poor.total
    chain.states[-1] = chain.state.update({b"a" + leader.public_key: poor, b"s": replace(totals, supply=supply)})
    _, transition, _ = chain.propose(skipped=1)
    after = transition.state.account(leader.public_key)
    assert tuple(part.amount for part in after.unbonding) == left
    assert [part.release_epoch for part in after.unbonding] == [part.release_epoch for part in parts][-len(left) or 9 :]
    assert transition.state.totals.treasury == min(FEE, poor.total)
    assert compute_supply(transition.state) == supply


def test_a_leader_that_misses_all_its_views_ends_with_nothing_and_never_below() -> None:
    chain = Chain(4, available=0, stakes=[1_200, 100_000, 100_000, 100_000])
    poor = chain.validators[0]
    views = [view for view in range(1, 3_000) if chain.leader(view) is poor][:3]
    assert views[-1] - views[0] < 900
    for view in views:
        first = chain.head.view + 1 if chain.blocks else 1
        chain.append(skipped=view + 1 - first)
        if chain.next_epoch:
            break
    assert chain.account(poor).bonded == max(0, 1_200 - FEE * len(views))
    assert compute_supply(chain.state) == chain.genesis.supply


def test_only_the_views_that_a_body_names_are_charged() -> None:
    chain = Chain()
    before = {key: chain.account(key).available for key in chain.validators}
    chain.append(skipped=50)
    charged = [chain.leader(view, 0) for view in range(51 - 32, 51)]
    assert {key: before[key] - chain.account(key).available for key in chain.validators} == {
        key: FEE * charged.count(key) for key in chain.validators
    }


def test_no_fee_without_one_in_the_genesis() -> None:
    chain = Chain(parameters=replace(PARAMETERS, missed_lead_fee=0))
    chain.append(skipped=3)
    assert chain.state.totals.treasury == 0


def test_a_missed_lead_may_cost_the_weight_of_who_has_the_minimum() -> None:
    """Said plainly: a bond must be above the minimum by what its owner may have to pay."""
    chain = Chain(4, available=0, stakes=[100_000, 100_000, 100_000, 1_000], parameters=LONG)
    small = chain.validators[3]
    view = next(view for view in range(1, 999) if chain.leader(view) is small)
    chain.append(skipped=view)
    chain.append_epochs(1)
    assert chain.account(small).bonded == 500 and small.public_key not in weights(chain, 2)


# Evidence.

PAIRS = [
    (VoteKind.NOTARIZE, VoteKind.NOTARIZE),
    (VoteKind.FINALIZE, VoteKind.FINALIZE),
    (VoteKind.NULLIFY, VoteKind.FINALIZE),
]


@pytest.mark.parametrize("kinds", PAIRS)
def test_evidence_takes_everything_and_pays_the_finder_a_tenth(kinds: tuple[VoteKind, VoteKind]) -> None:
    chain = Chain()
    liar, finder = chain.validators[0], chain.users[0]
    do(chain, chain.unbond(liar, 30_003), chain.hold(liar, 0))
    before, earner, treasury = chain.account(liar), chain.account(finder), chain.state.totals.treasury
    height = chain.head.height + 1
    fee = do(chain, chain.evidence(finder, liar, kinds=kinds))
    assert chain.account(liar) == replace(before, bonded=0, unbonding=()), "its other credit stays its own"
    assert chain.account(finder) == replace(earner, available=earner.available - fee + 10_000)
    assert chain.state.totals.treasury == treasury + fee + 90_000
    validator = chain.validator_record(liar)
    assert (validator.jailed_until, validator.clean_from, validator.is_enrolled) == (
        PARAMETERS.unbonding_epochs,
        2,
        True,
    )
    assert chain.head.height == height
    chain.append_epochs(1)
    assert chain.weight(liar, 1) == 100_000 and liar.public_key not in weights(chain, 2)


def test_a_slash_that_does_not_divide_by_ten_is_conserved() -> None:
    chain = Chain(stakes=[1_009, 100_000, 100_000, 100_000])
    liar, finder = chain.validators[0], chain.users[0]
    earner, treasury = chain.account(finder), chain.state.totals.treasury
    fee = do(chain, chain.evidence(finder, liar))
    assert chain.account(finder).available == earner.available - fee + 100
    assert chain.state.totals.treasury == treasury + fee + 909


def test_honest_pairs_are_no_evidence() -> None:
    chain = Chain()
    key, chain_id = chain.validators[0], chain.genesis.chain_id
    block, other = bytes([1]) * 32, bytes([2]) * 32

    def vote(kind: VoteKind, block_id: bytes = block, *, epoch: int = 0, view: int = 1, who: KeyPair = key) -> Vote:
        return sign_vote(who, chain_id, kind, epoch, view, NO_BLOCK if kind == VoteKind.NULLIFY else block_id)

    honest = [
        (vote(VoteKind.NOTARIZE), vote(VoteKind.NULLIFY)),
        (vote(VoteKind.NOTARIZE), vote(VoteKind.FINALIZE)),
        (vote(VoteKind.NOTARIZE), vote(VoteKind.FINALIZE, other)),
        (vote(VoteKind.NOTARIZE), vote(VoteKind.NOTARIZE, other, view=2)),
        (vote(VoteKind.NOTARIZE), vote(VoteKind.NOTARIZE, other, epoch=1)),
        (vote(VoteKind.NOTARIZE), vote(VoteKind.NOTARIZE, other, who=chain.validators[1])),
        (vote(VoteKind.NULLIFY), vote(VoteKind.FINALIZE, view=2)),
        (vote(VoteKind.NULLIFY), vote(VoteKind.NULLIFY)),
        (vote(VoteKind.FINALIZE), vote(VoteKind.FINALIZE)),
    ]
    for first, second in honest:
        assert not is_slashable(first, second) and not is_slashable(second, first)
        for pair in ((first, second), (second, first)):
            with pytest.raises(InvalidOperation, match="do not contradict"):
                check_form(chain.sign(chain.users[0], Evidence(*pair)))
            assert "do not contradict" in refusal(chain, chain.sign(chain.users[0], Evidence(*pair)))


def test_evidence_stands_in_one_order() -> None:
    chain = Chain()
    signed = chain.evidence(chain.users[0], chain.validators[0])
    evidence = signed.operation
    assert isinstance(evidence, Evidence)
    turned = chain.sign(chain.users[0], Evidence(evidence.second, evidence.first))
    assert "smaller encoding comes first" in refusal(chain, turned)


def test_forged_evidence_is_refused_and_costs_the_liar_nothing() -> None:
    chain = Chain()
    finder, key = chain.users[0], chain.validators[0]
    evidence = chain.evidence(finder, key).operation
    assert isinstance(evidence, Evidence)
    first, second = evidence.first, evidence.second
    foreign = Chain(name="other").evidence(finder, key).operation
    assert isinstance(foreign, Evidence)
    by_another = chain.evidence(finder, chain.validators[1]).operation
    assert isinstance(by_another, Evidence)
    forged = [
        (first, replace(second, signature=bytes(64))),
        (replace(first, signature=second.signature), second),
        (foreign.first, foreign.second),
        tuple(replace(vote, signer=key.public_key) for vote in (by_another.first, by_another.second)),
    ]
    before = chain.account(key)
    for pair in forged:
        operation = chain.sign(finder, Evidence(*sorted(pair, key=Vote.encode)))
        assert "not signed by their signer" in refusal(chain, operation)
    # A finalize of no block is nothing that a validator signs.
    empty = [sign_vote(key, chain.genesis.chain_id, VoteKind.FINALIZE, 0, 1, NO_BLOCK), chain.vote(key, chain.append())]
    odd = replace(empty[1], kind=int(VoteKind.FINALIZE))
    assert is_slashable(empty[0], odd)
    operation = chain.sign(finder, Evidence(*sorted((empty[0], odd), key=Vote.encode)))
    assert "not signed by their signer" in refusal(chain, operation)
    assert chain.account(key) == before


def test_evidence_grows_old_with_the_unbonding() -> None:
    """It is good until stake that was unbonded right after the lie is free."""
    for epochs, good in ((PARAMETERS.unbonding_epochs, True), (PARAMETERS.unbonding_epochs + 1, False)):
        chain = Chain()
        liar, finder = chain.validators[0], chain.users[0]
        signed = chain.evidence(finder, liar)
        chain.append_epochs(epochs)
        if good:
            do(chain, signed)
        else:
            assert "too old" in refusal(chain, signed)


def test_stake_cannot_leave_before_the_evidence_is_too_old() -> None:
    """Whenever the stake that voted is withdrawn, and however early it was unbonded."""
    chain = Chain()
    liar = chain.validators[0]
    do(chain, chain.unbond(liar, 100_000))  # in epoch 0: its last votes are of epoch 1
    release = chain.account(liar).unbonding[0].release_epoch
    assert release > 1 + PARAMETERS.unbonding_epochs


def test_evidence_against_who_never_was_a_validator() -> None:
    chain = Chain()
    user = make_applicant(chain)
    assert "never was a validator" in refusal(chain, chain.evidence(chain.users[1], user))
    assert "never was a validator" in refusal(chain, chain.evidence(chain.users[1], STRANGER))


def test_evidence_of_an_epoch_that_has_not_begun() -> None:
    """Or one pair of votes could be shown again and again: what it punishes ends with the epoch after this one."""
    chain = Chain()
    liar, finder = chain.validators[0], chain.users[0]
    chain.append_epochs(1)
    for epoch in (2, 3, 99, 2**62):
        assert "has not begun" in refusal(chain, chain.evidence(finder, liar, epoch=epoch))
    do(chain, chain.evidence(finder, liar, epoch=1))


def test_a_lie_is_punished_once_and_what_was_said_before_the_punishment_with_it() -> None:
    chain = Chain()
    liar, finder = chain.validators[0], chain.users[0]
    chain.append_epochs(1)
    first, more = chain.evidence(finder, liar), [chain.evidence(finder, liar, epoch=e, view=9) for e in (0, 1)]
    do(chain, first)
    do(chain, chain.bond(liar, 50_000))
    for again in (first, *more):
        assert "punished for that epoch already" in refusal(chain, again), "not even with new stake"
    chain.append_epochs(1)
    assert "punished for that epoch already" in refusal(chain, chain.evidence(finder, liar, epoch=2))
    chain.append_epochs(1)
    assert chain.next_epoch == 3
    do(chain, chain.evidence(finder, liar, epoch=3))
    assert chain.account(liar).bonded == 0 and chain.validator_record(liar).clean_from == 5


def test_a_second_punishment_is_refused_for_the_first_before_for_the_lack_of_stake() -> None:
    chain = Chain()
    liar, finder = chain.validators[0], chain.users[0]
    chain.append_epochs(1)
    do(chain, chain.evidence(finder, liar))
    for again in (chain.evidence(finder, liar, epoch=epoch, view=view) for epoch in (0, 1) for view in (1, 9)):
        assert "punished for that epoch already" in refusal(chain, again)


def test_there_is_no_evidence_against_who_has_nothing() -> None:
    chain = Chain()
    liar, finder = chain.validators[0], chain.users[0]
    do(chain, chain.evidence(finder, liar))
    chain.append_epochs(2)
    before = chain.account(finder)
    assert "nothing at stake" in refusal(chain, chain.evidence(finder, liar))
    assert chain.account(finder) == before


def test_one_may_show_evidence_against_oneself_and_loses_nine_tenths() -> None:
    chain = Chain()
    liar = chain.validators[0]
    before = chain.account(liar)
    fee = do(chain, chain.evidence(liar, liar))
    assert chain.account(liar) == replace(before, bonded=0, available=before.available - fee + 10_000)


def test_two_finders_in_one_block() -> None:
    chain = Chain()
    liar, (one, two) = chain.validators[0], chain.users
    assert "punished" in refusal(chain, chain.evidence(one, liar), chain.evidence(two, liar, view=2))


def test_evidence_without_a_fee_is_not_included() -> None:
    chain = Chain()
    operation = chain.evidence(STRANGER, chain.validators[0])
    assert "the fee is" in refusal(chain, operation)
    assert compute_fee(chain.genesis, operation) > 0


def test_the_punished_stay_out_for_the_unbonding_time() -> None:
    chain = Chain()
    liar, finder = chain.validators[0], chain.users[0]
    chain.append_epochs(1)
    do(chain, chain.evidence(finder, liar))
    until = chain.validator_record(liar).jailed_until
    assert until == 1 + PARAMETERS.unbonding_epochs == 3
    assert f"jailed until epoch {until}, this is epoch 1" in failure(chain, chain.unjail(liar))
    do(chain, chain.bond(liar, 50_000))
    chain.append_epochs(1)
    assert "jailed" in failure(chain, chain.unjail(liar))
    chain.append_epochs(1)
    assert liar.public_key not in weights(chain, 4)
    do(chain, chain.unjail(liar))
    chain.append_epochs(1)
    assert weights(chain, 5)[liar.public_key] == 30_000


def test_a_slash_does_not_shorten_or_end_by_absence() -> None:
    """Who is jailed for a lie and then absent as well stays jailed for the lie."""
    chain = Chain(parameters=replace(PARAMETERS, unbonding_epochs=5))
    liar, finder = chain.validators[0], chain.users[0]
    chain.append()
    do(chain, chain.evidence(finder, liar))
    chain.append_epochs(1, voters=chain.validators[1:])
    assert chain.validator_record(liar).jailed_until == 5


def test_who_has_retired_is_still_punished() -> None:
    chain = Chain()
    liar, finder = chain.validators[0], chain.users[0]
    nonce = chain.account(liar).nonce
    signed = chain.evidence(finder, liar)
    do(chain, chain.retire(liar), chain.unbond(liar, 100_000, nonce=nonce + 1))
    chain.append_epochs(2)
    do(chain, signed)
    assert chain.account(liar).unbonding == () and chain.account(liar).bonded == 0


@settings(max_examples=40)
@given(
    bonded=st.integers(1_000, 10**12),
    parts=st.lists(st.integers(1, 10**6), max_size=4),
    kinds=st.sampled_from(PAIRS),
    by=st.sampled_from(["user", "self", "validator"]),
)
def test_what_is_slashed_is_what_is_handed_out(
    bonded: int, parts: list[int], kinds: tuple[VoteKind, VoteKind], by: str
) -> None:
    chain = Chain(2, 1, stakes=[10**12, 1_000])
    liar = chain.validators[0]
    finder = {"user": chain.users[0], "self": liar, "validator": chain.validators[1]}[by]
    account = chain.account(liar)
    rest = 10**12 - bonded
    unbonding = tuple(Unbonding(part, 5 + index) for index, part in enumerate(parts))
    changed = replace(account, bonded=bonded, unbonding=unbonding)
    totals = chain.state.totals
    supply = totals.supply - rest + sum(parts)
    chain.states[-1] = chain.state.update({b"a" + liar.public_key: changed, b"s": replace(totals, supply=supply)})
    operation = chain.evidence(finder, liar, kinds=kinds)
    _, transition, rejected = chain.propose([operation])
    assert not rejected
    after = transition.state
    stake, fee = bonded + sum(parts), compute_fee(chain.genesis, operation)
    assert after.account(liar.public_key).bonded == 0 and after.account(liar.public_key).unbonding == ()
    assert after.totals.treasury == fee + stake - stake // 10
    gain = after.account(finder.public_key).available - chain.state.account(finder.public_key).available
    assert gain == stake // 10 - fee
    assert compute_supply(after) == supply


def test_evidence_in_the_last_block_of_an_epoch_still_keeps_the_liar_out() -> None:
    chain = Chain()
    liar, finder = chain.validators[0], chain.users[0]
    for _ in range(3):
        chain.append()
    do(chain, chain.evidence(finder, liar))
    assert chain.next_epoch == 1 and liar.public_key not in weights(chain, 2)
