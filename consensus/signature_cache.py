"""Verdicts on signatures, so that none is checked twice. Pure.

A vote is checked when it arrives. The same signature comes again inside certificates, in the bodies of blocks, by
gossip and by sync. The memory is bounded; signatures that do not hold have a small one of their own, so that a flood of
them pushes nothing out. Signatures of operations are not kept here: the mempool knows which of them hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from chain import crypto

MAX_SIGNATURES = 16_384
"""Signatures that hold, remembered: several times what a block and its certificates stand on."""
MAX_FORGED_SIGNATURES = 1_024
"""Signatures that do not hold, remembered."""


class SignatureCache:
    """The verdicts on the signatures that were checked last."""

    def __init__(self, capacity: int = MAX_SIGNATURES) -> None:
        self._capacity = capacity
        self._valid: dict[crypto.SignatureCheck, None] = {}
        self._forged: dict[crypto.SignatureCheck, None] = {}

    def get(self, check: crypto.SignatureCheck) -> bool | None:
        """Whether a signature holds; None if it is not known. Safe in any thread."""
        if check in self._valid:
            return True
        return False if check in self._forged else None

    def add(self, verdicts: Mapping[crypto.SignatureCheck, bool]) -> None:
        """Remember verdicts, those on operations excepted."""
        for check, is_valid in verdicts.items():
            if check.domain == "operation":
                continue
            known, capacity = (self._valid, self._capacity) if is_valid else (self._forged, MAX_FORGED_SIGNATURES)
            known[check] = None
            if len(known) > capacity:
                del known[next(iter(known))]

    def verify(self, checks: Iterable[crypto.SignatureCheck]) -> bool:
        """Whether all signatures hold; checks here and now those that are not known."""
        verification = Verification(self)
        try:
            return verification.verify(checks)
        finally:
            self.add(verification.verdicts)


class TooManySignatures(Exception):
    """More signatures would have to be checked than may be here."""


class Verification:
    """Checks signatures that a cache does not know, in any thread; ``verdicts`` has what was found out.

    Raises TooManySignatures instead of checking more than ``most``.
    """

    def __init__(self, cache: SignatureCache, most: float = math.inf) -> None:
        self._cache = cache
        self.most = most
        self.verdicts: dict[crypto.SignatureCheck, bool] = {}

    def verify(self, checks: Iterable[crypto.SignatureCheck]) -> bool:
        """Whether all signatures hold. Stops at the first that does not."""
        return all(self._verify(check) for check in checks)

    def _verify(self, check: crypto.SignatureCheck) -> bool:
        known = self._cache.get(check)
        if known is None:
            known = self.verdicts.get(check)
        if known is None:
            if len(self.verdicts) >= self.most:
                raise TooManySignatures
            known = self.verdicts[check] = crypto.verify_all([check])
        return known
