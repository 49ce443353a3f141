"""The mempool and duels: only those whose turn it is are heard, since what they send costs nothing."""

from __future__ import annotations

import pytest

from chain.crypto import hash_bytes
from chain.exceptions import InvalidOperation
from chain.types.duels import DuelAnswer, DuelCommit, DuelReveal
from consensus.mempool.pool import MAX_UNREADY_WAIT_S, Mempool
from tests.support.chains.duel_chain import EXECUTOR, DuelChain, make_ballot
from tests.support.ledgers import find_changes


def test_operations_of_duels_are_taken_only_from_those_whose_turn_it_is() -> None:
    """They cost no fee: without this rule they would fill the pool for nothing."""
    chain = DuelChain()
    hold = chain.open_duel()
    pool = Mempool(chain.genesis, chain.head, chain.state)
    duel, answer = chain.duel(hold), chain.answer(hold)
    ballot = make_ballot(duel.seats[0], EXECUTOR)
    for number, stranger in enumerate([*chain.users, chain.keys[duel.executor], *chain.validators]):
        if stranger.public_key == duel.challenger:
            continue
        for signed in (
            chain.answer(hold, stranger),
            chain.sign(stranger, DuelAnswer(hash_bytes("no duel", bytes([number])), bytes(32))),
            chain.sign(stranger, DuelCommit(hold, bytes(32))),
            chain.sign(stranger, DuelReveal(hold, ballot, bytes(16))),
        ):
            with pytest.raises(InvalidOperation, match=r"challenger answers|no duel|waits for an answer"):
                pool.check(signed)
    pool.add(answer, 0.0)
    assert pool.select(10**6) == [answer]
    with pytest.raises(InvalidOperation, match="asks for the same"):
        pool.add(chain.sign(chain.keys[answer.signer], DuelAnswer(hold, bytes(32))), 0.0)
    assert len(pool) == 1


def test_what_a_duel_waits_for_is_dropped_with_the_stage_that_it_came_too_late_for() -> None:
    chain = DuelChain()
    hold = chain.open_duel()
    pool = Mempool(chain.genesis, chain.head, chain.state)
    answer = chain.answer(hold)
    pool.add(answer, 0.0)
    before = chain.state
    chain.let_run_out(hold)
    pool.on_final(chain.blocks[-1], chain.state, find_changes(before, chain.state), 1.0)
    assert not pool.has_ready() and pool.get_reason(answer.id) == "only the challenger answers"
    pool.expire(1.0 + MAX_UNREADY_WAIT_S)
    assert len(pool) == 0
