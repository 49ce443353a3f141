"""Peer ids of libp2p: the multihash of a public key. For Ed25519 it holds the key itself, behind a prefix."""

from __future__ import annotations

from libp2p.peer.id import ID

from chain.crypto import PEER_ID_PREFIX, is_valid_public_key


def peer_id_of(public_key: bytes) -> ID:
    """The peer id of a 32-byte Ed25519 public key."""
    return ID(PEER_ID_PREFIX + public_key)


def public_key_of(peer: ID | bytes) -> bytes | None:
    """The Ed25519 key inside a peer id, or None if it holds none or an unusable one."""
    raw = peer.to_bytes() if isinstance(peer, ID) else peer
    key = raw[len(PEER_ID_PREFIX) :]
    return key if raw.startswith(PEER_ID_PREFIX) and is_valid_public_key(key) else None
