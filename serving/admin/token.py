"""The owner's token for the admin listener, in a file of the data directory that only the owner can read."""

from __future__ import annotations

import hmac
import secrets
from contextlib import suppress
from pathlib import Path

from chain.files import SECRET_MODE, write_atomically


def load_or_create_token(path: Path) -> str:
    """The token in the file ``path``, or a new random one written there, readable by the owner only.

    Raises:
        OSError: the file cannot be read or written.
    """
    with suppress(FileNotFoundError):
        token = path.read_text(encoding="utf-8").strip()
        if token:
            path.chmod(SECRET_MODE)
            return token
    token = secrets.token_urlsafe(32)
    write_atomically(path, f"{token}\n".encode(), mode=SECRET_MODE)
    return token


def is_authorized(header: str, token: str) -> bool:
    """Whether an ``Authorization`` header is ``Bearer`` with ``token``; takes the same time whatever is wrong."""
    scheme, _, presented = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(presented.strip().encode(), token.encode())
