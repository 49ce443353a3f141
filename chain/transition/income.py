"""What an account is paid for work, and which part of that goes into its bond.

An account without a bond has nothing to lose: it could answer with rubbish, and move its pay away before a verdict. So
its pay for work is bonded until its own bond is ``min_service_bond``, which every other executor has put up. The
account still owns it: once the bond is complete, all further pay is available, and the bond itself can be taken back
through the unbonding time.

Only the account's own bond counts. Unbonding credit may be gone before a verdict, and a grant cost its owner nothing.
"""

from __future__ import annotations

from chain.parameters.parameters import Parameters
from chain.state.records import Account
from chain.state.state import StateOverlay


def compute_missing_bond(parameters: Parameters, account: Account) -> int:
    """Micro-credits of an account's income that go into its bond, before the rest is available."""
    return max(0, parameters.min_service_bond - account.own_bond)


def bond_income(overlay: StateOverlay, parameters: Parameters, public_key: bytes, earned: int) -> None:
    """Bond the part of ``min_service_bond`` that an account lacks, out of the ``earned`` micro-credits that it was just
    paid.

    If less than ``earned`` is available, because a fee was taken out of it, no more than that is bonded. A validator
    keeps its place among those that wait for more weight: it did not choose to bond more.
    """
    account = overlay.account(public_key)
    bonded = min(earned, account.available, compute_missing_bond(parameters, account))
    if bonded:
        overlay.put_account(public_key, account.credit(-bonded).add_bond(bonded))
