"""Restart by decree: how a chain goes on after more than a third of its stake is gone for good.

Without a quorum nothing becomes final any more. No rule of agreement can tell a partitioned network from one whose
other half is lost. So this is a decision of people. They agree on a *restart block*: a block on the last final one that
names the validators to be removed, and is final by more than 2/3 of the stake of those who remain. It follows all rules
except that of the quorum. Nodes that accept it have its id in their genesis file (``restarts``); other nodes do not
follow it. The audit shows it as a place where trust replaces proof.

Its view is far above any view with votes, so that votes for it and after it contradict no earlier ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chain.exceptions import InvalidBlock
from chain.genesis import Genesis
from chain.state.keys import committee_key, validator_key
from chain.state.state import StateOverlay, StateReader
from chain.transition.epochs import Epoch, get_next_epoch
from chain.types.blocks import NO_REVEAL, Block, Body, Header
from chain.types.validators import ValidatorSet

VIEW_JUMP = 1 << 32
"""Views between a restart block and its parent. One a second for a century would not reach so far."""


def is_restart(header: Header) -> bool:
    """Whether a header is that of a restart block: the only one besides genesis that reveals nothing."""
    return header.height > 0 and header.beacon_reveal == NO_REVEAL


def get_restart_view(parent: Header, epoch: int) -> int:
    """The view of a restart block on ``parent``."""
    return (parent.view if parent.epoch == epoch else 0) + VIEW_JUMP


def get_block_epoch(genesis: Genesis, state: StateReader, body: Body) -> Epoch:
    """The epoch of a block of ``body`` on ``state``. The committee of a restart block is the one that remains after
    it."""
    if not body.removed:
        return get_next_epoch(genesis, state)
    overlay = StateOverlay(state)
    remove_validators(overlay, body.removed)
    return get_next_epoch(genesis, overlay)


def remove_validators(overlay: StateOverlay, removed: Sequence[bytes]) -> None:
    """Take these, if any, off every committee that is frozen, and jail them until the next epoch."""
    if not removed:
        return
    number = overlay.beacon.epoch
    remaining = overlay.committee(number)
    for epoch in (number, number + 1):
        committee = overlay.committee(epoch)
        assert committee is not None
        rest = [(each.public_key, each.stake) for each in committee if each.public_key not in removed]
        if rest:
            remaining = ValidatorSet.of(rest)
        overlay.put(committee_key(epoch), remaining)  # a committee that would be empty is replaced by today's
    for key in removed:
        validator = overlay.validator_record(key)
        if validator is not None:
            overlay.put(validator_key(key), replace(validator, jailed_until=max(validator.jailed_until, number + 1)))


def check_restart(genesis: Genesis, state: StateReader, block: Block) -> None:
    """Check the special rules of a restart block, but for those of its header and finality.

    Raises:
        InvalidBlock: the genesis file does not accept it, or it is not well formed.
    """
    body, committee = block.body, state.committee(block.header.epoch)
    if block.id not in genesis.restarts:
        raise InvalidBlock(
            "restart",
            "the chain was restarted here without a quorum; to accept that, add the block id "
            f"{block.id.hex()} to 'restarts' in the genesis file",
        )
    if body.operations or body.nullifications or body.late_votes or body.parent_certificate is not None:
        raise InvalidBlock("body", "a restart block carries nothing but the validators it removes")
    if not body.removed or list(body.removed) != sorted(set(body.removed)):
        raise InvalidBlock("removed", "is empty, unsorted or names a key twice")
    if committee is None or any(key not in committee for key in body.removed):
        raise InvalidBlock("removed", "names a key that is no validator")
    if len(body.removed) == len(committee):
        raise InvalidBlock("removed", "no validator would remain")
