"""The stages of a duel, and the queues of their deadlines.

A stage ends with the block that brings the last thing it waits for, or with the first block at or after its deadline.
Operations know no deadline: until the stage has ended they are in time, however far chain time has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from chain.duel_parameters import DuelParameters
from chain.state.duel_records import ANSWER, COMMIT, REVEAL, DeadlineQueue, Duel, DuelDeadline
from chain.state.keys import DUEL_PREFIX, deadline_queue_key, duel_deadline_key, duel_key
from chain.state.state import StateOverlay


def enter_stage(
    overlay: StateOverlay, parameters: DuelParameters, hold_id: bytes, duel: Duel, stage: int, now: int
) -> Duel:
    """Write down a duel that begins a stage at chain time ``now``, and its deadline. Returns it."""
    length = {ANSWER: parameters.answer_ms, COMMIT: parameters.commit_ms, REVEAL: parameters.reveal_ms}[stage]
    duel = replace(duel, stage=stage, ends_at=now + length)
    queue = overlay.deadline_queue(stage)
    overlay.put(duel_deadline_key(stage, queue.end), DuelDeadline(hold_id, duel.ends_at))
    overlay.put(deadline_queue_key(stage), DeadlineQueue(queue.first, queue.end + 1))
    overlay.put(duel_key(hold_id), duel)
    return duel


def list_complete(overlay: StateOverlay) -> list[tuple[bytes, Duel]]:
    """The duels whose stage has all that it waits for, by hold: some operation of this block brought it."""
    changed = sorted(key for key in overlay.changes if key[:1] == DUEL_PREFIX)
    duels = [(key[1:], overlay.duel(key[1:])) for key in changed]
    return [(hold_id, duel) for hold_id, duel in duels if duel is not None and duel.is_stage_complete]


def take_overdue(overlay: StateOverlay, stage: int, now: int, limit: int) -> Iterator[tuple[bytes, Duel]]:
    """Take up to ``limit`` deadlines at or before ``now`` from the queue of a stage; the duels that missed theirs.

    A deadline of a duel that has left the stage since counts too: it takes time to look at.
    """
    queue = overlay.deadline_queue(stage)
    number = queue.first
    while number < min(queue.end, queue.first + limit):
        deadline = overlay.duel_deadline(stage, number)
        assert deadline is not None
        if deadline.ends_at > now:
            break
        overlay.put(duel_deadline_key(stage, number), None)
        number += 1
        # Before the duel moves on: it may enter the same stage again, with another challenger.
        end = overlay.deadline_queue(stage).end
        overlay.put(deadline_queue_key(stage), DeadlineQueue(number, end) if number < end else None)
        duel = overlay.duel(deadline.hold)
        # An accused executor's duel goes through the same stages twice.
        if duel is not None and (duel.stage, duel.ends_at) == (stage, deadline.ends_at):
            yield deadline.hold, duel
