"""The node's key file: 32 secret bytes, in a file that only its owner can read, under a passphrase if wanted.

The file is text, one ``name: value`` per line after a title line, binary values in hex::

    wwwserve key 1
    address: 12D3KooW…
    seed: <32 bytes>

With a passphrase, three lines replace ``seed``: ``salt`` and ``limits`` (operations and bytes of memory), and
``sealed``, the seed under the passphrase (:mod:`chain.sealing`). The address tells whose key it is without opening it,
and is checked against the seed when it is opened.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from chain.crypto import KeyPair, parse_address
from chain.exceptions import LedgerError
from chain.files import SECRET_MODE, write_atomically
from chain.sealing import OVERHEAD_BYTES, WrongPassphrase, seal, unseal

TITLE = "wwwserve key 1"
"""First words of a key file, with its version."""
MAX_KEY_FILE_BYTES = 4096
"""Largest key file that is read, in bytes."""


class IdentityError(LedgerError):
    """The key file is missing, damaged, readable by others, there already, or its passphrase is wrong or missing."""


class PassphraseNeeded(IdentityError):
    """The key file is protected, and no passphrase was given."""


def create_identity(path: Path, passphrase: str | None = None, seed: bytes | None = None) -> KeyPair:
    """Write a new key file (mode 0600) and return its key; a fresh random one unless ``seed`` (32 bytes) is given.

    The file appears complete or not at all, and never replaces one that is there.

    Raises:
        IdentityError: there is a file at ``path`` already, or it cannot be written.
        KeyFormatError: ``seed`` does not have 32 bytes.
    """
    key = KeyPair(secrets.token_bytes(32) if seed is None else seed)
    lines = [TITLE, f"address: {key.address}"]
    if passphrase is None:
        lines.append(f"seed: {key.seed.hex()}")
    else:
        how, sealed = seal(key.seed, passphrase)
        lines += [*how, f"sealed: {sealed.hex()}"]
    try:
        write_atomically(path, "\n".join([*lines, ""]).encode(), mode=SECRET_MODE, replace=False)
    except FileExistsError:
        raise IdentityError(f"{path} is there already; a key file is never overwritten") from None
    except OSError as error:
        raise IdentityError(f"{path} cannot be written: {error.strerror}") from error
    return key


def load_identity(path: Path, passphrase: str | None = None) -> KeyPair:
    """Read the key file at ``path``. A passphrase given for a file without one is not used.

    Raises:
        IdentityError: see there; the message says what to do.
    """
    return open_key(_read_private(path), str(path), passphrase)


def read_address(content: bytes, source: str) -> str:
    """Whose key it is that a key file with this content holds, protected or not; ``source`` is what errors call it.

    Raises:
        IdentityError: it is damaged.
    """
    fields = _parse(source, content)
    if "seed" in fields:
        return open_key(content, source).address
    try:
        address = fields["address"]
        parse_address(address)
    except (KeyError, LedgerError) as error:
        raise IdentityError(f"{source} is damaged ({_reason(error)}); restore it from a copy") from error
    return address


def open_key(content: bytes, path: str, passphrase: str | None = None) -> KeyPair:
    """The key in a key file with this content; ``path`` is what errors call it.

    Raises:
        IdentityError: see there; the message says what to do.
    """
    fields = _parse(path, content)
    try:
        if "seed" in fields:
            seed = bytes.fromhex(fields["seed"])
        else:
            if passphrase is None:
                raise PassphraseNeeded(f"{path} is protected: its passphrase is needed")
            sealed = bytes.fromhex(fields["sealed"])
            if len(sealed) != OVERHEAD_BYTES + 32:
                raise ValueError("the sealed seed has a wrong length")
            try:
                seed = unseal(sealed, passphrase, fields)
            except WrongPassphrase:
                raise IdentityError(f"{path} does not open: the passphrase is wrong, or the file is damaged") from None
        key = KeyPair(seed)
        if key.address != fields["address"]:
            raise ValueError("the address is not that of the seed")
    except IdentityError:
        raise
    except (KeyError, ValueError, TypeError, LedgerError) as error:
        raise IdentityError(f"{path} is damaged ({_reason(error)}); restore it from a copy") from error
    return key


def _read_private(path: Path) -> bytes:
    """The content of a regular file that only its owner may read."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise IdentityError(f"{path} is not a regular file")
            if status.st_mode & 0o077:
                raise IdentityError(
                    f"{path} is a secret, but others may access it (mode {stat.S_IMODE(status.st_mode):04o}): "
                    f"run chmod 600 {path}"
                )
            content = file.read(MAX_KEY_FILE_BYTES + 1)
    except FileNotFoundError:
        raise IdentityError(f"there is no key file {path}") from None
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_KEY_FILE_BYTES:
        raise IdentityError(f"{path} is too large to be a key file")
    return content


def _parse(path: str, content: bytes) -> dict[str, str]:
    title, *lines = content.decode("utf-8", errors="replace").split("\n")
    if title != TITLE:
        raise IdentityError(f"{path} is not a key file (its first line is not {TITLE!r})")
    if not lines or lines.pop():
        raise IdentityError(f"{path} is damaged (it ends within a line); restore it from a copy")
    fields = {}
    for line in lines:
        name, separator, value = line.partition(": ")
        if not separator or name in fields:
            raise IdentityError(f"{path} is damaged (the line {line[:20]!r}…); restore it from a copy")
        fields[name] = value
    return fields


def _reason(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
