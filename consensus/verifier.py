"""Checking signatures in worker threads, so that the event loop does not wait for more than a few."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar, TypeVarTuple

from chain import crypto
from consensus.signature_cache import SignatureCache, TooManySignatures, Verification
from p2p.runtime import Runtime

LOOP_SIGNATURES = 2
"""Signatures that are checked on the event loop: to hand them to a thread would take it as long."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SignatureVerifier:
    """Runs what checks signatures in worker threads, in front of one cache."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._cache = SignatureCache()

    def verify(self, checks: Iterable[crypto.SignatureCheck]) -> bool:
        """Whether all signatures hold. Blocks for those that no thread has checked before."""
        return self._cache.verify(checks)

    def is_quick(self, count: int) -> bool:
        """Whether ``count`` signatures are too few for a worker thread, and are checked on the event loop."""
        return count <= LOOP_SIGNATURES

    def trust(self, *checks: crypto.SignatureCheck) -> None:
        """Remember signatures that this node made itself."""
        self._cache.add(dict.fromkeys(checks, True))

    async def run(self, function: Callable[[crypto.Verify, *Ts], T], *args: *Ts) -> T:
        """Call ``function(verify, *args)`` in a worker thread and remember what ``verify`` found out there."""
        verification = Verification(self._cache)
        try:
            return await self._runtime.run_sync(function, verification.verify, *args)
        finally:
            self._cache.add(verification.verdicts)

    async def check(self, function: Callable[[crypto.Verify, *Ts], T], *args: *Ts) -> T:
        """As :meth:`run`, for a function that mostly checks signatures: on the loop, if few of them are unknown.

        Otherwise it is called once more in a thread, which does not repeat the checks made on the loop.
        """
        verification = Verification(self._cache, LOOP_SIGNATURES)
        try:
            return function(verification.verify, *args)
        except TooManySignatures:
            verification.most = math.inf
            return await self._runtime.run_sync(function, verification.verify, *args)
        finally:
            self._cache.add(verification.verdicts)
