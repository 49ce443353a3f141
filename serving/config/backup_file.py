"""The file of ``wwwserve backup``: all that restores a node on another machine, and nothing that could make it vote
twice.

It holds the key, the configuration with the small files that it names, the genesis file, and the API keys by their
hashes. It never holds the vote journal, the ledger, or open business with other nodes: those are valid only for one
moment on one machine. A node that begins without a journal waits before it votes (:mod:`consensus.voting.lockout`).

The file is text, one ``name: value`` per line after a title line::

    wwwserve backup 1
    address: 12D3KooW…
    chain_id: <32 bytes>
    made: 2026-11-29T02:10:00Z
    content: <compressed JSON, in base64>
    digest: <BLAKE2b-256 of all lines above>

With a passphrase, ``salt`` and ``limits`` (:mod:`chain.sealing`) stand before ``content``, which is
then sealed under it. The digest finds damage; it is no signature.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from chain.exceptions import LedgerError
from chain.genesis import Genesis, parse_genesis
from chain.keyfile import IdentityError, read_address
from chain.sealing import WrongPassphrase, seal, unseal
from serving.config.data_directory import CONFIG_FILE, GENESIS_FILE, KEY_FILE
from serving.config.file import parse_config
from serving.config.schema import NodeConfig
from serving.keys.keyring import check_exported

TITLE = "wwwserve backup 1"
"""First words of a backup, with its version."""
MAX_BACKUP_BYTES = 32 << 20
"""Largest backup that is read or written, in bytes, packed and unpacked."""


class BackupError(LedgerError):
    """A file is no backup, or is damaged, or does not open. The message says what to do."""


class BackupSealed(BackupError):
    """The backup needs its passphrase."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A node as it is kept: ``files`` by their names in the data directory, and the exported API keys."""

    files: Mapping[str, bytes]
    api_keys: tuple[Mapping[str, Any], ...]

    def check(self, source: str) -> tuple[str, Genesis, NodeConfig]:
        """Check all of it. Returns the address of the key, the genesis and the configuration.

        Raises:
            BackupError: a file is missing or not allowed, or the API keys cannot be used.
            IdentityError, GenesisError, ConfigError: one of the files cannot be used.
        """
        missing = [name for name in (KEY_FILE, GENESIS_FILE, CONFIG_FILE) if name not in self.files]
        if missing:
            raise BackupError(f"{source} is no whole backup: {missing[0]} is missing in it")
        config = parse_config(_decode_text(self.files[CONFIG_FILE], source), f"{CONFIG_FILE} in {source}")
        strange = set(self.files) - {KEY_FILE, GENESIS_FILE, CONFIG_FILE, *find_named_files(config)}
        if strange:
            raise BackupError(f"{source} has a file that its configuration does not name: {min(strange)!r}")
        try:
            check_exported(self.api_keys)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(f"the API keys in {source} cannot be used: {error!r}") from error
        address = read_address(self.files[KEY_FILE], f"the key in {source}")
        return address, parse_genesis(self.files[GENESIS_FILE], f"{GENESIS_FILE} in {source}"), config

    def encode(self, made: str, passphrase: str | None) -> bytes:
        """The content of the file; ``made`` is when, as ISO 8601.

        Raises:
            BackupError: it would be too large.
            IdentityError, GenesisError, ConfigError: what it holds could not be restored.
        """
        address, genesis, _ = self.check("the data directory")
        files = {name: base64.b64encode(content).decode() for name, content in self.files.items()}
        raw = json.dumps({"files": files, "api_keys": list(self.api_keys)}).encode()
        content = zlib.compress(raw, 9)
        lines = [TITLE, f"address: {address}", f"chain_id: {genesis.chain_id.hex()}", f"made: {made}"]
        if passphrase is not None:
            how, content = seal(content, passphrase)
            lines += how
        text = "\n".join([*lines, f"content: {base64.b64encode(content).decode()}", ""])
        encoded = f"{text}digest: {_digest(text)}\n".encode()
        if max(len(raw), len(encoded)) > MAX_BACKUP_BYTES:
            raise BackupError(f"the backup would have more than {MAX_BACKUP_BYTES >> 20} MiB")
        return encoded


def decode_backup(raw: bytes, source: str, passphrase: str | None) -> Backup:
    """The backup in a file; ``source`` is what errors call it.

    Raises:
        BackupSealed: no passphrase was given, and it needs one.
        BackupError: it is no backup, or damaged, or the passphrase is wrong.
    """
    text = raw.decode("utf-8", errors="replace")
    if not text.startswith(TITLE.rpartition(" ")[0] + " "):
        raise BackupError(f"{source} is no backup of a node (its first line is not {TITLE!r})")
    title, _, rest = text.partition("\n")
    if title != TITLE:
        raise BackupError(f"{source} is a {title[:40]!r}, which this version of the program does not know")
    signed, _, digest = text.rpartition("digest: ")
    fields = dict(line.partition(": ")[::2] for line in rest.splitlines())
    if digest.strip() != _digest(signed) or len(raw) > MAX_BACKUP_BYTES:
        raise BackupError(f"{source} is damaged: its digest is not that of its content; take another copy")
    try:
        content = base64.b64decode(fields["content"], validate=True)
        if "salt" in fields:
            if passphrase is None:
                raise BackupSealed(f"{source} is protected: its passphrase is needed")
            content = unseal(content, passphrase, fields)
        unpacker = zlib.decompressobj()
        plain = json.loads(unpacker.decompress(content, MAX_BACKUP_BYTES))
        files = {str(name): base64.b64decode(value, validate=True) for name, value in plain["files"].items()}
        backup = Backup(files, tuple(plain["api_keys"]))
        if fields["address"] != read_address(files[KEY_FILE], f"the key in {source}"):
            raise BackupError(f"{source} is damaged: its address is not that of its key")
    except (BackupError, IdentityError):
        raise
    except WrongPassphrase:
        raise BackupError(f"{source} does not open: the passphrase is wrong") from None
    except (KeyError, ValueError, TypeError, AttributeError, zlib.error, RecursionError) as error:
        raise BackupError(f"{source} is damaged ({error!r}); take another copy") from error
    return backup


def find_named_files(config: NodeConfig) -> list[str]:
    """The small files that a configuration names within the data directory: judging prompt, certificate and its key."""
    named = (config.judge.prompt_file, config.api.tls_certificate, config.api.tls_key)
    return [name for name in named if name is not None and _is_within(name)]


def _is_within(name: str) -> bool:
    """Whether a name is that of a file in the data directory itself, and of none of the node's own."""
    path = PurePosixPath(name)
    return len(path.parts) == 1 and path.suffix in (".txt", ".pem", ".crt", ".key", ".md", ".json")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _decode_text(content: bytes, source: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BackupError(f"{CONFIG_FILE} in {source} is not UTF-8 text") from None
