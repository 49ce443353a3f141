"""The advertiser: keeps this node's announcement in step with the backends that are alive and with their load."""

from __future__ import annotations

import structlog
import trio
from msgspec.structs import replace

from p2p.discovery.service import Discovery
from p2p.peers.announcement import MAX_ANNOUNCED_MODELS, PeerLoad, is_model_name
from serving.prediction.announced_load import make_model_load
from serving.scheduling.availability import AvailabilityGate
from serving.scheduling.backend_pool import BackendPool

log = structlog.get_logger(__name__)

LOAD_READ_INTERVAL_S = 0.5
"""Seconds between reads of the backends; discovery announces what changed."""


class Advertiser:
    """Tells discovery which models this node serves to others now, how busy it is with each, and how fast."""

    def __init__(self, discovery: Discovery, backend_pool: BackendPool, availability: AvailabilityGate) -> None:
        self._discovery = discovery
        self._backend_pool = backend_pool
        self._availability = availability
        self._was_open = True

    async def run(self) -> None:
        """Advertise until cancelled."""
        while True:
            models = self._get_offered_models()
            self._discovery.update(models=models, load=self._get_load(models))
            await trio.sleep(LOAD_READ_INTERVAL_S)

    def _get_offered_models(self) -> tuple[str, ...]:
        """The models of the living backends that others may ask for now."""
        availability = self._availability.check()
        if availability.is_open != self._was_open:
            self._was_open = availability.is_open
            log.info("other nodes are served" if self._was_open else "no other node is served", why=availability.reason)
        return self._backend_pool.get_offered_models() if availability.is_open else ()

    def _get_load(self, models: tuple[str, ...]) -> PeerLoad:
        pool = self._backend_pool
        names = [model for model in models if is_model_name(model)][:MAX_ANNOUNCED_MODELS]
        return PeerLoad(
            tuple(
                make_model_load(model, replace(each.get_speed(model), number_formats=pool.get_number_formats(model)))
                for model in names
                if (each := pool.find(model))
            )
        )
