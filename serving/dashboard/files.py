"""The files of the page, read once."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).with_name("static")
"""Where the files are."""
INDEX = "index.html"
"""The file that the browser asks for first."""

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Media types by suffix; other files are not served."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file; ``etag`` names its content."""

    content: bytes
    compressed: bytes
    media_type: str
    etag: str


def load_files(folder: Path = STATIC) -> dict[str, StaticFile]:
    """All files of the page, by path relative to ``folder``."""
    return {
        path.relative_to(folder).as_posix(): _load(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }


def _load(path: Path) -> StaticFile:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return StaticFile(content, gzip.compress(content, mtime=0), MEDIA_TYPES[path.suffix], etag)
