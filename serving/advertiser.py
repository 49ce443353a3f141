"""The advertiser: keeps this node's announcement in step with the backends that are alive and with their load."""

from __future__ import annotations

import structlog
import trio

from p2p.discovery.service import Discovery
from p2p.peers.announcement import PeerLoad
from serving.scheduling.availability import AvailabilityGate
from serving.scheduling.backend_pool import BackendPool

log = structlog.get_logger(__name__)

LOAD_READ_INTERVAL_S = 0.5
"""Seconds between reads of the backends; discovery announces what changed."""


class Advertiser:
    """Tells discovery which models this node serves to others now, and how busy it is."""

    def __init__(self, discovery: Discovery, backend_pool: BackendPool, availability: AvailabilityGate) -> None:
        self._discovery = discovery
        self._backend_pool = backend_pool
        self._availability = availability
        self._was_open = True

    async def run(self) -> None:
        """Advertise until cancelled."""
        while True:
            self._discovery.update(models=self._get_offered_models(), load=self._get_load())
            await trio.sleep(LOAD_READ_INTERVAL_S)

    def _get_offered_models(self) -> tuple[str, ...]:
        """The models of the living backends that others may ask for now."""
        availability = self._availability.check()
        if availability.is_open != self._was_open:
            self._was_open = availability.is_open
            log.info("other nodes are served" if self._was_open else "no other node is served", why=availability.reason)
        return self._backend_pool.get_offered_models() if availability.is_open else ()

    def _get_load(self) -> PeerLoad:
        admissions = self._backend_pool.admissions
        capacity = sum(admission.capacity for admission in admissions)
        running = sum(admission.running for admission in admissions)
        waiting = sum(admission.total_waiting for admission in admissions)
        if not capacity:
            return PeerLoad(0, 0, 1000)
        return PeerLoad(running, waiting, min(1000, round(1000 * (running + waiting) / capacity)))
