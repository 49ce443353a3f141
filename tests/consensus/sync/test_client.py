"""Block sync: what a segment must prove, and what liars and silent peers can do to a node (cost it time)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio

from chain.crypto import verify_all
from chain.exceptions import CodecError, InvalidBlock, InvalidCertificate, LedgerError
from chain.store.writer import ChainStore
from chain.transition.block import state_transition
from chain.types.blocks import Block
from chain.types.operations import Transfer, sign_operation
from chain.types.votes import Certificate, VoteKind
from consensus.sync.block_range import BlockRange, verify_block_range
from consensus.sync.messages import (
    SYNC_PROTOCOL,
    BlockItem,
    BlockResponse,
    BlocksResponse,
    ChainStatus,
    GetBlock,
    GetBlocks,
    GetOperations,
    GetStatus,
    Request,
)
from consensus.sync.server import SyncServer
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from tests.support.chains.stored_chain import CHAIN, GENESIS, certify
from tests.support.consensus_world import World, simulate
from tests.support.keys import make_key


def read_parts(store: ChainStore, first: int, last: int) -> list[bytes]:
    parts: list[bytes] = []
    for height in range(first, last + 1):
        block = store.raw_block(height)
        assert block is not None
        parts.append(BlocksResponse(BlockItem(block, store.raw_certificate(height))).encode())
    return parts


def take(parts: list[bytes]) -> tuple[BlockRange, Certificate | None]:
    segment = BlockRange(GENESIS, GENESIS.header, GENESIS.state)
    certificate = None
    for part in parts:
        content = BlocksResponse.decode(part).content
        assert isinstance(content, BlockItem)
        certificate = segment.add(verify_all, content)
    return segment, certificate


def test_a_segment_ends_at_a_certificate_and_proves_itself() -> None:
    segment, certificate = take(read_parts(CHAIN, 1, 3))
    assert certificate is not None
    executed = verify_block_range(verify_all, GENESIS, GENESIS.header, GENESIS.state, segment.blocks, certificate)
    third = CHAIN.block(3)
    assert third is not None
    assert [node.block.height for node in executed] == [1, 2, 3]
    assert executed[-1].transition.state.root == third.header.state_root


def alter(block: Block) -> Block:
    """The same header and signature over another body."""
    return replace(block, body=replace(block.body, operations=()))


def forge(block: Block) -> Block:
    """Another header under the same signature."""
    return replace(block, header=replace(block.header, state_root=bytes(32)))


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda block: replace(block, signature=bytes(64)), InvalidBlock),
        (forge, InvalidBlock),
        (lambda block: replace(block, header=replace(block.header, chain_id=bytes(32))), InvalidBlock),
        (lambda block: replace(block, header=replace(block.header, proposer=make_key(9).public_key)), InvalidBlock),
    ],
)
def test_a_spoilt_header_is_refused_at_once(spoil: Callable[[Block], Block], error: type[Exception]) -> None:
    block = CHAIN.block(1)
    assert block is not None
    with pytest.raises(error):
        take([BlocksResponse(BlockItem(spoil(block).encode(), None)).encode()])


def test_blocks_that_do_not_follow_are_refused_at_once() -> None:
    with pytest.raises(InvalidBlock, match="height"):
        take(read_parts(CHAIN, 2, 2))
    with pytest.raises(InvalidBlock):
        take([*read_parts(CHAIN, 1, 1), *read_parts(CHAIN, 1, 1)])
    malformed = [BlockItem(b"x", None), BlockItem(CHAIN.raw_block(1) or b"", b"x")]
    for raw in (b"", b"\xc1", *(BlocksResponse(part).encode() for part in malformed)):
        with pytest.raises(CodecError):
            take([raw])


def test_a_segment_is_refused_as_a_whole() -> None:
    segment, certificate = take(read_parts(CHAIN, 1, 3))
    assert certificate is not None
    third = segment.blocks[-1]
    with pytest.raises(InvalidBlock, match="body_root"):
        altered = [segment.blocks[0], alter(segment.blocks[1]), third]
        verify_block_range(verify_all, GENESIS, GENESIS.header, GENESIS.state, altered, certificate)
    for wrong in (
        certify(GENESIS, third, VoteKind.NOTARIZE),
        certify(GENESIS, segment.blocks[1], VoteKind.FINALIZE),
        replace(certificate, signatures=(bytes(64),) * 3),
        replace(certificate, signers=certificate.signers[:2], signatures=certificate.signatures[:2]),
    ):
        with pytest.raises(InvalidCertificate):
            verify_block_range(verify_all, GENESIS, GENESIS.header, GENESIS.state, segment.blocks, wrong)
    forged = sign_operation(make_key(2), bytes(32), Transfer(0, make_key(3).public_key, 1))
    assert forged.id  # signed for another chain: only the signature check of the transition can tell
    header, body = third.header, replace(third.body, operations=(*third.body.operations, forged))
    with pytest.raises(LedgerError):
        unsigned = replace(third, header=replace(header, body_root=body.root), body=body)
        state_transition(GENESIS, segment.blocks[1].header, GENESIS.state, unsigned)


# Over the network.


async def run_server(world: World, key: int, handler: Callable[[Exchange], Awaitable[None]]) -> Streams:
    """A peer that speaks the sync protocol with a handler of the test's."""
    streams = Streams(SimulatedNetwork(world.hub, make_key(key).public_key))
    world.nursery.start_soon(streams.run)
    streams.handle(SYNC_PROTOCOL, handler)
    await trio.sleep(0)
    return streams


def make_server(store: ChainStore) -> SyncServer:
    return SyncServer(store, lambda _: None, lambda _: None, SimulatedRuntime(0))


async def read_all(streams: Streams, peer: int, request: Request) -> list[bytes]:
    async with streams.open(make_key(peer).public_key, SYNC_PROTOCOL) as exchange:
        await exchange.send(request.encode(), end=True)
        frames = []
        while (frame := await exchange.receive()) is not None:
            frames.append(frame)
        return frames


def test_the_server_answers_every_question() -> None:
    async def play(world: World) -> None:
        await run_server(world, 50, make_server(CHAIN).handle)
        asking = await run_server(world, 51, make_server(CHAIN).handle)
        world.hub.connect_all()

        async def ask(question: GetStatus | GetBlocks | GetBlock | GetOperations) -> list[bytes]:
            return await read_all(asking, 50, Request(question))

        assert ChainStatus.decode((await ask(GetStatus()))[0]) == ChainStatus(12, CHAIN.header.id, 0)
        assert await ask(GetBlocks(1, 1)) == read_parts(CHAIN, 1, 3)  # up to a certificate, however few bytes
        assert await ask(GetBlocks(2, 10**9)) == read_parts(CHAIN, 2, 12)
        assert await ask(GetBlocks(13, 10**6)) == []
        sixth = CHAIN.block(6)
        assert sixth is not None
        assert BlockResponse.decode((await ask(GetBlock(sixth.id)))[0]).block == sixth.encoded
        assert BlockResponse.decode((await ask(GetBlock(bytes(32))))[0]).block is None
        assert len(await ask(GetOperations((bytes(32),)))) == 1

    simulate(GENESIS, play)


Reply = Callable[[Exchange, bytes], Awaitable[None]]


async def send_parts(exchange: Exchange, parts: list[bytes]) -> None:
    for part in parts:
        await exchange.send(part)


async def send_garbage(exchange: Exchange, raw: bytes) -> None:
    await exchange.send(b"\xff" * 1000)


async def send_nothing(exchange: Exchange, raw: bytes) -> None:
    await trio.sleep_forever()


async def end_at_once(exchange: Exchange, raw: bytes) -> None:
    pass


async def send_tip_or(exchange: Exchange, raw: bytes, parts: list[bytes]) -> None:
    if isinstance(Request.decode(raw).question, GetStatus):
        await exchange.send(ChainStatus(10**6, bytes(32), 0).encode())
    else:
        await send_parts(exchange, parts)


async def promise_and_send_nothing(exchange: Exchange, raw: bytes) -> None:
    await send_tip_or(exchange, raw, [])


async def send_without_certificate(exchange: Exchange, raw: bytes) -> None:
    await send_tip_or(exchange, raw, read_parts(CHAIN, 1, 2))


async def send_altered(exchange: Exchange, raw: bytes) -> None:
    block = CHAIN.block(1)
    assert block is not None
    parts = [BlocksResponse(BlockItem(alter(block).encode(), None)).encode(), *read_parts(CHAIN, 2, 3)]
    await send_tip_or(exchange, raw, parts)


async def send_with_false_certificate(exchange: Exchange, raw: bytes) -> None:
    block = CHAIN.block(1)
    assert block is not None
    false = certify(GENESIS, block, VoteKind.NOTARIZE)
    await send_tip_or(
        exchange, raw, [BlocksResponse(BlockItem(block.encoded, replace(false, kind=3).encode())).encode()]
    )


async def send_good_then_bad(exchange: Exchange, raw: bytes) -> None:
    await send_tip_or(exchange, raw, [*read_parts(CHAIN, 1, 3), b"bad"])


@pytest.mark.parametrize(
    "reply",
    [
        send_garbage,
        send_nothing,
        end_at_once,
        promise_and_send_nothing,
        send_without_certificate,
        send_altered,
        send_with_false_certificate,
        send_good_then_bad,
    ],
)
def test_liars_cost_time_and_nothing_else(reply: Reply) -> None:
    """Three peers lie, one is honest: the node gets the whole chain, and nothing but it."""

    async def lie(exchange: Exchange) -> None:
        raw = await exchange.receive()
        assert raw is not None
        await reply(exchange, raw)

    async def play(world: World) -> None:
        for number in (60, 61, 62):
            await run_server(world, number, lie)
        await run_server(world, 63, make_server(CHAIN).handle)
        await world.start(5)
        await world.wait_height(CHAIN.height, 5, timeout=90.0)
        store = world.engine(5)._store
        assert store.header == CHAIN.header and store.state.root == CHAIN.state.root
        await trio.sleep(60.0)
        assert store.height == CHAIN.height

    simulate(GENESIS, play)


def test_a_peer_that_sends_one_block_at_a_time_does_not_hold_a_node_up() -> None:
    """It keeps every deadline of a single frame, and was the only peer when the node joined."""

    async def drip(exchange: Exchange) -> None:
        raw = await exchange.receive()
        assert raw is not None
        if isinstance(Request.decode(raw).question, GetStatus):
            await exchange.send(ChainStatus(10**6, bytes(32), 0).encode())
            return
        for part in read_parts(CHAIN, 1, CHAIN.height):
            await trio.sleep(9.0)
            await exchange.send(part)

    async def play(world: World) -> None:
        await run_server(world, 60, drip)
        await world.start(5)
        await trio.sleep(1.0)
        await run_server(world, 61, make_server(CHAIN).handle)
        world.hub.connect_all()
        await world.wait_height(CHAIN.height, 5, timeout=45.0)

    simulate(GENESIS, play)


def test_a_follower_without_peers_waits_for_one() -> None:
    async def play(world: World) -> None:
        await world.start(5)
        await trio.sleep(30.0)
        await run_server(world, 63, make_server(CHAIN).handle)
        world.hub.connect_all()
        await world.wait_height(CHAIN.height, 5, timeout=3.0)

    simulate(GENESIS, play)


def test_a_long_chain_comes_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consensus.sync.client.SYNC_BATCH_BYTES", 2_000)
    monkeypatch.setattr("consensus.sync.server.SYNC_BATCH_BYTES", 2_000)

    async def play(world: World) -> None:
        await run_server(world, 63, make_server(CHAIN).handle)
        await world.start(5)
        await world.wait_height(CHAIN.height, 5, timeout=5.0)
        assert world.engine(5).state.root == CHAIN.state.root

    simulate(GENESIS, play)
