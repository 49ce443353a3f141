"""Blocks between agreement and finality: what is asked of the engine, and what no longer is."""

from __future__ import annotations

from chain.types.blocks import Block
from chain.types.votes import Certificate, VoteKind
from consensus.block_tree import BlockTree
from consensus.simplex.messages import Effect, ExecuteBlock, Fetch
from consensus.simplex.pending_blocks import PendingBlocks
from tests.support.agreement.committee import Committee


def make_branch(committee: Committee, length: int, timestamp: int = 0) -> tuple[list[Block], list[Certificate]]:
    """Blocks of views 1, 2, ... one on another, and their notarizations."""
    blocks: list[Block] = []
    certificates: list[Certificate] = []
    for view in range(1, length + 1):
        parent = (blocks[-1], certificates[-1]) if blocks else (None, None)
        blocks.append(committee.build(committee.get_leader(view), view, *parent, timestamp=timestamp))
        certificates.append(committee.certify(VoteKind.NOTARIZE, view, blocks[-1].id))
    return blocks, certificates


def test_a_branch_is_fetched_downwards_and_checked_upwards() -> None:
    committee = Committee()
    effects: list[Effect] = []
    pending_blocks = PendingBlocks(BlockTree(), committee.final, 0, committee.validators, effects)
    blocks, certificates = make_branch(committee, 3)
    for block, certificate in reversed(list(zip(blocks, certificates, strict=True))):
        assert not pending_blocks.is_valid(blocks[-1].id, certificates[-1])
        assert not pending_blocks.is_valid(blocks[-1].id, certificates[-1])
        peers = tuple(key.public_key for key in committee.keys[:3])
        assert effects == [Fetch(block.id, peers)], "asked once, of who signed for it"
        pending_blocks.repeat_requests()
        assert effects == [Fetch(block.id, peers)] * 2
        pending_blocks.add(block)
        effects.clear()
        assert certificate.block_id == block.id
    for block in blocks:
        assert not pending_blocks.is_valid(blocks[-1].id, certificates[-1])
        assert not pending_blocks.is_valid(blocks[-1].id, certificates[-1])
        assert effects == [ExecuteBlock(block)]
        pending_blocks.set_result(block.id, True)
        effects.clear()
    assert pending_blocks.is_valid(blocks[-1].id, certificates[-1])


def test_an_invalid_block_and_what_stands_on_it_are_never_valid() -> None:
    committee = Committee()
    effects: list[Effect] = []
    pending_blocks = PendingBlocks(BlockTree(), committee.final, 0, committee.validators, effects)
    blocks, certificates = make_branch(committee, 2)
    for block in blocks:
        pending_blocks.add(block)
    pending_blocks.is_valid(blocks[1].id, certificates[1])
    pending_blocks.set_result(blocks[0].id, False)
    effects.clear()
    assert not pending_blocks.is_valid(blocks[1].id, certificates[1])
    assert not effects


def test_finality_forgets_the_branches_that_lost() -> None:
    committee = Committee()
    effects: list[Effect] = []
    pending_blocks = PendingBlocks(BlockTree(), committee.final, 0, committee.validators, effects)
    blocks, _ = make_branch(committee, 2)
    rivals, rival_certificates = make_branch(committee, 3, timestamp=5)
    for block in (*blocks, rivals[0], rivals[2]):
        pending_blocks.add(block)
    pending_blocks.is_valid(rivals[2].id, rival_certificates[2])
    assert pending_blocks.is_requested(rivals[1].id)
    assert pending_blocks.finalize(committee.certify(VoteKind.FINALIZE, 2, blocks[1].id)) == tuple(blocks)
    assert not pending_blocks.is_requested(rivals[1].id), "asked again only if still needed"
    assert pending_blocks.get(blocks[0].id) is pending_blocks.get(rivals[0].id) is None
    assert pending_blocks.is_valid(blocks[1].id, None)
    effects.clear()
    assert not pending_blocks.is_valid(rivals[2].id, rival_certificates[2])
    assert not effects, "its parent is not the final block"
