"""The prefixes of a conversation, as a chain of hashes, by which a turn is matched with the turn before. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

MAX_PREFIXES = 64
"""Longest prefixes of one request that are kept."""
DIGEST_BYTES = 16
"""Bytes of the hash of a prefix."""

_ENCODER = msgspec.json.Encoder(order="deterministic")

Prefix = tuple[bytes, int]
"""Hash of the first messages of a request, and their bytes."""


def hash_prefixes(model: str, messages: object) -> tuple[Prefix, ...]:
    """The prefixes of a conversation, shortest first; none if there are no messages, or one is nested too deep."""
    if not isinstance(messages, list):
        return ()
    digest, size, prefixes = hashlib.blake2b(model.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES), 0, []
    for message in messages:
        try:
            text = _encode(message)
        except RecursionError:
            return ()
        size += len(text)
        digest.update(len(text).to_bytes(8, "big") + text)
        prefixes.append((digest.digest(), size))
    return tuple(prefixes[-MAX_PREFIXES:])


def _encode(message: Any) -> bytes:
    try:
        return _ENCODER.encode(message)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say only by an escape
        return json.dumps(message, separators=(",", ":"), sort_keys=True).encode()
