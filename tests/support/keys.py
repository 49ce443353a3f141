"""Keys that are the same in every run."""

from __future__ import annotations

from chain.crypto import KeyPair, hash_bytes


def make_key(seed: int | str) -> KeyPair:
    """The key pair of a number below 256, or of a name."""
    return KeyPair(bytes([seed]) * 32 if isinstance(seed, int) else hash_bytes("test key", seed.encode()))


def make_keys(count: int, name: str = "validator") -> list[KeyPair]:
    """``count`` key pairs of one name and a number."""
    return [make_key(f"{name} {index}") for index in range(count)]


def make_peer(number: int) -> bytes:
    """A public key whose secret key is not needed."""
    return bytes([number]) * 32 if number < 256 else number.to_bytes(32, "big")
