"""One request at one executor, and at a second one beside it if the first is late (``hedging``).

Both attempts run until one has content. Then the other is cancelled, as if its user had left: its exchange is aborted,
and its executor refunds the hold, or captures what it had delivered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import trio

from chain.crypto import format_address
from serving.accounting.payer import CannotAfford
from serving.failover.rules import CLIENT_ERRORS, Outcome, judge_status
from serving.offload.originator.attempt import OffloadAttempt
from serving.offload.originator.attempt_terms import AttemptFailed, AttemptTerms, Outrun
from serving.offload.originator.hedging import HedgeCounts, Race

log = structlog.get_logger(__name__)

Begin = Callable[[AttemptTerms, Race, trio.Event], Awaitable[OffloadAttempt]]
"""Makes an attempt until its answer begins; sets the event once that is late."""
FindHedge = Callable[[], AttemptTerms | None]
"""Names the executor to ask as well, and the terms; None: nobody."""


class HedgedRequest:
    """Asks, and keeps what came of it. To be used once."""

    def __init__(self, begin: Begin, counts: HedgeCounts) -> None:
        self.begun: list[OffloadAttempt] = []
        """Attempts whose answers have begun, in that order. All but the last are client errors."""
        self.failures: list[AttemptFailed] = []
        """How the others failed."""
        self._begin = begin
        self._counts = counts
        self._race = Race()
        self._hedge: AttemptTerms | None = None
        """The terms of the second one, if there is one."""

    async def ask(self, terms: AttemptTerms, find_hedge: FindHedge) -> None:
        """Ask one executor on ``terms``, and a second one if that is late, until one answers or both have failed.

        Raises:
            CannotAfford: this node cannot pay for the first.
        """
        if terms.late_after_s is None:
            await self._ask(terms, trio.Event(), lambda: None)
            return
        refusal: CannotAfford | None = None
        is_late, waiting = trio.Event(), trio.CancelScope()
        async with trio.open_nursery() as nursery:
            end = nursery.cancel_scope.cancel
            nursery.start_soon(self._ask_second, find_hedge, is_late, waiting, end)
            try:
                await self._ask(terms, is_late, end)
            except CannotAfford as error:
                refusal = error
            waiting.cancel()
        if self._hedge is not None:
            self._count(self._hedge)
        if refusal is not None:
            raise refusal

    async def _ask_second(
        self, find_hedge: FindHedge, is_late: trio.Event, waiting: trio.CancelScope, end: Callable[[], None]
    ) -> None:
        """Ask a second executor once the first ``is_late``; ``waiting`` is cancelled if that ends before."""
        with waiting:
            await is_late.wait()
        if waiting.cancel_called:
            return
        self._hedge = find_hedge()
        if self._hedge is None:
            return
        executor = format_address(self._hedge.executor)
        log.info("the first content is late: another executor is asked as well", executor=executor)
        self._race.is_hedged = True
        with suppress(CannotAfford):
            await self._ask(self._hedge, trio.Event(), end)
        self._race.is_hedged = False

    async def _ask(self, terms: AttemptTerms, is_late: trio.Event, end: Callable[[], None]) -> None:
        """Make one attempt, and call ``end`` if it gives the user's answer.

        Raises:
            CannotAfford: this node cannot pay for it.
        """
        try:
            attempt = await self._begin(terms, self._race, is_late)
        except AttemptFailed as failure:
            log.info("executor did not deliver", executor=format_address(terms.executor), reason=str(failure))
            self.failures.append(failure.with_traceback(None))
        except Outrun:
            pass
        else:
            self.begun.append(attempt)
            if is_last_word(attempt):
                end()

    def _count(self, hedge: AttemptTerms) -> None:
        """Count what came of a hedge."""
        if not self.begun or not is_last_word(self.begun[-1]):
            self._counts.failed += 1
        elif self.begun[-1].terms is hedge:
            self._counts.won += 1
        else:
            self._counts.lost += 1


def is_last_word(attempt: OffloadAttempt) -> bool:
    """Whether the user gets this answer without asking others: all but client errors, and those of a content filter."""
    if attempt.answer.status not in CLIENT_ERRORS:
        return True
    return judge_status(attempt.answer.status, attempt.error_body) is Outcome.FILTERED
