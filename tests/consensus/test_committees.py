"""Committees that change on a running network: newcomers, who leaves, who is away, who cheats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import structlog
import trio
import trio.testing

from chain.audit.audit import audit_chain
from chain.audit.sources import StoreSource
from chain.genesis import Genesis
from chain.parameters.parameters import CREDIT
from chain.state.beacon import make_hash_chain
from chain.state.keys import validator_key
from chain.state.records import ValidatorRecord
from chain.state.state import State, compute_supply
from chain.types.blocks import Block, Body
from chain.types.operations import (
    Enroll,
    Evidence,
    NoncedOperation,
    Recommit,
    Retire,
    SignedOperation,
    Transfer,
    sign_operation,
)
from chain.types.validators import ValidatorSet
from chain.types.votes import Vote, VoteKind, sign_vote
from consensus.engine import FinalizedEvent
from consensus.simplex.messages import encode_message
from consensus.validator_tasks import RETRY_BLOCKS, WARNING_BLOCKS, ValidatorTasks, get_due_operation
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

EPOCH = 4
GENESIS = make_equal_genesis(4, others=1, epoch_heights=EPOCH)
FIVE = (1, 2, 3, 4, 5)


def enroll(genesis: Genesis, number: int, nonce: int) -> Enroll:
    return Enroll(nonce, make_hash_chain(make_key(number), genesis.beacon, 1, EPOCH).commitment, 1)


async def wait_final(world: World, operation: SignedOperation, at: int) -> int:
    height, failure = await world.engine(at).wait_final(operation.id, 60.0)
    assert failure is None
    return height


async def wait_epoch(world: World, epoch: int, *numbers: int) -> None:
    await world.wait_height(epoch * EPOCH, *numbers, timeout=2000.0)


def get_stakes(validators: ValidatorSet | None) -> dict[bytes, int]:
    assert validators is not None
    return {validator.public_key: validator.stake for validator in validators}


def check(world: World) -> None:
    """One chain, no credit made or lost, and the audit agrees with all of it."""
    world.check_same_chain()
    for number, node in world.nodes.items():
        if node.is_alive:
            assert compute_supply(node.engine.state) == world.genesis.supply
            report = audit_chain(StoreSource(node.store), threads=1)
            assert report.ok, (number, report.fault)


def test_a_newcomer_votes_and_leads_and_leaves() -> None:
    async def play(world: World) -> None:
        await world.start(*FIVE)
        engine, newcomer = world.engine(5), make_key(5).public_key
        height = await wait_final(world, await world.submit(5, lambda nonce: enroll(GENESIS, 5, nonce)), 5)
        joins = (height - 1) // EPOCH + 2
        assert newcomer not in get_stakes(engine.state.committee(joins - 1))
        await wait_epoch(world, joins - 1)
        # A tenth of the whole is added in an epoch; the newcomer has it in three steps.
        assert get_stakes(engine.state.committee(joins))[newcomer] == 40 * CREDIT
        await wait_epoch(world, joins + 2)
        assert get_stakes(engine.state.committee(joins + 2))[newcomer] == 100 * CREDIT
        assert engine.status().is_validator
        await world.kill(1)  # five equals go on without one of them
        before = engine.header.height
        await world.wait_height(before + 3 * EPOCH, 2, 3, 4, 5, timeout=2000.0)
        proposers = {engine._store.block(h).header.proposer for h in range(before, engine.header.height)}  # type: ignore[union-attr]
        assert newcomer in proposers
        await world.start(1)
        height = await wait_final(world, await world.submit(5, Retire), 5)
        await wait_epoch(world, (height - 1) // EPOCH + 2)
        await trio.sleep(30.0)
        assert newcomer not in get_stakes(engine.state.committee((height - 1) // EPOCH + 2))
        check(world)

    simulate(GENESIS, play)


def test_who_is_away_is_jailed_and_asks_to_return() -> None:
    genesis = make_equal_genesis(5, epoch_heights=EPOCH, participation_span_ms=50_000)

    async def play(world: World) -> None:
        await world.start(*FIVE)
        await world.wait_height(EPOCH + 1)
        await world.kill(4)
        absent = make_key(4).public_key
        with trio.fail_after(2000.0):
            while absent in get_stakes(world.engine(1).state.committee(world.engine(1).status().epoch)):
                await trio.sleep(1.0)
        validator = world.engine(1).state.validator_record(absent)
        assert validator is not None and validator.jailed_until and validator.is_enrolled
        assert world.engine(1).state.account(absent).bonded == 100 * CREDIT
        await world.start(4)
        with trio.fail_after(2000.0):
            while get_stakes(world.engine(4).state.committee(world.engine(4).status().epoch)).get(absent, 0) < CREDIT:
                await trio.sleep(1.0)
        assert world.engine(4).status().is_validator
        await world.wait_height(world.engine(1).header.height + EPOCH, timeout=200.0)
        check(world)

    simulate(genesis, play)


@pytest.mark.parametrize("validators", [4, pytest.param(5, marks=pytest.mark.long)])
def test_a_rolling_restart_stops_nothing_and_costs_no_validator_its_weight(validators: int) -> None:
    """Each is away for some epochs of a busy chain, and the next follows at once."""
    numbers = range(1, validators + 1)
    genesis = make_equal_genesis(validators, others=1, epoch_heights=8)
    payer, gaps = validators + 1, [0.0]

    async def pay(world: World) -> None:
        while True:
            await world.submit(payer, lambda nonce: Transfer(nonce, make_key(1).public_key, 1))
            await trio.sleep(1.0)

    async def watch(world: World) -> None:
        last, height = trio.current_time(), 0
        while True:
            if world.engine(payer).header.height > height:
                last, height = trio.current_time(), world.engine(payer).header.height
            gaps.append(trio.current_time() - last)
            await trio.sleep(0.1)

    async def play(world: World) -> None:
        await world.start(*numbers, payer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pay, world)
            nursery.start_soon(watch, world)
            for number in numbers:
                await world.kill(number)
                await trio.sleep(15.0)
                await world.start(number)
                await world.wait_height(world.engine(payer).header.height, number)
            await wait_final(world, await world.submit(1, lambda nonce: Transfer(nonce, make_key(2).public_key, 0)), 1)
            nursery.cancel_scope.cancel()
        engine = world.engine(payer)
        assert max(gaps) < 15.0, "views of a leader that is away, but no stop"
        assert engine.epoch >= validators - 1, "else no epoch judged those who were away"
        assert set(get_stakes(engine.state.committee(engine.epoch)).values()) == {100 * CREDIT}
        assert len(get_stakes(engine.state.committee(engine.epoch + 1))) == validators
        check(world)

    simulate(genesis, play)


def test_a_validator_that_misses_too_many_blocks_is_warned_once() -> None:
    key, counted = make_key(1), 0

    def state(votes: int, blocks: int) -> State:
        record = GENESIS.state.validator_record(key.public_key)
        assert record is not None
        record = replace(record, counted_votes=votes, counted_blocks=blocks)
        return GENESIS.state.update({validator_key(key.public_key): record})

    async def main() -> None:
        nonlocal counted
        engine = Following(GENESIS.state)
        tasks = ValidatorTasks(key, engine, refuse, SimulatedRuntime(1))  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tasks.run)
            for votes, blocks, expected in (
                (0, WARNING_BLOCKS - 1, []),
                (15, 20, []),
                (14, 20, ["warning"]),
                (13, 20, ["warning"]),
                (15, 20, ["warning", "info"]),
                (14, 20, ["warning", "info", "warning"]),
            ):
                engine.state = state(votes, blocks)
                await engine.grow(counted, counted + 1)
                counted += 2
                assert [entry["log_level"] for entry in entries] == expected
            engine.is_behind, engine.state = True, state(20, 20)
            await engine.grow(counted, counted)
            assert len(entries) == 3, "what it has of the chain may be old"
            nursery.cancel_scope.cancel()
        assert (entries[0]["votes"], entries[0]["blocks"], entries[0]["needed"]) == (14, 20, 10)

    async def refuse(make: Callable[[int], NoncedOperation]) -> SignedOperation:
        raise AssertionError

    with structlog.testing.capture_logs() as entries:
        trio.run(main)


@pytest.mark.parametrize(
    "kinds", [(VoteKind.NOTARIZE,) * 2, (VoteKind.FINALIZE,) * 2, (VoteKind.NULLIFY, VoteKind.FINALIZE)]
)
def test_two_votes_that_contradict_each_other_cost_everything(kinds: tuple[VoteKind, VoteKind]) -> None:
    def make_vote(kind: VoteKind, view: int, content: bytes) -> Vote:
        block_id = bytes(32) if kind is VoteKind.NULLIFY else content * 32
        return sign_vote(make_key(4), GENESIS.chain_id, kind, 0, view, block_id)

    async def play(world: World) -> None:
        engines = await world.start(*FIVE)
        await world.wait_height(1)
        view = engines[0].status().view + 1
        for content, kind in zip((b"a", b"b"), kinds, strict=True):
            world.engine(4)._driver._committee.broadcast(encode_message(make_vote(kind, view, content)))
        world.engine(4)._driver._committee.flush()
        cheat = make_key(4).public_key
        with trio.fail_after(60.0):
            while world.engine(1).state.account(cheat).bonded:
                await trio.sleep(0.1)
        validator = world.engine(1).state.validator_record(cheat)
        assert validator is not None and validator.jailed_until >= GENESIS.parameters.unbonding_epochs
        found = [
            operation
            for height in range(1, world.engine(1).header.height + 1)
            for operation in world.engine(1)._store.block(height).body.operations  # type: ignore[union-attr]
            if isinstance(operation.operation, Evidence)
        ]
        assert len(found) == 1 and found[0].signer != cheat
        finder = world.engine(1).state.account(found[0].signer)
        assert finder.available > 1_000 * CREDIT + 9 * CREDIT  # a tenth of 100 credits, less the fee
        await wait_epoch(world, 3)
        assert cheat not in get_stakes(world.engine(1).state.committee(2))
        check(world)

    simulate(GENESIS, play)


def test_upkeep_renews_a_hash_chain_in_time_and_only_once() -> None:
    key = make_key(1)
    hash_chain = make_hash_chain(key, GENESIS.beacon, 0, EPOCH)
    commitments = [hash_chain.commitment]
    while (reveal := hash_chain.find_reveal(commitments[-1])) is not None:
        commitments.append(reveal)

    def with_tip(left: int, **changes: int) -> State:
        validator = replace(ValidatorRecord(is_enrolled=True, commitment=commitments[-1 - left]), **changes)  # type: ignore[arg-type]
        return GENESIS.state.update({validator_key(key.public_key): validator})

    assert get_due_operation(GENESIS, with_tip(3 * EPOCH), key) is None
    make = get_due_operation(GENESIS, with_tip(3 * EPOCH - 1), key)
    assert make is not None
    assert make(7) == Recommit(7, make_hash_chain(key, GENESIS.beacon, 1, EPOCH).commitment, 1)
    assert get_due_operation(GENESIS, with_tip(1, next_epoch=2), key) is None
    assert get_due_operation(GENESIS, GENESIS.state, make_key(5)) is None


class Following:
    """As much of an engine as :class:`ValidatorTasks` looks at; ``pending`` and ``final`` are ids of operations."""

    def __init__(self, state: State) -> None:
        self.genesis, self.state, self.is_behind = GENESIS, state, False
        self.pending: set[bytes] = set()
        self.final: set[bytes] = set()
        self._blocks, self._reader = trio.open_memory_channel[FinalizedEvent](100)

    def subscribe_final(self) -> trio.MemoryReceiveChannel[FinalizedEvent]:
        return self._reader

    def subscribe_conflicts(self) -> trio.MemoryReceiveChannel[object]:
        return trio.open_memory_channel[object](0)[1]

    def is_pending(self, operation_id: bytes) -> bool:
        return operation_id in self.pending

    def is_final(self, operation_id: bytes) -> bool:
        return operation_id in self.final

    async def grow(self, first: int, last: int) -> None:
        for height in range(first, last + 1):
            header = replace(GENESIS.header, height=height)
            await self._blocks.send(FinalizedEvent(Block(header, bytes(64), Body((), None, (), ())), ()))
        await trio.testing.wait_all_tasks_blocked()


def test_an_operation_that_got_lost_on_the_way_is_asked_for_again() -> None:
    key = make_key(1)
    hash_chain = make_hash_chain(key, GENESIS.beacon, 0, EPOCH)
    validator = ValidatorRecord(is_enrolled=True, commitment=hash_chain.commitment)
    while (reveal := hash_chain.find_reveal(validator.commitment)) is not None and hash_chain.count_reveals(
        validator.commitment
    ) > 2:
        validator = replace(validator, commitment=reveal)

    async def main() -> None:
        engine = Following(GENESIS.state.update({validator_key(key.public_key): validator}))
        asked: list[SignedOperation] = []

        async def submit(make: Callable[[int], NoncedOperation]) -> SignedOperation:
            asked.append(sign_operation(key, GENESIS.chain_id, make(len(asked))))
            engine.pending.add(asked[-1].id)
            return asked[-1]

        upkeep = ValidatorTasks(key, engine, submit, SimulatedRuntime(1))  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upkeep.run)
            await engine.grow(1, 40)
            assert len(asked) == 1  # it waits for a block
            engine.pending.clear()
            await engine.grow(41, 41 + RETRY_BLOCKS)
            assert len(asked) == 2
            engine.pending.clear()
            engine.final.add(asked[-1].id)  # and failed, since it is still due: that is not paid for at every block
            await engine.grow(100, 99 + EPOCH)
            assert len(asked) == 2
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_hash_chain_that_runs_low_is_replaced_on_a_running_network() -> None:
    hash_chain = make_hash_chain(make_key(1), GENESIS.beacon, 0, EPOCH)
    commitments = [hash_chain.commitment]
    while (reveal := hash_chain.find_reveal(commitments[-1])) is not None:
        commitments.append(reveal)
    low = tuple(
        replace(account, commitment=commitments[-3 * EPOCH])
        if account.public_key == make_key(1).public_key
        else account
        for account in GENESIS.accounts
    )
    genesis = replace(GENESIS, accounts=low)

    async def play(world: World) -> None:
        await world.start(*FIVE)
        await wait_epoch(world, 12)
        validator = world.engine(2).state.validator_record(make_key(1).public_key)
        assert validator is not None and validator.hash_chain == 1
        check(world)

    simulate(genesis, play)
