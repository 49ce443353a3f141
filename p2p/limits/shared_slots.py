"""A bounded number of slots that all peers share: when none is free, the owner with most loses one. Pure.

If slots were kept for as long as wanted, a stranger could take all of them and hold them. So a newcomer always gets
one, and of the items of the owners with most slots, the oldest loses its slot. An owner is an IP address, where one is
known, since keys are free.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from chain.collections import SparseCounter
from p2p.addresses import get_quota_prefix, parse_host
from p2p.network import Network

Item = TypeVar("Item", bound=Hashable)


def get_slot_owner(network: Network, peer: bytes) -> bytes:
    """What a peer's slots count against: its IP address (of IPv6 the /64), or its key if that is not known."""
    host = network.get_remote_host(peer)
    return peer if host is None else get_quota_prefix(parse_host(host))


class SharedSlots(Generic[Item]):
    """The items that have one of ``size`` slots, in the order in which they were put."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._owners: dict[Item, bytes] = {}
        self._counts: SparseCounter[bytes] = SparseCounter()

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._owners)

    def put(self, item: Item, owner: bytes) -> Item | None:
        """Give ``item`` a slot, or make it the latest. Returns the item that loses its slot for that, if any."""
        self.discard(item)
        self._owners[item] = owner
        self._counts[owner] += 1
        if len(self._owners) <= self._size:
            return None
        most = max(self._counts.values())
        loser = next(one for one, its_owner in self._owners.items() if self._counts[its_owner] == most)
        self.discard(loser)
        return loser

    def discard(self, item: Item) -> None:
        """Free the slot of ``item``, if it has one."""
        owner = self._owners.pop(item, None)
        if owner is not None:
            self._counts[owner] -= 1
