"""Quorums in integers, leaders by stake, and votes that count once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.crypto import hash_bytes
from chain.exceptions import CodecError, InvalidCertificate
from chain.types.validators import Validator, ValidatorSet, compute_smallest_blocking_group
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind, make_certificate, sign_vote
from tests.support.keys import make_key, make_keys

CHAIN_ID = hash_bytes("test chain")
BLOCK = hash_bytes("test block")


def make_set(*stakes: int) -> tuple[list[bytes], ValidatorSet]:
    keys = [key.public_key for key in make_keys(len(stakes))]
    return keys, ValidatorSet.of(zip(keys, stakes, strict=True))


@pytest.mark.parametrize(
    ("stakes", "signers", "quorum"),
    [
        ((1, 1, 1), 2, False),  # exactly 2/3
        ((1, 1, 1), 3, True),
        ((1, 1, 1, 1), 2, False),
        ((1, 1, 1, 1), 3, True),
        ((2, 1), 1, False),  # exactly 2/3 by one
        ((2, 1), 2, True),
        ((2_000_001, 1_000_000), 1, True),
        ((1_999_999, 1_000_000), 1, False),
        ((1,), 1, True),
        ((1,), 0, False),
        ((2**62, 2**61 - 1, 1), 1, False),
        ((2**62, 2**61 - 2, 1), 1, True),  # where floating point sees no difference
        ((20, 20, 20, 20, 20), 3, False),
        ((20, 20, 20, 20, 20), 4, True),
    ],
)
def test_quorum_is_more_than_two_thirds(stakes: tuple[int, ...], signers: int, quorum: bool) -> None:
    keys, validators = make_set(*stakes)
    assert validators.is_quorum(keys[:signers]) is quorum


@given(stakes=st.lists(st.integers(1, 10), min_size=1, max_size=8), data=st.data())
def test_two_quorums_share_more_than_a_third(stakes: list[int], data: st.DataObject) -> None:
    keys, validators = make_set(*stakes)
    pick = st.lists(st.sampled_from(keys), unique=True)
    one, two = data.draw(pick), data.draw(pick)
    if validators.is_quorum(one) and validators.is_quorum(two):
        assert 3 * validators.get_stake(set(one) & set(two)) > validators.total_stake


def test_signers_count_once_and_strangers_not_at_all() -> None:
    keys, validators = make_set(1, 1, 1, 1)
    stranger = make_key("stranger").public_key
    assert validators.get_stake([keys[0]] * 5) == 1
    assert not validators.is_quorum([keys[0], keys[1], keys[0], keys[1]])
    assert not validators.is_quorum([keys[0], keys[1], stranger])
    assert validators.get_stake([stranger, keys[2]]) == 1
    assert not validators.is_quorum([])
    assert stranger not in validators and keys[0] in validators and None not in validators


def test_order_is_by_stake_then_key_whatever_the_order_given() -> None:
    keys = sorted(key.public_key for key in make_keys(5))
    stakes = {keys[0]: 5, keys[1]: 9, keys[2]: 5, keys[3]: 1, keys[4]: 5}
    validators = ValidatorSet.of(stakes.items())
    assert [v.public_key for v in validators] == [keys[1], keys[0], keys[2], keys[4], keys[3]]
    assert ValidatorSet.of(reversed(stakes.items())).hash == validators.hash
    assert ValidatorSet.of({**stakes, keys[3]: 2}.items()).hash != validators.hash
    assert [validators.get_position(v.public_key) for v in validators] == list(range(5)) and len(validators) == 5
    with pytest.raises(KeyError):
        validators.get_position(bytes(32))
    decoded = ValidatorSet.decode(validators.encode())
    assert decoded == validators and decoded.hash == validators.hash


def test_a_set_is_ordered_and_distinct() -> None:
    one, two = Validator(bytes(32), 1), Validator(bytes([1]) * 32, 2)
    for members in ((one, two), (two, one, one), (two, two)):
        with pytest.raises(ValueError, match="ordered"):
            ValidatorSet(members)
    with pytest.raises(CodecError):
        ValidatorSet(()).encode()


def test_leaders_are_drawn_by_stake() -> None:
    """Chi-square over 20,000 views, 3 degrees of freedom: 21.1 is exceeded by chance once in 10,000 beacons."""
    keys, validators = make_set(10, 20, 30, 40)
    beacon = hash_bytes("test beacon")
    drawn = Counter(validators.compute_leader(beacon, view) for view in range(20_000))
    expected = {key: 200 * stake for key, stake in zip(keys, (10, 20, 30, 40), strict=True)}
    assert sum((drawn[key] - mean) ** 2 / mean for key, mean in expected.items()) < 21.1
    other = [validators.compute_leader(hash_bytes("other"), view) for view in range(100)]
    assert other != [validators.compute_leader(beacon, view) for view in range(100)]


def test_a_validator_without_stake_never_leads() -> None:
    keys, validators = make_set(1, 0, 1)
    assert keys[1] not in {validators.compute_leader(hash_bytes("test beacon"), view) for view in range(200)}


@given(stakes=st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(any))
def test_smallest_blocking_group(stakes: list[int]) -> None:
    count = compute_smallest_blocking_group(stakes)
    ordered = sorted(stakes, reverse=True)
    assert not 3 * sum(ordered[count:]) > 2 * sum(stakes)  # without them there is no quorum
    assert 3 * sum(ordered[count - 1 :]) > 2 * sum(stakes)  # with the last of them there is


def vote(name: int, kind: VoteKind = VoteKind.NOTARIZE, view: int = 3, block: bytes = BLOCK) -> Vote:
    return sign_vote(make_keys(4)[name], CHAIN_ID, kind, 0, view, NO_BLOCK if kind == VoteKind.NULLIFY else block)


def test_votes() -> None:
    for kind in VoteKind:
        good = vote(0, kind)
        assert good.is_valid(CHAIN_ID) and not good.is_valid(bytes(32))
        assert Vote.decode(good.encode()) == good
        for changed in (
            replace(good, view=4),
            replace(good, epoch=1),
            replace(good, signer=make_keys(4)[1].public_key),
            replace(good, block_id=hash_bytes("other")),
            replace(good, kind=int(kind) % 3 + 1),
        ):
            assert not changed.is_valid(CHAIN_ID)
    key = make_keys(4)[0]
    named = sign_vote(key, CHAIN_ID, VoteKind.NULLIFY, 0, 3, BLOCK)
    unnamed = sign_vote(key, CHAIN_ID, VoteKind.NOTARIZE, 0, 3, NO_BLOCK)
    assert not named.is_valid(CHAIN_ID) and not unnamed.is_valid(CHAIN_ID)


def test_certificate_of_votes() -> None:
    _, validators = make_set(1, 1, 1, 1)
    votes = [vote(2), vote(0), vote(3)]
    certificate = make_certificate(votes, validators)
    certificate.verify(CHAIN_ID, validators)
    assert list(certificate.signers) == sorted(certificate.signers)
    by_signer = {v.signer: v for v in votes}
    assert {v.signer: v for v in certificate.votes(validators)} == by_signer
    assert Certificate.decode(certificate.encode()) == certificate
    for mixed in ([vote(0), vote(1, view=4)], [vote(0), vote(1, VoteKind.FINALIZE)]):
        with pytest.raises(ValueError, match="one thing"):
            make_certificate(mixed, validators)


def test_forged_certificates_are_refused() -> None:
    _, validators = make_set(1, 1, 1, 1)
    good = make_certificate([vote(0), vote(1), vote(2)], validators)
    s, g = good.signers, good.signatures
    forged = {
        "too few": replace(good, signers=s[:2], signatures=g[:2]),
        "none": replace(good, signers=(), signatures=()),
        "one thrice": replace(good, signers=(s[0],) * 3, signatures=(g[0],) * 3),
        "one twice more": replace(good, signers=(s[0], s[1], s[1]), signatures=(g[0], g[1], g[1])),
        "a quorum, and one of them twice": replace(good, signers=(*s, s[2]), signatures=(*g, g[2])),
        "unsorted": replace(good, signers=s[::-1], signatures=g[::-1]),
        "outside": replace(good, signers=(*s[:2], 4)),
        "far outside": replace(good, signers=(*s[:2], 2**60)),
        "swapped signatures": replace(good, signatures=(g[1], g[0], g[2])),
        "fewer signatures": replace(good, signatures=g[:2]),
        "more signatures": replace(good, signatures=(*g, g[0])),
        "other kind": replace(good, kind=int(VoteKind.FINALIZE)),
        "nullify of a block": replace(good, kind=int(VoteKind.NULLIFY)),
        "notarize of none": replace(good, block_id=NO_BLOCK),
        "other view": replace(good, view=4),
        "other epoch": replace(good, epoch=1),
        "other block": replace(good, block_id=hash_bytes("other")),
    }
    for name, certificate in forged.items():
        with pytest.raises(InvalidCertificate):
            certificate.verify(CHAIN_ID, validators)
            pytest.fail(name)
    with pytest.raises(InvalidCertificate):
        good.verify(bytes(32), validators)
