"""Receipts: the payer's signature over a delivery, with which the payee may capture it at once."""

from __future__ import annotations

from chain.crypto import KeyPair
from chain.exceptions import InvalidSignature
from chain.transition.payments import check_receipt
from chain.types.operations import Delivery


def sign_receipt(key: KeyPair, chain_id: bytes, delivery: Delivery) -> bytes:
    """The payer's acceptance of a delivery."""
    return key.sign("receipt", chain_id, delivery.encode())


def is_receipt(payer: bytes, chain_id: bytes, delivery: Delivery, signature: bytes) -> bool:
    """Whether ``signature`` is the payer's acceptance of ``delivery``."""
    try:
        check_receipt(payer, chain_id, delivery, signature)
    except InvalidSignature:
        return False
    return True
