"""Checking signatures in worker threads, so that the event loop does not wait for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar, TypeVarTuple

from chain import crypto
from consensus.signature_cache import SignatureCache, Verification
from p2p.runtime import Runtime

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
