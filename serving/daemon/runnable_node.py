"""The parts of a node that a daemon runs and ends, beside those that its owner sees."""

from __future__ import annotations

from typing import Any, Protocol

import trio

from serving.admin.node_view import NodeView
from serving.failover.resent_requests import ResentRequests


class RunnableNode(NodeView, Protocol):
    """The parts of one node, as ``node.Node`` has them."""

    @property
    def resent(self) -> ResentRequests: ...
    @property
    def under_way(self) -> int:
        """Requests that are not answered yet."""

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Take part until cancelled; started once it can be asked."""

    def take_nothing_new(self, timeout_s: float) -> None:
        """Refuse requests and offers from now on; what is under way has ``timeout_s`` seconds to end."""

    async def drain(self) -> None:
        """Return once all requests under way are answered, and its earnings are final."""
