"""Penalties: evidence of two contradicting votes takes the whole stake, a missed lead costs a fee."""

from __future__ import annotations

from dataclasses import replace

from chain.exceptions import InvalidOperation, InvalidSignature
from chain.parameters.parameters import Parameters
from chain.state.state import StateOverlay
from chain.transition.context import BlockContext
from chain.transition.epochs import Epoch
from chain.transition.validators.registry import put_record
from chain.types.blocks import Body
from chain.types.operations import Evidence
from chain.types.votes import is_slashable

FINDER_REWARD_QUOTIENT = 10
"""The finder of evidence earns a tenth of what is slashed: enough to make the search worthwhile, and too little to
profit from slashing oneself."""


def process_evidence(overlay: StateOverlay, context: BlockContext, operation: Evidence, signer: bytes) -> None:
    """Slash everything that the validator of two conflicting votes has at stake, and jail it.

    The signer of the evidence is the finder of the votes, and earns the reward.
    """
    genesis, epoch = context.genesis, context.epoch
    first, second = operation.first, operation.second
    if first.epoch > epoch:  # or the same votes would be good again after each punishment until then
        raise InvalidOperation(f"epoch {first.epoch} of the votes has not begun")
    if epoch > first.epoch + genesis.parameters.unbonding_epochs:
        raise InvalidOperation(f"votes of epoch {first.epoch} are too old to be punished in epoch {epoch}")
    record = overlay.validator_record(first.signer)
    if record is None:
        raise InvalidOperation("their signer never was a validator")
    if first.epoch < record.clean_from:
        raise InvalidOperation("the signer was punished for that epoch already")
    account = overlay.account(first.signer)
    stake = account.bonded + sum(part.amount for part in account.unbonding)
    if not stake:
        raise InvalidOperation("the signer has nothing at stake")
    if not (first.is_valid(genesis.chain_id) and second.is_valid(genesis.chain_id)):  # last: the only costly step
        raise InvalidSignature("the votes are not signed by their signer")
    overlay.put_account(first.signer, replace(account, bonded=0, unbonding=(), grant=0))
    own_stake = stake - account.bonded + account.own_bond  # a grant must not become free credit
    reward = own_stake // FINDER_REWARD_QUOTIENT
    overlay.put_account(signer, overlay.account(signer).credit(reward))
    overlay.fill_treasury(stake - reward)
    jailed_until = epoch + genesis.parameters.unbonding_epochs
    # Its frozen weight still counts in the next epoch, though nothing is left to punish it with.
    put_record(overlay, first.signer, replace(record, jailed_until=jailed_until, clean_from=epoch + 2))


def check_evidence(operation: Evidence) -> None:
    """Check what needs no state.

    Raises:
        InvalidOperation: the votes do not contradict each other, or stand in the wrong order.
    """
    if not is_slashable(operation.first, operation.second):
        raise InvalidOperation("the votes do not contradict each other")
    if operation.first.encode() >= operation.second.encode():
        raise InvalidOperation("the vote with the smaller encoding comes first")


def charge_missed_leads(overlay: StateOverlay, parameters: Parameters, epoch: Epoch, body: Body) -> None:
    """The leaders of the views that were given up pay for them.

    The penalty comes out of their available credit, then out of the bond, then out of unbonding entries: a leader that
    unbonds keeps its frozen weight for up to two epochs, and must not miss its leads for free.
    """
    for certificate in body.nullifications:
        leader = epoch.compute_leader(certificate.view)
        account = overlay.account(leader)
        available = min(parameters.missed_lead_fee, account.available)
        account, taken = account.credit(-available).take_stake(parameters.missed_lead_fee - available)
        overlay.put_account(leader, account)
        overlay.fill_treasury(available + taken)
