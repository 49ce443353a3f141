"""Suspect messages: an observer's signed statement that a peer does not answer (SWIM's *suspect*).

A node that loses a peer and cannot reach it signs one, and it spreads like an announcement. It names the announcement
of the suspect that the observer holds, so the suspect, which receives it as all others do, refutes it by any newer
announcement. :mod:`p2p.peers.failure_detector` says how many observers it takes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

from chain import crypto
from chain.codec import Bounds, Natural, PublicKey, Record, Signature
from chain.exceptions import CodecError
from p2p.peers.announcement import Announcement

SUSPECT_DOMAIN = "accusation"
"""Domain of the signatures."""
MAX_SUSPECT_MESSAGE_BYTES = 256
"""Largest encoding, in bytes."""

EncodedSuspectMessage = Annotated[bytes, Bounds(1, MAX_SUSPECT_MESSAGE_BYTES)]


@dataclass(frozen=True, slots=True)
class SuspectMessage(Record):
    """``observer`` cannot reach ``suspect``, whose announcement it holds is of ``incarnation`` and ``sequence``."""

    suspect: PublicKey
    incarnation: Natural
    sequence: Natural
    observer: PublicKey
    signature: Signature

    def is_about(self, announcement: Announcement) -> bool:
        """Whether it names this announcement."""
        return (self.suspect, self.incarnation, self.sequence, False) == (
            announcement.peer,
            announcement.incarnation,
            announcement.sequence,
            announcement.leaving,
        )


def sign_suspect_message(key: crypto.KeyPair, chain_id: bytes, announcement: Announcement) -> SuspectMessage:
    """The statement of ``key``'s owner that the peer of ``announcement`` does not answer."""
    unsigned = SuspectMessage(
        announcement.peer, announcement.incarnation, announcement.sequence, key.public_key, bytes(64)
    )
    return replace(unsigned, signature=key.sign(SUSPECT_DOMAIN, chain_id, unsigned.encode()))


def parse_suspect_message(raw: bytes) -> SuspectMessage:
    """Decode a message without checking its signature.

    Raises:
        CodecError: malformed.
    """
    return SuspectMessage.decode(raw, MAX_SUSPECT_MESSAGE_BYTES)


@lru_cache(maxsize=1024)  # the same bytes come from several neighbours
def decode_suspect_message(raw: bytes, chain_id: bytes) -> SuspectMessage:
    """Decode a message and check its signature for this chain.

    Raises:
        CodecError: malformed or not signed by its observer.
    """
    message = parse_suspect_message(raw)
    signed = replace(message, signature=bytes(64)).encode()
    if not crypto.verify(message.observer, SUSPECT_DOMAIN, chain_id, signed, message.signature):
        raise CodecError("the suspect message is not signed by its observer")
    return message
