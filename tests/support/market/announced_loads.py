"""What the gateway of a market in memory believes that executors announce of their load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from p2p.peers.announcement import Announcement, ModelLoad, PeerLoad
from tests.support.market_world import MODEL, World

ALL_FEATURES = 255
"""Every feature."""
LIE = ModelLoad(MODEL, 0, 0, 1_000_000, 10**9, 10**9, 2**31, ALL_FEATURES)
"""Of one that claims to be as fast as can be said, without end and able to do everything."""


def announce(world: World, **loads: ModelLoad | None) -> None:
    """Have the gateway believe that member ``m1`` and others announce these loads; None: nothing."""
    originator = world.gateway.originator
    find = originator._dialer.find
    said = {world.members[int(name[1:])].public_key: load for name, load in loads.items()}
    known = {peer: PeerLoad(() if load is None else (load,)) for peer, load in said.items()}

    def find_loaded(peer: bytes) -> Announcement | None:
        announcement = find(peer)
        return replace(announcement, load=known[peer]) if announcement is not None and peer in known else announcement

    originator._dialer = originator.directory._dialer = replace(originator._dialer, find=find_loaded)


def make_load(running: int = 0, waiting: int = 0, rate: float = 30.0, **changes: Any) -> ModelLoad:
    """The load of a member with four slots; ``rate``: tokens per second of one stream."""
    features = {"features": ALL_FEATURES, **changes}
    return ModelLoad(MODEL, running, waiting, 4, 2_000_000, round(1000 * rate), **features)
