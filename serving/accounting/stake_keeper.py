"""The stake keeper: keeps this node's bond and declared models as the configuration says."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from chain.amounts import format_credits
from chain.crypto import KeyPair
from chain.exceptions import InvalidOperation
from chain.transition.deposits import compute_models_due
from chain.types.checks import DeclaredIdentity
from chain.types.duels import DeclaredJudge
from chain.types.operations import MAX_MODELS, Bond, Serve
from consensus.engine import Engine
from p2p.peers.announcement import is_model_name
from serving.accounting.wallet import Wallet

log = structlog.get_logger(__name__)

STAKE_INTERVAL_S = 5.0
"""Seconds between reads of the account."""
OPERATION_TIMEOUT_S = 60.0
"""Seconds that an operation may take to become final before it is submitted again."""


class StakeKeeper:
    """Tops up the bond and declares models on the ledger.

    ``stake`` is the bond to reach, in micro-credits; None leaves the bond alone. ``get_models`` names the models that
    this node serves now, ``get_judge`` says how it judges (None if it does not), and ``get_identities`` what it
    declares of its models.
    """

    def __init__(
        self,
        key: KeyPair,
        engine: Engine,
        wallet: Wallet,
        get_models: Callable[[], tuple[str, ...]],
        stake: int | None = None,
        get_judge: Callable[[], DeclaredJudge | None] = lambda: None,
        get_identities: Callable[[], tuple[DeclaredIdentity, ...]] = lambda: (),
    ) -> None:
        self._key = key
        self._engine = engine
        self._wallet = wallet
        self._get_models = get_models
        self.stake = stake
        self._get_judge = get_judge
        self._get_identities = get_identities
        self._benched_until = 0
        """As far as that was logged."""

    async def run(self) -> None:
        """Keep the stake until cancelled."""
        while True:
            await trio.sleep(STAKE_INTERVAL_S)
            account = self._engine.state.account(self._key.public_key)
            # A backend that is down for a while changes nothing on the ledger.
            models = tuple(filter(is_model_name, self._get_models()))[:MAX_MODELS] or account.models
            judge = self._get_judge()
            identities = tuple(identity for identity in self._get_identities() if identity.model in models)
            if judge is not None and self._is_benched():
                judge = None
            missing = 0 if self.stake is None else self.stake - account.bonded
            try:
                if 0 < missing <= account.available:
                    await self._submit_bond(missing)
                declared = account.models, account.judge, account.identities
                is_declared = (models, judge, identities) == declared
                if not is_declared and (models or judge) and account.bonded + max(0, missing):
                    await self._submit_models(models, judge, identities)
            except InvalidOperation as error:
                log.warning("stake not kept", reason=str(error))

    def _is_benched(self) -> bool:
        """Whether the ledger refuses this node as a judge for a while, because its votes were found to be guesses."""
        until = self._engine.state.judge_record(self._key.public_key).benched_until
        is_benched = self._engine.header.chain_time < until
        if is_benched and until != self._benched_until:
            log.error("does not judge for a while: its votes differed when others repeated them", until=until)
        self._benched_until = until
        return is_benched

    async def _submit_bond(self, amount: int) -> None:
        signed = await self._wallet.submit(lambda nonce: Bond(nonce, amount))
        await self._wait(signed.id)

    async def _submit_models(
        self, models: tuple[str, ...], judge: DeclaredJudge | None, identities: tuple[DeclaredIdentity, ...]
    ) -> None:
        state, parameters = self._engine.state, self._engine.genesis.parameters
        due = compute_models_due(state, parameters, self._key.public_key, models, judge, identities)
        available = state.account(self._key.public_key).available
        if due > available:  # it would fail, and cost its fee each time
            need, have = format_credits(due), format_credits(available)
            log.warning("models not declared", reason=f"their deposit is {need} credits, and {have} are available")
            return
        signed = await self._wallet.submit(lambda nonce: Serve(nonce, models, judge, identities))
        await self._wait(signed.id)

    async def _wait(self, operation_id: bytes) -> None:
        try:
            await self._engine.wait_final(operation_id, OPERATION_TIMEOUT_S)
        except trio.TooSlowError:
            log.warning("operation not final in time", operation=operation_id.hex()[:16])
