"""A faulty leader and old certificates against a validator that lost votes: it must not sign the opposite of any.

In its first life the validator votes for the blocks of a leader. Then something is lost, and it starts again. An
attacker who wants it punished replays to it the finality that it has forgotten, and proposes other blocks in the same
views.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from chain.store.kv import MemoryStore
from chain.transition.block import build_block
from chain.types.blocks import Block, sign_proposal
from chain.types.votes import Vote, VoteKind
from consensus.driver.driver import Driver
from consensus.mempool.pool import Mempool
from consensus.network.committee_streams import CommitteeStreams
from consensus.simplex.messages import Propose
from consensus.simplex.view_timer import Timeouts
from consensus.voting.disk import open_storage
from consensus.voting.journal import RECORD_BYTES, Journal
from consensus.voting.lockout import VotingLockout
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime
from p2p.streams.exchanges import Streams
from tests.adversarial.crashes.crash import MemoryDisk
from tests.consensus.recorder import Recorder
from tests.support.agreement.checkers import VoteChecker
from tests.support.chain_builder import find_reveal
from tests.support.chains.stored_chain import GENESIS, certify, execute, get_block
from tests.support.keys import make_key

KEY = make_key(4)
LAST = 4
"""The blocks up to here are proposed, those before it are final. All are of the first epoch."""
VOTES = 2 * LAST - 1
"""In the first life: it notarizes all of them, and finalizes all but the last."""


class Quiet(Recorder):
    def on_conflict(self, first: Vote, second: Vote) -> None:
        pass


class Life:
    """One run of the validator, alone with what the adversary shows it."""

    def __init__(self, disk: MemoryDisk, seed: int) -> None:
        self._disk = disk
        self._runtime = SimulatedRuntime(seed, skew=60_000)

    async def _play(self, blocks: list[Block], replayed: int) -> None:
        async with trio.open_nursery() as nursery:
            hub = SimulatedInternet(1)
            await nursery.start(hub.run)
            streams = Streams(SimulatedNetwork(hub, KEY.public_key))

            async def ignore(peer: bytes, payload: bytes) -> None:
                pass

            links = CommitteeStreams(streams, ignore)
            await nursery.start(links.run)
            opened = open_storage(self._disk, GENESIS, KEY, self._runtime.random, votes=True)
            assert opened.vote_store is not None
            self.lockout: VotingLockout = opened.vote_store.lockout
            self.journal: Journal = opened.vote_store.journal
            agreement = Driver(
                GENESIS, opened.vote_store, opened.blocks, Mempool(GENESIS, opened.blocks.header, opened.blocks.state),
                links, self._runtime, Quiet(), Timeouts(), 0.25,
            )  # fmt: skip
            await agreement.start()
            for block in blocks:
                if replayed >= block.height > opened.blocks.height:
                    final = certify(GENESIS, get_block(block.height), VoteKind.FINALIZE)
                    await agreement.on_block_range(execute(block.height), final)
                else:
                    leader = next(key for key in map(make_key, range(1, 5)) if key.public_key == block.header.proposer)
                    proposal = sign_proposal(leader, GENESIS.chain_id, 0, block.header.view, block.id)
                    await agreement.on_message(Propose(proposal, block), 0)
            nursery.cancel_scope.cancel()

    def run(self, blocks: list[Block], replayed: int = 0) -> list[Vote]:
        """Show it blocks, of which those up to the height ``replayed`` are final already. Returns its votes."""
        trio.run(self._play, blocks, replayed, clock=trio.testing.MockClock(autojump_threshold=0))
        return self.journal.votes(0)


def make_rival(height: int) -> Block:
    """Another block of the same leader in the same view."""
    real = get_block(height)
    leader = next(key for key in map(make_key, range(1, 5)) if key.public_key == real.header.proposer)
    done = execute(height - 1)
    header, state = (done[-1].block.header, done[-1].transition.state) if done else (GENESIS.header, GENESIS.state)
    block, _, _ = build_block(
        GENESIS, leader, header, state, [],
        view=real.header.view, timestamp=real.header.timestamp + 1, reveal=find_reveal(leader, GENESIS, state),
        parent_certificate=real.body.parent_certificate, nullifications=real.body.nullifications,
    )  # fmt: skip
    assert block.id != real.id
    return block


REAL = [get_block(height) for height in range(1, LAST + 1)]
RIVALS = [make_rival(height) for height in range(1, LAST + 1)]


@dataclass(frozen=True)
class FirstLife:
    """What it left: its disk, its votes in their order, and the database as it was after each block."""

    disk: MemoryDisk
    votes: list[Vote]
    copies: list[MemoryStore]

    def attack(self, disk: MemoryDisk) -> list[str]:
        """Replay finality up to every height, then propose rivals of what follows. What it signed in conflict."""
        checker = VoteChecker()
        for vote in self.votes:
            checker.on_durable(vote)
            checker.on_sent(vote)
        for replayed in range(LAST):
            life = Life(copy.deepcopy(disk), 100 + replayed)
            blocks = [*REAL[:replayed], *RIVALS[replayed:]]
            for vote in life.run(blocks, replayed):
                checker.on_durable(vote)
                checker.on_sent(vote)
        return checker.violations

    def lose(self, store: str, records: int) -> MemoryDisk:
        """The disk with a cut journal, and a database that is whole, lost or an older one."""
        disk = copy.deepcopy(self.disk)
        disk.file.truncate(records * RECORD_BYTES)
        if store == "lost":
            disk.quarantine_store()
        elif store != "whole":
            disk.store = copy.deepcopy(self.copies[int(store)])
        return disk


@pytest.fixture(scope="module")
def first_life() -> FirstLife:
    disk, copies = MemoryDisk(), []
    Journal(disk.file, GENESIS.chain_id, KEY.public_key)
    for count in range(1, LAST + 1):
        votes = Life(disk, count).run(REAL[:count])
        copies.append(copy.deepcopy(disk.store))
    assert [vote.kind for vote in votes] == [*(VoteKind.NOTARIZE, VoteKind.FINALIZE) * (LAST - 1), VoteKind.NOTARIZE]
    assert len(votes) == VOTES
    return FirstLife(disk, votes, copies)


CUTS = [(store, records) for store in ("whole", "lost") for records in range(VOTES + 2)]
BLANK = ("lost", 1)
"""Exactly what ``init`` makes."""


@pytest.mark.parametrize(("store", "records"), [cut for cut in CUTS if cut != BLANK])
def test_a_journal_cut_anywhere_does_not_make_it_contradict_itself(
    first_life: FirstLife, store: str, records: int
) -> None:
    assert first_life.attack(first_life.lose(store, records)) == []


@pytest.mark.parametrize("store", ["0", "1", "2"])
def test_an_older_database_does_not_make_it_contradict_itself(first_life: FirstLife, store: str) -> None:
    assert first_life.attack(first_life.lose(store, 1 + VOTES)) == []


@pytest.mark.parametrize(("store", "records"), [("0", 2), ("1", 4), BLANK])
def test_an_older_copy_of_both_does(first_life: FirstLife, store: str, records: int) -> None:
    """No file can tell that it is old if all agree: never restore a copy of a data directory. (And this test can see
    what the others must not find.)
    """
    assert any("contradicts" in violation for violation in first_life.attack(first_life.lose(store, records)))
