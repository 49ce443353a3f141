"""Operations and headers as JSON."""

from __future__ import annotations

from typing import Any

from chain.crypto import format_address
from chain.json_form import to_plain
from chain.types.blocks import Header
from chain.types.operations import SignedOperation


def operation_to_plain(signed: SignedOperation) -> dict[str, Any]:
    """A signed operation as JSON."""
    return {
        "id": signed.id.hex(),
        "kind": type(signed.operation).__name__.lower(),
        "signer": format_address(signed.signer),
        **to_plain(signed.operation),
    }


def header_to_plain(header: Header) -> dict[str, Any]:
    """Which block a header is of, as JSON."""
    return {
        "height": header.height,
        "block_id": header.id.hex(),
        "epoch": header.epoch,
        "timestamp": header.timestamp,
    }
