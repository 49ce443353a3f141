"""Public keys and peer ids."""

from __future__ import annotations

from p2p.peer_id import peer_id_of, public_key_of
from tests.support.keys import make_key


def test_keys_and_peer_ids_correspond() -> None:
    public_key = make_key(1).public_key
    assert public_key_of(peer_id_of(public_key)) == public_key
    assert str(peer_id_of(public_key)) == make_key(1).address
    assert public_key_of(b"") is public_key_of(peer_id_of(bytes(32)).to_bytes()) is None
