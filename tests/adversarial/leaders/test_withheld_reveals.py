"""A leader that keeps a block to itself when the beacon would not suit it.

That is one bit of choice for each view that it gives up: a reveal has one value, and the next leader is free to reveal
another. It pays each time, the chain goes on, and what it gains is bounded (``benchmarks/blockchain/beacon.py``).
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from benchmarks.blockchain.beacon import Epoch, Game, measure_bias
from chain.crypto import KeyPair
from chain.state.beacon import make_hash_chain
from chain.state.state import State, compute_supply
from chain.transition.block import build_block
from chain.transition.epochs import get_next_epoch
from chain.types.operations import Transfer
from consensus.driver.proposer import Proposer
from consensus.simplex.messages import Build
from tests.support.chain_builder import PARAMETERS, Chain, find_reveal
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

FEE = PARAMETERS.missed_lead_fee


def make_last() -> Chain:
    """One height before the end of an epoch."""
    chain = Chain()
    for _ in range(PARAMETERS.epoch_heights - 1):
        chain.append()
    return chain


def get_ends(chain: Chain, key: KeyPair, view: int) -> set[bytes]:
    """Every beacon that a leader can end the epoch with in a view, whatever it puts into its block."""
    ends = set()
    user, other = chain.users
    reveal = find_reveal(key, chain.genesis, chain.state)
    for elapsed in (1, 999, 60_000):
        for operations in ([], [chain.transfer(user, other, 1)], [chain.transfer(user, other, 2)]):
            _, transition, _ = build_block(
                chain.genesis, key, chain.head, chain.state, operations, view=view,
                timestamp=chain.head.timestamp + elapsed, reveal=reveal,
                parent_certificate=chain.parent_certificate(),
                nullifications=[chain.nullify(skipped) for skipped in range(chain.head.view + 1, view)],
            )  # fmt: skip
            ends.add(transition.state.beacon.previous)
    return ends


def test_a_leader_has_one_end_to_offer_or_none() -> None:
    chain = make_last()
    first = chain.head.view + 1
    ends: dict[bytes, set[bytes]] = {}
    for view in range(first, first + 12):
        leader = chain.leader(view)
        found = get_ends(chain, leader, view)
        assert len(found) == 1
        ends.setdefault(leader.public_key, set()).update(found)
    # The same key in a later view has the same end to offer, at one more fee.
    assert len(ends) > 2 and all(len(found) == 1 for found in ends.values())
    assert len(set.union(*ends.values())) == len(ends), "and every other leader another"


def test_who_withholds_pays_for_each_view_and_only_then() -> None:
    chain = make_last()
    view = chain.head.view + 1
    while chain.leader(view) is chain.leader(view + 1):
        view += 1
    withholder = chain.leader(view)
    led = sum(chain.leader(skipped) is withholder for skipped in range(chain.head.view + 1, view + 1))
    before = chain.account(withholder).available
    chain.append(skipped=view - chain.head.view)
    assert chain.head.proposer != withholder.public_key
    assert chain.account(withholder).available == before - FEE * led


def test_a_node_that_withholds_what_does_not_suit_it_halts_nothing_and_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """It withholds the last block of an epoch whenever it would lead less than its share of the views after it."""
    genesis = make_equal_genesis(4, epoch_heights=3)
    key = make_key(4)
    withheld: list[int] = []
    build = Proposer._build

    def suits(state: State) -> bool:
        hash_chain = make_hash_chain(key, genesis.beacon, 0, genesis.parameters.epoch_heights)
        validator = state.validator_record(key.public_key)
        assert validator is not None
        reveal = hash_chain.find_reveal(validator.commitment)
        assert reveal is not None
        source = state.beacon.absorb(reveal).value
        following = get_next_epoch(genesis, state).next_validators
        return sum(following.compute_leader(source, view) == key.public_key for view in range(1, 9)) > 2

    async def build_if_it_suits(proposer: Proposer, order: Build, *others: Any) -> Any:
        parent = proposer._tree.find_parent(order.parent_id)
        assert parent is not None
        is_last = (parent[0].height + 1) % genesis.parameters.epoch_heights == 0
        assert proposer._vote_store is not None
        if proposer._vote_store.key.public_key == key.public_key and is_last and not suits(parent[1]):
            withheld.append(parent[0].height + 1)
            return None
        return await build(proposer, order, *others)

    monkeypatch.setattr(Proposer, "_build", build_if_it_suits)

    async def play(world: World) -> None:
        await world.start(1, 2, 3, 4)
        with trio.fail_after(600):
            while len(withheld) < 2 or world.engine(1).header.height < max(withheld) + 2:
                operation = await world.submit(1, lambda nonce: Transfer(nonce, make_key(2).public_key, 1))
                await world.engine(1).wait_final(operation.id, 60.0)
        await world.wait_height(world.engine(1).header.height)
        world.check_same_chain()
        engine = world.engine(1)
        lost = genesis.state.account(key.public_key).available - engine.state.account(key.public_key).available
        assert lost == len(withheld) * genesis.parameters.missed_lead_fee
        assert compute_supply(engine.state) == genesis.supply
        for height in withheld:
            block = engine._store.block(height)
            assert block is not None and block.header.proposer != key.public_key

    simulate(genesis, play)


# The measure itself.


@pytest.mark.parametrize("keys", [1, 10])
def test_an_honest_third_has_its_share(keys: int) -> None:
    """The mean of 300 epochs lies within four standard errors of it."""
    game = Game(keys, 100, 100.0)
    bias = measure_bias(game, 300, is_honest=True)
    assert bias.missed == 0
    assert abs(bias.share - game.share) < 4 * (game.share * (1 - game.share) / 100 / 300) ** 0.5


@pytest.mark.parametrize("keys", [1, 10])
def test_withholding_brings_something_but_little_of_what_many_draws_are_worth(keys: int) -> None:
    game = Game(keys, 100, 100.0)
    bias = measure_bias(game, 300)
    assert game.share + 0.002 < bias.share < game.share * 1.1
    assert game.share * 100 < bias.share * 100 - bias.missed, "fees counted: or it would not play"


def test_one_draw_that_is_worth_no_more_than_the_fee_is_not_worth_it() -> None:
    game = Game(1, 1, 1.0)
    assert all(Epoch(game, number).play().missed == 0 for number in range(200))
    dear = measure_bias(Game(1, 1, 100.0), 400)
    assert 0.45 < dear.share < 0.75 and dear.missed > 1
