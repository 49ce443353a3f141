"""Writing a file so that a crash leaves the old content or the new one, never a part of either; paths of sockets."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECRET_MODE = 0o600
"""Access mode of a file that only its owner may read."""
MAX_SOCKET_PATH_BYTES = 100
"""Longest path that the address of a Unix socket holds on every system."""


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True) -> None:
    """Put a file with the content ``data`` at ``path``; it is on disk, under that name, when this returns.

    The content is written to a temporary file in the same directory, which is then renamed. ``mode`` is the access
    mode of the file (less the umask). With ``replace=False`` a file that is already at ``path`` stays as it is.

    Raises:
        FileExistsError: there is a file at ``path``, and ``replace`` is false.
        OSError: the file cannot be written; what was at ``path`` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike a rename, this fails if the name is taken
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A path by which a Unix socket can be bound or reached, though its own is too long for an address."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
