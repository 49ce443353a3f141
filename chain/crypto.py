"""Keys, signatures, hashes and addresses: the only module that calls libsodium.

Ed25519 (RFC 8032) through PyNaCl everywhere, because two verifiers that differ on an edge case fork a chain. A
signature covers ``domain ‖ chain id ‖ message``; a hash is BLAKE2b-256 personalised by its domain (RFC 7693). An
account address is the libp2p peer id of its key (``12D3KooW…``), so that an authenticated stream proves the account.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import NamedTuple

import base58
from nacl import bindings, pwhash
from nacl.exceptions import BadSignatureError

from chain.exceptions import KeyFormatError

PEER_ID_PREFIX = bytes.fromhex("0024080112" + "20")
"""Identity multihash (00, length 0x24) of protobuf PublicKey{Type: Ed25519, Data: 32 bytes} (libp2p peer-id spec)."""


def hash_bytes(domain: str, *parts: bytes) -> bytes:
    """BLAKE2b-256 of the concatenated ``parts``, personalised by ``domain`` (at most 16 ASCII characters)."""
    return start_hash(domain, *parts).digest()


def start_hash(domain: str, *parts: bytes) -> hashlib.blake2b:
    """The hash of :func:`hash_bytes` after ``parts``, to be updated with what follows them."""
    hasher = _start_domain(domain).copy()
    for part in parts:
        hasher.update(part)
    return hasher


@cache
def _start_domain(domain: str) -> hashlib.blake2b:
    """The state of a hash before any input. To copy it costs less than to make it."""
    return hashlib.blake2b(digest_size=32, person=domain.encode("ascii"))


def argon2id(message: bytes, salt: bytes, memory: int, passes: int) -> bytes:
    """Argon2id (RFC 9106) of ``message``: a 32-byte hash that costs ``memory`` bytes and ``passes`` over them."""
    return pwhash.argon2id.kdf(32, message, salt, opslimit=passes, memlimit=memory)


def signed_bytes(domain: str, chain_id: bytes, message: bytes) -> bytes:
    """What a signature covers: the length-prefixed domain, the chain id, the message."""
    tag = domain.encode("ascii")
    return bytes([len(tag)]) + tag + chain_id + message


@lru_cache(maxsize=1 << 16)  # the check costs about as much as verifying a signature
def is_valid_public_key(key: bytes) -> bool:
    """Whether ``key`` is a point of the prime-order group in canonical form (refuses small-order and mixed points)."""
    return len(key) == 32 and bool(bindings.crypto_core_ed25519_is_valid_point(key))


def verify(public_key: bytes, domain: str, chain_id: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is the key's over ``message`` in ``domain`` on this chain. Never raises."""
    if len(signature) != 64 or not is_valid_public_key(public_key):
        return False
    try:
        bindings.crypto_sign_open(signature + signed_bytes(domain, chain_id, message), public_key)
    except BadSignatureError:
        return False
    return True


class SignatureCheck(NamedTuple):
    """One signature to check; many of them go to a worker thread together (libsodium runs without the GIL)."""

    public_key: bytes
    domain: str
    chain_id: bytes
    message: bytes
    signature: bytes


Verify = Callable[[Iterable[SignatureCheck]], bool]
"""Whether all of some signatures hold: :func:`verify_all`, or a cache in front of it."""


def verify_all(checks: Iterable[SignatureCheck]) -> bool:
    """Whether every signature holds."""
    return all(verify(c.public_key, c.domain, c.chain_id, c.message, c.signature) for c in checks)


class KeyPair:
    """An Ed25519 key pair made from a 32-byte seed."""

    __slots__ = ("_secret", "public_key", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise KeyFormatError(f"a seed has 32 bytes, not {len(seed)}")
        self.seed = seed
        self.public_key, self._secret = bindings.crypto_sign_seed_keypair(seed)

    @property
    def address(self) -> str:
        """The account address: the libp2p peer id of the key."""
        return format_address(self.public_key)

    def sign(self, domain: str, chain_id: bytes, message: bytes) -> bytes:
        """The 64-byte signature over ``message`` in ``domain`` on this chain."""
        return bindings.crypto_sign(signed_bytes(domain, chain_id, message), self._secret)[:64]

    def __repr__(self) -> str:
        return f"KeyPair({self.address})"


def format_address(public_key: bytes) -> str:
    """Text form of a public key: its libp2p peer id in base58."""
    return base58.b58encode(PEER_ID_PREFIX + public_key).decode("ascii")


def parse_address(text: str) -> bytes:
    """The public key of an address.

    Raises:
        KeyFormatError: not the peer id of a usable Ed25519 key.
    """
    try:
        raw = base58.b58decode(text.strip())
    except ValueError as error:
        raise KeyFormatError(f"{text!r} is not an address (expected 12D3KooW…)") from error
    key = raw[len(PEER_ID_PREFIX) :]
    if not raw.startswith(PEER_ID_PREFIX) or not is_valid_public_key(key):
        raise KeyFormatError(f"{text!r} is not the address of a usable Ed25519 key (expected 12D3KooW…)")
    return key
