"""Liars beside an honest peer: whatever they answer, the node ends with the right state, only later.

The node is new and has a checkpoint, so that it fetches the state at the end of an epoch chunk by chunk and then the
blocks after it; or it has none, and takes every block from the first on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio

from chain.light.client import LightClientUpdate
from chain.merkle.snapshot import Chunk, LargeEntry, make_chunk
from chain.merkle.sparse_tree import compute_path
from chain.store.writer import ChainStore
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, VoteKind, make_certificate, sign_vote
from consensus.sync.messages import (
    SYNC_PROTOCOL,
    BlockItem,
    BlocksResponse,
    ChainStatus,
    ChunkResponse,
    EpochEndItem,
    EpochEndsResponse,
    GetBlocks,
    GetChunk,
    GetEnds,
    GetHeader,
    GetStatus,
    GetValue,
    HeaderResponse,
    Pruned,
    Question,
    Request,
    ValuePiece,
)
from p2p.streams.exchange import Exchange
from tests.support.agreement.sync_world import (
    Answers,
    Lie,
    SyncWorld,
    encode_all,
    fill_store,
    get_checkpoint,
    get_state_entries,
    make_server,
    play_sync,
)
from tests.support.chain_builder import PARAMETERS, Chain
from tests.support.consensus_world import World
from tests.support.keys import make_key

MAX_INLINE_BYTES, MAX_CHUNK_BYTES = 120, 600


def make_chain(length: int = 19, name: str = "test", **changes: int) -> Chain:
    chain = Chain(users=16, parameters=replace(PARAMETERS, unbonding_epochs=9, **changes), name=name)
    for height in range(length):
        sender, recipient = chain.users[height % 16], chain.users[(height + 1) % 16]
        chain.append([chain.transfer(sender, recipient, 1_000 + height)])
    return chain


CHAIN = make_chain()
STORE = fill_store(CHAIN)
END = 16
"""The end of the last epoch that is over, of four blocks each."""
OTHER = make_chain(name="other")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the small state of a test takes several chunks, and has large values."""
    monkeypatch.setattr("chain.merkle.snapshot.MAX_INLINE_BYTES", MAX_INLINE_BYTES)
    monkeypatch.setattr("chain.merkle.snapshot.MAX_CHUNK_BYTES", MAX_CHUNK_BYTES)
    monkeypatch.setattr("consensus.sync.snapshot.MAX_VALUE_BYTES", 4 << 20)


def simulate(play: Callable[[SyncWorld], Awaitable[None]], chain: Chain = CHAIN) -> None:
    play_sync(chain.genesis, play)


def check_is_there(world: World, number: int = 5, base: int = END) -> None:
    """The node has the last block, and exactly the state after it, in memory and on disk."""
    mine = world.engine(number)._store
    assert mine.header == STORE.header and mine.base.height == base
    assert get_state_entries(mine.state) == get_state_entries(STORE.state)
    assert mine.stored_state() == STORE.stored_state()


def get_chunks(store: ChainStore, height: int = END) -> list[Chunk]:
    state = store.find_epoch_end_state(height)
    assert state is not None
    chunks: list[Chunk] = []
    after = None
    while (chunk := make_chunk(state.tree, after)) is not None:
        chunks.append(chunk)
        after = _get_path(chunk)
    return chunks


def _get_path(chunk: Chunk) -> bytes:
    return compute_path(chunk.entries[-1].key).to_bytes(32, "big")


def test_a_state_comes_in_chunks_and_the_blocks_after_it() -> None:
    async def play(world: SyncWorld) -> None:
        asked: list[Question] = []

        def watch(question: Question) -> Answers:
            asked.append(question)
            return None

        await world.serve(60, STORE, watch)
        world.trust(get_checkpoint(CHAIN, 6))  # within an epoch
        await world.start(5)
        await world.wait_height(19, 5, timeout=5.0)
        check_is_there(world)
        assert sum(isinstance(question, GetChunk) for question in asked) >= 4
        assert any(isinstance(question, GetValue) for question in asked)
        mine = world.engine(5)._store
        assert [mine.light_client_update(epoch) is not None for epoch in range(5)] == [False, True, True, True, False]
        assert mine.block(15) is None and mine.block(17) == CHAIN.blocks[16]
        # And it can serve as well as the one that it has it from.
        await world.kill(5)
        await world.start(5)
        again = world.engine(5)._store
        assert again.header == STORE.header and again.find_epoch_end_state(END) is not None

    simulate(play)


def test_who_started_from_a_state_serves_it_to_the_next() -> None:
    async def play(world: SyncWorld) -> None:
        await world.serve(60, STORE)
        world.trust(get_checkpoint(CHAIN, END))
        await world.start(5)
        await world.wait_height(19, 5, timeout=5.0)
        world.hub.kill(make_key(60).public_key)
        await world.start(6)
        await world.wait_height(19, 6, timeout=30.0)
        check_is_there(world, 6)

    simulate(play)


# What liars answer. Each is asked what an honest peer is.


def when(kind: type, make: Callable[[], list[object]]) -> Lie:
    """Lie about one kind of question."""
    return lambda question: encode_all(make()) if isinstance(question, kind) else None


def tamper(change: Callable[[Chunk, GetChunk], Chunk | None]) -> Lie:
    """Change honest chunks."""

    def lie(question: Question) -> Answers:
        if not isinstance(question, GetChunk):
            return None
        state = STORE.find_epoch_end_state(question.height)
        chunk = None if state is None else make_chunk(state.tree, question.after)
        return None if chunk is None else encode_all([ChunkResponse(change(chunk, question))])

    return lie


def alter_value(chunk: Chunk, _: GetChunk) -> Chunk:
    entry = chunk.entries[0]
    value = entry.value_hash if isinstance(entry, LargeEntry) else bytes(len(entry.value))
    name = "value_hash" if isinstance(entry, LargeEntry) else "value"
    return replace(chunk, entries=(replace(entry, **{name: value[::-1]}), *chunk.entries[1:]))


def leave_out(chunk: Chunk, _: GetChunk) -> Chunk:
    return replace(chunk, entries=(*chunk.entries[:1], *chunk.entries[2:]))


def say_it_is_all(chunk: Chunk, _: GetChunk) -> Chunk:
    return replace(chunk, right=())


def repeat_the_first(chunk: Chunk, _: GetChunk) -> Chunk:
    return get_chunks(STORE)[0]


def drip_entries(chunk: Chunk, question: GetChunk) -> Chunk:
    """One true entry at a time, proved well."""
    state = STORE.find_epoch_end_state(question.height)
    assert state is not None
    path = int.from_bytes(_get_path(replace(chunk, entries=chunk.entries[:1])), "big")
    return Chunk(chunk.entries[:1], state.tree.get_right_branches(path))


def other_state(question: Question) -> Answers:
    """Well-made chunks of the state a few blocks later."""
    if not isinstance(question, GetChunk):
        return None
    return encode_all([ChunkResponse(make_chunk(STORE.state.tree, question.after))])


def change_end(change: Callable[[LightClientUpdate], LightClientUpdate], epoch: int = 3) -> Lie:
    """Give honest ends of epochs, but for one."""

    def lie(question: Question) -> Answers:
        if not isinstance(question, GetEnds):
            return None
        ends = [
            end for number in range(question.from_epoch, 4) if (end := STORE.light_client_update(number)) is not None
        ]
        return encode_all(
            EpochEndsResponse(EpochEndItem(change(end) if end.header.epoch == epoch else end)) for end in ends
        )

    return lie


def by_a_minority(end: LightClientUpdate) -> LightClientUpdate:
    certificate = end.certificate
    return replace(
        end,
        certificate=replace(certificate, signers=certificate.signers[:2], signatures=certificate.signatures[:2]),
    )


def by_themselves(end: LightClientUpdate) -> LightClientUpdate:
    """Signed by all of a committee, only not by the one that the chain names."""
    mine = Chain(name="mine")
    validators = ValidatorSet.of((key.public_key, 100_000) for key in mine.users)
    header = replace(end.header, state_root=bytes(32), validators_hash=validators.hash)
    votes = [
        sign_vote(key, CHAIN.genesis.chain_id, VoteKind.FINALIZE, header.epoch, header.view, header.id)
        for key in mine.users
    ]
    return LightClientUpdate(header, make_certificate(votes, validators), validators)


def without_change(end: LightClientUpdate) -> LightClientUpdate:
    """The right certificate over another header."""
    return replace(end, header=replace(end.header, state_root=bytes(32)))


def repeat_ends(question: Question) -> Answers:
    end = STORE.light_client_update(2)
    assert end is not None
    return encode_all([EpochEndsResponse(EpochEndItem(end))] * 50) if isinstance(question, GetEnds) else None


def false_piece(question: Question) -> Answers:
    return encode_all([ValuePiece(bytes(100))] * 40) if isinstance(question, GetValue) else None


async def _stall(exchange: Exchange) -> None:
    await trio.sleep_forever()


LIES: dict[str, Lie] = {
    "a value is changed": tamper(alter_value),
    "an entry is left out": tamper(leave_out),
    "the first chunk again and again": tamper(repeat_the_first),
    "the first chunk is said to be all": tamper(say_it_is_all),
    "one entry at a time": tamper(drip_entries),
    "chunks of another state": other_state,
    "chunks of another chain": lambda question: (
        encode_all([ChunkResponse(get_chunks(fill_store(OTHER))[0])]) if isinstance(question, GetChunk) else None
    ),
    "no chunk": when(GetChunk, lambda: [ChunkResponse(None)]),
    "an answer without a frame": when(GetChunk, list),
    "not a chunk": lambda question: [b"\xff" * 1000] if isinstance(question, GetChunk) else None,
    "a false large value": false_piece,
    "a large value without end": when(GetValue, lambda: [ValuePiece(bytes(512 * 1024))] * 200),
    "the certificate of a minority": change_end(by_a_minority),
    "a committee of one's own": change_end(by_themselves),
    "a certificate over another header": change_end(without_change),
    "an end is skipped": change_end(lambda end: replace(end, header=replace(end.header, epoch=3)), epoch=2),
    "the same end again and again": repeat_ends,
    "no ends": when(GetEnds, list),
    "pruned ends": when(GetEnds, lambda: [EpochEndsResponse(Pruned(9))]),
    "no header": when(GetHeader, lambda: [HeaderResponse(None)]),
    "another header": when(GetHeader, lambda: [HeaderResponse(CHAIN.blocks[6].header)]),
    "a tip in the clouds": when(GetStatus, lambda: [ChainStatus(10**9, bytes(32), 0)]),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
def test_liars_cost_a_snapshot_time_and_nothing_else(lie: Lie) -> None:
    """Three peers lie; the honest one comes last."""

    async def play(world: SyncWorld) -> None:
        for number in (60, 61, 62):
            await world.serve(number, STORE, lie)
        world.trust(get_checkpoint(CHAIN, 6))
        await world.start(5)
        await trio.sleep(1.0)
        assert world.engine(5).header.height == 0
        await world.serve(63, STORE)
        await world.wait_height(19, 5, timeout=60.0)
        check_is_there(world)

    simulate(play)


def give_out_of_order(question: Question) -> Answers:
    if not isinstance(question, GetBlocks):
        return None
    heights = [question.from_height + 1, question.from_height]
    return encode_all(_part(height) for height in heights if height <= 19)


def _part(height: int) -> BlocksResponse:
    return BlocksResponse(BlockItem(STORE.raw_block(height) or b"", STORE.raw_certificate(height)))


def give_minority(question: Question) -> Answers:
    """The next block with a certificate of half the stake."""
    if not isinstance(question, GetBlocks):
        return None
    block = CHAIN.blocks[question.from_height - 1]
    certificate: Certificate = CHAIN.certify(block.header, VoteKind.FINALIZE)
    certificate = replace(certificate, signers=certificate.signers[:2], signatures=certificate.signatures[:2])
    return encode_all([BlocksResponse(BlockItem(block.encoded, certificate.encode()))])


BLOCK_LIES: dict[str, Lie] = {
    "a high tip and nothing": lambda question: {
        GetStatus: encode_all([ChainStatus(10**9, bytes(32), 0)]),
        GetBlocks: [],
    }.get(type(question)),
    "a high tip and all there is": when(GetStatus, lambda: [ChainStatus(10**9, bytes(32), 0)]),
    "a high tip and pruned": lambda question: {
        GetStatus: encode_all([ChainStatus(10**9, bytes(32), 0)]),
        GetBlocks: encode_all([BlocksResponse(Pruned(17))]),
    }.get(type(question)),
    "a pruned chain": when(GetStatus, lambda: [ChainStatus(10**9, bytes(32), 10**8)]),
    "blocks in the wrong order": give_out_of_order,
    "the certificate of a minority": give_minority,
}


@pytest.mark.parametrize("lie", BLOCK_LIES.values(), ids=BLOCK_LIES.keys())
def test_liars_cost_block_sync_time_and_nothing_else(lie: Lie) -> None:
    async def play(world: SyncWorld) -> None:
        for number in (60, 61, 62):
            await world.serve(number, STORE, lie)
        await world.start(5)
        await trio.sleep(1.0)
        await world.serve(63, STORE)
        await world.wait_height(19, 5, timeout=60.0)
        check_is_there(world, base=0)

    simulate(play)


def test_a_high_tip_without_blocks_does_not_look_like_syncing() -> None:
    """The node is up to date; a liar alone cannot make it say otherwise, and is not asked again and again."""

    async def play(world: SyncWorld) -> None:
        await world.serve(63, STORE)
        await world.start(5)
        await world.wait_height(19, 5, timeout=5.0)
        asked = 0

        def lie(question: Question) -> Answers:
            nonlocal asked
            asked += 1
            return BLOCK_LIES["a high tip and nothing"](question)

        await world.serve(60, STORE, lie)
        for _ in range(1_000):
            await trio.sleep(0.1)
            assert not world.engine(5).status().is_syncing
        assert 2 <= asked <= 4

    simulate(play)


def test_a_slow_drip_of_chunks_does_not_hold_a_snapshot_up() -> None:
    """A peer that takes as long as it may for each chunk is asked for few of them once there is another."""

    async def play(world: SyncWorld) -> None:
        honest = make_server(STORE)
        drips = 0

        async def drip(exchange: Exchange) -> None:
            nonlocal drips
            drips += 1
            await trio.sleep(9.0)
            await honest.handle(exchange)

        await world.serve_with(60, drip)
        world.trust(get_checkpoint(CHAIN, 6))
        await world.start(5)
        await trio.sleep(50.0)
        assert world.engine(5).status().is_syncing
        await world.serve(63, STORE)
        before = drips
        await world.wait_height(19, 5, timeout=60.0)
        check_is_there(world)
        assert drips - before <= 2

    simulate(play)


@pytest.mark.parametrize("name", ["no ends", "a tip in the clouds", "one entry at a time"])
def test_a_liar_is_not_asked_again_and_again(name: str) -> None:
    async def play(world: SyncWorld) -> None:
        asked: list[Question] = []

        def lie(question: Question) -> Answers:
            asked.append(question)
            return LIES[name](question)

        await world.serve(60, STORE, lie)
        world.trust(get_checkpoint(CHAIN, 6))
        await world.start(5)
        await trio.sleep(200.0)
        assert sum(isinstance(question, GetStatus) for question in asked) == 1

    simulate(play)


def test_a_snapshot_goes_on_where_a_crash_left_it() -> None:
    """Each chunk is asked for once in all, however often the node starts."""

    async def play(world: SyncWorld) -> None:
        asked: list[bytes | None] = []
        allowed = 0

        def watch(question: Question) -> Answers:
            if isinstance(question, GetChunk):
                if len(asked) == allowed:
                    return encode_all([ChunkResponse(None)])
                asked.append(question.after)
            return None

        await world.serve(60, STORE, watch)
        world.trust(get_checkpoint(CHAIN, 6))
        while allowed < len(get_chunks(STORE)):
            if allowed:
                await world.kill(5)
            allowed += 2
            await world.start(5)
            await trio.sleep(5.0)
        check_is_there(world)
        assert world.nodes[5].starts >= 3
        assert len(asked) == len(set(asked)) == len(get_chunks(STORE)) >= 5

    simulate(play)


def test_a_snapshot_that_no_peer_has_any_more_gives_way_to_a_later_one() -> None:
    chain = make_chain(40)
    early = fill_store(chain, 19)

    async def play(world: SyncWorld) -> None:
        left = 2

        def stop(question: Question) -> Answers:
            nonlocal left
            if isinstance(question, GetChunk):
                left -= 1
                return None if left >= 0 else encode_all([ChunkResponse(None)])
            return None

        await world.serve(60, early, stop)
        world.trust(get_checkpoint(chain, 6))
        await world.start(5)
        await trio.sleep(5.0)
        staged = world.engine(5)._store.snapshot_import
        assert staged.header == chain.blocks[END - 1].header and staged.frontier is not None
        await world.serve(61, fill_store(chain))
        await world.wait_height(40, 5, timeout=60.0)
        store = world.engine(5)._store
        assert store.base.height == 40 and store.state.root == chain.state.root

    simulate(play, chain)


def test_the_question_for_a_header_is_answered() -> None:
    async def play(world: SyncWorld) -> None:
        await world.serve(60, STORE)
        asking = await world.serve_with(61, _stall)
        for height, expected in ((0, None), (6, CHAIN.blocks[5].header), (19, CHAIN.head), (20, None)):
            raw = await asking.request(make_key(60).public_key, SYNC_PROTOCOL, Request(GetHeader(height)).encode(), 5.0)
            assert HeaderResponse.decode(raw).header == expected

    simulate(play)
