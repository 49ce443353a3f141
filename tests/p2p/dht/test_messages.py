"""What is read from the messages of strangers."""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb import kademlia_pb2 as pb
from multiaddr import Multiaddr

from p2p.dht.kademlia import (
    MAX_ADDRESSES_PER_PEER,
    K,
    Kind,
    Message,
    PeerInfo,
)
from p2p.dht.messages import MAX_DHT_MESSAGE_BYTES, clean_address, decode_request, decode_response, encode
from p2p.length_prefixed import MalformedMessage
from p2p.peer_id import peer_id_of
from tests.p2p.dht.servers import KEY
from tests.support.keys import make_key

PEER = make_key("peer")
RELAY = make_key("relay")


@pytest.mark.parametrize(
    ("address", "clean"),
    [
        ("/ip4/192.0.2.1/tcp/4001", "/ip4/192.0.2.1/tcp/4001"),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER.address}", "/ip4/192.0.2.1/tcp/4001"),
        ("/ip6/2001:db8::1/tcp/1", "/ip6/2001:db8::1/tcp/1"),
        (
            f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY.address}/p2p-circuit/p2p/{PEER.address}",
            f"/ip4/192.0.2.1/tcp/1/p2p/{RELAY.address}/p2p-circuit",
        ),
        (f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY.address}", None),
        ("/ip4/192.0.2.1/tcp/0", None),
        ("/ip4/0.0.0.0/tcp/1", None),
        ("/ip4/224.0.0.1/tcp/1", None),
        ("/ip4/192.0.2.1/udp/4001/quic-v1", None),
        ("/ip4/192.0.2.1/tcp/4001/ws", None),
        ("/dns4/example.org/tcp/4001", None),
        (f"/dns4/example.org/tcp/1/p2p/{RELAY.address}/p2p-circuit", None),
        ("/memory/1", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_addresses_that_are_taken(address: str, clean: str | None) -> None:
    assert clean_address(address, PEER.public_key) == clean


def test_messages_survive_the_wire() -> None:
    peer = PeerInfo(PEER.public_key, ("/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/1"))
    message = Message(Kind.GET_PROVIDERS, KEY, (peer,), (PeerInfo(RELAY.public_key, ()),))
    raw = encode(message).SerializeToString()
    assert decode_response(pb.Message.FromString(raw)) == message
    added = encode(Message(Kind.ADD_PROVIDER, KEY, providers=(peer,)))
    assert decode_request(added, PEER.public_key) == Message(Kind.ADD_PROVIDER, KEY, providers=(peer,))
    assert decode_request(added, RELAY.public_key).providers == (), "only the sender is provided for"


def test_of_a_message_only_what_is_usable_is_taken() -> None:
    rsa = bytes.fromhex("1220") + hashlib.sha256(b"rsa").digest()
    quic = Multiaddr("/ip4/192.0.2.1/udp/4001/quic-v1").to_bytes()
    tcp = [Multiaddr(f"/ip4/192.0.2.1/tcp/{port}").to_bytes() for port in range(1, 100)]
    name = peer_id_of(PEER.public_key).to_bytes()
    message = pb.Message(
        type=pb.Message.GET_PROVIDERS,
        closerPeers=[
            pb.Message.Peer(id=rsa, addrs=tcp),
            pb.Message.Peer(id=b"", addrs=tcp),
            pb.Message.Peer(id=peer_id_of(bytes(32)).to_bytes(), addrs=tcp),
            pb.Message.Peer(id=name, addrs=[b"\xff\xff", quic, *tcp]),
            pb.Message.Peer(id=name, addrs=tcp[5:6]),
        ],
    )
    taken = tuple(f"/ip4/192.0.2.1/tcp/{port}" for port in range(1, MAX_ADDRESSES_PER_PEER + 1))
    assert decode_response(message).closer == (PeerInfo(PEER.public_key, taken),)


@given(st.binary(max_size=400), st.binary(max_size=60), st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 9))
def test_whatever_strangers_send_is_read_or_refused(raw: bytes, name: bytes, addresses: list[bytes], kind: int) -> None:
    messages = [pb.Message(key=name, closerPeers=[pb.Message.Peer(id=name, addrs=addresses)])]
    ids = peer_id_of(PEER.public_key).to_bytes()
    messages.append(pb.Message(type=kind, providerPeers=[pb.Message.Peer(id=ids, addrs=addresses)]))  # type: ignore[arg-type]
    with suppress(Exception):
        messages.append(pb.Message.FromString(raw))
    for message in messages:
        for decode in (decode_response, lambda message: decode_request(message, PEER.public_key)):
            with suppress(MalformedMessage):
                decoded = decode(message)
                assert all(
                    len(one.addresses) <= MAX_ADDRESSES_PER_PEER for one in (*decoded.closer, *decoded.providers)
                )


def test_the_largest_answer_fits_a_message() -> None:
    circuit = f"/ip6/2001:db8:1111:2222:3333:4444:5555:6666/tcp/40001/p2p/{RELAY.address}/p2p-circuit"
    peers = deque(PeerInfo(make_key(number).public_key, (circuit,) * 4) for number in range(K + 33))
    answer = encode(Message(Kind.GET_PROVIDERS, KEY, tuple(peers)[:K], tuple(peers)[K:]))
    assert len(answer.SerializeToString()) < MAX_DHT_MESSAGE_BYTES
