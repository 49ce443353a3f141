"""The beacon: hash chains that reveal one value at a time, and a value that only reveals change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.crypto import hash_bytes
from chain.exceptions import InvalidBlock
from chain.state.beacon import MIN_HASHES, NO_COMMITMENT, Beacon, HashChain, compute_commitment, make_hash_chain
from chain.transition.block import build_block, check_reveal, state_transition
from chain.transition.restart import VIEW_JUMP
from chain.types.blocks import NO_REVEAL, Block, sign_block
from tests.support.chain_builder import PARAMETERS, Chain, find_reveal
from tests.support.keys import make_key

START = Beacon(3, hash_bytes("value"), hash_bytes("previous"), hash_bytes("earlier"))
SALT = hash_bytes("salt")


# Hash chains.


@given(secret=st.binary(min_size=32, max_size=32), length=st.integers(1, 20))
@settings(max_examples=30)
def test_every_layer_opens_the_one_around_it(secret: bytes, length: int) -> None:
    hash_chain = HashChain(secret, length)
    commitment, seen = hash_chain.commitment, [hash_chain.commitment]
    for left in range(length, 0, -1):
        assert hash_chain.count_reveals(commitment) == left
        reveal = hash_chain.find_reveal(commitment)
        assert reveal is not None and compute_commitment(reveal) == commitment
        commitment = reveal
        seen.append(commitment)
    assert commitment == secret and len(set(seen)) == length + 1
    assert hash_chain.find_reveal(secret) is None and hash_chain.count_reveals(secret) == 0


def test_a_hash_chain_knows_nothing_of_other_tips() -> None:
    hash_chain = HashChain(bytes(32), 10)
    layers = [hash_chain.commitment]
    while (reveal := hash_chain.find_reveal(layers[-1])) is not None:
        layers.append(reveal)
    across = (layers[3] + layers[4])[7:39]  # found in the bytes, but no layer
    for commitment in (NO_COMMITMENT[1:] + b"\1", hash_bytes("other"), across, HashChain(b"\1" * 32, 10).commitment):
        assert hash_chain.find_reveal(commitment) is None and hash_chain.count_reveals(commitment) == 0


def test_hash_chains_are_derived_from_key_chain_and_number() -> None:
    key = make_key("a")
    commitments = {
        make_hash_chain(who, salt, number, 4).commitment
        for who in (key, make_key("b"))
        for salt in (SALT, hash_bytes("other salt"))
        for number in (0, 1, 2**40)
    }
    assert len(commitments) == 12
    hash_chain = make_hash_chain(key, SALT, 0, 4)
    assert hash_chain.commitment == make_hash_chain(key, SALT, 0, 4).commitment
    assert hash_chain.count_reveals(hash_chain.commitment) == MIN_HASHES
    long = make_hash_chain(key, SALT, 0, MIN_HASHES)
    assert long.count_reveals(long.commitment) == 4 * MIN_HASHES  # for four epochs of a validator that leads every view


# The running value.


def test_absorbing_depends_on_every_reveal_and_on_their_order() -> None:
    one, two = hash_bytes("one"), hash_bytes("two")
    values = {START.absorb(first).absorb(second).value for first in (one, two) for second in (one, two)}
    assert len(values) == 4 and START.value not in values
    after = START.absorb(one)
    assert (after.epoch, after.previous, after.earlier) == (START.epoch, START.previous, START.earlier)
    assert after.value == hash_bytes("beacon", START.value, one)


def test_an_epoch_ends_with_the_value_that_the_next_draws_from() -> None:
    ended = START.absorb(bytes(32)).end_epoch()
    assert ended == Beacon(4, START.absorb(bytes(32)).value, START.absorb(bytes(32)).value, START.previous)
    assert ended.get_epoch_seed(4) == ended.value and ended.get_epoch_seed(3) == START.previous
    assert [ended.get_epoch_seed(epoch) for epoch in (0, 2, 5)] == [None] * 3


def test_the_beacon_of_a_chain_is_the_hash_of_its_reveals() -> None:
    chain = Chain()
    value, ends = chain.genesis.beacon, [chain.genesis.beacon]
    for number in range(14):
        chain.append(skipped=number % 2)
        value = hash_bytes("beacon", value, chain.head.beacon_reveal)
        assert chain.state.beacon.value == value
        if chain.head.height % PARAMETERS.epoch_heights == 0:
            ends.append(value)
    for epoch, source in enumerate(ends):  # epoch e draws from the end of e - 1, epoch 0 from the genesis
        assert chain.get_epoch(epoch).beacon == source
        if epoch >= chain.next_epoch - 1:
            assert chain.state.beacon.get_epoch_seed(epoch) == source
    assert len(ends) == 4 and chain.state.beacon.get_epoch_seed(chain.next_epoch - 2) is None


def test_leaders_are_drawn_from_the_beacon_of_the_epoch_before() -> None:
    chain = Chain()
    chain.append_epochs(2)
    epoch = chain.epoch
    assert epoch.number == 2
    assert epoch.beacon == chain.states[8].beacon.value
    drawn = [epoch.compute_leader(view) for view in range(1, 40)]
    assert drawn == [epoch.validators.compute_leader(epoch.beacon, view) for view in range(1, 40)]
    other = [epoch.validators.compute_leader(chain.get_epoch(1).beacon, view) for view in range(1, 40)]
    assert drawn != other


# Reveals.


def make_test_chain() -> Chain:
    chain = Chain()
    chain.append()
    return chain


def refuse(chain: Chain, reveal: bytes) -> None:
    """A block with this reveal, everything else in order, is refused by builder and checker."""
    block, _, _ = chain.propose()
    proposer = chain.keys[block.header.proposer]
    with pytest.raises(InvalidBlock) as caught:
        build_block(
            chain.genesis, proposer, chain.head, chain.state, (), view=block.header.view,
            timestamp=block.header.timestamp, reveal=reveal, parent_certificate=block.body.parent_certificate,
            nullifications=(),
        )  # fmt: skip
    assert caught.value.field == "beacon_reveal"
    forged = sign_block(proposer, replace(block.header, beacon_reveal=reveal), block.body)
    with pytest.raises(InvalidBlock) as caught:
        state_transition(chain.genesis, chain.head, chain.state, Block.decode(forged.encoded))
    assert caught.value.field == "beacon_reveal"


def test_only_the_preimage_of_the_commitment_is_a_reveal() -> None:
    chain = Chain()
    while chain.propose()[0].header.proposer not in {block.header.proposer for block in chain.blocks}:
        chain.append()
    leader = chain.keys[chain.propose()[0].header.proposer]
    right = find_reveal(leader, chain.genesis, chain.state)
    hash_chain = make_hash_chain(leader, chain.genesis.beacon, 0, PARAMETERS.epoch_heights)
    used = [block.header.beacon_reveal for block in chain.blocks if block.header.proposer == leader.public_key]
    others = [find_reveal(key, chain.genesis, chain.state) for key in chain.validators if key is not leader]
    beneath = hash_chain.find_reveal(right)
    other_hash_chain = make_hash_chain(leader, chain.genesis.beacon, 1, PARAMETERS.epoch_heights)
    assert used and beneath is not None
    for wrong in (
        chain.validator_record(leader).commitment,
        beneath,  # two layers at once
        hash_chain.commitment,
        other_hash_chain.commitment,
        other_hash_chain.find_reveal(other_hash_chain.commitment) or b"",
        bytes([right[0] ^ 1]) + right[1:],
        *used,  # its own, of earlier blocks
        *others,
    ):
        assert wrong != right
        refuse(chain, wrong)
    chain.append()
    assert chain.head.beacon_reveal == right and chain.validator_record(leader).commitment == right


def test_a_block_that_reveals_nothing_passes_for_a_restart_and_is_none() -> None:
    chain = make_test_chain()
    block, _, _ = chain.propose()
    header = replace(block.header, beacon_reveal=NO_REVEAL)
    for view in (header.view, header.view + VIEW_JUMP, chain.head.view + VIEW_JUMP):
        forged = sign_block(chain.keys[header.proposer], replace(header, view=view), block.body)
        with pytest.raises(InvalidBlock) as caught:
            state_transition(chain.genesis, chain.head, chain.state, forged)
        assert caught.value.field in ("view", "restart")


def test_a_hash_chain_that_is_used_up_reveals_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chain.state.beacon.MIN_HASHES", 8)
    monkeypatch.setattr("chain.state.beacon.HASHES_PER_HEIGHT", 0)
    chain = Chain(1, parameters=replace(PARAMETERS, epoch_heights=40))
    (leader,) = chain.validators
    for left in range(8, 0, -1):
        hash_chain = make_hash_chain(leader, chain.genesis.beacon, 0, 4)
        assert hash_chain.count_reveals(chain.validator_record(leader).commitment) == left
        block = chain.append()
    assert (
        hash_chain.count_reveals(chain.validator_record(leader).commitment) == 0
        and hash_chain.find_reveal(chain.validator_record(leader).commitment) is None
    )
    header = replace(block.header, height=block.header.height + 1)
    for reveal in (block.header.beacon_reveal, hash_chain.commitment, NO_COMMITMENT):
        with pytest.raises(InvalidBlock, match="beacon_reveal"):
            check_reveal(chain.state, replace(header, beacon_reveal=reveal))


def test_who_has_no_tip_reveals_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what hashes to the tip that stands for none, nor an account that never was a validator."""
    chain = Chain()
    block, _, _ = chain.propose()
    header = block.header
    check_reveal(chain.state, header)
    with pytest.raises(InvalidBlock, match="beacon_reveal"):
        check_reveal(chain.state, replace(header, proposer=chain.users[0].public_key))
    validator = replace(chain.validator_record(chain.keys[header.proposer]), commitment=NO_COMMITMENT)
    state = chain.state.update({b"v" + header.proposer: validator})
    with pytest.raises(InvalidBlock, match="beacon_reveal"):
        check_reveal(state, header)
    monkeypatch.setattr("chain.transition.block.compute_commitment", lambda reveal: NO_COMMITMENT)
    with pytest.raises(InvalidBlock, match="beacon_reveal"):
        check_reveal(state, header)


def test_a_reveal_is_all_that_a_proposer_can_give_to_the_beacon() -> None:
    """Whatever else it puts into its block, in whatever order and at whatever time, the beacon is the same."""
    values = set()
    for amount in range(3):
        chain = Chain()
        user, other = chain.users
        operations = [chain.transfer(user, other, amount), chain.transfer(other, user, 5)][amount % 2 :]
        block, transition, _ = chain.propose(operations, elapsed=1_000 + amount)
        values.add(transition.state.beacon.value)
        chain.accept(block, transition)
    assert len(values) == 1
