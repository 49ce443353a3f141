"""What each key used on each day (UTC), for reports and for bills."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime

MAX_DAYS = 400
"""Days of a key that are kept, the latest."""


@dataclass(slots=True)
class Usage:
    """Sums over requests. ``spent`` is the price of their answers in micro-credits, whether they were paid for or not.

    ``completion_tokens`` are as the backends reported them; bytes are what answers are billed by.
    """

    requests: int = 0
    refused: int = 0
    prompt_bytes: int = 0
    completion_bytes: int = 0
    completion_tokens: int = 0
    spent: int = 0

    def add(self, other: Usage) -> None:
        """Add the numbers of ``other``."""
        for field, value in zip(fields(self), astuple(other), strict=True):
            setattr(self, field.name, getattr(self, field.name) + value)

    def encode(self) -> bytes:
        """The numbers as they are stored."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Usage:
        """The numbers that were stored as ``raw``.

        Raises:
            ValueError, TypeError: they are none.
        """
        return cls(**json.loads(raw))


def get_day(now: int) -> str:
    """The day of a time in ms since the Unix epoch: ``2027-01-31``."""
    return datetime.fromtimestamp(now // 1000, UTC).strftime("%Y-%m-%d")
