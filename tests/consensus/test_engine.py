"""Engines on a network in memory: finality, crashes, absence, restarts, bad input."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import trio

from chain.codec import pack
from chain.crypto import KeyPair
from chain.exceptions import CannotPay, InvalidCertificate, InvalidNonce, InvalidOperation, InvalidSignature
from chain.state.state import compute_supply
from chain.store.kv import LevelStore, MemoryStore, Store
from chain.transition.block import verify_finality
from chain.types.operations import Release, Serve, SignedOperation, Transfer, sign_operation
from chain.types.votes import NO_BLOCK, VoteKind, sign_vote
from consensus.network.gossip import Batch, get_topic
from consensus.simplex.messages import COMPACT_KIND, FORWARDED_KIND, encode_message
from consensus.voting.journal import RECORD_BYTES, Journal, JournalDamaged
from p2p.network import GossipMessage, NetworkError
from p2p.simulation.network import SimulatedNetwork
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key
from tests.support.seeds import list_seeds

FOUR = (1, 2, 3, 4)


async def transfer_and_wait(world: World, sender: int, at: int, amount: int = 1_000_000) -> int:
    """Send a transfer to account 2 through node ``at``; returns the height at which that node saw it final."""
    operation = world.transfer(sender, 2, amount)
    await world.engine(at).submit(operation)
    height, failure = await world.engine(at).wait_final(operation.id, 60.0)
    assert failure is None
    return height


def get_available(world: World, at: int, account: int) -> int:
    return world.engine(at).state.account(make_key(account).public_key).available


def check_votes(world: World) -> None:
    """No validator has ever signed two votes that contradict each other."""
    for number in FOUR:
        key = make_key(number).public_key
        journal = Journal(world.nodes[number].journal_file, world.genesis.chain_id, key)
        said: dict[tuple[int, int, int], bytes] = {}
        for epoch in range(world.engine(1).status().epoch + 1):
            for vote in journal.votes(epoch):
                assert said.setdefault((epoch, vote.view, vote.kind), vote.block_id) == vote.block_id
                kinds = {kind for kind in VoteKind if (epoch, vote.view, kind) in said}
                assert not {VoteKind.NULLIFY, VoteKind.FINALIZE} <= kinds
        assert journal.length > 0


def test_four_validators_make_transfers_final() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        operations = [world.transfer(sender, 2, 1_000_000) for sender in (1, 3, 4, 1, 1)]
        async with trio.open_nursery() as nursery:
            for index, operation in enumerate(operations):
                nursery.start_soon(world.engine(index % 4 + 1).submit, operation)
        for number in FOUR:
            for operation in operations:
                height, failure = await world.engine(number).wait_final(operation.id, 10.0)
                assert (height > 0, failure) == (True, None)
        await world.wait_height(max(engine.header.height for engine in world.engines))
        world.check_same_chain()
        assert get_available(world, 4, 2) == 1_005_000_000
        fees = sum(len(operation.encoded) for operation in operations)
        assert world.engine(3).state.totals.treasury == fees
        assert compute_supply(world.engine(3).state) == world.genesis.supply

    simulate(make_equal_genesis(4), play)


def test_every_final_block_is_proven_by_its_store() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        for _ in range(3):
            await transfer_and_wait(world, 1, 1)
        store = world.engine(1)._store
        for height in range(1, store.height + 1):
            found = store.nearest_certificate(height)
            assert found is not None
            block = store.block(found[0])
            assert block is not None
            verify_finality(world.genesis, world.genesis.validators, block.header, found[1])

    simulate(make_equal_genesis(4), play)


def test_an_idle_network_makes_one_block_per_beat() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        await trio.sleep(105.0)
        assert 10 <= world.engine(1).header.height <= 11
        assert 95_000 <= world.engine(1).chain_time() <= 105_000
        intervals, beat_s = world.engine(1).pace.intervals, world.genesis.parameters.idle_beat_ms / 1000
        assert intervals.count == world.engine(1).header.height and intervals.count_above(beat_s + 2) == 0
        assert intervals.sum == (world.engine(1).header.timestamp - world.genesis.header.timestamp) / 1000
        times = world.engine(1).agreement_times
        assert times.quorums.count == times.views.count == intervals.count
        assert times.views.count_above(2) == times.quorums.count_above(1.5) == 0  # without the wait for a beat

    simulate(make_equal_genesis(4), play)


def test_a_change_of_who_serves_is_in_force_soon_on_an_idle_network_which_is_idle_again_then() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        engine, newcomer = world.engine(1), make_key(5).public_key
        await trio.sleep(25.0)
        signed = sign_operation(make_key(5), world.genesis.chain_id, Serve(0, ("m",)))
        await engine.submit(signed)
        with trio.fail_after(2 * world.genesis.parameters.round_heights + 5):
            while True:
                table = engine.state.serving_table(engine.state.serving_periods.current.first_round)
                if table is not None and newcomer in {entry.public_key for entry in table.entries}:
                    break
                await trio.sleep(0.5)
        height = engine.header.height
        assert height % world.genesis.parameters.round_heights == 0
        await trio.sleep(100.0)
        assert height + 8 <= engine.header.height <= height + 11
        for number in range(1, engine.header.height + 1):
            block = engine._store.block(number)
            assert block is not None and not block.body.nullifications

    simulate(make_equal_genesis(4, others=1, epoch_heights=128), play)


@pytest.mark.parametrize("validators", [1, 4])
def test_an_idle_network_gives_up_no_view(validators: int) -> None:
    async def play(world: World) -> None:
        await world.start(*range(1, validators + 1))
        await trio.sleep(105.0)
        for height in range(1, world.engine(1).header.height + 1):
            block = world.engine(1)._store.block(height)
            assert block is not None and not block.body.nullifications

    simulate(make_equal_genesis(validators), play)


def test_blocks_keep_their_distance_when_busy() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        for _ in range(5):
            await transfer_and_wait(world, 1, 1)
        store = world.engine(1)._store
        times = [block.header.timestamp for height in range(2, 6) if (block := store.block(height))]
        assert all(later - earlier >= 249 for earlier, later in pairwise(times))

    simulate(make_equal_genesis(4), play)


def test_a_follower_verifies_and_keeps_the_chain() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR, 5)
        assert not world.engine(5).status().is_validator
        height = await transfer_and_wait(world, 5, 5)
        with trio.fail_after(2.0):  # by gossip, not by the next poll
            await world.wait_height(height, 5)
        world.check_same_chain()

    simulate(make_equal_genesis(4, others=1), play)


@pytest.mark.parametrize("late", [4, 5])
def test_a_late_joiner_catches_up(late: int) -> None:
    async def play(world: World) -> None:
        others = [number for number in (1, 2, 3, 4, 5) if number != late]
        await world.start(*others)
        for _ in range(12):
            await transfer_and_wait(world, 1, 1)
        height = world.engine(1).header.height
        await world.start(late)
        await world.wait_height(height, late, timeout=5.0)
        assert not world.engine(late).status().is_syncing
        await transfer_and_wait(world, 3, late)
        world.check_same_chain()

    simulate(make_equal_genesis(4, others=1, epoch_heights=5), play)


def test_a_node_that_was_away_comes_back() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        await transfer_and_wait(world, 1, 1)
        world.hub.partition([[make_key(n).public_key for n in (1, 2, 3)], [make_key(4).public_key]], notice=1.0)
        alone = world.transfer(4, 2, 7)
        await world.engine(4).submit(alone)
        for _ in range(8):
            await transfer_and_wait(world, 1, 1)
        behind = world.engine(4).header.height
        assert behind < world.engine(1).header.height
        world.hub.heal()
        world.hub.connect_all()
        await world.engine(4).wait_final(alone.id, 30.0)
        await world.wait_height(world.engine(1).header.height)
        world.check_same_chain()

    simulate(make_equal_genesis(4, epoch_heights=5), play)


def test_nothing_is_final_in_a_minority_and_everything_after() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        await transfer_and_wait(world, 1, 1)
        world.hub.partition([[make_key(n).public_key for n in (1, 2)], [make_key(n).public_key for n in (3, 4)]])
        heights = [engine.header.height for engine in world.engines]
        operation = world.transfer(1, 2, 5)
        await world.engine(1).submit(operation)
        with pytest.raises(trio.TooSlowError):
            await world.engine(1).wait_final(operation.id, 40.0)
        assert all(engine.header.height <= max(heights) + 1 for engine in world.engines)
        world.hub.heal()
        world.hub.connect_all()
        await world.engine(3).wait_final(operation.id, 60.0)
        world.check_same_chain()

    simulate(make_equal_genesis(4), play)


def test_three_of_four_go_on() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        await transfer_and_wait(world, 1, 1)
        await world.kill(4)
        for _ in range(6):
            await transfer_and_wait(world, 1, 2)
        world.check_same_chain()

    simulate(make_equal_genesis(4), play)


def test_the_leader_dies_with_work_in_hand() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        await transfer_and_wait(world, 1, 1)
        for _ in range(4):
            leader = world.engine(1)._driver.leader
            number = next(n for n in FOUR if make_key(n).public_key == leader)
            alive = next(n for n in FOUR if n != number)
            operation = world.transfer(1, 2, 9)
            await world.engine(alive).submit(operation)
            await trio.sleep(0.03)
            await world.kill(number)
            await world.engine(alive).wait_final(operation.id, 30.0)
            await world.start(number)
            await world.wait_height(world.engine(alive).header.height, timeout=30.0)
        paces = [engine.pace for engine in world.engines]
        assert max(pace.skipped_views for pace in paces) > 0, "the leader of a view was away"
        assert all(pace.missed_leads <= pace.skipped_views for pace in paces)
        world.check_same_chain()

    simulate(make_equal_genesis(4), play)


def test_epochs_are_crossed() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR, 5)
        while world.engine(1).header.height < 14:
            await transfer_and_wait(world, 1, 1)
        await world.wait_height(14)
        world.check_same_chain()
        assert {engine.status().epoch for engine in world.engines} == {4}

    simulate(make_equal_genesis(4, others=1, epoch_heights=3), play)


def test_epochs_of_one_block_are_crossed() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        for _ in range(4):
            await transfer_and_wait(world, 1, 1)
        world.check_same_chain()

    simulate(make_equal_genesis(4, epoch_heights=1), play)


@pytest.mark.parametrize("on_disk", [False, True])
def test_restart_from_the_stores(on_disk: bool, tmp_path: Path) -> None:
    def open_stores() -> list[Store]:
        return [LevelStore(tmp_path / str(number)) for number in FOUR] if on_disk else memory

    memory: list[Store] = [MemoryStore() for _ in FOUR]

    async def play(world: World) -> None:
        for _ in range(3):
            stores = open_stores()
            await world.start(*FOUR, stores=stores)
            for _ in range(3):
                await transfer_and_wait(world, 1, 1)
            world.check_same_chain()
            final = world.engine(1).header.id
            for number in FOUR:
                await world.kill(number)
            for store in stores:
                store.close()
        stores = open_stores()
        await world.start(*FOUR, stores=stores)
        assert world.engine(1)._store.height_of_block(final) is not None
        assert world.engine(2).state.account(make_key(1).public_key).nonce >= 9 - 1
        for store in stores:
            store.close()

    simulate(make_equal_genesis(4, epoch_heights=4), play)


def test_no_validator_contradicts_itself_across_crashes() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        for round_number in range(6):
            operation = world.transfer(1, 2, 5)
            victim = round_number % 3 + 2
            await world.engine(1).submit(operation)
            await trio.sleep(0.02 * round_number)
            await world.kill(victim)
            await trio.sleep(1.0)
            await world.start(victim)
            await world.engine(1).wait_final(operation.id, 60.0)
        check_votes(world)
        world.check_same_chain()

    simulate(make_equal_genesis(4, epoch_heights=4), play)


@pytest.mark.double_spend
def test_a_double_spend_is_final_once_and_everywhere_the_same() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        await trio.sleep(1.0)
        for nonce in range(5):
            first, second = (
                sign_operation(
                    make_key(1),
                    world.genesis.chain_id,
                    Transfer(nonce, make_key(recipient).public_key, 600_000_000 // 4**nonce),
                )
                for recipient in (2, 3)
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.engine(2).submit, first)
                nursery.start_soon(world.engine(3).submit, second)
            while world.engine(4).state.account(make_key(1).public_key).nonce == nonce:
                await trio.sleep(0.1)
            await trio.sleep(1.0)
            await world.wait_height(world.engine(4).header.height)
            found = [
                [engine._store.find_operation(operation.id) for operation in (first, second)]
                for engine in world.engines
            ]
            assert sum(place is not None for place in found[0]) == 1
            assert all(row == found[0] for row in found)
            assert all(engine.status().mempool_operations == 0 for engine in world.engines)
        world.check_same_chain()

    simulate(make_equal_genesis(4), play)


@pytest.mark.parametrize("seed", list_seeds(1, 3))
def test_gossip_that_loses_much_only_costs_time(seed: int) -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR, 5, 6)
        for _ in range(5):
            height = await transfer_and_wait(world, 5, 6)
        await world.wait_height(height, timeout=30.0)
        world.check_same_chain()

    simulate(make_equal_genesis(4, others=2, epoch_heights=4), play, seed=seed, loss=0.5)


def test_submit_says_why_it_refuses() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        engine, chain_id = world.engine(1), world.genesis.chain_id
        used = world.transfer(1, 2, 1)
        await engine.submit(used)
        await engine.wait_final(used.id, 10.0)
        await engine.submit(used)  # once more is harmless
        assert await engine.wait_final(used.id, 0.0) == await engine.wait_final(used.id, 10.0)
        recipient = make_key(2).public_key
        cases: list[tuple[SignedOperation, type[InvalidOperation], str]] = [
            (sign_operation(make_key(1), chain_id, Transfer(0, recipient, 2)), InvalidNonce, "is used"),
            (sign_operation(make_key(1), bytes(32), Transfer(1, recipient, 2)), InvalidSignature, "not signed by"),
            (sign_operation(make_key(77), chain_id, Transfer(0, recipient, 2)), CannotPay, "0 can pay them"),
            (sign_operation(make_key(1), chain_id, Transfer(1, bytes(32), 2)), InvalidOperation, "not a usable key"),
            (sign_operation(make_key(1), chain_id, Release(bytes(32))), InvalidOperation, "no open hold"),
            (
                SignedOperation(Transfer(-1, recipient, 1), make_key(1).public_key, bytes(64)),
                InvalidOperation,
                "outside",
            ),
        ]
        for operation, error, text in cases:
            with pytest.raises(error, match=text):
                await engine.submit(operation)
        assert engine.status().mempool_operations == 0

    simulate(make_equal_genesis(4), play)


def test_an_operation_may_come_before_the_nonce_that_it_waits_for() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        first, second = world.transfer(1, 2, 1), world.transfer(1, 2, 1)
        await world.engine(1).submit(second)
        with pytest.raises(trio.TooSlowError):
            await world.engine(1).wait_final(second.id, 5.0)
        await world.engine(2).submit(first)
        await world.engine(3).wait_final(second.id, 5.0)

    simulate(make_equal_genesis(4), play)


def test_a_failed_operation_pays_its_fee_and_says_why() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        operation = world.transfer(1, 2, 5_000_000_000)
        await world.engine(1).submit(operation)
        _, failure = await world.engine(3).wait_final(operation.id, 10.0)
        assert failure is not None and "available" in failure
        assert get_available(world, 3, 1) == 1_000_000_000 - len(operation.encoded)

    simulate(make_equal_genesis(4), play)


def test_subscribers_see_every_block_in_order() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        channel = world.engine(1).subscribe_final()
        first = world.engine(1).header.height + 1
        for _ in range(4):
            await transfer_and_wait(world, 1, 1)
        heights = [channel.receive_nowait().block.height for _ in range(channel.statistics().current_buffer_used)]
        assert heights == list(range(first, first + len(heights))) and len(heights) >= 4

    simulate(make_equal_genesis(4), play)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2])
def test_everybody_crashes_at_once(delay: float) -> None:
    """At whatever point of agreement: what may be final is not lost, and the chain goes on."""

    async def play(world: World) -> None:
        await world.start(*FOUR)
        await transfer_and_wait(world, 1, 1)
        for _ in range(2):
            operation = world.transfer(1, 2, 3)
            await world.engine(1).submit(operation)
            await trio.sleep(delay)
            finals = {engine.header.height: engine.header.id for engine in world.engines}
            for number in FOUR:
                await world.kill(number)
            await world.start(*FOUR)
            await world.engine(1).submit(operation)
            await world.engine(1).wait_final(operation.id, 30.0)
            for height, block_id in finals.items():
                assert height == 0 or world.engine(1)._store.height_of_block(block_id) == height
        world.check_same_chain()
        check_votes(world)

    simulate(make_equal_genesis(4, epoch_heights=3), play)


def test_a_journal_that_lost_votes_is_noticed() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        await transfer_and_wait(world, 1, 1)
        await world.wait_height(await transfer_and_wait(world, 1, 1))  # each block is two votes of node 4
        await world.kill(4)
        journal = world.nodes[4].journal_file
        journal.truncate(2 * RECORD_BYTES)
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                world.nursery = nursery
                await world.start(4)
        assert caught.group_contains(JournalDamaged)

    simulate(make_equal_genesis(4), play)


def test_blocks_from_the_future_get_no_votes() -> None:
    async def play(world: World) -> None:
        world.skews[4] = 5_000
        await world.start(*FOUR)
        for _ in range(8):
            await transfer_and_wait(world, 1, 1)
        store = world.engine(1)._store
        proposers = {block.header.proposer for height in range(1, store.height + 1) if (block := store.block(height))}
        assert make_key(4).public_key not in proposers and len(proposers) == 3
        world.check_same_chain()

    simulate(make_equal_genesis(4), play)


def test_an_altered_block_is_not_kept_in_place_of_the_real_one() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        await transfer_and_wait(world, 1, 1)
        last = world.engine(1)._store.block(world.engine(1).header.height)
        assert last is not None and last.body.operations
        altered = replace(last, body=replace(last.body, operations=()))
        await world.start(5)
        world.hub.partition([[make_key(5).public_key]])
        engine = world.engine(5)
        assert engine.header.height < last.height
        await engine._driver.on_block(altered)
        assert engine._driver.find_block(last.id) is None
        await engine._driver.on_block(last)
        assert engine._driver.find_block(last.id) == last

    simulate(make_equal_genesis(4, others=1), play)


def make_garbage(world: World, outsider: KeyPair) -> list[bytes]:
    """Payloads that are wrong in many ways."""
    chain_id = world.genesis.chain_id
    vote = sign_vote(outsider, chain_id, VoteKind.NULLIFY, 0, 1, NO_BLOCK)
    block = world.engine(1)._store.block(1)
    assert block is not None
    altered = block.encoded[:-40] + bytes(40)
    forged = sign_operation(outsider, bytes(32), Transfer(0, outsider.public_key, 1))
    return [
        b"",
        b"\x00",
        b"\xc1" * 100,
        bytes(range(256)),
        b"\x91" * 100_000,
        pack([]),
        pack([[]]),
        pack([[b""]]),
        pack([[block.id + altered, bytes(31), block.encoded]]),
        Batch((forged.encoded, b"junk", vote.encode())).encode(),
        Batch(
            (FORWARDED_KIND + Batch((forged.encoded,)).encode(), FORWARDED_KIND + b"junk", COMPACT_KIND + b"junk")
        ).encode(),
        Batch((encode_message(vote), b"\x09" + vote.encode(), b"\x02" + vote.encode(), bytes(100))).encode(),
        FORWARDED_KIND + Batch((forged.encoded,)).encode(),
        FORWARDED_KIND + b"junk",
        encode_message(vote),
        encode_message(sign_vote(make_key(1), bytes(32), VoteKind.NOTARIZE, 0, 1, bytes(31) + b"1")),
        b"\x01" + block.encoded,
        b"\x09" + vote.encode(),
        bytes(1_000_000),
    ]


@pytest.mark.parametrize("insider", [False, True])
def test_garbage_on_every_protocol_and_topic_does_no_harm(insider: bool) -> None:
    """From a stranger, and from a validator's own key while that validator is down."""

    async def play(world: World) -> None:
        await world.start(*FOUR)
        await transfer_and_wait(world, 1, 1)
        if insider:
            await world.kill(4)
        attacker = make_key(4) if insider else make_key(99)
        network = SimulatedNetwork(world.hub, attacker.public_key)
        world.hub.connect_all()
        garbage = make_garbage(world, attacker)
        for payload in garbage:
            for name in ("ops", "blocks", "certs", "unknown"):
                await network.publish(get_topic(world.genesis.chain_id, name), payload)
            for protocol in ("/wwwserve/vote/1", "/wwwserve/sync/1", "/wwwserve/unknown/1"):
                for raw in (payload, len(payload).to_bytes(4, "big") + b"\x00" + (1).to_bytes(4, "big") + payload):
                    try:
                        stream = await network.open_stream(make_key(1).public_key, protocol)
                        with trio.move_on_after(0.5):
                            await stream.send(raw)
                            await stream.receive()
                        await stream.reset()
                    except NetworkError:
                        pass
        for _ in range(3):
            height = await transfer_and_wait(world, 1, 1)
        await world.wait_height(height)
        world.check_same_chain()
        assert all(engine.status().mempool_operations == 0 for engine in world.engines)
        assert world.engine(1).state.account(attacker.public_key).nonce == 0  # the forged transfer was not taken

    simulate(make_equal_genesis(4), play)


def test_a_batch_of_worthless_operations_does_not_keep_the_loop_to_itself() -> None:
    async def play(world: World) -> None:
        (engine,) = await world.start(1)
        poor = make_key(77)
        payload = Batch(
            tuple(
                sign_operation(poor, world.genesis.chain_id, Transfer(nonce, make_key(2).public_key, 1)).encoded
                for nonce in range(1_000)
            )
        ).encode()
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            await engine._ingress.take(poor.public_key, poor.public_key, payload)
            nursery.cancel_scope.cancel()
        assert turns >= 10
        assert engine.status().mempool_operations == 0

    simulate(make_equal_genesis(4), play)


def test_an_unsigned_certificate_silences_no_peer_and_is_not_kept() -> None:
    async def play(world: World) -> None:
        await world.start(*FOUR)
        height = await transfer_and_wait(world, 1, 1)
        engine = world.engine(1)
        final = engine._store.certificate(height)
        assert final is not None
        engine._rebroadcaster._certificate = (math.inf, final)  # what this node shares unless another is faster
        topic = get_topic(world.genesis.chain_id, "certs")
        unsigned = replace(final, signatures=(bytes(64),) * len(final.signatures))
        for forged in (unsigned, replace(unsigned, epoch=1, block_id=bytes([1] * 32))):
            with pytest.raises(InvalidCertificate):
                await engine._receiver._on_certs(
                    GossipMessage(topic, make_key(99).public_key, Batch((forged.encode(),)).encode())
                )
        assert engine._rebroadcaster._certificate is not None and not engine._driver._early
        await engine._receiver._on_certs(
            GossipMessage(topic, make_key(2).public_key, Batch((final.encode(),)).encode())
        )
        assert engine._rebroadcaster._certificate is None

    simulate(make_equal_genesis(4), play)


def trace() -> str:
    """A run with a crash, a partition and lossy gossip, as one line."""
    lines: list[str] = []

    async def play(world: World) -> None:
        await world.start(*FOUR, 5)
        for round_number in range(4):
            await transfer_and_wait(world, 1 + round_number % 3, 5)
            if round_number == 1:
                await world.kill(4)
            if round_number == 2:
                await world.start(4)
        await trio.sleep(3.0)
        lines.extend(f"{engine.header.height} {engine.header.id.hex()}" for engine in world.engines)
        lines.append(f"{trio.current_time():.6f}")

    simulate(make_equal_genesis(4, others=1, epoch_heights=4), play, seed=5, loss=0.2)
    return " ".join(lines)


@pytest.mark.long  # the trace of a whole market shows it too (test_market_simulation)
def test_a_run_depends_on_nothing_but_its_seed() -> None:
    root = Path(__file__).parents[2]
    program = "from tests.consensus.test_engine import trace; print(trace())"
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[-1]  # before it stands the log
        for hash_seed in ("1", "2")
    }
    assert len(runs) == 1 and len(runs.pop().split()) == 11


@pytest.mark.parametrize("seed", list_seeds(2, 4))
def test_whatever_happens_one_chain_grows_and_nothing_is_lost(seed: int) -> None:
    """Partitions and lossy gossip at random; odd seeds also kill, which may lose what only the victim knew."""

    async def play(world: World) -> None:
        chance = Random(seed)
        numbers = [*FOUR, 5]
        await world.start(*numbers)
        sent: list[SignedOperation] = []
        for _ in range(20):
            alive = [number for number in numbers if world.nodes[number].is_alive]
            dead = [number for number in numbers if number not in alive]
            for _ in range(chance.randint(0, 2)):
                operation = world.transfer(chance.choice(numbers), 2, 1_000)
                await world.engine(chance.choice(alive)).submit(operation)
                sent.append(operation)
            event = chance.random()
            if event < 0.2 and seed % 2 and len(alive) > 2:
                await world.kill(chance.choice(alive))
            elif event < 0.4 and dead:
                await world.start(chance.choice(dead))
            elif event < 0.6:
                group = chance.sample(numbers, chance.randint(1, 2))
                world.hub.partition([[make_key(number).public_key for number in group]], notice=chance.random())
            elif event < 0.8:
                world.hub.heal()
                world.hub.connect_all()
            await trio.sleep(chance.choice((0.01, 0.1, 0.5, 2.0)))
        world.hub.heal()
        await world.start(*(number for number in numbers if not world.nodes[number].is_alive))
        height = max(engine.header.height for engine in world.engines)
        await world.wait_height(height + 2, timeout=60.0)
        await transfer_and_wait(world, 6, 1)
        await trio.sleep(10.0)
        world.check_same_chain()
        check_votes(world)
        if seed % 2 == 0:
            assert all(world.engine(1)._store.find_operation(operation.id) for operation in sent)

    simulate(make_equal_genesis(4, others=2, epoch_heights=3), play, seed=seed, loss=0.1 * seed)
