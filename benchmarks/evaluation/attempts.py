"""What the originators of a market do, attempt by attempt: the log from which evaluations take times."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from node import Node
from serving.offload.attempt import AttemptTerms, OffloadAttempt


@dataclass(slots=True)
class Attempt:
    """One offer: by which node (index), to which executor (index), and when it was begun.

    ``within_s`` is after how long another was to be asked instead. ``is_queued``: the executor had no slot free then.
    ``hold_id`` is there once an answer began.
    """

    node: int
    executor: int
    begun_at: float
    predicted_s: float
    within_s: float | None
    is_queued: bool
    terms: AttemptTerms
    hold_id: bytes | None = None
    ended_at: float | None = None


class AttemptLog:
    """All attempts of some nodes, in the order of their beginnings."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.attempts: list[Attempt] = []
        self._nodes = nodes
        self._numbers = {node.key.public_key: number for number, node in enumerate(nodes)}
        for number, node in enumerate(nodes):
            self._watch(number, node)

    def _watch(self, number: int, node: Node) -> None:
        make = node.originator._attempt

        @asynccontextmanager
        async def watched(terms: AttemptTerms) -> AsyncIterator[OffloadAttempt]:
            executor, predicted_s = self._numbers[terms.executor], terms.prediction.time.first_token
            now, admissions = trio.current_time(), self._nodes[executor].backend_pool.admissions
            under_way = sum(each.executor == executor and each.ended_at is None for each in self.attempts)
            is_queued = any(max(under_way, each.running) >= each.capacity for each in admissions)
            attempt = Attempt(number, executor, now, predicted_s, terms.first_token_within_s, is_queued, terms)
            self.attempts.append(attempt)
            try:
                async with make(terms) as made:
                    attempt.hold_id = made.hold_id
                    yield made
            finally:
                attempt.ended_at = trio.current_time()

        node.originator._attempt = watched  # type: ignore[method-assign]

    def find_offers(self, executor: int, since: float) -> list[Attempt]:
        """Those to one executor that were begun from a time on."""
        return [each for each in self.attempts if each.executor == executor and since <= each.begun_at]
