"""What consensus refuses that is not a block or an operation: messages of the committee, and responses of sync.

Broken blocks, certificates and operations raise the exceptions of :mod:`chain.exceptions`.
"""

from __future__ import annotations

from chain.exceptions import LedgerError


class InvalidMessage(LedgerError):
    """A vote, certificate or proposal that breaks a rule of agreement; ``field`` names the part at fault."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class ForgedMessage(InvalidMessage):
    """A message that is not signed by the validator it names: no honest peer sends or forwards one."""


class InvalidResponse(LedgerError):
    """A response on the sync protocol that no honest peer gives; its sender is not asked for a while."""
