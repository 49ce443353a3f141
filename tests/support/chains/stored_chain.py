"""A stored chain of transfers with four validators, and certificates for its blocks."""

from __future__ import annotations

from collections.abc import Callable

from chain.genesis import Genesis
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.block import build_block, state_transition
from chain.transition.epochs import get_next_epoch
from chain.types.blocks import Block
from chain.types.operations import Transfer, sign_operation
from chain.types.votes import Certificate, VoteKind, make_certificate, sign_vote
from consensus.block_tree import ExecutedBlock
from tests.support.chain_builder import find_reveal
from tests.support.consensus_world import make_equal_genesis
from tests.support.keys import make_key

GENESIS = make_equal_genesis(4, others=1, epoch_heights=5)


def make_chain(genesis: Genesis, length: int, certified: Callable[[int], bool] = lambda _: True) -> ChainStore:
    """A store with ``length`` blocks of one transfer each; those ``certified`` carry a finality certificate."""
    store = ChainStore(MemoryStore(), genesis)
    header, state, notarization = genesis.header, genesis.state, None
    pending = []
    for height in range(1, length + 1):
        epoch = get_next_epoch(genesis, state)
        view = header.view + 1 if header.epoch == epoch.number and height > 1 else 1
        leader = epoch.compute_leader(view)
        key = next(make_key(n) for n in range(1, 5) if make_key(n).public_key == leader)
        transfer = Transfer(height - 1, make_key(2).public_key, 1)
        block, transition, rejected = build_block(
            genesis, key, header, state, [sign_operation(make_key(1), genesis.chain_id, transfer)],
            view=view, timestamp=header.timestamp + 1000, reveal=find_reveal(key, genesis, state),
            parent_certificate=notarization, nullifications=(),
        )  # fmt: skip
        assert not rejected
        is_last = height == epoch.last_height
        finalization = certify(genesis, block, VoteKind.FINALIZE)
        notarization = finalization if is_last else certify(genesis, block, VoteKind.NOTARIZE)
        header, state = block.header, transition.state
        pending.append((block, transition))
        if certified(height) or height == length:
            store.append(pending, finalization)
            pending = []
    return store


def certify(genesis: Genesis, block: Block, kind: VoteKind, signers: tuple[int, ...] = (1, 2, 3, 4)) -> Certificate:
    header = block.header
    votes = [sign_vote(make_key(n), genesis.chain_id, kind, header.epoch, header.view, block.id) for n in signers]
    return make_certificate(votes, genesis.validators)


CHAIN = make_chain(GENESIS, 12, certified=lambda height: height % 3 == 0)


def get_block(height: int) -> Block:
    block = CHAIN.block(height)
    assert block is not None
    return block


def execute(last: int) -> list[ExecutedBlock]:
    header, state, executed = GENESIS.header, GENESIS.state, []
    for height in range(1, last + 1):
        block = get_block(height)
        executed.append(ExecutedBlock(block, state_transition(GENESIS, header, state, block)))
        header, state = block.header, executed[-1].transition.state
    return executed
