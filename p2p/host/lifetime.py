"""What exists of a host only while it is on the network, and where the parts that outlive it find it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from p2p.host.gossip.pubsub import GuardedPubsub
from p2p.host.isolated import IsolatedDialer
from p2p.host.workarounds.host import GuardedHost
from p2p.host.workarounds.swarm import GuardedSwarm
from p2p.network import NetworkError


@dataclass(frozen=True, slots=True)
class RunningHost:
    """The library's objects. ``nursery`` ends with them."""

    host: GuardedHost
    pubsub: GuardedPubsub
    isolated_dialer: IsolatedDialer
    nursery: trio.Nursery


@dataclass(slots=True)
class Lifetime:
    """Holds the :class:`RunningHost` while there is one."""

    running: RunningHost | None = field(default=None)

    def get_running(self) -> RunningHost:
        """The running host.

        Raises:
            NetworkError: the node is not on the network.
        """
        if self.running is None:
            raise NetworkError("the node is not on the network")
        return self.running

    @property
    def swarm(self) -> GuardedSwarm:
        """The connections of the host.

        Raises:
            NetworkError: the node is not on the network.
        """
        swarm = self.get_running().host.get_network()
        assert isinstance(swarm, GuardedSwarm)
        return swarm

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run a task until it ends or the host does; nothing happens if the node is not on the network."""
        if self.running is not None:
            with suppress(RuntimeError):  # its last task has just ended: the nursery takes no more
                self.running.nursery.start_soon(function, *args)
