"""Patience: until when an originator waits for one answer. Pure: times are seconds of one monotonic clock.

Signs of life are free to send, and so are bytes that carry no content. So they break a silence, but it is content that
renews the patience: before the first content another executor can still take over, and after it a user sees the answer
grow. No attempt outlives its hold.
"""

from __future__ import annotations

from serving.offload.settings import OriginatorSettings


class Patience:
    """The patience for one answer that was paid for at ``now``; ``max_tokens``: the most that one choice may have."""

    deadline: float
    """Until when the next content must come; of an answer that is not streamed, all of it."""

    def __init__(self, settings: OriginatorSettings, now: float, *, stream: bool, max_tokens: int) -> None:
        self._settings = settings
        self._end = now + settings.hold_time_ms / 1000
        writing_s = 0.0 if stream else settings.token_timeout_s * max_tokens
        self._latest = min(now + settings.queue_timeout_s + writing_s, self._end)
        """How far keep-alives may put off the deadline."""
        self.deadline = min(now + settings.first_chunk_timeout_s, self._end) if stream else self._latest
        self.has_content = False
        """Whether content of a stream has come."""
        self._is_closed = False

    def note_queued(self, now: float) -> None:
        """The executor says that the request is queued."""
        if not self.has_content:
            self.deadline = max(self.deadline, min(now + self._settings.first_chunk_timeout_s, self._latest))

    def note_content(self, now: float) -> None:
        """The next content of a stream has come."""
        self.has_content = True
        if not self._is_closed:
            self.deadline = min(now + self._settings.pause_timeout_s, self._end)

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
        self._end += seconds

    def compute_resume_deadline(self, now: float) -> float:
        """Until when an executor that was lost is sought."""
        return min(now + self._settings.resume_s, self._end)
