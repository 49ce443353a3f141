"""The JSON of a body that went over the wire, for modules that read its content. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text; None if it is none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def read_events(body: bytes) -> Iterator[Any]:
    """The JSON of each event of a stream (WHATWG HTML, section 9.2.6)."""
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            yield parse_json(line[5:])


def read_contents(body: bytes) -> list[Any]:
    """The JSON of an answer: of the one object that it is, or of each event of a stream."""
    whole = parse_json(body)
    return list(read_events(body)) if whole is None else [whole]
