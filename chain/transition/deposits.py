"""Deposits: credit that an account leaves with the ledger for hold numbers that it has not used.

A payer that could leave out numbers for nothing would choose among the draws of the executor lottery. So it leaves a
deposit for each number below its highest that no hold was made under, as long as one still may be. A hold under the
number returns the deposit; a number that leaves the replay window unused forfeits it to the treasury. So holds may be
on their way at the same time and become final in any order, and an account that is abandoned has paid all the same.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from chain.parameters import Parameters
from chain.state.records import ReplayWindow
from chain.state.state import StateOverlay
from chain.transition.fees import take

DEPOSIT_DOUBLING = 64
"""Unused numbers at which each costs twice as much: the more of them, the less likely they are an accident."""


def compute_deposit(parameters: Parameters, unused: int) -> int:
    """Micro-credits that a payer leaves for ``unused`` numbers in its window."""
    return parameters.unused_number_fee * unused * (DEPOSIT_DOUBLING + unused) // DEPOSIT_DOUBLING


def compute_deposit_growth(parameters: Parameters, window: ReplayWindow, seqs: Set[int]) -> int:
    """Micro-credits by which a deposit grows at most until holds under all of ``seqs`` are made, and no others."""
    top = max((seq + 1 for seq in seqs), default=0)
    used = sum(seq >= window.top or not window.has_hold(seq) for seq in seqs)
    unused = window.unused + max(0, top - window.top) - used
    return max(0, compute_deposit(parameters, unused) - compute_deposit(parameters, window.unused))


def compute_forfeit(parameters: Parameters, before: ReplayWindow, after: ReplayWindow) -> int:
    """Micro-credits of the deposit for ``before`` that are lost once the window is ``after``."""
    left_out = max(0, after.top - before.top - 1)
    expired = max(0, before.unused + left_out - after.unused) if after.top > before.top else 0
    return compute_deposit(parameters, before.unused) - compute_deposit(parameters, before.unused - expired)


def update_deposit(
    overlay: StateOverlay, parameters: Parameters, payer: bytes, before: ReplayWindow, after: ReplayWindow
) -> None:
    """Have the deposit of a payer follow its window.

    Raises:
        CannotPay: the payer has less available than the deposit grows by.
    """
    forfeited = compute_forfeit(parameters, before, after)
    kept = compute_deposit(parameters, before.unused) - forfeited
    due = compute_deposit(parameters, after.unused) - kept
    if not due and not forfeited:
        return
    account = take(overlay, payer, due, "the deposit for hold numbers that were left out is")
    overlay.put_account(payer, replace(account, deposit=account.deposit + due - forfeited))
    overlay.fill_treasury(forfeited)
