"""A member that sends unsigned messages, or more than an honest one would, over its own link, which it answers for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chain.crypto import KeyPair
from chain.types.blocks import sign_proposal
from chain.types.operations import Transfer, sign_operation
from chain.types.votes import NO_BLOCK, Vote, VoteKind, sign_vote
from consensus import receiver as receiver_module
from consensus.network.committee_streams import COMMITTEE_PROTOCOL
from consensus.network.gossip import Batch
from consensus.simplex.messages import FORWARDED_KIND, Propose, encode_message
from p2p.limits.rate_limit import Rate
from p2p.network import Misbehaviour
from p2p.simulation.network import SimulatedNetwork
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from tests.support.agreement.committee import Committee
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

GENESIS = make_equal_genesis(4)
ME, PEER, OTHER = make_key(1), make_key(2), make_key(3)


def make_vote(key: KeyPair, view: int = 1) -> Vote:
    return sign_vote(key, GENESIS.chain_id, VoteKind.NULLIFY, 0, view, NO_BLOCK)


class Blame:
    """What is held against whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.faults: list[tuple[bytes, Misbehaviour]] = []
        monkeypatch.setattr(
            SimulatedNetwork, "report_misbehaviour", lambda _, peer, fault: self.faults.append((peer, fault))
        )


async def join(world: World, key: KeyPair) -> Streams:
    async def listen(exchange: Exchange) -> None:
        while await exchange.receive() is not None:
            pass

    streams = Streams(SimulatedNetwork(world.hub, key.public_key))
    world.nursery.start_soon(streams.run)
    streams.handle(COMMITTEE_PROTOCOL, listen)
    world.hub.connect_all()
    await trio.sleep(0)
    return streams


async def tell(streams: Streams, *items: bytes) -> None:
    async with streams.open(ME.public_key, COMMITTEE_PROTOCOL) as exchange:
        for item in items:
            await exchange.send(Batch((item,)).encode())
        await trio.sleep(1.0)


def test_forgeries_and_garbage_are_held_against_their_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    blame = Blame(monkeypatch)
    committee = Committee(4)
    key = committee.get_leader(1)
    block = committee.build(key, 5)
    stranger = KeyPair(bytes([77]) * 32)
    leader = GENESIS.validators.compute_leader(GENESIS.state.beacon.previous, 5)
    proposal = replace(sign_proposal(key, GENESIS.chain_id, 0, 5, block.id), leader=leader)

    async def play(world: World) -> None:
        await world.start(1)
        streams = await join(world, PEER)
        honest = [make_vote(PEER), make_vote(OTHER)]  # a vote may be passed on
        stale = [make_vote(stranger), make_vote(PEER, 10**6), replace(make_vote(PEER), epoch=9)]
        await tell(streams, *(encode_message(vote) for vote in honest + stale))
        assert blame.faults == []
        for item, fault in (
            (encode_message(replace(make_vote(OTHER, 2), signature=bytes(64))), Misbehaviour.FORGERY),
            (encode_message(Propose(proposal, block)), Misbehaviour.FORGERY),
            (b"\x03garbage", Misbehaviour.GARBAGE),
            (b"\x77", Misbehaviour.GARBAGE),
        ):
            blame.faults.clear()
            await tell(streams, item)
            assert blame.faults == [(PEER.public_key, fault)], item

    simulate(GENESIS, play)


def test_more_than_a_member_has_to_say_waits_on_its_own_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, and another one is heard meanwhile."""
    monkeypatch.setattr(receiver_module, "MEMBER_RATE", Rate(10, 1 << 20, 2.0))

    async def play(world: World) -> None:
        [engine] = await world.start(1)
        noisy, quiet = await join(world, PEER), await join(world, OTHER)
        taken: list[int] = []
        take = engine._driver.on_message

        async def note(message: Vote, size: int) -> object:
            taken.append(message.view)
            return await take(message, size)

        monkeypatch.setattr(engine._driver, "on_message", note)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell, noisy, *(encode_message(make_vote(PEER, view)) for view in range(1, 16)))
            nursery.start_soon(tell, noisy, *(encode_message(make_vote(PEER, view)) for view in range(1, 101)))
            await trio.sleep(1.0)
            assert len(taken) <= 31
            await tell(quiet, encode_message(make_vote(OTHER, 7)))
            assert taken.count(7) >= 1
            await trio.sleep(15.0)
        assert len(taken) == 116 and len(set(taken)) == 100
        work = sign_operation(PEER, GENESIS.chain_id, Transfer(0, ME.public_key, 1))
        await tell(quiet, FORWARDED_KIND + Batch((work.encoded,)).encode())
        assert engine.is_pending(work.id)

    simulate(GENESIS, play)
