"""Snapshots among engines that go on agreeing meanwhile, pruned peers, and fetching a chain for an audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chain.audit.audit import audit_chain
from chain.audit.export import ExportSource
from chain.audit.sources import StoreSource
from chain.exceptions import StoreError
from chain.merkle.snapshot import Entry, add_chunk, make_chunk
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.types.votes import VoteKind
from consensus.sync.download import download_chain
from consensus.sync.messages import (
    BlockItem,
    BlocksResponse,
    ChunkResponse,
    EpochEndItem,
    EpochEndsResponse,
    GetBlocks,
    GetChunk,
    GetEnds,
    Pruned,
    Question,
)
from consensus.sync.server import CHUNK_RATE
from p2p.network import NetworkError
from p2p.simulation.network import SimulatedNetwork
from tests.support.agreement.sync_world import (
    Answers,
    Lie,
    SyncWorld,
    encode_all,
    fill_store,
    get_checkpoint,
    make_server,
    play_sync,
)
from tests.support.chain_builder import PARAMETERS, Chain
from tests.support.consensus_world import make_equal_genesis
from tests.support.keys import make_key

FOUR = (1, 2, 3, 4)
GENESIS = make_equal_genesis(4, others=3, epoch_heights=4)


async def trade(world: SyncWorld, upto: int, *numbers: int) -> None:
    """Transfers until these nodes have a final block of a height."""
    while any(world.engine(number).header.height < upto for number in numbers):
        await world.engine(numbers[0]).submit(world.transfer(6, 7, 5))
        await trio.sleep(0.5)


def test_a_node_joins_a_living_chain_by_its_state() -> None:
    """And the validators that it has it from can be started anew meanwhile: they go back to the last end by undoing."""

    async def play(world: SyncWorld) -> None:
        await world.start(*FOUR)
        await trade(world, 14, *FOUR)
        for number in FOUR:
            await world.kill(number)
        await world.start(*FOUR)
        checkpoint = world.engine(1).checkpoint
        assert checkpoint is not None and checkpoint.height == 12
        world.trust(checkpoint)
        await world.start(5)
        await world.wait_height(12, 5)  # or it may join by the next end
        await trade(world, 25, 1, 2, 3, 4, 5)
        store = world.engine(5)._store
        assert store.base.height == 12 and store.raw_block(12) is None
        block = world.engine(1)._store.block(20)
        assert block is not None and store.block(20) == block
        assert store.state.root == store.header.state_root
        # An account of a block that is not there is there with what it led to, and can be spent from.
        operation = world.transfer(6, 5, 7)
        await world.engine(5).submit(operation)
        height, failure = await world.engine(5).wait_final(operation.id, 20.0)
        assert failure is None and height > 25
        await world.kill(5)
        assert not audit_chain(StoreSource(world.nodes[5].store), threads=1).ok, "by itself it proves nothing"
        report = audit_chain(StoreSource(world.nodes[5].store), threads=1, checkpoint=checkpoint)
        assert report.ok, report.fault
        assert report.base_height == 12 and not report.is_proven

    play_sync(GENESIS, play)


def test_a_validator_that_was_away_comes_back_by_the_state_and_votes() -> None:
    async def play(world: SyncWorld) -> None:
        world.keep_epochs = 1
        await world.start(*FOUR)
        await trade(world, 3, *FOUR)
        await world.kill(4)
        await trade(world, 22, 1, 2, 3)
        passed_over = world.engine(1).header.epoch
        await world.start(4)
        await trade(world, 50, 1, 2, 3, 4)
        store = world.engine(4)._store
        assert store.base.height >= 20
        key = make_key(4).public_key
        voted = [
            block.height
            for height in range(store.base.height + 1, store.height + 1)
            if (block := store.block(height)) is not None
            and (certificate := block.body.parent_certificate) is not None
            and (validators := store.validators(certificate.epoch)) is not None
            and key in {validators[position].public_key for position in certificate.signers}
        ]
        assert voted, "it was jailed, asked to return, and votes again"
        vote_store = world.engine(4)._vote_store
        assert vote_store is not None
        assert vote_store.lockout.first_epoch > passed_over, "another machine may have taken over its votes meanwhile"
        report = audit_chain(StoreSource(world.nodes[4].store), threads=1)
        assert report.ok, report.fault

    play_sync(GENESIS, play)


def test_who_asks_for_many_chunks_at_once_takes_one_turn() -> None:
    """However many questions a peer has open, the next one who asks waits for one of them."""
    order: list[int] = []

    async def play(world: SyncWorld) -> None:
        server = make_server(fill_store(CHAIN))
        async with trio.open_nursery() as nursery:

            async def ask(peer: int, number: int) -> None:
                question = GetChunk(CHAIN.genesis.parameters.epoch_heights * 5, number.to_bytes(32, "big"))
                if ChunkResponse.decode(await server._find_chunk(bytes([peer]), question)).chunk is not None:
                    order.append(peer)

            for number in range(8):
                nursery.start_soon(ask, 1, number)
            nursery.start_soon(ask, 2, 100)
        await ask(1, 50)

    play_sync(CHAIN.genesis, play)
    assert sorted(order[:2]) == [1, 2] and order[2:] == [1]


def test_chunks_are_made_at_a_bounded_rate_and_an_honest_peer_gets_its_share() -> None:
    """Strangers ask for chunks at ever new places; a node that fetches the state asks for one after the other."""
    made = {1: 0, 2: 0}

    async def play(world: SyncWorld) -> None:
        server = make_server(fill_store(CHAIN))

        async def ask(peer: int, name: int) -> None:
            number = 0
            while True:
                question = GetChunk(CHAIN.genesis.parameters.epoch_heights * 5, bytes([0, name]) + number.to_bytes(30))
                response = ChunkResponse.decode(await server._find_chunk(bytes([name]), question))
                made[peer] += response.chunk is not None
                number += 1
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            for name in range(10, 14):
                nursery.start_soon(ask, 1, name)
            await trio.sleep(60)
            before = made[1]
            nursery.start_soon(ask, 2, 20)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        assert before <= CHUNK_RATE.items * (CHUNK_RATE.burst + 2 * 60) + 5
        assert made[1] + made[2] - before <= CHUNK_RATE.items * 2 * 60 + 5
        assert made[2] >= CHUNK_RATE.items * 60 / 6, "its share, and what it gets of the rest"

    play_sync(CHAIN.genesis, play)


# Pruned peers.

CHAIN = Chain(parameters=replace(PARAMETERS, unbonding_epochs=9))
CHAIN.append_epochs(5)


def test_a_node_that_prunes_goes_on_from_a_state_if_its_peers_prune_more() -> None:
    """It is less far behind than it would keep blocks itself."""

    async def play(world: SyncWorld) -> None:
        for number in (60, 61, 62):
            await world.serve(number, fill_store(CHAIN, keep_epochs=1))
        world.keep_epochs = 5
        store = MemoryStore()
        height = CHAIN.genesis.parameters.epoch_heights
        fill_store(CHAIN, height, store=store)
        await world.start(5, stores=[store])
        await world.wait_height(len(CHAIN.blocks), 5, timeout=60.0)
        assert world.engine(5)._store.base.height > height

    play_sync(CHAIN.genesis, play)


def test_a_node_that_prunes_takes_the_blocks_if_one_of_its_peers_has_them() -> None:
    async def play(world: SyncWorld) -> None:
        for number, keep_epochs in ((60, 1), (61, 1), (62, 0)):
            await world.serve(number, fill_store(CHAIN, keep_epochs=keep_epochs))
        world.keep_epochs = 5
        store = MemoryStore()
        fill_store(CHAIN, CHAIN.genesis.parameters.epoch_heights, store=store)
        await world.start(5, stores=[store])
        await world.wait_height(len(CHAIN.blocks), 5, timeout=60.0)
        assert world.engine(5)._store.base.height == 0

    play_sync(CHAIN.genesis, play)


LONG = Chain(parameters=replace(PARAMETERS, epoch_heights=40, unbonding_epochs=9))
for _ in range(30):
    LONG.append()


def test_a_checkpoint_far_ahead_in_the_epoch_needs_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that lies before it is more than is taken on trust at once; and liars do not matter."""
    monkeypatch.setattr(
        "consensus.sync.block_range.MAX_RANGE_BYTES", sum(len(block.encoded) for block in LONG.blocks[:10])
    )
    monkeypatch.setattr("consensus.sync.client.SYNC_BATCH_BYTES", 4_000)
    monkeypatch.setattr("consensus.sync.server.SYNC_BATCH_BYTES", 4_000)
    part = fill_store(LONG, 20)
    lies: list[int] = []

    def stop_short(question: Question) -> Answers:
        if not isinstance(question, GetBlocks):
            return None
        lies.append(question.from_height)
        raw = [(part.raw_block(height), part.raw_certificate(height)) for height in range(question.from_height, 21)]
        return encode_all(
            BlocksResponse(BlockItem(block, certificate)) for block, certificate in raw if block is not None
        )

    async def play(world: SyncWorld) -> None:
        await world.serve(60, fill_store(LONG), stop_short)
        await world.serve(61, fill_store(LONG))
        world.trust(get_checkpoint(LONG, 25))
        await world.start(5)
        await world.wait_height(len(LONG.blocks), 5, timeout=60.0)
        assert world.engine(5)._store.base.height == 0

    for seed in (1, 2, 3):
        play_sync(LONG.genesis, play, seed)
    assert lies


def test_an_archive_waits_for_a_peer_that_has_all_blocks() -> None:
    """A pruned peer is no liar, but no help either; and nothing makes an archive give up its past."""

    async def play(world: SyncWorld) -> None:
        await world.serve(60, fill_store(CHAIN, keep_epochs=1))
        await world.start(5)
        await trio.sleep(60.0)
        assert world.engine(5).header.height == 0
        await world.serve(61, fill_store(CHAIN))
        await world.wait_height(20, 5, timeout=60.0)
        assert world.engine(5)._store.base.height == 0 and world.engine(5)._store.block(1) == CHAIN.blocks[0]

    play_sync(CHAIN.genesis, play)


def test_a_pruned_peer_helps_a_node_that_is_near_enough() -> None:
    async def play(world: SyncWorld) -> None:
        pruned = fill_store(CHAIN, keep_epochs=1)
        assert pruned.base.height == 16
        await world.serve(60, pruned)
        store = MemoryStore()
        fill_store(CHAIN, 17, store=store)
        await world.start(5, stores=[store])
        await world.wait_height(20, 5, timeout=5.0)

    play_sync(CHAIN.genesis, play)


def test_a_peer_may_prune_between_its_tip_and_its_blocks() -> None:
    """It is asked again before long, and not taken for a liar."""

    async def play(world: SyncWorld) -> None:
        is_pruned = True

        def lie(question: Question) -> Answers:
            return encode_all([BlocksResponse(Pruned(17))]) if is_pruned and isinstance(question, GetBlocks) else None

        await world.serve(60, fill_store(CHAIN), lie)
        await world.start(5)
        await trio.sleep(5.0)
        is_pruned = False
        await world.wait_height(20, 5, timeout=30.0)

    play_sync(CHAIN.genesis, play)


def test_a_state_that_a_peer_fetches_stays_at_hand() -> None:
    """Epochs end faster than chunks come: the server keeps what it was asked for."""

    async def play(world: SyncWorld) -> None:
        blocks = fill_store(CHAIN, 8)
        asked: set[int] = set()

        def watch(question: Question) -> Answers:
            if isinstance(question, GetChunk):
                asked.add(question.height)
                if blocks.height < 20:  # an epoch ends after every chunk
                    fill_store(CHAIN, blocks.height + 4, blocks=blocks)
            return None

        await world.serve(60, blocks, watch)
        world.trust(get_checkpoint(CHAIN, 8))
        await world.start(5)
        await world.wait_height(20, 5, timeout=60.0)
        assert asked == {8} and world.engine(5)._store.base.height == 8

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chain.merkle.snapshot.MAX_CHUNK_BYTES", 600)
        patch.setattr("chain.merkle.snapshot.MAX_INLINE_BYTES", 120)
        play_sync(CHAIN.genesis, play)


# Fetching for an audit.


def fetch(path: Path, blocks: ChainStore, lie: Lie = lambda _: None) -> ExportSource:
    async def play(world: SyncWorld) -> None:
        await world.serve(60, blocks, lie)
        network = SimulatedNetwork(world.hub, make_key(70).public_key)
        peer = world.hub._networks[make_key(60).public_key]
        await download_chain(network, CHAIN.genesis, make_key(60).public_key, peer.listen_addresses[0], path)

    try:
        play_sync(CHAIN.genesis, play)
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, ExceptionGroup):
            (error,) = error.exceptions
        raise error from None
    return ExportSource(path)


@pytest.mark.parametrize("height", [0, 1, 4, 7, 20])
def test_a_chain_is_fetched_whole(height: int, tmp_path: Path) -> None:
    source = fetch(tmp_path / "chain", fill_store(CHAIN, height))
    (tmp_path / "chain").unlink()  # an open export needs no name
    report = audit_chain(source, threads=1)
    assert report.ok and report.height == height


def keep_adding(question: Question) -> Answers:
    """Blocks without end, on top of each other, that are not final."""
    if not isinstance(question, GetBlocks):
        return None
    parts = []
    for height in range(question.from_height, question.from_height + 60):
        if height <= 20:
            block = CHAIN.blocks[height - 1]
        else:
            header = replace(CHAIN.head, height=height, parent_id=block.id)
            block = replace(CHAIN.blocks[-1], header=header)
        parts.append(BlocksResponse(BlockItem(block.encode(), None)))
    return encode_all(parts)


def end_early(question: Question) -> Answers:
    if not isinstance(question, GetBlocks):
        return None
    heights = range(question.from_height, 11)
    return encode_all(BlocksResponse(BlockItem(CHAIN.blocks[height - 1].encoded, None)) for height in heights)


def give_another(question: Question) -> Answers:
    """The blocks of a chain that forks off within the last epoch."""
    if not isinstance(question, GetBlocks):
        return None
    other = Chain(parameters=replace(PARAMETERS, unbonding_epochs=9))
    other.append_epochs(3)
    other.append(elapsed=5)
    other.append_epochs(1)
    return encode_all(
        BlocksResponse(BlockItem(block.encoded, None)) for block in other.blocks[question.from_height - 1 :]
    )


def forge_ends(question: Question) -> Answers:
    if not isinstance(question, GetEnds):
        return None
    end = fill_store(CHAIN).light_client_update(0)
    assert end is not None
    certificate = CHAIN.certify(end.header, VoteKind.NOTARIZE)
    return encode_all([EpochEndsResponse(EpochEndItem(replace(end, certificate=certificate)))])


def begin_with_a_state() -> ChainStore:
    """The store of a node that began with the state after epoch 4, from a checkpoint in epoch 2."""
    blocks, source = ChainStore(MemoryStore(), CHAIN.genesis), fill_store(CHAIN)
    ends = [end for epoch in (2, 3, 4) if (end := source.light_client_update(epoch)) is not None]
    header, state = ends[-1].header, CHAIN.states[ends[-1].header.height]
    blocks.snapshot_import.begin(header)
    chunk = make_chunk(state.tree, None)
    assert chunk is not None and chunk.is_last
    entries = {entry.key: entry.value for entry in chunk.entries if isinstance(entry, Entry)}
    blocks.snapshot_import.add(entries, add_chunk(None, chunk, header.state_root), chunk.is_last)
    blocks.adopt_snapshot(ends, blocks.snapshot_import.load())
    return blocks


FETCH_LIES: dict[str, tuple[Callable[[], ChainStore], Lie, str]] = {
    "blocks end early": (lambda: fill_store(CHAIN), end_early, "proves 5 epochs, but sent no block after 10"),
    "another fork": (lambda: fill_store(CHAIN), give_another, "not the one that was proved final"),
    "forged ends": (lambda: fill_store(CHAIN), forge_ends, "proves nothing"),
    "garbage": (lambda: fill_store(CHAIN), lambda _: [b"\xc1"], "malformed"),
    "pruned": (lambda: fill_store(CHAIN, keep_epochs=1), lambda _: None, "keeps blocks only from 17 on"),
    "begun with a state": (begin_with_a_state, lambda _: None, "keeps the ends of epochs only from epoch 2 on"),
    "blocks in the wrong order": (
        lambda: fill_store(CHAIN),
        lambda question: (
            encode_all(BlocksResponse(BlockItem(CHAIN.blocks[number].encoded, None)) for number in (1, 0))
            if isinstance(question, GetBlocks)
            else None
        ),
        "does not follow",
    ),
}


@pytest.mark.parametrize(("make", "lie", "reason"), FETCH_LIES.values(), ids=FETCH_LIES.keys())
def test_a_node_that_sends_nonsense_is_told_apart(
    make: Callable[[], ChainStore], lie: Lie, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=reason):
        fetch(tmp_path / "chain", make(), lie)
    assert not (tmp_path / "chain").exists()


def test_blocks_without_end_are_cut_off_one_epoch_after_the_last_proof(tmp_path: Path) -> None:
    source = fetch(tmp_path / "chain", fill_store(CHAIN), keep_adding)
    assert source.height == 24
    fault = audit_chain(source, threads=1).fault
    assert fault is not None and fault.height == 21


def test_a_node_that_does_not_answer(tmp_path: Path) -> None:
    async def play(world: SyncWorld) -> None:
        network = SimulatedNetwork(world.hub, make_key(70).public_key)
        await download_chain(network, CHAIN.genesis, make_key(60).public_key, "/memory/99", tmp_path / "chain")

    with pytest.RaisesGroup(NetworkError, flatten_subgroups=True):
        play_sync(CHAIN.genesis, play)
