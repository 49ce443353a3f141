"""When a block is overdue, and when a ledger is stalled, by what one node has seen become final (pure).

A node goes by its own view of finality alone: no peer can say that a ledger stands still, nor that it moves.
"""

from __future__ import annotations

MIN_STALL_S = 30.0
"""No ledger is called stalled sooner after its last final block, in seconds."""
STALL_BEATS = 3
"""An idle ledger gets a block each idle beat. It is stalled when this number of beats more has brought none."""
LATE_BLOCK_S = 2.0
"""Delay up to which a block is not overdue: its leader may be far away, or replaced."""


def compute_stall(idle_beat_s: float) -> float:
    """Seconds without a final block after which a ledger is stalled."""
    return MIN_STALL_S + STALL_BEATS * idle_beat_s


def compute_overdue(silence_s: float, idle_beat_s: float, waiting_s: float) -> float:
    """Seconds for which a block has been overdue; 0 while it may come in time.

    ``silence_s`` is the time since the last final block. The next is due after an idle beat, or at once if an operation
    has waited for it, for ``waiting_s`` (0: none).
    """
    overdue_s = max(silence_s - idle_beat_s, min(silence_s, waiting_s))
    return overdue_s if overdue_s > LATE_BLOCK_S else 0.0
