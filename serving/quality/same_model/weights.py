"""The digest of a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

DIGEST_BYTES = 32
"""Length of the digest."""
PIECE_BYTES = 1 << 20
"""Bytes of a file that are read at a time."""


def hash_weights(files: Sequence[Path]) -> bytes:
    """The BLAKE2b-256 of a weight file; for several, the BLAKE2b-256 of their digests, concatenated in order of file
    name.

    Raises:
        OSError: one cannot be read.
        ValueError: there is none, or two have one name.
    """
    names = [file.name for file in files]
    if not files or len(set(names)) < len(names):
        raise ValueError("weight files have names of their own, and there is one at least")
    digests = [_hash_file(file) for _, file in sorted(zip(names, files, strict=True))]
    return digests[0] if len(digests) == 1 else hashlib.blake2b(b"".join(digests), digest_size=DIGEST_BYTES).digest()


def _hash_file(path: Path) -> bytes:
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            state.update(piece)
    return state.digest()
