"""Two histories of one genesis: the true one, and what validators whose stake is unbonded make up later."""

from __future__ import annotations

from dataclasses import replace

from chain.types.votes import VoteKind
from tests.support.chain_builder import PARAMETERS, Chain

LONG = replace(PARAMETERS, unbonding_epochs=2)


def make_true_chain() -> Chain:
    """Three of four validators retire and take their stake out; the fourth carries on."""
    chain = Chain(parameters=LONG)
    leavers = chain.validators[:3]
    chain.append([chain.retire(key) for key in leavers])
    chain.append([chain.unbond(key, 100_000) for key in leavers])
    chain.append_epochs(6)
    chain.append([chain.withdraw(key) for key in leavers])
    chain.append_epochs(1)
    chain.append()
    assert all(chain.account(key).bonded == 0 and not chain.account(key).unbonding for key in leavers)
    assert [validator.public_key for validator in chain.epoch.validators] == [chain.validators[3].public_key]
    return chain


def make_forged_chain(length: int) -> Chain:
    """What the three make up afterwards, in which they never left. It is longer than the true chain."""
    chain = Chain(parameters=LONG)
    thieves = chain.validators[:3]
    for _ in range(length):
        victim, receiver = chain.users[0], chain.users[1]
        chain.append([chain.transfer(victim, receiver, 5_000)])
    for block in chain.blocks:  # three of four are a quorum: the fourth is not needed for any of it
        assert chain.certify(block.header, VoteKind.FINALIZE, signers=thieves)
    return chain


TRUE = make_true_chain()
FORGED = make_forged_chain(45)
