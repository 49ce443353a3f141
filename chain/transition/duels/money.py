"""Amounts of a duel, which are shares of what was captured, and how they are paid.

A duel pays out of the treasury, where the amount was reserved, and the penalties that it takes go there. The levy on
every capture fills the treasury.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chain.parameters.duels import DuelParameters
from chain.parameters.parameters import Parameters
from chain.state.duel_records import Duel
from chain.state.state import StateOverlay, StateReader
from chain.transition.income import bond_income


def compute_share(amount: int, thousandths: int) -> int:
    """Thousandths of the amount captured, rounded down, in micro-credits."""
    return amount * thousandths // 1_000


def get_rate(state: StateReader, parameters: DuelParameters, executor: bytes, amount: int) -> int:
    """How many of 1,000 captures of this amount, for this executor, become duels: more while it is on probation."""
    if state.rating(executor).is_on_probation(parameters.probation_duels, amount):
        return max(parameters.rate, parameters.probation_rate)
    return parameters.rate


def compute_weight(parameters: DuelParameters, duel: Duel) -> int:
    """The amount from which the penalty for a fraud follows: lower if answers were drawn more often.

    So the average gain from a useless answer is the same on probation as off it, and proportional to its price. A payer
    whose requests make honest answers look useless spends about as much as it destroys.
    """
    return duel.amount * parameters.rate // duel.rate


def compute_levy(parameters: DuelParameters, amount: int, rate: int) -> int:
    """The levy for duels on a capture of ``amount``, for an executor with this rate."""
    return amount * parameters.levy * rate // 1_000_000


def charge_levy(overlay: StateOverlay, parameters: DuelParameters, payee: bytes, amount: int) -> int:
    """Take the levy out of the ``amount`` that a payee was just paid. Returns the levy."""
    return charge(overlay, payee, compute_levy(parameters, amount, get_rate(overlay, parameters, payee, amount)))


def charge(overlay: StateOverlay, payee: bytes, levy: int) -> int:
    """Take a levy out of what a payee was just paid. Returns it."""
    overlay.put_account(payee, overlay.account(payee).credit(-levy))
    overlay.fill_treasury(levy)
    return levy


def lock_bond(overlay: StateOverlay, parameters: DuelParameters, executor: bytes, amount: int) -> int:
    """Lock the part of an executor's bond that stands behind an answer, at most the free part. Returns the amount."""
    account = overlay.account(executor)
    locked = min(compute_share(amount, parameters.lock), account.free_bond)
    overlay.put_account(executor, replace(account, locked=account.locked + locked))
    return locked


def unlock_bond(overlay: StateOverlay, executor: bytes, locked: int) -> None:
    """Free what :func:`lock_bond` has locked."""
    account = overlay.account(executor)
    overlay.put_account(executor, replace(account, locked=account.locked - locked))


@dataclass(frozen=True, slots=True)
class Movement:
    """Credit that a duel gives to an account, or (negative) takes from it, in micro-credits."""

    public_key: bytes
    amount: int


def move(overlay: StateOverlay, parameters: Parameters, due: Movement) -> Movement:
    """Pay an account out of the treasury, or take from it, at most what the account has. Returns the amount moved."""
    if due.amount < 0:
        return Movement(due.public_key, -penalize(overlay, due.public_key, -due.amount))
    overlay.fill_treasury(-due.amount)
    overlay.put_account(due.public_key, overlay.account(due.public_key).credit(due.amount))
    bond_income(overlay, parameters, due.public_key, due.amount)
    return due


def penalize(overlay: StateOverlay, public_key: bytes, amount: int) -> int:
    """Take an amount from an account for the treasury, at most what it has. Returns the amount taken.

    It comes out of the bond, then out of unbonding entries in their order, then out of the available credit. Bond that
    is locked for something else is taken too: a penalty does not wait.
    """
    account, taken = overlay.account(public_key).take_stake(amount)
    available = min(amount - taken, account.available)
    overlay.put_account(public_key, account.credit(-available))
    overlay.fill_treasury(taken + available)
    return taken + available
