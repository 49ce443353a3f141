"""Advertiser: what this node tells the others of itself, and the standing it keeps on the ledger.

The announcement carries models and load; the ledger carries the bond and the models that the bond stands behind. Both
follow the owner's configuration and the backends that are alive.
"""

from __future__ import annotations

import structlog
import trio

from chain.crypto import KeyPair
from chain.exceptions import InvalidOperation
from chain.types.operations import MAX_MODELS, Bond, Serve
from consensus.engine import Engine
from p2p.discovery.service import Discovery
from p2p.peers.announcement import PeerLoad
from serving.accounting.wallet import Wallet
from serving.scheduling.backend_pool import BackendPool

log = structlog.get_logger(__name__)

ANNOUNCE_INTERVAL_S = 0.5
STAKE_INTERVAL_S = 5.0
OPERATION_TIMEOUT_S = 60.0
"""Seconds; ``OPERATION_TIMEOUT_S`` is how long to wait for one operation before trying again."""


class Advertiser:
    """Keeps announcement and ledger in step with the node.

    ``stake`` is the bond to reach, in micro-credits; None leaves the bond alone.
    """

    def __init__(
        self,
        key: KeyPair,
        engine: Engine,
        discovery: Discovery,
        services: BackendPool,
        wallet: Wallet,
        stake: int | None = None,
    ) -> None:
        self._key = key
        self._engine = engine
        self._discovery = discovery
        self._services = services
        self._wallet = wallet
        self._stake = stake

    async def run(self) -> None:
        """Announce and keep the standing until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce)
            nursery.start_soon(self._keep_standing)

    async def _announce(self) -> None:
        while True:
            self._discovery.update(models=await self._services.get_models(), load=self._get_load())
            await trio.sleep(ANNOUNCE_INTERVAL_S)

    def _get_load(self) -> PeerLoad:
        admissions = self._services.admissions
        capacity = sum(admission.capacity for admission in admissions)
        running = sum(admission.running for admission in admissions)
        waiting = sum(admission.total_waiting for admission in admissions)
        if not capacity:
            return PeerLoad(0, 0, 1000)
        return PeerLoad(running, waiting, min(1000, round(1000 * (running + waiting) / capacity)))

    async def _keep_standing(self) -> None:
        while True:
            await trio.sleep(STAKE_INTERVAL_S)
            account = self._engine.state.account(self._key.public_key)
            models = (await self._services.get_models())[:MAX_MODELS]
            missing = 0 if self._stake is None else self._stake - account.bonded
            try:
                if 0 < missing <= account.available:
                    await self._submit_bond(missing)
                if models and models != account.models and account.bonded + max(0, missing):
                    await self._submit_models(models)
            except InvalidOperation as error:
                log.warning("standing not kept", reason=str(error))

    async def _submit_bond(self, amount: int) -> None:
        signed = await self._wallet.submit(lambda nonce: Bond(nonce, amount))
        await self._wait(signed.id)

    async def _submit_models(self, models: tuple[str, ...]) -> None:
        """Declare the models that this node serves now. A backend that is down for a while changes nothing here."""
        signed = await self._wallet.submit(lambda nonce: Serve(nonce, models))
        await self._wait(signed.id)

    async def _wait(self, operation_id: bytes) -> None:
        try:
            await self._engine.wait_final(operation_id, OPERATION_TIMEOUT_S)
        except trio.TooSlowError:
            log.warning("operation not final in time", operation=operation_id.hex()[:16])
