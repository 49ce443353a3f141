"""Queues of deadlines: one for each kind of stage. All stages of a kind are equally long, so each queue is in order of
time."""

from __future__ import annotations

from collections.abc import Iterator

from chain.state.duel_records import DeadlineQueue, DuelDeadline
from chain.state.keys import deadline_queue_key, duel_deadline_key
from chain.state.state import StateOverlay


def add_deadline(overlay: StateOverlay, stage: int, hold_id: bytes, ends_at: int) -> None:
    """Note the deadline, in ms of chain time, of the stage that a duel, check or capture of a hold has just entered."""
    queue = overlay.deadline_queue(stage)
    overlay.put(duel_deadline_key(stage, queue.end), DuelDeadline(hold_id, ends_at))
    overlay.put(deadline_queue_key(stage), DeadlineQueue(queue.first, queue.end + 1))


def take_deadlines(overlay: StateOverlay, stage: int, now: int, limit: int) -> Iterator[DuelDeadline]:
    """Take up to ``limit`` deadlines at or before ``now`` from the queue of a stage.

    Each is removed before it is yielded: its duel or check may enter the same stage again.
    """
    queue = overlay.deadline_queue(stage)
    for number in range(queue.first, min(queue.end, queue.first + limit)):
        deadline = overlay.duel_deadline(stage, number)
        assert deadline is not None
        if deadline.ends_at > now:
            break
        overlay.put(duel_deadline_key(stage, number), None)
        end = overlay.deadline_queue(stage).end
        overlay.put(deadline_queue_key(stage), DeadlineQueue(number + 1, end) if number + 1 < end else None)
        yield deadline
