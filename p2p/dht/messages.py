"""The messages of ``/ipfs/kad/1.0.0`` as protobuf, and what is read from those of strangers.

All else in a message is dropped: values, signed peer records, peers whose key is no Ed25519 account, and all addresses
but those of TCP ports at an IP address, directly or through one relay. Names of hosts are not resolved for strangers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

from libp2p.kad_dht.pb import kademlia_pb2 as pb
from multiaddr import Multiaddr

from chain.crypto import format_address
from p2p.addresses import format_circuit_address, format_endpoint, get_endpoint, parse_circuit_address
from p2p.dht.kademlia import MAX_ADDRESSES_PER_PEER, MAX_PROVIDERS, K, Kind, Message, PeerInfo
from p2p.length_prefixed import MalformedMessage
from p2p.peer_id import peer_id_of, public_key_of

DHT_PROTOCOL = "/ipfs/kad/1.0.0"
"""Name of the protocol, as all of libp2p has it."""
WireMessage = pb.Message
MAX_DHT_MESSAGE_BYTES = 1 << 16
"""Largest message that is accepted."""
MAX_PARSED_ADDRESSES = 8
"""Addresses of a peer that are parsed to find usable ones."""
MAX_DHT_ADDRESS_BYTES = 256
"""Longest address that is read."""
CACHED_ADDRESSES = 4096
"""Addresses whose other form is cached: the same come again and again, and the library takes 0.1 ms for one."""


def encode(message: Message) -> pb.Message:
    """The message as the library sends it."""
    return pb.Message(
        type=message.kind.name,
        key=message.key,
        closerPeers=[_encode_peer_info(info) for info in message.closer],
        providerPeers=[_encode_peer_info(info) for info in message.providers],
    )


def decode_request(message: pb.Message, sender: bytes) -> Message:
    """The usable part of a request; of the providers in it, only ``sender``.

    Raises:
        MalformedMessage: it is of no known kind.
    """
    name = peer_id_of(sender).to_bytes()
    own = next((one for one in message.providerPeers if one.id == name), None)
    return Message(_get_kind(message), message.key, providers=() if own is None else _decode_peer_infos([own]))


def decode_response(message: pb.Message) -> Message:
    """The usable part of a response.

    Raises:
        MalformedMessage: it is of no known kind.
    """
    closer, providers = message.closerPeers[:K], message.providerPeers[:MAX_PROVIDERS]
    return Message(_get_kind(message), message.key, _decode_peer_infos(closer), _decode_peer_infos(providers))


def _get_kind(message: pb.Message) -> Kind:
    try:
        return Kind(message.type)
    except ValueError:
        raise MalformedMessage(f"a message of the unknown kind {message.type}") from None


def clean_address(address: str, peer: bytes) -> str | None:
    """A multiaddress of ``peer`` without ``/p2p/<peer>`` at the end; None if it is of no use."""
    try:
        address = address.removesuffix(f"/p2p/{format_address(peer)}")
        circuit = parse_circuit_address(address)
        direct = address if circuit is None else circuit[1]
        host, port = get_endpoint(direct)
        usable = format_endpoint(host, port)
    except ValueError:
        return None
    if usable != direct or not port or ip_address(host).is_unspecified or ip_address(host).is_multicast:
        return None
    return usable if circuit is None else format_circuit_address(circuit[0], usable)


def _encode_peer_info(info: PeerInfo) -> pb.Message.Peer:
    """Of the addresses, those that :func:`clean_address` would take."""
    usable = (_encode_address(address, info.peer) for address in info.addresses)
    return pb.Message.Peer(
        id=peer_id_of(info.peer).to_bytes(),
        addrs=[address for address in usable if address is not None][:MAX_ADDRESSES_PER_PEER],
        connection=pb.Message.CAN_CONNECT,
    )


def _decode_peer_infos(peers: Iterable[pb.Message.Peer]) -> tuple[PeerInfo, ...]:
    infos: dict[bytes, PeerInfo] = {}
    for one in peers:
        peer = public_key_of(one.id)
        if peer is not None and peer not in infos:
            short = [raw for raw in one.addrs[:MAX_PARSED_ADDRESSES] if len(raw) <= MAX_DHT_ADDRESS_BYTES]
            usable = dict.fromkeys(address for raw in short if (address := _decode_address(raw, peer)) is not None)
            infos[peer] = PeerInfo(peer, tuple(usable)[:MAX_ADDRESSES_PER_PEER])
    return tuple(infos.values())


@lru_cache(maxsize=CACHED_ADDRESSES)
def _encode_address(address: str, peer: bytes) -> bytes | None:
    usable = clean_address(address, peer)
    return None if usable is None else Multiaddr(usable).to_bytes()


@lru_cache(maxsize=CACHED_ADDRESSES)
def _decode_address(raw: bytes, peer: bytes) -> str | None:
    try:
        return clean_address(str(Multiaddr(raw)), peer)
    except Exception:  # its parsers raise anything, and these bytes are a stranger's
        return None
