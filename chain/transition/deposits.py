"""Deposits: credit that an account leaves with the ledger for room in the state, and for skipped hold numbers.

An entry of the state takes room in the memory of every node until it is removed. Each byte of it costs
``deposit_per_byte``, which comes back when the room is freed: for the models that an account serves or judges with, for
their identities, and for an open hold, whose deposit is held with its amount. An unbonding entry has no deposit, since
its amount is locked anyway; but the amount must be at least what the deposit would be. Entries that are never removed
cost a fee (:mod:`chain.transition.fees`).

A payer that could skip numbers for free would choose among the draws of the executor lottery. So it leaves a deposit
for each unused number below its highest one, for as long as a hold may still use that number. A hold under the number
returns the deposit; a number that leaves the replay window unused forfeits it to the treasury. So several holds may be
under way at the same time and become final in any order, and an account that is abandoned has paid all the same.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace

from chain.parameters.parameters import Parameters
from chain.state.records import ReplayWindow
from chain.state.state import StateOverlay, StateReader
from chain.transition.fees import take
from chain.types.checks import DeclaredIdentity
from chain.types.duels import DeclaredJudge

DEPOSIT_DOUBLING = 64
"""Unused numbers after which the deposit of each doubles: the more there are, the less likely is an accident."""


MODEL_BYTES = 448
"""Room that counts for each model of an account (beside its name), for its judge, and for each identity. It includes
the entry of the account in the index of those who serve."""
CHARACTER_BYTES = 2
"""Room that counts for each character of a name: it is in a record and in the encoding of that."""
UNBONDING_BYTES = 192
"""Room that an unbonding entry counts for."""
HOLD_BYTES = 2_400
"""Room that counts for an open hold, including an unsettled delivery and its place in the settlement queue."""


def compute_models_deposit(
    parameters: Parameters,
    models: Sequence[str],
    judge: DeclaredJudge | None = None,
    identities: Sequence[DeclaredIdentity] = (),
) -> int:
    """Micro-credits that an account leaves while it serves ``models`` with ``identities`` and judges."""
    names = [*models, *(identity.model for identity in identities)] + ([] if judge is None else [judge.model])
    return parameters.deposit_per_byte * sum(MODEL_BYTES + CHARACTER_BYTES * len(name) for name in names)


def compute_hold_deposit(parameters: Parameters) -> int:
    """Micro-credits that are held with the amount of an open hold."""
    return parameters.deposit_per_byte * HOLD_BYTES


def compute_least_unbonding(parameters: Parameters) -> int:
    """Least amount of a new unbonding entry, in micro-credits."""
    return parameters.deposit_per_byte * UNBONDING_BYTES


def compute_models_due(
    state: StateReader,
    parameters: Parameters,
    public_key: bytes,
    models: Sequence[str],
    judge: DeclaredJudge | None = None,
    identities: Sequence[DeclaredIdentity] = (),
) -> int:
    """Micro-credits by which the deposit of an account grows if it serves ``models`` with ``identities`` and judges.

    It is negative if some of the deposit comes back. Models from the genesis or from a registration have no deposit
    yet.
    """
    numbers = compute_deposit(parameters, state.replay_window(public_key).unused)
    needed = compute_models_deposit(parameters, models, judge, identities)
    return numbers + needed - state.account(public_key).deposit


def update_models(
    overlay: StateOverlay,
    parameters: Parameters,
    public_key: bytes,
    models: tuple[str, ...],
    judge: DeclaredJudge | None,
    identities: tuple[DeclaredIdentity, ...],
) -> None:
    """Replace the models that an account serves, their identities and its judge, and update its deposit.

    Raises:
        CannotPay: it has less available than the deposit grows by.
    """
    due = compute_models_due(overlay, parameters, public_key, models, judge, identities)
    account = take(overlay, public_key, due, "the deposit for models grows by")
    deposit = account.deposit + due
    overlay.put_account(
        public_key, replace(account, models=models, judge=judge, identities=identities, deposit=deposit)
    )


def drop_identity(overlay: StateOverlay, parameters: Parameters, public_key: bytes, digest: bytes) -> None:
    """Remove an identity from those that an account declares, if it is still there, and return its deposit."""
    account = overlay.account(public_key)
    kept = tuple(identity for identity in account.identities if identity.digest != digest)
    freed = compute_models_deposit(parameters, (), None, account.identities) - compute_models_deposit(
        parameters, (), None, kept
    )
    account = replace(account.credit(freed), identities=kept, deposit=account.deposit - freed)
    overlay.put_account(public_key, account)


def compute_deposit(parameters: Parameters, unused: int) -> int:
    """Micro-credits that a payer leaves for ``unused`` numbers in its window."""
    return parameters.unused_number_fee * unused * (DEPOSIT_DOUBLING + unused) // DEPOSIT_DOUBLING


def compute_deposit_growth(parameters: Parameters, window: ReplayWindow, seqs: Set[int]) -> int:
    """Micro-credits by which a deposit grows at most until the holds under all of ``seqs``, and no others, are made."""
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
    """Update the deposit of a payer to its window.

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
