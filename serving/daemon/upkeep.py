"""What a node on a real disk does beside its work: it looks for damage, indexes accounts, and ends with its parent."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from chain.exceptions import StoreDamaged
from chain.store.writer import ChainStore
from consensus.voting.disk import DataDisk

DAMAGE_CHECK_INTERVAL_S = 1.0
"""How often a node looks whether damage to its database was found."""
ORPHAN_PATIENCE_S = 8.0
"""How long a node may take to stop in order when the process that it belongs to has gone."""
INDEX_PAUSE_S = 0.02
"""Pause between two parts of the index of accounts, so that agreement comes first."""
INDEX_INTERVAL_S = 0.5
"""How often a node looks whether its index of accounts is complete: so far the index may be behind the chain."""


@contextmanager
def noting_damage(disk: DataDisk) -> Iterator[None]:
    """Note damage to the database on disk when the node ends, so that the next start repairs it."""
    try:
        yield
    except BaseException as error:
        damage = _find_damage(error)
        if damage is not None:
            disk.note_fault(damage)
        raise
    finally:
        if disk.fault is not None:
            disk.note_fault(disk.fault)


def _find_damage(error: BaseException) -> StoreDamaged | None:
    """The damage to the database that ``error`` is or contains, if it does."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := _find_damage(part)) is not None), None)
    return error if isinstance(error, StoreDamaged) else None


async def watch_disk(disk: DataDisk) -> None:
    """End the node once damage to the database was found. It may have been found while a peer was answered.

    Raises:
        StoreDamaged: the damage.
    """
    while disk.fault is None:
        await trio.sleep(DAMAGE_CHECK_INTERVAL_S)
    raise disk.fault


async def keep_index(blocks: ChainStore) -> None:
    """Index the accounts of blocks from before there was an index, and of those that come in."""
    while True:
        is_behind = not blocks.is_index_complete and await trio.to_thread.run_sync(blocks.extend_index)
        await trio.sleep(INDEX_PAUSE_S if is_behind else INDEX_INTERVAL_S)


async def stop_with_parent() -> None:
    """Send this process the signal to stop when standard input ends, and end it by force if that takes too long.

    No other process is left to do that. The kernel does it, because a stopping model server may hang in native code,
    where no Python thread runs any more. The files of a node are consistent at any moment.
    """
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        while await stream.receive_some():
            pass
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, ORPHAN_PATIENCE_S)
    os.kill(os.getpid(), signal.SIGTERM)
