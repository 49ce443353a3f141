"""The transcript of an answer: its tokens and, for each, the likeliest tokens that the backend saw at its place.

It is exchanged and committed to as canonical bytes (:mod:`chain.codec`), in integers. The commitment is the salted
digest of these bytes (:func:`chain.types.operations.compute_digest`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Record, pack

TOP_TOKENS = 5
"""Likeliest tokens that a transcript has for each token of the answer."""
MAX_TOKENS = 8192
"""Most tokens of a transcript; of a longer answer it has the first."""
MAX_TRANSCRIPT_BYTES = 1 << 19
"""Longest encoding of a transcript."""
MICRO = 1_000_000
"""Micro-nats in a nat."""
MAX_TOKEN_ID = 2**32 - 1
"""Largest id of a token."""
MAX_SURPRISAL = 1000 * MICRO
"""Largest surprisal of a record in micro-nats; what a backend calls impossible has it."""

TokenId = Annotated[int, Bounds(0, MAX_TOKEN_ID)]
Surprisal = Annotated[int, Bounds(0, MAX_SURPRISAL)]


@dataclass(frozen=True, slots=True)
class TopToken(Record):
    """One of the likeliest tokens: ``surprisal`` is its negative log-probability in micro-nats."""

    id: TokenId
    surprisal: Surprisal

    @property
    def logprob(self) -> float:
        """In nats."""
        return -self.surprisal / MICRO


@dataclass(frozen=True, slots=True)
class TranscriptToken(Record):
    """A token of the answer: its id in the model's vocabulary, and the likeliest at its place, without repetitions."""

    id: TokenId
    top: Annotated[tuple[TopToken, ...], Bounds(TOP_TOKENS, TOP_TOKENS)]

    def __post_init__(self) -> None:
        if len({each.id for each in self.top}) < len(self.top):
            raise ValueError("a token is listed twice")


@dataclass(frozen=True, slots=True)
class Transcript(Record):
    """The tokens of one answer from its beginning, without a gap."""

    tokens: Annotated[tuple[TranscriptToken, ...], Bounds(1, MAX_TOKENS)]

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens by their ids."""
        return tuple(token.id for token in self.tokens)


def encode_transcript(transcript: Transcript) -> bytes:
    """The canonical bytes, in a tenth of the time that :meth:`chain.codec.Record.encode` takes."""
    tokens = transcript.tokens
    return pack([[[token.id, [[each.id, each.surprisal] for each in token.top]] for token in tokens]])


def decode_transcript(raw: bytes) -> Transcript:
    """The transcript of canonical bytes.

    Raises:
        CodecError: they are not one, or too long.
    """
    return Transcript.decode(raw, MAX_TRANSCRIPT_BYTES)


def to_surprisal(logprob: float) -> int:
    """A log-probability in nats as surprisal in micro-nats, within the bounds of the record.

    Raises:
        ValueError: it is not a number, or not a log-probability.
    """
    if math.isnan(logprob) or logprob > 1e-3:  # rounding may leave a certain token a trace above zero
        raise ValueError(f"{logprob} is not a log-probability")
    return round(min(MAX_SURPRISAL / MICRO, max(0.0, -logprob)) * MICRO)
