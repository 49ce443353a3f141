"""How fast one key may be used: requests and tokens a minute, and requests at a time. Pure: time is passed in, seconds.

Both rates are token buckets (:class:`p2p.limits.rate_limit.Bucket`) that hold a minute's worth. When a request begins,
it is charged the most tokens that it can take; when it ends, it gets back what it did not take. It begins while the
bucket is not empty, so that a request larger than the bucket passes too; the next one waits until the debt is paid.
"""

from __future__ import annotations

from p2p.limits.rate_limit import Bucket
from serving.keys.records import KeyLimits
from serving.openai.errors import too_many_requests

RETRY_WHILE_RUNNING_S = 1.0
"""When to come again while requests of the key are under way: each of them may free what is missing as it ends."""


class KeyRates:
    """The rates of one key, and its requests under way."""

    def __init__(self, limits: KeyLimits, now: float) -> None:
        self._limits = limits
        self._requests = Bucket(limits.requests_per_minute, now, limits.requests_per_minute)
        self._tokens = Bucket(limits.tokens_per_minute, now, limits.tokens_per_minute)
        self.running = 0
        """Requests under way."""

    def admit(self, now: float) -> None:
        """Count one request by its head.

        Raises:
            ApiError: 429, too many a minute.
        """
        limit = self._limits.requests_per_minute
        if not limit:
            return
        level = self._requests.fill(now, limit / 60)  # a bucket holds requests here, where it often holds seconds
        if level < 1:
            message = f"This key may send {limit} requests per minute."
            raise too_many_requests(message, (1 - level) * 60 / limit)
        self._requests.level -= 1

    def begin(self, tokens: int, now: float) -> None:
        """Count a request that takes ``tokens`` at most.

        Raises:
            ApiError: 429, too many requests at a time, or too many tokens a minute.
        """
        limit = self._limits.concurrency
        if limit and self.running >= limit:
            raise too_many_requests(f"This key may have {limit} requests at a time.", RETRY_WHILE_RUNNING_S)
        limit = self._limits.tokens_per_minute
        if limit:
            level = self._tokens.fill(now, limit / 60)
            if level <= 0:
                wait = RETRY_WHILE_RUNNING_S if self.running else (1 - level) * 60 / limit
                raise too_many_requests(f"This key may use {limit} tokens per minute.", wait)
            self._tokens.level -= tokens
        self.running += 1

    def end(self, reserved: int, used: int) -> None:
        """A request is over that was charged ``reserved`` tokens and took ``used``."""
        self.running -= 1
        if self._limits.tokens_per_minute:
            self._tokens.level += reserved - used
