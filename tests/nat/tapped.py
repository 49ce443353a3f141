"""Run a node that notes everything it tells its peers, before it is encrypted.

``python -m tests.nat.tapped FILE run …`` is ``wwwserve run …``, and writes each message of each of its connections
(those through relays too, both the inner and the outer one) to FILE.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from libp2p.security.noise.io import BaseNoiseMsgReadWriter

from node import main


def tap(path: Path) -> None:
    """Have all that is encrypted from now on written to a file first."""
    file = path.open("ab", buffering=0)
    write = BaseNoiseMsgReadWriter.write_msg

    async def note_and_write(channel: BaseNoiseMsgReadWriter, msg: bytes, prefix_encoded: bool = False) -> None:
        file.write(msg)
        await write(channel, msg, prefix_encoded)

    patched: Any = BaseNoiseMsgReadWriter
    patched.write_msg = note_and_write


if __name__ == "__main__":
    tap(Path(sys.argv.pop(1)))
    main()
