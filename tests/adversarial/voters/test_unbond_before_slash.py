"""A validator that lies and takes its stake out before the evidence is shown.

Stake stays slashable for as long as evidence of any epoch in which it had weight is good: until the very epoch in
which it can be withdrawn, and not one epoch longer.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.exceptions import InvalidOperation
from chain.state.state import compute_supply
from chain.types.operations import Evidence, Retire, Transfer, Unbond, Withdraw, sign_operation
from chain.types.votes import Vote, VoteKind, sign_vote
from tests.support.chain_builder import PARAMETERS, Chain
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

STAKE = 100_000


@settings(max_examples=60)
@given(
    years=st.integers(1, 3),
    unbonds=st.integers(0, 3),
    votes=st.integers(0, 5),
    wait=st.integers(0, 6),
    retires=st.booleans(),
    withdraws=st.booleans(),
)
def test_stake_that_had_weight_is_slashed_until_the_evidence_is_too_old(
    years: int, unbonds: int, votes: int, wait: int, retires: bool, withdraws: bool
) -> None:
    """Epochs of: the unbonding, the lie, the evidence (``wait`` after the later of the two)."""
    chain = Chain(parameters=replace(PARAMETERS, epoch_heights=2, unbonding_epochs=years))
    liar, finder = chain.validators[0], chain.users[0]
    votes = min(votes, unbonds + 1)  # later it has no weight
    signed = chain.evidence(finder, liar, epoch=votes)
    chain.append_epochs(unbonds)
    assert chain.weight(liar, votes) == STAKE if votes >= chain.next_epoch - 1 else True
    leave = [chain.unbond(liar, STAKE)]
    if retires:
        leave.append(chain.retire(liar, nonce=chain.account(liar).nonce + 1))
    chain.append(leave)
    chain.append_epochs(max(unbonds, votes) + wait - chain.next_epoch)
    now = chain.next_epoch
    release = unbonds + 2 + years
    withdrawn = False
    if withdraws:
        before = chain.account(liar)
        chain.append([chain.withdraw(liar)])
        withdrawn = chain.failures[-1] == (None,)
        assert withdrawn is (now >= release)
        assert chain.account(liar).available <= before.available + STAKE * withdrawn
        now = chain.next_epoch
    earner, treasury = chain.account(finder).available, chain.state.totals.treasury
    block, transition, rejected = chain.propose([signed])
    if now <= votes + years:
        assert not rejected and not withdrawn, "what could be withdrawn is what no evidence is good for any more"
        chain.accept(block, transition)
        account = chain.account(liar)
        assert account.bonded == 0 and account.unbonding == ()
        fee = len(signed.encoded)
        assert chain.account(finder).available == earner - fee + STAKE // 10
        assert chain.state.totals.treasury == treasury + fee + STAKE - STAKE // 10
    else:
        assert [reason for _, reason in rejected if "too old" in reason]
        kept = sum(part.amount for part in chain.account(liar).unbonding)
        assert kept == (0 if withdrawn else STAKE)
    assert compute_supply(chain.state) == chain.genesis.supply


def test_withdrawing_again_and_again_brings_nothing_out_early() -> None:
    chain = Chain(parameters=replace(PARAMETERS, epoch_heights=2))
    liar, finder = chain.validators[0], chain.users[0]
    chain.append([chain.unbond(liar, STAKE)])
    available = chain.account(liar).available
    while chain.next_epoch < 1 + PARAMETERS.unbonding_epochs:  # its last vote may have been in epoch 1
        chain.append([chain.withdraw(liar)])
        assert chain.failures[-1][0] is not None and chain.account(liar).available < available
    chain.append([chain.evidence(finder, liar, epoch=1)])
    assert chain.account(liar).unbonding == ()


@pytest.mark.parametrize("in_time", [True, False])
def test_a_network_slashes_what_is_on_its_way_out(in_time: bool) -> None:
    """Through the engines: the liar leaves with everything first; the evidence comes later, in time or too late."""
    small = make_equal_genesis(4, 1, epoch_heights=2)
    genesis = replace(small, parameters=replace(small.parameters, unbonding_epochs=3))
    liar, finder = 4, 5

    async def play(world: World) -> None:
        await world.start(1, 2, 3, liar, finder)
        stake = genesis.state.account(make_key(liar).public_key).bonded
        votes = sorted(
            (sign_vote(make_key(liar), genesis.chain_id, VoteKind.FINALIZE, 0, 1, bytes([n]) * 32) for n in (1, 2)),
            key=Vote.encode,
        )
        evidence = sign_operation(make_key(finder), genesis.chain_id, Evidence(*votes))
        for make in (lambda nonce: Unbond(nonce, stake), Retire):
            operation = await world.submit(liar, make)
            await world.engine(liar).wait_final(operation.id, 60)
        waits = 3 if in_time else 5
        with trio.fail_after(300):
            while world.engine(finder).state.beacon.epoch < waits:
                operation = await world.submit(1, lambda nonce: Transfer(nonce, make_key(2).public_key, 1))
                await world.engine(finder).wait_final(operation.id, 60)
        if in_time:
            await world.engine(finder).submit(evidence)
            assert (await world.engine(1).wait_final(evidence.id, 60))[1] is None
        else:
            with pytest.raises(InvalidOperation, match="too old"):
                await world.engine(finder).submit(evidence)
            await world.wait_height(world.engine(finder).header.height)
            operation = await world.submit(liar, Withdraw)
            await world.engine(1).wait_final(operation.id, 60)
        account = world.engine(1).state.account(make_key(liar).public_key)
        assert account.bonded == 0 and account.unbonding == ()
        treasury = world.engine(1).state.totals.treasury
        assert (treasury > stake * 9 // 10) is in_time
        assert (account.available > stake + 999_000_000) is not in_time
        assert compute_supply(world.engine(1).state) == genesis.supply
        world.check_same_chain()

    simulate(genesis, play)
