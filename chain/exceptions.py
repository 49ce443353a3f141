"""Everything the ledger refuses, as one small tree.

``InvalidBlock`` and ``InvalidOperation`` say that a block or an operation breaks a rule; both carry a reason for people
and, for a block, the name of the field at fault. ``StoreError`` says that the database cannot be trusted or opened.
"""

from __future__ import annotations


class LedgerError(Exception):
    """Root of every error of this package."""


class CodecError(LedgerError):
    """Bytes that are not the canonical encoding of the expected record, or a record that cannot be encoded."""


class JsonFormError(LedgerError):
    """A JSON object that is not the form of the expected record."""


class KeyFormatError(LedgerError):
    """A key or an address that is malformed or not a usable point of the curve."""


class GenesisError(LedgerError):
    """A genesis file that cannot be read or contradicts itself."""


class InvalidOperation(LedgerError):
    """An operation that cannot be included in a block on this state."""


class InvalidSignature(InvalidOperation):
    """The operation is not signed by the account it names."""


class InvalidNonce(InvalidOperation):
    """The account nonce is not the next one."""


class CannotPay(InvalidOperation):
    """The account cannot pay the fee or the amount."""


class InvalidBlock(LedgerError):
    """A block that breaks a rule; ``field`` names the part at fault."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidCertificate(InvalidBlock):
    """Signatures that do not carry the stake or the signers they claim."""

    def __init__(self, reason: str, field: str = "certificate") -> None:
        super().__init__(field, reason)


class ProofError(LedgerError):
    """A proof that does not show what it claims, or that cannot be made from what is there."""


class InvalidSnapshot(LedgerError):
    """A snapshot chunk that does not match the state root, or breaks the chunk format."""


class CheckpointError(LedgerError):
    """The trusted checkpoint cannot be used: too old, or not of this chain."""


class StoreError(LedgerError):
    """The database is damaged, belongs to another chain, or is in use by another process."""


class StoreDamaged(StoreError):
    """What the database holds is not what was written; ``fault`` says what was found."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault


class NotFound(StoreError):
    """The chain in the database has no such block, operation or epoch."""


class StoreInUse(StoreError):
    """Another process holds the database open."""


class RestartError(LedgerError):
    """A restart file is not one, or does not fit the chain here."""
