"""What the originators of a market do, attempt by attempt: the log from which evaluations take times."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node import Node
from serving.offload.originator.attempt import OffloadAttempt
from serving.offload.originator.attempt_terms import AttemptFailed, AttemptTerms
from serving.offload.originator.hedging import Race
from serving.offload.originator.originator import NoteLeft


@dataclass(slots=True)
class Attempt:
    """One offer: by which node (index), to which executor (index), and when it was begun.

    ``within_s`` is after how long another was to be asked instead. ``is_queued``: the executor put it into its
    queue, and it failed.
    ``hold_id`` is there once an answer began.
    """

    node: int
    executor: int
    begun_at: float
    predicted_s: float
    within_s: float | None
    terms: AttemptTerms
    is_queued: bool = False
    hold_id: bytes | None = None
    ended_at: float | None = None


class AttemptLog:
    """All attempts of some nodes, in the order of their beginnings."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.attempts: list[Attempt] = []
        self._numbers = {node.key.public_key: number for number, node in enumerate(nodes)}
        for number, node in enumerate(nodes):
            self._watch(number, node)

    def _watch(self, number: int, node: Node) -> None:
        make = node.originator._attempt

        @asynccontextmanager
        async def watched(
            terms: AttemptTerms, race: Race, is_late: trio.Event, note_left: NoteLeft
        ) -> AsyncIterator[OffloadAttempt]:
            executor, predicted_s = self._numbers[terms.executor], terms.prediction.time.first_token
            attempt = Attempt(number, executor, trio.current_time(), predicted_s, terms.first_token_within_s, terms)
            self.attempts.append(attempt)
            try:
                async with make(terms, race, is_late, note_left) as made:
                    attempt.hold_id = made.hold_id
                    yield made
            except AttemptFailed as failure:
                attempt.is_queued = failure.is_queued
                raise
            finally:
                attempt.ended_at = trio.current_time()

        node.originator._attempt = watched  # type: ignore[method-assign]

    def find_offers(self, executor: int, since: float) -> list[Attempt]:
        """Those to one executor that were begun from a time on."""
        return [each for each in self.attempts if each.executor == executor and since <= each.begun_at]
