"""A validator that answers requests for a block with nothing, or with another body under the same header."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest
import trio

from chain.crypto import KeyPair
from chain.genesis import Genesis
from chain.transition.block import build_block
from chain.types.blocks import Block, sign_proposal
from chain.types.operations import Transfer, sign_operation
from chain.types.votes import VoteKind, sign_vote
from consensus.network.committee_streams import COMMITTEE_PROTOCOL as VOTE
from consensus.network.gossip import Batch
from consensus.simplex.messages import FORWARDED_KIND, Message, Propose, encode_message
from consensus.sync.messages import SYNC_PROTOCOL as SYNC
from consensus.sync.messages import BlockResponse, ChainStatus, GetBlock, GetStatus, OperationsResponse, Request
from p2p.simulation.network import SimulatedNetwork
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from tests.adversarial.leaders.block_withholder import BlockWithholder
from tests.support.agreement.scenarios import fight
from tests.support.chain_builder import find_reveal
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key


class BlockCorrupter(BlockWithholder):
    """Shows its blocks to a bare quorum; others get them from it unsigned, with another body, or not, in turns."""

    _turn = 0

    def hand_out(self, block: Block) -> Block | None:
        self._turn += 1
        unsigned, altered = replace(block, signature=bytes(64)), replace(block.body, removed=(self._me,))
        return (unsigned, replace(block, body=altered), None)[self._turn % 3]


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 30), marks=pytest.mark.long)], ids=["few", "many"])
def test_false_blocks_delay_no_node_for_long(seeds: range) -> None:
    lies = 0
    for seed in seeds:
        lies += fight(seed, BlockCorrupter, count=4 + seed % 4, epoch_heights=(5, 1000)[seed % 2], calm=True).lies
        fight(seed, BlockCorrupter, count=4 + seed % 4)
    assert lies > 10


def make_liar_first(keys: list[KeyPair]) -> Genesis:
    """A chain whose first leader is the first of ``keys``."""
    for number in count():
        genesis = make_equal_genesis(len(keys), beacon=number.to_bytes(32, "big"))
        if genesis.state.committee(0).compute_leader(genesis.beacon, 1) == keys[0].public_key:
            return genesis
    raise AssertionError


@pytest.mark.parametrize("answer", ["unsigned", "another body", "nothing"])
def test_the_first_of_the_signers_alone_cannot_stop_the_chain(answer: str) -> None:
    """The liar A leads view 1. D nullifies it and hears of the block only from its notarization, by A, B and C.

    D must have the block to go on, and without D's vote or A's the chain stops. A is the first whom D could ask.
    """
    numbers = {make_key(number).public_key: number for number in range(1, 5)}
    liar, b, c, d = keys = sorted((make_key(number) for number in range(1, 5)), key=lambda key: key.public_key)
    genesis = make_liar_first(keys)
    block, _, _ = build_block(
        genesis, liar, genesis.header, genesis.state, [],
        view=1, timestamp=genesis.timestamp + 10, reveal=find_reveal(liar, genesis, genesis.state),
        parent_certificate=None, nullifications=(),
    )  # fmt: skip
    false = {
        "unsigned": BlockResponse(replace(block, signature=bytes(64)).encoded),
        "another body": BlockResponse(replace(block, body=replace(block.body, removed=(d.public_key,))).encoded),
        "nothing": BlockResponse(None),
    }[answer]

    async def play(world: World) -> None:
        async def serve(exchange: Exchange) -> None:
            raw = await exchange.receive()
            assert raw is not None
            match Request.decode(raw).question:
                case GetBlock():
                    await exchange.send(false.encode())
                case GetStatus():
                    await exchange.send(ChainStatus(0, genesis.header.id, 0).encode())
                case _:
                    await exchange.send(OperationsResponse(()).encode())

        async def listen(exchange: Exchange) -> None:
            while await exchange.receive() is not None:
                pass

        async def tell(to: KeyPair, *messages: Message | bytes) -> None:
            async with streams.open(to.public_key, VOTE) as exchange:
                items = (item if isinstance(item, bytes) else encode_message(item) for item in messages)
                await exchange.send(Batch(tuple(items)).encode())

        streams = Streams(SimulatedNetwork(world.hub, liar.public_key))
        world.nursery.start_soon(streams.run)
        streams.handle(SYNC, serve)
        streams.handle(VOTE, listen)
        await world.start(*(numbers[key.public_key] for key in (b, c, d)))
        await trio.sleep(0.5)
        work = sign_operation(liar, genesis.chain_id, Transfer(0, b.public_key, 1))
        await tell(d, FORWARDED_KIND + Batch((work.encoded,)).encode())  # so that D's timer runs, alone
        await trio.sleep(0.9)
        proposal = Propose(sign_proposal(liar, genesis.chain_id, 0, 1, block.id), block)
        for key in (b, c):
            await tell(key, proposal)
        await trio.sleep(0.9)
        vote = sign_vote(liar, genesis.chain_id, VoteKind.NOTARIZE, 0, 1, block.id)
        for key in (b, c):
            await tell(key, vote)
        await world.wait_height(2, timeout=300.0)
        first = world.engine(numbers[d.public_key])._store.block(1)
        assert first == block  # the chain goes on from that block

    simulate(genesis, play)


@pytest.mark.parametrize("liars", [3, 5])
def test_asking_again_reaches_an_honest_peer(liars: int) -> None:
    """However many of those asked first are liars: they are drawn anew, and who lied is left out for a while."""
    genesis = make_equal_genesis(1, others=10)
    block, _, _ = build_block(
        genesis, make_key(1), genesis.header, genesis.state, [],
        view=1, timestamp=genesis.timestamp + 1, reveal=find_reveal(make_key(1), genesis, genesis.state),
        parent_certificate=None, nullifications=(),
    )  # fmt: skip

    async def play(world: World) -> None:
        named = [make_key(number).public_key for number in range(2, 9)]
        asked: list[int] = []
        for number in range(2, 9):
            streams = Streams(SimulatedNetwork(world.hub, make_key(number).public_key))
            world.nursery.start_soon(streams.run)

            async def serve(exchange: Exchange, number: int = number) -> None:
                raw = await exchange.receive()
                assert raw is not None
                if isinstance(Request.decode(raw).question, GetBlock):
                    asked.append(number)
                    found = block if number >= 2 + liars else replace(block, signature=bytes(64))
                    await exchange.send(BlockResponse(found.encoded).encode())
                else:
                    await exchange.send(ChainStatus(0, genesis.header.id, 0).encode())

            streams.handle(SYNC, serve)
        [engine] = await world.start(1)
        await trio.sleep(1.0)
        found = [await engine._sync.fetch_block(block.id, named) for _ in range(20)]
        assert None not in found[2:]  # by then all liars are known
        assert all(asked.count(number) <= 1 for number in range(2, 2 + liars))

    simulate(genesis, play)
