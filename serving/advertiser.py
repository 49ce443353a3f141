"""The advertiser: keeps this node's announcement in step with the backends that are alive and with their load."""

from __future__ import annotations

import trio

from p2p.discovery.service import Discovery
from p2p.peers.announcement import PeerLoad
from serving.scheduling.backend_pool import BackendPool

LOAD_READ_INTERVAL_S = 0.5
"""Seconds between reads of the backends; discovery announces what changed."""


class Advertiser:
    """Tells discovery which models this node serves, and how busy it is."""

    def __init__(self, discovery: Discovery, backend_pool: BackendPool) -> None:
        self._discovery = discovery
        self._backend_pool = backend_pool

    async def run(self) -> None:
        """Advertise until cancelled."""
        while True:
            self._discovery.update(models=self._backend_pool.get_models(), load=self._get_load())
            await trio.sleep(LOAD_READ_INTERVAL_S)

    def _get_load(self) -> PeerLoad:
        admissions = self._backend_pool.admissions
        capacity = sum(admission.capacity for admission in admissions)
        running = sum(admission.running for admission in admissions)
        waiting = sum(admission.total_waiting for admission in admissions)
        if not capacity:
            return PeerLoad(0, 0, 1000)
        return PeerLoad(running, waiting, min(1000, round(1000 * (running + waiting) / capacity)))
