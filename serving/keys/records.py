"""What is kept of an API key: its name, the digest of the key, and its limits. The key itself is shown once and kept
nowhere.

A key has 256 random bits, so that one hash is enough: nobody finds it by guessing, with the digest or without.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace

KEY_PREFIX = "sk-"
"""Beginning of a key, by which programs that look for leaked secrets know it."""
KEY_BYTES = 32
"""Random bytes of a key."""
HINT_CHARS = 4
"""Last characters of a key that are kept, by which its owner knows it again."""
CONFIGURED_PREFIX = "config-"
"""Beginning of the names that the keys in the configuration file get, in their order there."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class KeyRefused(Exception):
    """A key cannot be made or revoked as it was asked. The message says why."""


@dataclass(frozen=True, slots=True)
class ConfiguredKey:
    """A key in the configuration file; 0 requests per minute means no limit."""

    key: str
    requests_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may do. Empty or 0: no limit.

    ``budget`` is in micro-credits (None: no limit), for all time. ``expires`` is in ms since the Unix epoch.
    """

    models: tuple[str, ...] = ()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0
    budget: int | None = None
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. Times are in ms since the Unix epoch; ``revoked`` is None while it is good."""

    name: str
    digest: bytes
    hint: str
    created: int
    limits: KeyLimits
    revoked: int | None = None

    def encode(self) -> bytes:
        """The record as it is stored."""
        content = {**asdict(self), "digest": self.digest.hex()}
        return json.dumps(content, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, raw: bytes) -> KeyRecord:
        """The record that was stored as ``raw``.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        content = json.loads(raw)
        limits = content["limits"]
        limits["models"] = tuple(limits["models"])
        return cls(**{**content, "digest": bytes.fromhex(content["digest"]), "limits": KeyLimits(**limits)})

    def revoke(self, now: int) -> KeyRecord:
        """The record of the same key once it is not good any more."""
        return replace(self, revoked=now)


def check_key_name(name: str) -> None:
    """Check the name of a new key.

    Raises:
        KeyRefused: it cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise KeyRefused(f"the name of a key has up to 64 letters, digits and any of . _ @ -, got {name!r}")
    if name.startswith(CONFIGURED_PREFIX):
        raise KeyRefused(f"names with {CONFIGURED_PREFIX} are those of the keys in the configuration file")


def make_secret() -> str:
    """A new key."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_secret(secret: bytes) -> bytes:
    """The digest by which a key is known again."""
    return hashlib.blake2b(secret, digest_size=32, person=b"wwwserve key").digest()


def make_record(name: str, secret: str, limits: KeyLimits, now: int) -> KeyRecord:
    """What is kept of a new key."""
    return KeyRecord(name, hash_secret(secret.encode()), secret[-HINT_CHARS:], now, limits)
