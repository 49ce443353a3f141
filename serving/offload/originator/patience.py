"""Patience: until when an originator waits for one answer. Pure: times are seconds of one monotonic clock.

Keep-alives are free to send, and so are bytes that carry no content. They break a silence, but only content renews the
patience: before the first content another executor can still take over, and after it a user sees the answer grow.

While the request is queued, the patience is longer. It is longer still while the executor is seen to work, that is,
while other streams of this node get content from it. The same holds for an answer that is queued again in the middle,
since giving it up would lose what has come. No attempt outlives its hold.

If another executor could take over, the first content is waited for until it is *expected*
(``serving.prediction.first_token_bound``). That bound does not apply while the request is queued, nor while the hold is
not final, since an executor sends nothing before. After a queue it counts from the moment of the slot.

Well before that moment the answer is *late*, and another executor may be asked as well (``hedging``). A queued request
is late only after twice the time in which its first token was predicted, the queue included.
"""

from __future__ import annotations

import math

from serving.offload.settings import OriginatorSettings

QUEUE_FACTOR = 2.0
"""A request may be queued for so many times the predicted time to its first token."""
LONGEST_FACTOR = 1.5
"""An answer that is not streamed may take so many times the predicted time of the longest one."""
SEEN_S = 30.0
"""Time for which content in another stream shows that an executor works."""
MIN_QUEUED_S = 5.0
"""Least time for which a request is queued before it is late: keep-alives are so far apart."""
PAYMENT_STEP_S = 0.5
"""Step by which the wait for the first content is extended, while the hold is not final or another is asked as well."""


class Patience:
    """The patience for one answer that was paid for at ``now``, with a hold that is good for ``hold_s``.

    ``max_tokens``: the most that one choice may have. ``longest_s``: the predicted time of such an answer.
    ``expected_by``: when the first content of a stream is expected; None: not known, or nobody could take over.
    ``late_by``: when the answer is late; None: no other executor is asked as well. If the request ``is_queued``, both
    moments move back by the wait for its slot. ``predicted_s``: the time to the first token that was predicted when the
    executor was chosen.
    """

    deadline: float
    """Until when the next content must come; for an answer that is not streamed, all of it."""

    def __init__(
        self,
        settings: OriginatorSettings,
        now: float,
        *,
        stream: bool,
        max_tokens: int,
        hold_s: float,
        longest_s: float = 0.0,
        expected_by: float | None = None,
        late_by: float | None = None,
        is_queued: bool = False,
        predicted_s: float = 0.0,
    ) -> None:
        self._settings = settings
        self._end = now + hold_s
        queue_s = min(max(settings.queue_timeout_s, QUEUE_FACTOR * predicted_s), settings.max_queue_timeout_s)
        writing_s = 0.0 if stream else max(settings.token_timeout_s * max_tokens, LONGEST_FACTOR * longest_s)
        self._latest = min(now + queue_s + writing_s, self._end)
        """How far keep-alives may extend the deadline."""
        self._latest_seen = min(now + settings.max_queue_timeout_s + writing_s, self._end)
        """The same if the executor is seen to work."""
        self.deadline = min(now + settings.first_chunk_timeout_s, self._end) if stream else self._latest
        self._may_be_unpaid_until = now
        """Until when a hold that is not final excuses a stream without content."""
        self._is_unpaid = False
        """Whether the hold was not final when content was expected."""
        self.has_content = False
        """Whether content of a stream has come."""
        self.is_queued = is_queued
        """Whether the request is queued, by the executor's last word."""
        self.quiet_since = now
        """Since when the request has not been queued and nothing has come."""
        self._within_s = expected_by - now if stream and expected_by is not None else None
        self._late_s = None if late_by is None else late_by - now
        """Seconds after getting its slot when the answer is late; None: lateness does not matter, or no longer."""
        self._queue_late_at = now + max(MIN_QUEUED_S, QUEUE_FACTOR * predicted_s)
        self._late_at = self._queue_late_at if late_by is not None else math.inf
        self.is_overdue = False
        """Whether expected content has not come, and the wait goes on because another executor is asked as well."""
        self._unexpected_until = now
        """Until when that wait goes on, at most."""
        if not is_queued:
            self._begin(now)
        self._is_closed = False

    def note_queued(self, now: float, seen_at: float = -math.inf) -> None:
        """The executor says that the request is queued, or is queued again in the middle of its answer.

        ``seen_at``: when content came from it last, in any stream.
        """
        self.is_queued, self.quiet_since, self.is_overdue = True, now, False
        if not self._is_closed:
            latest = max(self._latest, min(seen_at + SEEN_S, self._latest_seen))
            self.deadline = max(self.deadline, min(now + self._settings.first_chunk_timeout_s, latest))
        if self._late_s is not None:
            self._late_at = self._queue_late_at

    def note_working(self, now: float) -> None:
        """The executor says that it works, and that the request is not queued."""
        if self.is_queued and not self.has_content:
            self._begin(now)
        self.is_queued = False

    def _begin(self, now: float) -> None:
        """The request has its slot."""
        self.quiet_since = now
        if self._late_s is not None:
            self._late_at = now + max(0.0, self._late_s)
        if self._within_s is not None:
            self._may_be_unpaid_until = min(now + self._settings.stall_timeout_s, self.deadline)
            self._unexpected_until = self.deadline
            self.deadline = min(now + max(0.0, self._within_s), self.deadline)

    def excuse_unpaid(self, now: float, *, is_final: bool) -> bool:
        """The deadline has passed. Returns whether it is extended because the hold is not final (``is_final``).

        It is extended once more when the hold has just become final.
        """
        if self.has_content or (is_final and not self._is_unpaid):
            return False
        self._is_unpaid = not is_final
        self.deadline = min(now + PAYMENT_STEP_S, self._may_be_unpaid_until)
        return self.deadline > now

    @property
    def wakes_at(self) -> float:
        """When there is something to decide if nothing comes."""
        return min(self.deadline, self._late_at)

    def take_late(self, now: float, *, is_final: bool) -> bool | None:
        """Whether the answer is late now. True only once, and not while the hold is not final. None: it is not time
        yet."""
        if now < self._late_at:
            return None
        self._late_at = math.inf if is_final else now + PAYMENT_STEP_S
        if is_final:
            self._late_s = None
        return is_final

    def excuse_overdue(self, now: float) -> bool:
        """The deadline has passed, and another executor is asked as well. Returns whether the deadline is extended."""
        if self.has_content:
            return False
        self.is_overdue = True
        self.deadline = min(now + PAYMENT_STEP_S, self._unexpected_until)
        return self.deadline > now

    def note_content(self, now: float) -> None:
        """The next content of a stream has come."""
        self.has_content, self.quiet_since, self.is_overdue = True, now, False
        self._late_s, self._late_at = None, math.inf
        if not self._is_closed:
            self.deadline = min(now + self._settings.pause_timeout_s, self._end)
            self._latest = min(now + self._settings.max_queue_timeout_s, self._end)

    def note_closed(self, now: float) -> None:
        """The closing event of a stream has come: all that is left to send is the delivery."""
        if not self._is_closed:
            self._is_closed = True
            self.deadline = min(now + self._settings.stall_timeout_s, self._end)

    def note_resumed(self, now: float) -> None:
        """The executor was lost, and is found again."""
        self.deadline = min(max(self.deadline, now + self._settings.stall_timeout_s), self._end)

    def excuse(self, seconds: float) -> None:
        """Leave out the time for which the user did not read."""
        self.deadline += seconds
        self._latest += seconds
        self._latest_seen += seconds
        self._end += seconds

    def compute_resume_deadline(self, now: float) -> float:
        """Until when an executor that was lost is sought."""
        return min(now + self._settings.resume_s, self._end)
