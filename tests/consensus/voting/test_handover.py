"""One key on two machines: the ledger says which of them votes in which epoch, and no schedule makes both vote."""

from __future__ import annotations

import random
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from chain.exceptions import CodecError
from chain.transition.block import apply_block
from chain.types.operations import Transfer
from chain.types.votes import NO_BLOCK, Vote, VoteKind, sign_vote
from consensus.engine import Engine
from consensus.simplex.messages import COMPACT_KIND, decode_message
from consensus.voting.disk import JOURNAL_FILE, DataDisk, NodeStorage, open_storage
from consensus.voting.journal import Journal
from consensus.voting.lockout import HANDED_OVER, VotingLockout, VotingRights
from consensus.voting.vote_store import VoteStore
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.crashes.crash import CrashWorld, MemoryDisk
from tests.support.chain_builder import Chain
from tests.support.consensus_world import Node, make_equal_genesis
from tests.support.keys import make_key

# The rule.

OWN, FOREIGN, OTHER = b"a" * 32, b"b" * 32, b"c" * 32


def claim(chain: Chain, *memos: bytes) -> Any:
    """The next block, with an operation that claims the votes of the first user for each memo."""
    me = chain.users[0]
    first = chain.account(me).nonce
    return chain.append(
        [chain.sign(me, Transfer(first + place, me.public_key, 0, memo)) for place, memo in enumerate(memos)]
    )


def take(lockout: VotingLockout, *blocks: Any) -> VotingRights:
    lockout.rights = lockout.foresee(blocks)
    return lockout.rights


def test_the_last_claim_on_the_chain_has_the_votes_from_the_next_epoch_on() -> None:
    chain = Chain()
    me = chain.users[0].public_key
    before, a, b = (VotingLockout(me, 0, nonce) for nonce in (b"", OWN, FOREIGN))
    voted: dict[int, list[str]] = defaultdict(list)
    for memos in ((), (OWN,), (), (OTHER, FOREIGN), (), (OTHER,), (OWN, FOREIGN), ()):
        epoch = chain.next_epoch
        blocks = [claim(chain, *memos)] if memos else []
        while chain.next_epoch == epoch:
            blocks.append(chain.append())
        for name, lockout in (("before", before), ("a", a), ("b", b)):
            if lockout.may_vote(epoch):
                voted[epoch].append(name)
            take(lockout, *blocks)
    assert [voted[epoch] for epoch in range(8)] == [["before"], ["before"], ["a"], ["a"], ["b"], ["b"], [], []]


@pytest.mark.parametrize(
    ("nonce", "memos", "expected"),
    [
        (b"", [], (0, HANDED_OVER, b"")),
        (b"", [FOREIGN], (0, 0, b"")),
        (OWN, [FOREIGN], (0, HANDED_OVER, OWN)),
        (OWN, [OWN], (1, HANDED_OVER, b"")),
        (OWN, [FOREIGN, OWN], (1, HANDED_OVER, b"")),
        (OWN, [OWN, FOREIGN], (1, 0, b"")),
        (OWN, [OWN, OWN], (1, HANDED_OVER, b"")),
    ],
)
def test_what_claims_of_one_block_come_to(nonce: bytes, memos: list[bytes], expected: tuple[int, int, bytes]) -> None:
    chain = Chain()
    lockout = VotingLockout(chain.users[0].public_key, 0, nonce)
    blocks = [claim(chain, *memos)] if memos else [chain.append()]
    assert take(lockout, *blocks) == VotingRights(*expected)


# In a network.

ONE, OTHER_MACHINE = 4, 14
"""The machine on which the validator was begun, and the one that it is restored on, by their names on the network."""
OTHERS = (1, 2, 3)
SHORT = make_equal_genesis(4, others=1, epoch_heights=3)


class TwoMachines(CrashWorld):
    """Machine 14 votes with the key of machine 4. Notes in which epochs each of them votes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.epochs: dict[int, set[int]] = defaultdict(set)

    def restore(self, number: int) -> None:
        """Begin a machine from a backup: the key, and no journal. (Its chance goes on: no nonce comes twice.)"""
        self.disks[number] = MemoryDisk()
        self.finals.pop(number, None)

    def _open(self, node: Node, number: int) -> tuple[Any, VoteStore]:
        if number != OTHER_MACHINE:
            return super()._open(node, number)
        assert isinstance(node.runtime, SimulatedRuntime)
        opened = open_storage(self.disks[number], self.genesis, make_key(ONE), node.runtime.random, votes=True)
        assert opened.vote_store is not None
        node.store, self._opened[number] = opened.store, opened
        return opened.blocks, opened.vote_store

    def _watch(self, engine: Engine, number: int) -> None:
        super()._watch(engine, number)
        links = engine._committee
        send, broadcast = links.send, links.broadcast
        key = make_key(ONE).public_key

        def note(payload: bytes) -> None:
            with suppress(CodecError):
                message = None if payload[:1] == COMPACT_KIND else decode_message(payload)
                if isinstance(message, Vote) and message.signer == key:
                    self.epochs[number].add(message.epoch)

        def see_all(payload: bytes, **options: Any) -> None:
            note(payload)
            broadcast(payload, **options)

        def see_one(peer: bytes, payload: bytes, **options: Any) -> None:
            note(payload)
            send(peer, payload, **options)

        links.send, links.broadcast = see_one, see_all  # type: ignore[method-assign]

    async def pay(self, count: int) -> None:
        for _ in range(count):
            operation = self.transfer(5, 2, 5)
            await self.engine(1).submit(operation)
            await self.engine(1).wait_final(operation.id, 60.0)

    def get_vote_store(self, number: int) -> VoteStore:
        vote_store = self.engine(number)._vote_store
        assert vote_store is not None
        return vote_store

    async def wait_unlocked(self, number: int) -> None:
        with trio.fail_after(60):
            while self.get_vote_store(number).lockout.is_locked:
                await trio.sleep(0.05)

    def check(self) -> None:
        assert self.violations == []
        both = self.epochs[ONE] & self.epochs[OTHER_MACHINE]
        assert not both, f"both machines voted in {sorted(both)}"
        self.check_same_chain()


async def begin(world: TwoMachines) -> None:
    await world.nursery.start(world.hub.run)
    world.add_disk(ONE, MemoryDisk())
    await world.start(*OTHERS, ONE)
    await world.pay(4)
    assert world.epochs[ONE]
    world.restore(OTHER_MACHINE)


def play(seed: int, script: Any) -> None:
    done = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = TwoMachines(SHORT, nursery, seed)
            await begin(world)
            await script(world)
            world.check()
            done.append(True)
            nursery.cancel_scope.cancel()

    run_simulation(seed, main)
    assert done


def test_a_validator_that_is_restored_while_it_runs_votes_in_one_place() -> None:
    async def script(world: TwoMachines) -> None:
        await world.start(OTHER_MACHINE)
        assert world.get_vote_store(OTHER_MACHINE).lockout.is_locked
        await world.wait_unlocked(OTHER_MACHINE)
        await world.pay(9)
        first = world.get_vote_store(OTHER_MACHINE).lockout.first_epoch
        assert world.get_vote_store(ONE).lockout.rights.is_handed_over
        assert max(world.epochs[ONE]) == first - 1, "it goes on to the end of the epoch"
        assert world.epochs[OTHER_MACHINE] and min(world.epochs[OTHER_MACHINE]) == first
        # It does not forget that, and takes the votes back once its journal is taken away.
        await world.kill(ONE)
        await world.start(ONE)
        await world.pay(4)
        assert world.get_vote_store(ONE).journal.start.first_epoch == HANDED_OVER
        assert max(world.epochs[ONE]) == first - 1
        await world.kill(ONE)
        disk = world.disks[ONE]
        assert isinstance(disk, MemoryDisk)
        disk.file.truncate(0)
        await world.start(ONE)
        await world.wait_unlocked(ONE)
        await world.pay(9)
        assert max(world.epochs[ONE]) > max(world.epochs[OTHER_MACHINE])

    play(1, script)


def test_the_former_machine_comes_back_after_the_restored_one_began_to_vote() -> None:
    async def script(world: TwoMachines) -> None:
        await world.kill(ONE)
        await world.start(OTHER_MACHINE)
        await world.wait_unlocked(OTHER_MACHINE)
        await world.pay(6)
        before = max(world.epochs[ONE])
        await world.start(ONE)  # it has the blocks to catch up with that say so
        await world.pay(6)
        assert max(world.epochs[ONE]) <= max(before, world.get_vote_store(OTHER_MACHINE).lockout.first_epoch - 1)
        assert world.get_vote_store(ONE).lockout.rights.is_handed_over

    play(2, script)


def play_at_random(seed: int) -> bool:
    """Both machines start, stop and lose their journals at random moments. Returns whether both came to vote."""
    chance = random.Random(f"handover {seed}")
    have_voted: list[bool] = []

    async def script(world: TwoMachines) -> None:
        for _ in range(8):
            number = chance.choice((ONE, OTHER_MACHINE, OTHER_MACHINE))
            if number in world.nodes and world.nodes[number].is_alive:
                if chance.random() < 0.5:
                    await world.kill(number)
            else:
                if chance.random() < 0.3:
                    world.restore(number)
                await world.start(number)
            await trio.sleep(chance.random() * 2)
            await world.pay(chance.randrange(5))
        have_voted.append(bool(world.epochs[OTHER_MACHINE]))

    play(seed, script)
    return have_voted == [True]


def test_no_schedule_makes_both_vote_in_one_epoch() -> None:
    both_voted = [play_at_random(seed) for seed in range(3)]
    assert any(both_voted)


@pytest.mark.long
@pytest.mark.parametrize("start", range(0, 200, 25))
def test_no_schedule_of_many_makes_both_vote_in_one_epoch(start: int) -> None:
    both_voted = [play_at_random(seed) for seed in range(start, start + 25)]
    assert sum(both_voted) > 5


# What a machine does that did not see all blocks.


def open_path(path: Path, chain: Chain, *, votes: bool = True) -> NodeStorage:
    return open_storage(DataDisk(path, lambda: 0), chain.genesis, chain.validators[0], random.Random(1), votes=votes)


@pytest.mark.parametrize("has_voted", [True, False])
def test_a_chain_that_was_followed_without_voting_may_have_passed_a_handover(tmp_path: Path, has_voted: bool) -> None:
    chain = Chain()
    key = chain.validators[0]
    Journal.open(tmp_path / JOURNAL_FILE, chain.genesis.chain_id, key.public_key).close()
    for votes in (True, True, False, True):
        opened = open_path(tmp_path, chain, votes=votes)
        if opened.vote_store is not None:
            assert opened.vote_store.lockout.is_locked == (len(chain.blocks) == 2)
            if has_voted and not opened.vote_store.lockout.is_locked:
                view = opened.vote_store.journal.length + 1
                vote = sign_vote(key, chain.genesis.chain_id, VoteKind.NULLIFY, 0, view, NO_BLOCK)
                opened.vote_store.persist(vote, None)
        if not votes:
            for block in (chain.append(), chain.append()):
                transition = apply_block(chain.genesis, opened.blocks.header, opened.blocks.state, block)
                opened.blocks.append([(block, transition)], chain.finality(block))
        opened.close()


def test_a_machine_that_was_handed_over_stays_so_whatever_else_is_lost(tmp_path: Path) -> None:
    chain = Chain()
    opened = open_path(tmp_path, chain)
    assert opened.vote_store is not None
    opened.vote_store.journal.hand_over()
    opened.close()
    (tmp_path / "chain").rename(tmp_path / "gone")
    for _ in range(2):
        opened = open_path(tmp_path, chain)
        assert opened.vote_store is not None and not opened.vote_store.lockout.is_locked
        assert not any(opened.vote_store.lockout.may_vote(epoch) for epoch in (0, 1, 10**9))
        opened.vote_store.journal.prune(10**6)
        opened.close()
    (tmp_path / JOURNAL_FILE).unlink()
    opened = open_path(tmp_path, chain)
    assert opened.vote_store is not None and opened.vote_store.lockout.is_locked
    opened.close()


def test_blocks_that_were_passed_over_make_a_validator_wait_once(tmp_path: Path) -> None:
    chain = Chain()
    Journal.open(tmp_path / JOURNAL_FILE, chain.genesis.chain_id, chain.validators[0].public_key).close()
    opened = open_path(tmp_path, chain)
    assert opened.vote_store is not None and not opened.vote_store.lockout.is_locked
    opened.vote_store.lock(OWN)
    opened.vote_store.lock(OTHER)
    assert opened.vote_store.lockout.nonce == opened.vote_store.journal.start.nonce == OWN
    opened.close()
