"""A leader whose blocks break a rule that only execution shows: they get no votes, and the chain goes on without them.

The liar is a whole node whose own engine believes what it builds. Its votes for its blocks stay alone, its views are
nullified, and it pays for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import trio

from chain.state.state import compute_supply
from chain.transition.block import Transition, apply_block, build_block
from chain.transition.epochs import get_next_epoch
from chain.types.blocks import Block, Body, Header, sign_block
from chain.types.operations import Transfer, sign_operation
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

HONEST, LIAR = (1, 2, 3), 4
GENESIS = make_equal_genesis(4, epoch_heights=6)
OTHER = bytes([7]) * 32


def with_header(**fields: Any) -> Callable[[Header, Body], tuple[Header, Body]]:
    return lambda header, body: (dataclasses.replace(header, **fields), body)


def rob(header: Header, body: Body) -> tuple[Header, Body]:
    """Another's credit is moved in the liar's name, as if that one had signed."""
    transfer = sign_operation(make_key(LIAR), GENESIS.chain_id, Transfer(0, make_key(LIAR).public_key, 10))
    stolen = dataclasses.replace(transfer, signer=make_key(1).public_key)
    body = dataclasses.replace(body, operations=(*body.operations, stolen))
    return dataclasses.replace(header, body_root=body.root), body


def forget_votes(header: Header, body: Body) -> tuple[Header, Body]:
    """The late votes are left out, to make others look absent, but the state root has them counted."""
    if not body.late_votes:
        return header, body
    body = dataclasses.replace(body, late_votes=())
    return dataclasses.replace(header, body_root=body.root), body


LIES: dict[str, Callable[[Header, Body], tuple[Header, Body]]] = {
    "state_root": with_header(state_root=OTHER),
    "beacon_reveal": with_header(beacon_reveal=OTHER),
    "next_validators_hash": with_header(next_validators_hash=OTHER),
    "a stolen operation": rob,
    "votes left out": forget_votes,
}


@pytest.mark.parametrize("lie", LIES)
def test_a_block_that_does_not_execute_gets_no_votes(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lies: list[bytes] = []

    def build(genesis: Any, key: Any, *arguments: Any, **fields: Any) -> tuple[Block, Transition, Any]:
        block, transition, rejected = build_block(genesis, key, *arguments, **fields)
        if key.public_key == make_key(LIAR).public_key:
            header, body = LIES[lie](block.header, block.body)
            if header != block.header:
                block = sign_block(key, header, body)
                lies.append(block.id)
        return block, transition, rejected

    monkeypatch.setattr("consensus.driver.proposer.build_block", build)

    async def play(world: World) -> None:
        await world.start(*HONEST, LIAR)
        with trio.fail_after(400):
            while len(lies) < 3 or world.engine(1).header.height < 8:
                sender = 1 + world.engine(1).header.height % 3
                operation = await world.submit(sender, lambda nonce: Transfer(nonce, make_key(4).public_key, 1))
                await world.engine(sender).wait_final(operation.id, 60.0)
        await world.wait_height(world.engine(1).header.height, *HONEST)
        world.check_same_chain()
        engine = world.engine(1)
        store = engine._store
        assert not any(store.height_of_block(block_id) is not None for block_id in lies)
        check_fees(world)
        assert compute_supply(engine.state) == GENESIS.supply

    simulate(GENESIS, play)


def check_fees(world: World) -> None:
    """The leaders of nullified views have paid for them and no one else has: the liar, that is, again and again."""
    engine, liar = world.engine(1), make_key(LIAR).public_key
    missed: list[bytes] = []
    received = 0
    parent, state = GENESIS.header, GENESIS.state
    for height in range(1, engine.header.height + 1):
        block = engine._store.block(height)
        assert block is not None
        epoch = get_next_epoch(GENESIS, state)
        missed += [epoch.compute_leader(nullification.view) for nullification in block.body.nullifications]
        transfers = [signed.operation for signed in block.body.operations]
        received += sum(operation.amount for operation in transfers if isinstance(operation, Transfer))
        parent, state = block.header, apply_block(GENESIS, parent, state, block).state
    assert missed and set(missed) == {liar}
    fees = len(missed) * GENESIS.parameters.missed_lead_fee
    assert state.account(liar).available == GENESIS.state.account(liar).available + received - fees
