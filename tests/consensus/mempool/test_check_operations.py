"""The mempool and checks of the model: only checkers whose turn it is are heard, since what they send costs nothing."""

from __future__ import annotations

import pytest

from chain.exceptions import InvalidOperation
from chain.types.checks import CheckCommit
from consensus.mempool.pool import Mempool
from tests.support.chains.check_chain import PASSED, CheckChain
from tests.support.ledgers import find_changes


def test_operations_of_checks_are_taken_once_and_only_from_those_whose_turn_it_is() -> None:
    chain = CheckChain()
    hold = chain.open_check()
    pool = Mempool(chain.genesis, chain.head, chain.state)
    seats = chain.check(hold).seats
    checkers = {seat.public_key for seat in seats}
    for stranger in chain.keys.values():
        strange = [chain.sign(stranger, CheckCommit(bytes(32), bytes(32)))]
        if stranger.public_key not in checkers:
            strange.append(chain.sign(stranger, CheckCommit(hold, bytes(32))))
        for signed in (*strange, chain.sign(stranger, chain.reveal_report(hold, seats[0], PASSED).operation)):
            with pytest.raises(InvalidOperation, match=r"no check about|no checker|waits for commitments"):
                pool.check(signed)
    signed = chain.commit_report(hold, seats[0], PASSED)
    pool.add(signed, 0.0)
    assert pool.select(10**6) == [signed]
    with pytest.raises(InvalidOperation, match="asks for the same"):
        pool.add(chain.sign(chain.keys[signed.signer], CheckCommit(hold, bytes(32))), 0.0)
    before = chain.state
    chain.let_check_run_out(hold)
    pool.on_final(chain.blocks[-1], chain.state, find_changes(before, chain.state), 1.0)
    assert not pool.has_ready() and "no check about" in (pool.get_reason(signed.id) or "")
