"""Kademlia: ids, distances and messages of libp2p's DHT (``/ipfs/kad/1.0.0``). No I/O, no clock.

Every node and every key has an *id*, a hash; the distance of two ids is their exclusive or, as a number. A *provider*
of a key has a record at the :data:`K` servers nearest to the key. Three modules use this one: a
:class:`~p2p.dht.lookup.Lookup` finds those servers, a :class:`~p2p.dht.routing_table.RoutingTable` remembers servers,
and a :class:`~p2p.dht.provider_store.ProviderStore` keeps the records of others.

Why the library's ``KadDHT`` is not used:

- It announces ``host.get_addrs()``, which must stay empty here, and dials by ``host.new_stream`` any address that a
  peer has named; it keeps those connections and addresses.
- It accepts 4 MiB a message, up to 50,000 values of 1 MiB, and providers of any number of keys. It records what third
  parties say of a provider and passes it on, and keeps the first 20 providers of a key for 48 hours.
- It asks no server once it has one record itself, and looks up something in every bucket every ten minutes.
- It reads the wall clock, so no simulation can run it.

Its protobuf messages are used (:mod:`p2p.dht.messages`).

Source: Maymounkov and Mazières, "Kademlia: A Peer-to-peer Information System Based on the XOR Metric" (2002), and
libp2p's specification "Kademlia DHT".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from chain.crypto import PEER_ID_PREFIX
from p2p.addresses import is_local_address

RENDEZVOUS_DOMAIN = b"wwwserve rendezvous 1"
"""Prefix of the chain id in the hash that is the key of the chain."""
SHA2_256 = bytes([0x12, 32])
"""What a multihash of SHA-256 begins with."""

K = 20
"""Servers that keep a record, and that a response names."""
MAX_PROVIDERS = 64
"""Providers that are read from a response, and that a lookup returns."""
MAX_ADDRESSES_PER_PEER = 4
"""Addresses of one peer that are read from one response; a lookup returns up to twice as many of a provider."""
MIN_KEY_BYTES = 2
"""Length of the shortest key."""
MAX_DHT_KEY_BYTES = 80
"""Length of the longest key."""


class Kind(IntEnum):
    """What a message is; the numbers are those on the wire."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A peer and where it can be dialled (multiaddresses without the /p2p part)."""

    peer: bytes
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response."""

    kind: Kind
    key: bytes = b""
    closer: tuple[PeerInfo, ...] = ()
    providers: tuple[PeerInfo, ...] = ()


def get_provider_key(chain_id: bytes) -> bytes:
    """The key that the nodes of a chain provide: a multihash."""
    return SHA2_256 + hashlib.sha256(RENDEZVOUS_DOMAIN + chain_id).digest()


def get_dht_id(name: bytes) -> int:
    """The id of a key, or of a peer by the bytes of its peer id."""
    return int.from_bytes(hashlib.sha256(name).digest(), "big")


def get_peer_dht_id(peer: bytes) -> int:
    """The id of a peer by its public key."""
    return get_dht_id(PEER_ID_PREFIX + peer)


@lru_cache(maxsize=4096)
def drop_local(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of the addresses that mean something outside of one network."""
    return tuple(address for address in addresses if not is_local_address(address))
