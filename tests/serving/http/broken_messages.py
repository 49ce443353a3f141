"""Parts of HTTP messages, good and broken, by which the readers of requests and of responses are compared with h11."""

from __future__ import annotations

import random

TEXT_FIELDS = (
    b"x: a \t b ",
    b"x:",
    b"x: \xff",
    b"x : a",
    b"x",
    b": a",
    b" folded",
    b"x: a\x00b",
    b"x: \x01",
    b"x: a\rb",
)
"""Lines of a head that say nothing of the body."""
BROKEN_BODIES = (
    b"0\r\nbad\r\n\r\n",
    b"g\r\n\r\n",
    b"-5\r\nhello\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"00005\r\nhello\r\n000\r\n\r\n",
    b"5\r\nhello\r\n",
    b"\r\n",
    b"5 \r\n",
)
"""Bodies in chunks; all but the one with zeros are broken or end too early."""
NOISE = (b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b";", b"0", b"5", b"a", b"\x00", b"\xff", b"HTTP/1.1 ")
"""What is put into a message."""


def add_noise(data: bytes, times: int, chance: random.Random) -> bytes:
    """A message with so many faults, each at any place."""
    for _ in range(times):
        place = chance.randrange(len(data) + 1)
        data = data[:place] + chance.choice(NOISE) + data[place:]
    return data
