"""Counting votes: which validators voted for the blocks of an epoch, as certificates and late votes show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chain.exceptions import InvalidBlock
from chain.state.keys import PARTICIPATION_KEY
from chain.state.records import Participation, RecentBlock
from chain.state.state import StateOverlay, StateReader
from chain.transition.epochs import Epoch
from chain.transition.justification import check_parent_certificate
from chain.types.blocks import Body, Header
from chain.types.validators import LATE_VOTE_BLOCKS, MAX_COMMITTEE
from chain.types.votes import Certificate, Vote, VoteKind


def process_votes(overlay: StateOverlay, epoch: Epoch, parent: Header, body: Body) -> None:
    """Count who took part, as the evidence in a block's body shows.

    The certificates are those of the right blocks (:func:`chain.transition.justification.get_justification_checks`).

    Raises:
        InvalidBlock: the parent's certificate is wrong, or a late vote is for no recent block or was counted before.
    """
    participation, certificate = overlay.participation, body.parent_certificate
    if certificate is not None:
        # This is also checked with the signatures, but possibly later, or never when blocks are only replayed.
        is_of_epoch = check_parent_certificate(parent, epoch.number, certificate) > 0
        if is_of_epoch and any(position >= len(epoch.validators) for position in certificate.signers):
            raise InvalidBlock("parent_certificate", "names a position that this epoch's committee does not have")
    recent = get_recent_blocks(overlay, epoch, parent, certificate)
    counts, blocks = [0] * len(epoch.validators), 0
    if certificate is not None and recent:
        counts, blocks = list(participation.votes), participation.blocks + 1
        for position in certificate.signers:
            counts[position] += 1
    late = {block.block_id: (number, block) for number, block in enumerate(recent)}
    for vote in body.late_votes:
        number, block = late.get(vote.block_id, (0, None))
        if block is None or not is_late_vote(epoch, block, vote):
            raise InvalidBlock("late_votes", "one is not a vote to notarize a recent block, or was counted before")
        position = epoch.validators.get_position(vote.signer)
        voters = (int.from_bytes(block.voters, "big") | 1 << position).to_bytes(len(block.voters), "big")
        counts[position] += 1
        recent[number] = replace(block, voters=voters)
        late[vote.block_id] = (number, recent[number])
    overlay.put(PARTICIPATION_KEY, Participation(blocks, tuple(counts), tuple(recent)))


def get_recent_blocks(
    state: StateReader, epoch: Epoch, parent: Header, certificate: Certificate | None
) -> list[RecentBlock]:
    """The blocks for which a child of ``parent`` may carry late votes, oldest first: none across an epoch boundary."""
    if certificate is None or certificate.epoch != epoch.number:
        return []
    newest = RecentBlock(parent.id, certificate.view, pack_positions(certificate.signers))
    return [*state.participation.recent, newest][-LATE_VOTE_BLOCKS:]


def is_late_vote(epoch: Epoch, block: RecentBlock, vote: Vote) -> bool:
    """Whether ``vote`` is for ``block``, of a validator whose vote for it was not counted before."""
    position = epoch.validators.positions.get(vote.signer)
    if position is None or int.from_bytes(block.voters, "big") >> position & 1:
        return False
    said = (vote.kind, vote.epoch, vote.view, vote.block_id)
    return said == (VoteKind.NOTARIZE, epoch.number, block.view, block.block_id)


def pack_positions(positions: Iterable[int]) -> bytes:
    return sum(1 << position for position in positions).to_bytes(MAX_COMMITTEE // 8, "big")
