"""Tasks that outlive whoever starts them, and end with the part of the node that owns them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio


class OwnedTasks:
    """The tasks of one owner, who runs :meth:`run`."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    @property
    def are_running(self) -> bool:
        """Whether tasks can be started at present."""
        return self._nursery is not None

    def start_soon(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Start a task. Only while they :attr:`are_running`."""
        assert self._nursery is not None
        self._nursery.start_soon(function, *arguments)

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the tasks until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None
