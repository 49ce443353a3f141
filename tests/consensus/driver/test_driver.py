"""Agreement that runs ahead of the chain on disk: what it does until sync has closed the gap."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.block import Transition, build_block
from chain.types.blocks import Block, sign_proposal
from chain.types.votes import NO_BLOCK, Certificate, VoteKind, make_certificate, sign_vote
from consensus.block_tree import BlockTree
from consensus.driver.driver import Driver
from consensus.mempool.pool import Mempool
from consensus.network.committee_streams import CommitteeStreams
from consensus.simplex.messages import Propose
from consensus.simplex.view_timer import Timeouts
from consensus.voting.journal import Journal
from consensus.voting.vote_store import VoteStore
from consensus.voting.vote_support import VoteSupportStore
from p2p.simulation.internet import SimulatedInternet
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedRuntime
from p2p.streams.exchanges import Streams
from tests.consensus.recorder import Recorder
from tests.support.chain_builder import find_reveal
from tests.support.chains.stored_chain import GENESIS, certify, execute, get_block
from tests.support.keys import make_key
from tests.support.memory_file import MemoryFile

Script = Callable[[Driver, Recorder, Journal], Awaitable[None]]


def play(script: Script, is_validator: bool) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            hub = SimulatedInternet(1)
            await nursery.start(hub.run)
            key = make_key(4)
            streams = Streams(SimulatedNetwork(hub, key.public_key))

            async def ignore(peer: bytes, payload: bytes) -> None:
                pass

            links = CommitteeStreams(streams, ignore)
            await nursery.start(links.run)
            memory = MemoryStore()
            store = ChainStore(memory, GENESIS)
            journal = Journal(MemoryFile(), GENESIS.chain_id, key.public_key)
            environment = Recorder()
            agreement = Driver(
                GENESIS,
                VoteStore(key, journal, VoteSupportStore(memory)) if is_validator else None,
                store,
                Mempool(GENESIS, store.header, store.state),
                links,
                SimulatedRuntime(1, skew=60_000),
                environment,
                Timeouts(),
                0.25,
            )
            await agreement.start()
            await script(agreement, environment, journal)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_certificate_fetches_its_block_and_missing_ancestors_are_synced() -> None:
    async def script(agreement: Driver, environment: Recorder, journal: Journal) -> None:
        third = get_block(3)
        certificate = certify(GENESIS, third, VoteKind.FINALIZE)
        await agreement.on_message(certificate, 0)
        assert environment.fetched == [third.id] and environment.sync_requests == 0
        await agreement.on_block(third)
        assert environment.sync_requests == 1 and environment.final == []
        await agreement.on_block_range(execute(3), certificate)
        assert environment.final == [1, 2, 3] and agreement.head[0] == third.header
        await agreement.on_block_range(execute(3), certificate)  # once more changes nothing
        assert environment.final == [1, 2, 3]

    play(script, is_validator=False)


def test_blocks_that_came_early_are_used_when_their_certificate_comes() -> None:
    async def script(agreement: Driver, environment: Recorder, journal: Journal) -> None:
        for height in (2, 3, 1):
            await agreement.on_block(get_block(height))
        await agreement.on_message(certify(GENESIS, get_block(3), VoteKind.FINALIZE), 0)
        assert environment.final == [1, 2, 3] and environment.fetched == [] and environment.sync_requests == 0

    play(script, is_validator=False)


def test_a_proposal_on_a_block_still_to_be_synced_is_voted_for_afterwards() -> None:
    async def script(agreement: Driver, environment: Recorder, journal: Journal) -> None:
        certificate = certify(GENESIS, get_block(3), VoteKind.FINALIZE)
        await agreement.on_message(certificate, 0)
        await agreement.on_block(get_block(3))
        fourth = get_block(4)
        leader = next(make_key(n) for n in range(1, 5) if make_key(n).public_key == fourth.header.proposer)
        proposal = sign_proposal(leader, GENESIS.chain_id, 0, fourth.header.view, fourth.id)
        await agreement.on_message(Propose(proposal, fourth), 0)
        assert all(vote.block_id != fourth.id for vote in journal.votes(0))
        await agreement.on_block_range(execute(3), certificate)
        assert [vote.kind for vote in journal.votes(0) if vote.block_id == fourth.id] == [VoteKind.NOTARIZE]

    play(script, is_validator=True)


def test_messages_of_the_next_epoch_are_kept_for_it() -> None:
    async def script(agreement: Driver, environment: Recorder, journal: Journal) -> None:
        sixth = get_block(6)  # the first of the second epoch
        await agreement.on_message(certify(GENESIS, sixth, VoteKind.FINALIZE), 0)
        assert environment.sync_requests == 1 and environment.fetched == []
        fifth = certify(GENESIS, get_block(5), VoteKind.FINALIZE)
        await agreement.on_block_range(execute(5), fifth)
        assert agreement.simplex.epoch == 1 and environment.fetched == [sixth.id]
        await agreement.on_block(sixth)
        assert environment.final == [1, 2, 3, 4, 5, 6]

    play(script, is_validator=False)


@pytest.mark.parametrize("is_validator", [False, True])
def test_who_contradicts_what_stands_in_a_synced_block_is_found_out(is_validator: bool) -> None:
    """A node that follows from outside the committee is as good a witness."""

    async def script(agreement: Driver, environment: Recorder, journal: Journal) -> None:
        second, third = get_block(2), get_block(3)
        certificate = third.body.parent_certificate
        assert certificate is not None and certificate.block_id == second.id
        true = next(iter(certificate.votes(GENESIS.validators)))
        liar = next(make_key(n) for n in range(1, 5) if make_key(n).public_key == true.signer)
        false = sign_vote(liar, GENESIS.chain_id, VoteKind.NOTARIZE, 0, true.view, b"y" * 32)
        await agreement.on_message(false, 0)
        assert environment.conflicts == []
        await agreement.on_block_range(execute(3), certify(GENESIS, third, VoteKind.FINALIZE))
        assert environment.conflicts == [(false, true)]

    play(script, is_validator=is_validator)


def nullify(epoch: int, view: int) -> Certificate:
    votes = [sign_vote(make_key(n), GENESIS.chain_id, VoteKind.NULLIFY, epoch, view, NO_BLOCK) for n in (1, 2, 3)]
    return make_certificate(votes, GENESIS.validators)


@pytest.mark.parametrize("last", [5, 6])
def test_an_epoch_that_sync_has_ended_orders_no_blocks_any_more(last: int) -> None:
    """With and without the finalization of its last block: what comes late must not displace the present order."""

    async def script(agreement: Driver, environment: Recorder, journal: Journal) -> None:
        await agreement.on_block_range(execute(last), certify(GENESIS, get_block(last), VoteKind.FINALIZE))
        order = agreement._proposer._order
        for view in range(1, 8):  # this validator leads some of the views that follow
            await agreement.on_message(nullify(0, view), 0)
        assert agreement._proposer._order is order
        assert agreement._previous is not None and agreement._previous.is_finished == (last == 5)

    play(script, is_validator=True)


def make_child(tree: BlockTree, parent_id: bytes, timestamp: int) -> tuple[Block, Transition]:
    parent = tree.find_parent(parent_id)
    assert parent is not None
    header, state = parent
    block, transition, _ = build_block(
        GENESIS, make_key(1), header, state, [],
        view=header.view + 1, timestamp=timestamp, reveal=find_reveal(make_key(1), GENESIS, state),
        parent_certificate=None, nullifications=(),
    )  # fmt: skip
    tree.add_executed(block, transition)
    return block, transition


def test_the_tree_keeps_what_descends_from_the_last_final_block_and_nothing_else() -> None:
    tree = BlockTree(GENESIS.header, GENESIS.state)
    start = GENESIS.timestamp
    one, transition = make_child(tree, GENESIS.header.id, start + 1)
    rival, _ = make_child(tree, GENESIS.header.id, start + 2)
    child, _ = make_child(tree, one.id, start + 3)
    orphan, _ = make_child(tree, rival.id, start + 4)
    assert tree.get_branch([child]) == [one, child]
    tree.advance(one.header, transition.state)
    assert tree.get_executed(child.id) is not None and len(tree) == 1
    assert tree.find_parent(orphan.id) is None and tree.find_parent(one.id) is not None
