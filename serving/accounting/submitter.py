"""Submitting operations that need no account nonce."""

from __future__ import annotations

import structlog

from chain.crypto import KeyPair
from chain.exceptions import InvalidOperation
from chain.types.operations import Operation, SignedOperation, sign_operation
from consensus.engine import Engine

log = structlog.get_logger(__name__)

RESUBMIT_DELAY_S = 20.0
"""Seconds until an operation that has not become final is submitted again."""


class Submitter:
    """Signs and submits; what the ledger refuses is logged."""

    def __init__(self, key: KeyPair, engine: Engine) -> None:
        self._key = key
        self._engine = engine

    async def submit(self, operation: Operation) -> bool:
        """Sign and submit. Returns whether the operation was taken."""
        signed = sign_operation(self._key, self._engine.genesis.chain_id, operation)
        self._engine.trust(signed)
        return await self.submit_signed(signed)

    async def submit_signed(self, signed: SignedOperation) -> bool:
        """Submit. Returns whether the operation was taken."""
        try:
            await self._engine.submit(signed)
        except InvalidOperation as error:
            log.info("operation refused", kind=type(signed.operation).__name__, reason=str(error))
            return False
        return True
