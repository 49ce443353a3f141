"""The stages of a duel.

A stage ends with the block that completes it, or with the first block at or after its deadline. Operations do not check
deadlines: they are in time until the stage has ended, however far chain time has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from chain.parameters.duels import DuelParameters
from chain.state.duel_records import ANSWER, COMMIT, REPEAT, REVEAL, Duel
from chain.state.keys import DUEL_PREFIX, duel_key
from chain.state.state import StateOverlay
from chain.transition.deadlines import add_deadline, take_deadlines


def enter_stage(
    overlay: StateOverlay, parameters: DuelParameters, hold_id: bytes, duel: Duel, stage: int, now: int
) -> Duel:
    """Store a duel that begins a stage at chain time ``now``, and the deadline of that. Returns the duel."""
    lengths = {
        ANSWER: parameters.answer_ms,
        COMMIT: parameters.commit_ms,
        REPEAT: parameters.commit_ms,
        REVEAL: parameters.reveal_ms,
    }
    duel = replace(duel, stage=stage, ends_at=now + lengths[stage])
    add_deadline(overlay, stage, hold_id, duel.ends_at)
    overlay.put(duel_key(hold_id), duel)
    return duel


def list_complete(overlay: StateOverlay) -> list[tuple[bytes, Duel]]:
    """The duels whose stage this block has completed, by hold."""
    changed = sorted(key for key in overlay.changes if key[:1] == DUEL_PREFIX)
    duels = [(key[1:], overlay.duel(key[1:])) for key in changed]
    return [(hold_id, duel) for hold_id, duel in duels if duel is not None and duel.is_stage_complete]


def take_overdue(overlay: StateOverlay, stage: int, now: int, limit: int) -> Iterator[tuple[bytes, Duel]]:
    """Take up to ``limit`` deadlines at or before ``now`` from the queue of a stage. Returns the duels that missed
    theirs.

    The limit includes deadlines of duels that have left the stage since: they take time to look at too.
    """
    for deadline in take_deadlines(overlay, stage, now, limit):
        duel = overlay.duel(deadline.hold)
        # An accused executor's duel goes through the same stages twice.
        if duel is not None and (duel.stage, duel.ends_at) == (stage, deadline.ends_at):
            yield deadline.hold, duel
