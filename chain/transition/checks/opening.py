"""Who checks an answer, and what is set aside for it.

Checkers are drawn by stake from the serving table in force, among the accounts with an identity equal to the
executor's: never the payer or the executor, and none that has dropped the identity since. They may include a party of
the duel about the same answer. The finding of a check has no effect on the duel; and since a silent challenger is
replaced later, the parties are not known for good when checkers are drawn.

An executor is checked against the identity that it declared when it was paid. It pays a levy for that, and cannot drop
the identity before the draw.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from chain import crypto
from chain.parameters.checks import CheckParameters
from chain.parameters.parameters import Parameters
from chain.state.check_records import CHECK_COMMIT, CheckerSeat, ModelCheck
from chain.state.duel_records import PaidCapture
from chain.state.state import StateOverlay, StateReader
from chain.transition.checks.events import CheckOpened
from chain.transition.checks.stages import enter_stage
from chain.transition.duels.money import charge, compute_share, get_rate, lock_bond
from chain.transition.duels.opening import get_table
from chain.types.checks import DeclaredIdentity


def charge_check_levy(overlay: StateOverlay, parameters: Parameters, payee: bytes, model: str, amount: int) -> int:
    """Take the levy for checks out of the ``amount`` that a payee was just paid, if it declares an identity.

    Returns the levy.
    """
    if not parameters.checks.checkers or overlay.account(payee).find_identity(model) is None:
        return 0
    rate = get_rate(overlay, parameters.duels, payee, amount)
    return charge(overlay, payee, amount * parameters.checks.levy * rate // 1_000_000)


def open_check(overlay: StateOverlay, parameters: Parameters, capture: PaidCapture, now: int) -> CheckOpened | None:
    """Open the check of a capture that was drawn in this block, at chain time ``now``; None if there can be none."""
    if capture.identity is None or not parameters.checks.checkers:
        return None
    seed = crypto.hash_bytes("check", overlay.beacon.value, capture.hold)
    identity = DeclaredIdentity(capture.model, capture.identity)
    seats = draw_checkers(overlay, parameters.checks.checkers, identity, seed, {capture.payer, capture.payee})
    cost = compute_cost(parameters.checks, capture.amount, len(seats))
    if not seats or cost > overlay.totals.treasury - overlay.totals.reserved:
        return None
    locked = lock_bond(overlay, parameters.duels, capture.payee, capture.amount)
    overlay.reserve(cost)
    check = ModelCheck(
        payer=capture.payer,
        executor=capture.payee,
        model=capture.model,
        identity=capture.identity,
        amount=capture.amount,
        request_digest=capture.request_digest,
        response_digest=capture.response_digest,
        transcript_digest=capture.transcript_digest,
        seed=seed,
        stage=CHECK_COMMIT,
        ends_at=now,
        seats=seats,
        locked=locked,
        reserved=cost,
    )
    return CheckOpened(capture.hold, enter_stage(overlay, parameters.checks, capture.hold, check, CHECK_COMMIT, now))


def draw_checkers(
    state: StateReader, size: int, identity: DeclaredIdentity, seed: bytes, excluded: Collection[bytes]
) -> tuple[CheckerSeat, ...]:
    """``size`` checkers, or the largest odd number of them that there is."""
    drawn = get_table(state).draw_checkers(identity, seed, excluded)
    ready = list(islice((key for key in drawn if identity in state.account(key).identities), size))
    return tuple(map(CheckerSeat, ready if len(ready) % 2 else ready[:-1]))


def compute_cost(parameters: CheckParameters, amount: int, checkers: int) -> int:
    """The most that a check of a capture of ``amount`` may pay out."""
    return checkers * compute_share(amount, parameters.checker)
