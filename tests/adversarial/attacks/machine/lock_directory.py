"""Another user of the machine locks the data directory of a node, so that the node cannot start any more."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from chain.exceptions import StoreInUse
from serving.config.data_directory import LOCK_FILE, lock_data_dir
from tests.adversarial.attacks.table import Attack, Outcome

OTHER_USER = 65534
STARTS = 3


def run_attack() -> Outcome:
    refused = 0
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # the way there is open, as that to a home directory often is
        directory = Path(name) / "node"
        directory.mkdir(0o755)
        with suppress(StoreInUse), lock_data_dir(directory):
            assert (directory / LOCK_FILE).exists()
        held = []
        for _ in range(STARTS):
            held += lock_as_other_user(directory / LOCK_FILE)
            try:
                with lock_data_dir(directory):
                    pass
            except StoreInUse:
                refused += 1
        for file in held:
            file.close()
    return Outcome(0, refused, refused, "the directory and its lock are closed to other users", "starts refused")


ATTACK = Attack(
    "a lock on the owner's data directory",
    Outcome(0, STARTS, STARTS, "'is in use by another node process'", "starts refused"),
    run_attack,
)


def lock_as_other_user(path: Path) -> list[IO[str]]:
    """The file, opened and locked as a user who is not its owner; nothing if it cannot be."""
    if os.geteuid() == 0:
        os.seteuid(OTHER_USER)
        try:
            file = path.open()
        except PermissionError:
            return []
        finally:
            os.seteuid(0)
    elif path.stat().st_mode & stat.S_IROTH and path.parent.stat().st_mode & stat.S_IXOTH:
        file = path.open()
    else:
        return []
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return [file]
