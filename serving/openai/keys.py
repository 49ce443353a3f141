"""API keys and their rate limits: a token bucket per key (sans-I/O)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from p2p.rate_limit import Bucket
from serving.openai.errors import too_many_requests, unauthorized


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that users present as ``Authorization: Bearer …``; 0 requests per minute means no limit."""

    key: str
    requests_per_minute: int = 0


class ApiKeys:
    """The keys of a node. Admits requests that carry one and are within its rate; without any keys, all of them."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = list(keys)
        self._buckets: dict[str, Bucket] = {}

    def admit(self, authorization: bytes | None, now: float) -> None:
        """Admit one request at time ``now`` (seconds).

        Raises:
            ApiError: 401 without a known key, 429 above its rate.
        """
        if not self._keys:
            return
        scheme, _, presented = (authorization or b"").partition(b" ")
        # Compare against every key, so that the time taken tells nothing about which one was close.
        matches = [entry for entry in self._keys if hmac.compare_digest(entry.key.encode(), presented.strip())]
        if not matches or scheme.lower() != b"bearer":
            raise unauthorized()
        self._spend(matches[0], now)

    def _spend(self, entry: ApiKey, now: float) -> None:
        limit = entry.requests_per_minute
        if not limit:
            return
        bucket = self._buckets.setdefault(entry.key, Bucket(limit, now, limit))
        if bucket.fill(now, limit / 60) < 1:  # the bucket holds requests here, where it often holds seconds
            raise too_many_requests(f"This key may send {limit} requests per minute.")
        bucket.level -= 1
