"""Nodes that share what blocks do get what each would have come to by itself, and nothing that is not theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.network.shared_ledger import share_ledger
from chain.exceptions import InvalidBlock
from chain.state.state import StateOverlay
from chain.transition.block import Transition, state_transition
from chain.transition.context import BlockContext
from chain.transition.operations import process_operation
from chain.types.blocks import Block
from chain.types.operations import SignedOperation
from consensus.mempool import pool
from consensus.mempool.pool import Mempool
from tests.consensus.mempool.single_validator import MARKET, make_capture, make_hold
from tests.consensus.mempool.single_validator import Chain as SingleChain
from tests.support.chain_builder import Chain


def execute(chain: Chain, block: Block) -> Transition:
    return state_transition(chain.genesis, chain.head, chain.state, Block.decode(block.encoded))


def test_a_block_is_executed_once_for_all_that_are_at_its_parents_state() -> None:
    chain = Chain()
    block, proposed, _ = chain.propose()
    alone = execute(chain, block)
    with share_ledger():
        first = execute(chain, block)
        assert execute(chain, block) is first
        assert first is not alone
        assert (first.state.root, first.changes, first.failures) == (alone.state.root, alone.changes, alone.failures)
    assert proposed.state.root == first.state.root
    assert execute(chain, block) is not first


def test_what_is_shared_lets_no_invalid_block_pass() -> None:
    chain = Chain()
    block = chain.propose()[0]
    with share_ledger():
        execute(chain, block)
        for bad in (
            Block(block.header, bytes(64), block.body),
            Block(block.header, block.signature, replace(block.body, removed=(bytes(32),))),
            Block(replace(block.header, state_root=bytes(32)), block.signature, block.body),
        ):
            for _ in range(2):
                with pytest.raises(InvalidBlock):
                    execute(chain, bad)
        chain.append()
        with pytest.raises(InvalidBlock):
            execute(chain, block)  # not a child of this state


def test_pools_at_one_state_share_a_verdict_and_one_that_is_behind_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[bytes] = []

    def process(overlay: StateOverlay, context: BlockContext, signed: SignedOperation) -> str | None:
        judged.append(signed.id)
        return process_operation(overlay, context, signed)

    monkeypatch.setattr(pool, "process_operation", process)
    chain, hold = SingleChain(MARKET), make_hold(0, genesis=MARKET)
    capture = make_capture(hold, 100)
    with share_ledger():
        ahead, behind = (Mempool(MARKET, MARKET.header, MARKET.state) for _ in range(2))
        for one in (ahead, behind):
            one.add(capture, 0.0)
            assert "no open hold" in (one.get_reason(capture.id) or "")
            one.add(hold, 0.0)
            assert one.select(10**6) == [hold]
        assert judged == [capture.id, hold.id]
        chain.make_final(ahead, [hold], 1.0)
        assert ahead.select(10**6) == [capture]
        assert behind.select(10**6) == [hold]
