"""Sealing under a passphrase, for files that only their owner may open.

Argon2id (RFC 9106) turns the passphrase into a key, with a salt and limits that are in the file. The content is sealed
under that key with XSalsa20-Poly1305, libsodium's secretbox.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox

KDF_PASSES = argon2id.OPSLIMIT_MODERATE
"""Passes over the memory to open a file, or to guess its passphrase once: 3, under a second."""
KDF_MEMORY_BYTES = argon2id.MEMLIMIT_MODERATE
"""Memory of each pass: 256 MiB."""
MAX_KDF_PASSES = argon2id.OPSLIMIT_SENSITIVE
"""Most passes that a file may ask for: 4."""
MAX_KDF_MEMORY_BYTES = argon2id.MEMLIMIT_SENSITIVE
"""Most memory that a file may ask for: 1 GiB."""
OVERHEAD_BYTES = SecretBox.NONCE_SIZE + SecretBox.MACBYTES
"""By how much more than the content is sealed."""


class WrongPassphrase(Exception):
    """The passphrase does not open it, or it was changed."""


def seal(content: bytes, passphrase: str) -> tuple[list[str], bytes]:
    """Seal under a passphrase. Returns the lines of the file that say how, ``name: value``, and what is sealed."""
    salt = secrets.token_bytes(argon2id.SALTBYTES)
    sealed = _make_box(passphrase, salt, KDF_PASSES, KDF_MEMORY_BYTES).encrypt(content)
    return [f"salt: {salt.hex()}", f"limits: {KDF_PASSES} {KDF_MEMORY_BYTES}"], bytes(sealed)


def unseal(sealed: bytes, passphrase: str, fields: Mapping[str, str]) -> bytes:
    """What is sealed under a passphrase, as ``fields`` of the file say.

    Raises:
        WrongPassphrase: see there.
        KeyError, ValueError: the fields are missing, or no salt and limits within bounds.
    """
    operations, memory = (int(limit) for limit in fields["limits"].split())
    try:
        box = _make_box(passphrase, bytes.fromhex(fields["salt"]), operations, memory)
    except CryptoError as error:
        raise ValueError(str(error)) from error
    try:
        return bytes(box.decrypt(sealed))
    except CryptoError:
        raise WrongPassphrase from None


def _make_box(passphrase: str, salt: bytes, operations: int, memory: int) -> SecretBox:
    """``operations`` and ``memory`` (bytes) are the limits of Argon2id."""
    if operations > MAX_KDF_PASSES or memory > MAX_KDF_MEMORY_BYTES or memory % 1024:
        raise ValueError("the limits are out of bounds")
    return SecretBox(argon2id.kdf(SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit=operations, memlimit=memory))
