"""The wallet: signs this account's nonce-bearing operations, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import trio

from chain.crypto import KeyPair
from chain.types.operations import NoncedOperation, SignedOperation, sign_operation
from consensus.engine import Engine
from consensus.mempool.pool import MAX_UNREADY_WAIT_S

FORGET_AFTER_S = MAX_UNREADY_WAIT_S
"""Seconds after which an operation that is not final counts as dropped, and its nonce is free."""


class Wallet:
    """Gives each operation the account's next nonce, after those of operations that are not final yet."""

    def __init__(self, key: KeyPair, engine: Engine) -> None:
        self._key = key
        self._engine = engine
        self._lock = trio.Lock()
        self._next = 0
        self._used_at = float("-inf")

    async def submit(self, make: Callable[[int], NoncedOperation]) -> SignedOperation:
        """Sign and submit ``make(nonce)``.

        Raises:
            InvalidOperation: refused; the nonce stays free.
        """
        async with self._lock:
            now, nonce = trio.current_time(), self._engine.state.account(self._key.public_key).nonce
            if now - self._used_at < FORGET_AFTER_S:
                nonce = max(nonce, self._next)
            signed = sign_operation(self._key, self._engine.genesis.chain_id, make(nonce))
            await self._engine.submit(signed)
            self._next, self._used_at = nonce + 1, now
            return signed
