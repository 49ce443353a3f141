"""Announcements: what a node says about itself, signed, so that others may pass it on.

Of two announcements of a peer the one with the greater :attr:`Announcement.order` stands. The order compares the
*incarnation* (the run of the peer), then whether it is a goodbye, then the *sequence*. Both are of coarse wall time
(:mod:`p2p.coarse_clock`), counted up within a step: the incarnation when the run began, at least one more than that of
the run before; the sequence when the announcement was made, strictly growing. An announcement is refused when it is
much older or newer than the reader's coarse clock. So a replay works for :data:`ACCEPTANCE_S` at most, and for that
long each node remembers a departure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

from chain import crypto
from chain.codec import (
    MAX_MODEL_NAME_BYTES,
    Bounds,
    ModelName,
    Natural,
    PublicKey,
    Record,
    Signature,
    is_printable_ascii,
)
from chain.exceptions import CodecError
from p2p.coarse_clock import MAX_LAG_MS

ANNOUNCEMENT_DOMAIN = "announcement"
"""Domain of the signatures."""
MAX_ANNOUNCEMENT_BYTES = 8 * 1024
"""Largest encoding, in bytes."""
MAX_ANNOUNCED_ADDRESSES = 8
"""Direct addresses in an announcement."""
MAX_ANNOUNCED_RELAYS = 4
"""Relay addresses in an announcement."""
MAX_ANNOUNCED_MODELS = 16
"""Models in an announcement."""
MAX_LIFETIME_MS = 7_200_000
"""Longest time that an announcement may claim to be good for, in ms."""
MAX_SKEW_MS = 300_000
"""How far a peer's clock may be ahead of ours or behind, in ms."""
MAX_AHEAD_MS = MAX_SKEW_MS + MAX_LAG_MS
"""How far a sequence may be ahead of our coarse clock, in ms."""
MAX_BEHIND_MS = MAX_LIFETIME_MS + MAX_SKEW_MS + MAX_LAG_MS
"""How far a sequence may be behind our coarse clock, in ms."""
ACCEPTANCE_S = (MAX_AHEAD_MS + MAX_BEHIND_MS + MAX_LAG_MS) / 1000
"""Seconds from the first to the last moment at which an announcement is accepted by any two correct clocks."""

ITEM_ID_BYTES = 8
"""Bytes of the id of an item: an announcement or a suspect message."""

MAX_ADDRESS_BYTES = 256
"""Longest address."""

Address = Annotated[str, Bounds(1, MAX_ADDRESS_BYTES)]
"""A multiaddress."""


RATE_SCALE = 1000
"""Announced rates are in thousandths of a token per second."""
MAX_RATE = 1_000_000 * RATE_SCALE
"""Highest rate that can be announced."""
MAX_TOKENS = 2**31
"""Largest number of tokens that can be announced."""
LOAD_STEP = 10
"""Divisor of the slots: a load is far from another if so much of them was taken or freed."""

Count = Annotated[int, Bounds(0, 1_000_000)]
"""A number of requests."""
Rate = Annotated[int, Bounds(0, MAX_RATE)]
"""Tokens in 1,000 seconds."""


@dataclass(frozen=True, slots=True)
class ModelLoad(Record):
    """How busy a node is with one model, and how fast; models of one backend share its requests.

    ``running`` and ``waiting`` are requests, and ``slots`` how many run at a time. ``prefill_rate`` and ``decode_rate``
    (of one stream) are in thousandths of a token per second, ``context_length`` and ``cache_tokens`` (what all running
    requests can have together in the key-value cache) in tokens; 0 is unknown. ``features``
    and the number formats (of the weights, of the activations, of the key-value cache) are bits; their meaning is that
    of ``serving.prediction.announced_load``.
    """

    model: ModelName
    running: Count = 0
    waiting: Count = 0
    slots: Count = 0
    prefill_rate: Rate = 0
    decode_rate: Rate = 0
    context_length: Annotated[int, Bounds(0, MAX_TOKENS)] = 0
    features: Annotated[int, Bounds(0, 255)] = 0
    weight_formats: Annotated[int, Bounds(0, 255)] = 0
    activation_formats: Annotated[int, Bounds(0, 255)] = 0
    cache_formats: Annotated[int, Bounds(0, 255)] = 0
    cache_tokens: Annotated[int, Bounds(0, MAX_TOKENS)] = 0

    @property
    def utilization(self) -> int:
        """Use of the slots in permille, 1000 if requests wait."""
        if self.waiting or self.running >= self.slots > 0:
            return 1000
        return 1000 * self.running // self.slots if self.slots else 0


@dataclass(frozen=True, slots=True)
class PeerLoad(Record):
    """How busy a node is, by model."""

    models: Annotated[tuple[ModelLoad, ...], Bounds(0, MAX_ANNOUNCED_MODELS)] = ()

    def find(self, model: str) -> ModelLoad | None:
        """That of one model; the first, if there are several."""
        return next((each for each in self.models if each.model == model), None)

    @property
    def utilization(self) -> int:
        """That of the busiest model, in permille."""
        return max((each.utilization for each in self.models), default=0)

    def is_far_from(self, other: PeerLoad) -> bool:
        """Whether others should soon hear of the difference: it changes where requests go."""
        if len(self.models) != len(other.models):
            return True
        for now, then in zip(self.models, other.models, strict=True):
            if now.model != then.model or (now.waiting > 0) != (then.waiting > 0):
                return True
            if LOAD_STEP * abs(now.running + now.waiting - then.running - then.waiting) >= max(now.slots, 1):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Announcement(Record):
    """A peer's signed statement about itself. ``incarnation`` and ``sequence`` are of coarse wall time, in ms.

    ``leaving`` makes it a goodbye. ``addresses`` can be dialled directly; ``relays`` are addresses through another
    peer. ``expires_after`` is in ms after the moment it was made.
    """

    peer: PublicKey
    incarnation: Natural
    sequence: Natural
    leaving: bool
    addresses: Annotated[tuple[Address, ...], Bounds(0, MAX_ANNOUNCED_ADDRESSES)]
    relays: Annotated[tuple[Address, ...], Bounds(0, MAX_ANNOUNCED_RELAYS)]
    models: Annotated[tuple[ModelName, ...], Bounds(0, MAX_ANNOUNCED_MODELS)]
    load: PeerLoad
    expires_after: Annotated[int, Bounds(1, MAX_LIFETIME_MS)]
    signature: Signature

    @property
    def order(self) -> tuple[int, bool, int]:
        """What makes one announcement of a peer newer than another; a goodbye is the last of its incarnation."""
        return self.incarnation, self.leaving, self.sequence

    def get_least_age(self, now: int) -> float:
        """Least age in seconds at coarse wall time ``now`` (ms), given that the clock of its peer is not too wrong."""
        return max(0, now - self.sequence - MAX_SKEW_MS - MAX_LAG_MS) / 1000

    def is_timely(self, now: int) -> bool:
        """Whether its times make sense at coarse wall time ``now`` (ms)."""
        return self.incarnation <= self.sequence and now - MAX_BEHIND_MS <= self.sequence <= now + MAX_AHEAD_MS


def is_address(text: str) -> bool:
    """Whether ``text`` has the form of an address; it need not be a valid one."""
    return (
        text.isascii() and text.isprintable() and " " not in text and text[:1] == "/" and len(text) <= MAX_ADDRESS_BYTES
    )


def is_model_name(text: str) -> bool:
    """Whether ``text`` has the form of a model's name."""
    return 0 < len(text) <= MAX_MODEL_NAME_BYTES and is_printable_ascii(text)


def get_item_id(encoded: bytes) -> bytes:
    """The id of an item, by which nodes compare what they hold. It proves nothing: the items are signed."""
    return hashlib.blake2b(encoded, digest_size=ITEM_ID_BYTES).digest()


def sign_announcement(key: crypto.KeyPair, chain_id: bytes, announcement: Announcement) -> Announcement:
    """``announcement`` with its signature filled in.

    Raises:
        CodecError: a field is out of bounds.
    """
    return replace(announcement, signature=key.sign(ANNOUNCEMENT_DOMAIN, chain_id, _signed_part(announcement)))


def parse_announcement(raw: bytes) -> Announcement:
    """Decode an announcement without checking its signature.

    Raises:
        CodecError: malformed or out of bounds.
    """
    return Announcement.decode(raw, MAX_ANNOUNCEMENT_BYTES)


@lru_cache(maxsize=4096)  # the same bytes come from several neighbours
def decode_announcement(raw: bytes, chain_id: bytes) -> Announcement:
    """Decode an announcement and check its signature for this chain.

    Raises:
        CodecError: malformed, out of bounds or not signed by its peer.
    """
    announcement = parse_announcement(raw)
    signed = _signed_part(announcement)
    if not crypto.verify(announcement.peer, ANNOUNCEMENT_DOMAIN, chain_id, signed, announcement.signature):
        raise CodecError("the announcement is not signed by its peer")
    return announcement


def _signed_part(announcement: Announcement) -> bytes:
    """The signature covers the record with an empty one in its place."""
    return replace(announcement, signature=bytes(64)).encode()
