"""Which captures become duels.

A capture that was paid in the block of height h is decided in the block of height h + 8 + r. The beacon after block h +
8 draws r, from 0 to 31. So no leader can time the captures of its own executors so that they are decided in a block
where it alone decides whether to reveal. The beacon after the deciding block draws whether the capture becomes a duel.

Until then the capture is an entry of the state, which is written twice and removed in the end; the levy pays for it.
"""

from __future__ import annotations

from chain import crypto
from chain.parameters.duels import DRAW_DELAYS, MIN_DRAW_DELAY, DuelParameters
from chain.state.duel_records import PaidCapture, PaidCaptures
from chain.state.keys import paid_captures_key, pending_draws_key
from chain.state.records import OpenHold
from chain.state.state import StateOverlay
from chain.transition.duels.money import get_rate
from chain.types.operations import FINISH_CANCELLED, Delivery
from chain.types.validators import compute_draw


def is_exempt(delivery: Delivery) -> bool:
    """Whether a delivery with a receipt is exempt from duels.

    It is if the user broke it off, or it contains no text (embeddings). Without the payer's receipt nothing is exempt:
    the executor alone could claim it for every bad answer.
    """
    return delivery.finish_reason == FINISH_CANCELLED or not delivery.usage.completion_bytes


def note_paid_capture(overlay: StateOverlay, height: int, hold: OpenHold, delivery: Delivery) -> None:
    """Store a capture that the block of ``height`` paid, to wait for its draw."""
    capture = PaidCapture(
        delivery.hold,
        hold.payer,
        hold.payee,
        hold.model,
        delivery.amount,
        hold.request_digest,
        delivery.response_digest,
        delivery.transcript_digest,
        overlay.account(hold.payee).find_identity(hold.model),
    )
    before = overlay.paid_captures(height)
    overlay.put(paid_captures_key(height), PaidCaptures((*(before.captures if before else ()), capture)))


def draw_duels(overlay: StateOverlay, parameters: DuelParameters, height: int) -> list[PaidCapture]:
    """The captures that become duels in the block of ``height``, whose reveal the beacon has absorbed."""
    beacon = overlay.beacon.value
    _draw_delays(overlay, beacon, height)
    drawn = []
    for delay in range(DRAW_DELAYS):
        pending = overlay.pending_draws(height, delay)
        if pending is not None:
            overlay.put(pending_draws_key(height, delay), None)
            for capture in pending.captures:
                rate = get_rate(overlay, parameters, capture.payee, capture.amount)
                if is_drawn(compute_duel_seed(beacon, capture.hold), rate):
                    drawn.append(capture)
    return drawn


def _draw_delays(overlay: StateOverlay, beacon: bytes, height: int) -> None:
    """Draw the deciding blocks of the captures paid ``MIN_DRAW_DELAY`` blocks before."""
    paid = overlay.paid_captures(height - MIN_DRAW_DELAY) if height > MIN_DRAW_DELAY else None
    if paid is None:
        return
    overlay.put(paid_captures_key(height - MIN_DRAW_DELAY), None)
    by_delay: dict[int, list[PaidCapture]] = {}
    for capture in paid.captures:
        delay = compute_draw(crypto.hash_bytes("duel delay", beacon, capture.hold), DRAW_DELAYS)
        by_delay.setdefault(delay, []).append(capture)
    for delay, captures in by_delay.items():
        overlay.put(pending_draws_key(height + delay, delay), PaidCaptures(tuple(captures)))


def compute_duel_seed(beacon: bytes, hold_id: bytes) -> bytes:
    """Seed of all draws about a hold that come from one beacon value."""
    return crypto.hash_bytes("duel", beacon, hold_id)


def is_drawn(seed: bytes, rate: int) -> bool:
    """Whether a capture becomes a duel, ``rate`` in a thousand."""
    return compute_draw(seed, 1_000) < rate
