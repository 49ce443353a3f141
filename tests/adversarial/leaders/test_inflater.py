"""A member that sends few bytes for which others would do much: proposals that name operations by id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from chain.crypto import KeyPair
from chain.exceptions import CodecError
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Body, sign_block, sign_proposal
from chain.types.operations import Capture, CaptureItem, Delivery, SignedOperation, Transfer, Usage, sign_operation
from consensus.exceptions import InvalidMessage
from consensus.network.committee_streams import COMMITTEE_PROTOCOL as VOTE
from consensus.network.compact_blocks import CompactPropose, reconstruct
from consensus.network.gossip import Batch
from consensus.simplex.messages import COMPACT_KIND, Propose, Reject
from consensus.sync.messages import SYNC_PROTOCOL as SYNC
from consensus.sync.messages import ChainStatus, GetOperations, OperationsResponse, Request
from p2p.simulation.network import SimulatedNetwork
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from tests.support.agreement.committee import Committee
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

GENESIS = make_equal_genesis(4)
COMMITTEE = Committee(4)


def make_capture(number: int) -> SignedOperation:
    """Some 11 KB."""
    items = (
        CaptureItem(Delivery(bytes([index]) * 32, number, bytes(32), Usage(1, 1), "s" * 32), bytes(64))
        for index in range(64)
    )
    return sign_operation(make_key(1), GENESIS.chain_id, Capture(tuple(items)))


def make_compact(key: KeyPair, view: int, ids: tuple[bytes, ...], epoch: int = 0) -> CompactPropose:
    header = replace(
        COMMITTEE.build(key, view).header,
        chain_id=GENESIS.chain_id,
        epoch=epoch,
        validators_hash=GENESIS.validators.hash,
    )
    stripped_block = sign_block(key, header, Body((), None, (), ()))
    return CompactPropose(sign_proposal(key, GENESIS.chain_id, epoch, view, stripped_block.id), stripped_block, ids)


def get_leader(view: int) -> KeyPair:
    leader = GENESIS.validators.compute_leader(GENESIS.state.beacon.previous, view)
    return next(make_key(number) for number in range(1, 5) if make_key(number).public_key == leader)


def test_an_operation_is_in_a_block_once() -> None:
    compact = make_compact(make_key(1), 1, (bytes(32), bytes([1]) * 32))
    assert CompactPropose.decode(compact.encode()) == compact
    twice = compact.encode().replace(bytes([1]) * 32, bytes(32))
    with pytest.raises(CodecError):
        CompactPropose.decode(twice)


def test_nothing_larger_than_a_block_is_put_together() -> None:
    operations = {operation.id: operation for operation in map(make_capture, range(50))}
    compact = make_compact(make_key(1), 1, tuple(operations))
    with pytest.raises(InvalidMessage, match="more than"):
        reconstruct(compact, operations)
    few = tuple(operations)[:10]
    assert reconstruct(replace(compact, ids=few), operations) is None  # not what the header says, but small enough


def test_a_proposal_of_a_block_that_is_too_large_is_refused() -> None:
    key = COMMITTEE.get_leader(1)
    payment = sign_operation(key, COMMITTEE.chain_id, Transfer(0, key.public_key, 1, bytes(64)))
    body = Body((payment,) * (MAX_BLOCK_BYTES // len(payment.encoded) + 1), None, (), ())
    empty = COMMITTEE.build(key, 1)
    block = sign_block(key, replace(empty.header, body_root=body.root), body)
    assert len(block.encoded) > MAX_BLOCK_BYTES
    core = COMMITTEE.make_core(COMMITTEE.get_follower(1))
    core.start()
    assert [type(effect) for effect in core.on_message(COMMITTEE.propose(block))] == [Reject]
    assert core.get_block(block.id) is None


class Inflater:
    """A member of which only the links and the answers to questions run. ``asked`` are the questions for operations."""

    def __init__(self, world: World, key: KeyPair) -> None:
        self.asked = 0
        self.key = key
        self._streams = Streams(SimulatedNetwork(world.hub, key.public_key))
        world.nursery.start_soon(self._streams.run)
        self._streams.handle(SYNC, self._serve)
        world.hub.connect_all()

    async def _serve(self, exchange: Exchange) -> None:
        raw = await exchange.receive()
        assert raw is not None
        if isinstance(Request.decode(raw).question, GetOperations):
            self.asked += 1
            await exchange.send(OperationsResponse(()).encode())
        else:
            await exchange.send(ChainStatus(0, GENESIS.header.id, 0).encode())

    async def tell(self, to: KeyPair, compact: CompactPropose) -> None:
        async with self._streams.open(to.public_key, VOTE) as exchange:
            await exchange.send(Batch((COMPACT_KIND + compact.encode(),)).encode())
        await trio.sleep(1.0)


def watch_expansions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ids each compact proposal that was put together had."""
    expanded: list[int] = []

    def note(message: CompactPropose, operations: Any) -> Propose | None:
        expanded.append(len(message.ids))
        return reconstruct(message, operations)

    monkeypatch.setattr("consensus.receiver.reconstruct", note)
    return expanded


def test_only_what_the_leader_of_an_open_view_proposes_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a stranger's proposal, nor one of a view far away, nor one that another member passes on is looked at."""
    expanded = watch_expansions(monkeypatch)
    ids = tuple(number.to_bytes(32, "big") for number in range(8192))

    async def play(world: World) -> None:
        victim = next(number for number in range(1, 5) if make_key(number).public_key != get_leader(1).public_key)
        await world.start(victim)
        to = make_key(victim)
        leader = Inflater(world, get_leader(1))
        far = next(view for view in range(50, 100) if get_leader(view).public_key == leader.key.public_key)
        foreign = next(view for view in range(1, 16) if get_leader(view).public_key != leader.key.public_key)
        good = make_compact(leader.key, 1, ids)
        for compact in (
            make_compact(leader.key, far, ids),
            make_compact(leader.key, foreign, ids),
            replace(good, proposal=replace(good.proposal, signature=bytes(64))),
            replace(
                good,
                stripped_block=Block(
                    replace(good.stripped_block.header, height=2),
                    good.stripped_block.signature,
                    good.stripped_block.body,
                ),
            ),
            make_compact(leader.key, 1, ids, epoch=1),
            make_compact(leader.key, 1, ids, epoch=7),
        ):
            await leader.tell(to, compact)
        other = Inflater(
            world,
            next(
                key
                for key in map(make_key, range(1, 5))
                if key.public_key not in (leader.key.public_key, to.public_key)
            ),
        )
        await other.tell(to, good)
        assert (expanded, leader.asked, other.asked) == ([], 0, 0)
        await leader.tell(to, good)
        assert (expanded, leader.asked) == ([8192], 1)

    simulate(GENESIS, play)
