"""Multiaddresses, subnets and endpoints: everything that is read out of the text of an address. Pure.

A multiaddress says where a node can be dialled. Three forms are used:

- of a TCP port: ``/ip4/192.0.2.1/tcp/4001``;
- a *peer address*, as in a list of bootstrap peers: the same with ``/p2p/<peer>`` behind it;
- of a *circuit*, for a node behind a relay: ``/ip4/…/tcp/…/p2p/<relay>/p2p-circuit``.

Addresses stay strings: the library's ``Multiaddr`` takes 0.1 ms to parse one, and peers announce thousands.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from enum import IntEnum
from functools import lru_cache
from typing import Protocol

from chain.crypto import format_address, parse_address
from chain.exceptions import KeyFormatError

CIRCUIT = "/p2p-circuit"
"""What turns a relay's address into that of a peer behind it."""
NAME_PROTOCOLS = ("dns", "dns4", "dns6")
"""The protocols of an address that begins with the name of a host and can be dialled."""

Endpoint = tuple[str, int]
"""Host (an IP address or a name) and TCP port."""


class Located(Protocol):
    """Anything that says where a peer is, such as an announcement."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it can be dialled directly."""

    @property
    def relays(self) -> tuple[str, ...]:
        """Addresses of relays, each with ``/p2p/<relay>`` behind it, that lead to it."""


# The addresses of a peer


def get_addresses(known: Located | None, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Where a peer can be dialled, each address once: ``more``, direct ones, and through the relays that it names."""
    announced = () if known is None else known.addresses + tuple(relay + CIRCUIT for relay in known.relays)
    return tuple(dict.fromkeys(more + announced))


def get_direct(addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of a peer's addresses that lead to it without a relay."""
    return tuple(address for address in addresses if not address.endswith(CIRCUIT))


def get_relays(addresses: Iterable[str]) -> frozenset[bytes]:
    """The relays that circuits to these addresses run through, as public keys."""
    relays = set()
    for address in addresses:
        with suppress(KeyFormatError):
            if address.endswith(CIRCUIT):
                relays.add(parse_address(address.removesuffix(CIRCUIT).rpartition("/p2p/")[2]))
    return frozenset(relays)


def parse_circuit_address(address: str) -> tuple[bytes, str] | None:
    """Relay and direct address of the relay, from ``<address>/p2p/<relay>/p2p-circuit``; None if it is not a circuit's.

    What may follow (``/p2p/<peer>``) is left out.

    Raises:
        ValueError: a circuit's address, but malformed, or through more than one relay.
    """
    before, separator, rest = address.partition(CIRCUIT)
    if not separator:
        return None
    direct, _, relay = before.rpartition("/p2p/")
    try:
        if not direct or "/p2p/" in direct or CIRCUIT in rest:
            raise ValueError
        return parse_address(relay), direct
    except (ValueError, KeyFormatError):
        raise ValueError(f"{address} is not the address of a circuit through one relay") from None


def format_circuit_address(relay: bytes, address: str) -> str:
    """The address of circuits through ``relay``, which is dialled at ``address``."""
    return f"{address}/p2p/{format_address(relay)}{CIRCUIT}"


# Endpoints


def get_endpoint(address: str) -> Endpoint:
    """Host and port of ``/ip4/…/tcp/…``, whatever follows; the host may be a name (``dns``, ``dns4``, ``dns6``).

    Raises:
        ValueError: there is no host or no TCP port in front, or the address leads on through a relay.
    """
    parts = address.split("/")
    if "p2p-circuit" in parts or len(parts) < 5 or parts[3] != "tcp" or not parts[4].isdigit():
        raise ValueError(f"{address} is not the address of a TCP port")
    _, kind, host, _, port = parts[:5]
    if int(port) > 65535:
        raise ValueError(f"{address} is not the address of a TCP port")
    if kind in ("ip4", "ip6"):
        return str(_parse_ip(kind, host)), int(port)
    if kind not in NAME_PROTOCOLS:
        raise ValueError(f"{address} is not the address of a TCP port")
    return host.lower().rstrip("."), int(port)


def format_endpoint(host: str, port: int) -> str:
    """The multiaddress of a TCP port at an IP address.

    Raises:
        ValueError: ``host`` is not an IP address.
    """
    return f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}"


def get_ip_address(address: str) -> str | None:
    """The IP address that a multiaddress begins with; None if it begins with something else."""
    parts = address.split("/")
    return parts[2] if len(parts) > 2 and parts[1] in ("ip4", "ip6") and is_ip_address(parts[2]) else None


def is_ip_address(host: str) -> bool:
    """Whether ``host`` is an IP address and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def parse_host(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IP address; one of IPv4 that is mapped into IPv6 as what it is.

    Raises:
        ValueError: ``host`` is not an IP address.
    """
    address = ipaddress.ip_address(host)
    return getattr(address, "ipv4_mapped", None) or address


def get_quota_prefix(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """What connections from an address are counted by: an IPv4 address, or the /64 of an IPv6 one, which is a site."""
    return address.packed if address.version == 4 else address.packed[:8]


def _parse_ip(kind: str, host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if "%" in host:  # the zone of a link-local address means something on one machine only
        raise ValueError(f"{host!r} is not an IPv{kind[2]} address")
    try:
        return (ipaddress.IPv4Address if kind == "ip4" else ipaddress.IPv6Address)(host)
    except ValueError:
        raise ValueError(f"{host!r} is not an IPv{kind[2]} address") from None


# Subnets


def get_subnet(host: str) -> str:
    """The subnet of an IP address: its /16, or its /32 for IPv6. Addresses of one are likely in one hand."""
    address = ipaddress.ip_address(host)
    return str(ipaddress.ip_network((address, 16 if address.version == 4 else 32), strict=False))


def get_subnets(addresses: Collection[str]) -> frozenset[str]:
    """The subnets of all these multiaddresses; names share one, since they cost nothing."""
    return frozenset(map(_get_subnet_of, addresses))


def get_first_subnet(addresses: Collection[str]) -> str:
    """The subnet of the first address, as :func:`get_subnets` has it; empty without an address."""
    return next(map(_get_subnet_of, addresses), "")


@lru_cache(maxsize=16384)
def _get_subnet_of(address: str) -> str:
    parts = address.split("/")
    if len(parts) > 2 and parts[1] in (*NAME_PROTOCOLS, "dnsaddr"):
        return "names"
    host = get_ip_address(address)
    return address if host is None else get_subnet(host)


# From where an address can be dialled


class Reach(IntEnum):
    """From where an address can be dialled."""

    MACHINE = 0
    LOCAL_NETWORK = 1
    ANYWHERE = 2


@lru_cache(maxsize=16384)
def get_reach(address: str) -> Reach:
    """From where a multiaddress can be dialled; a name may stand for any host, so it counts for this machine only."""
    parts = address.split("/")
    try:
        host = parse_host(parts[2])
    except (IndexError, ValueError):
        return Reach.MACHINE
    if host.is_global and not host.is_multicast:
        return Reach.ANYWHERE
    return Reach.MACHINE if host.is_loopback or host.is_unspecified else Reach.LOCAL_NETWORK


def get_scope(addresses: Iterable[str]) -> Reach:
    """How far the network of a node reaches, by the node's own ``addresses`` and those that its owner names.

    A name may stand for any host, so it does not count. Without another address it is :attr:`Reach.ANYWHERE`.
    """
    return max((get_reach(address) for address in addresses if get_ip_address(address)), default=Reach.ANYWHERE)


@lru_cache(maxsize=16384)
def is_in_scope(address: str, scope: Reach) -> bool:
    """Whether a node in a network of this scope may dial a multiaddress that a stranger names.

    A public node has no business at an address of its own machine or local network, and no node at one that is not of
    a single host. What has no IP address in front has no scope: a name is looked at when it is resolved.
    """
    host = get_ip_address(address)
    if host is None:
        return True
    ip = parse_host(host)
    is_one_host = not (ip.is_multicast or ip.is_link_local or ip.is_unspecified or (ip.version == 4 and ip.is_reserved))
    return is_one_host and get_reach(address) >= scope


def is_local(host: str) -> bool:
    """Whether an IP address means something in its own network only.

    Raises:
        ValueError: ``host`` is not an IP address.
    """
    address = ipaddress.ip_address(host)
    return any(address.version == network.version and address in network for network in _LOCAL)


def is_local_address(address: str) -> bool:
    """Whether a multiaddress, or that of the relay in it, means something in its own network only."""
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return False
    return not is_ip_address(parts[2]) or is_local(parts[2])


_LOCAL = [
    ipaddress.ip_network(block)
    for block in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
]


# Addresses that users write


def check_address(address: str) -> str:
    """Check the multiaddress of a TCP port: ``/ip4/…/tcp/…``, or with ``ip6``, ``dns``, ``dns4`` or ``dns6``.

    Raises:
        ValueError: it is not one; the message says why.
    """
    parts = address.split("/")
    if len(parts) != 5 or parts[0] or parts[3] != "tcp":
        raise ValueError(f"expected an address like /ip4/0.0.0.0/tcp/4001, got {address!r}")
    _, kind, host, _, port = parts
    if kind in ("ip4", "ip6"):
        _parse_ip(kind, host)
    elif kind not in NAME_PROTOCOLS:
        raise ValueError(f"/{kind} is not supported, only ip4, ip6, dns, dns4 and dns6 are")
    elif not re.fullmatch(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", host):
        raise ValueError(f"{host!r} is not a host name")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"the port must be a number from 0 to 65535, got {port!r}")
    return address


def check_listen_address(address: str) -> str:
    """As :func:`check_address`; a node listens on addresses, not on names.

    Raises:
        ValueError: it is not one.
    """
    if check_address(address).startswith("/dns"):
        raise ValueError(f"{address!r} names a host; listening takes an ip4 or ip6 address (0.0.0.0 for all)")
    return address


def check_dialable_address(address: str) -> str:
    """Check with :func:`check_address`, and that other nodes can dial the address.

    Raises:
        ValueError: it is malformed, or other nodes cannot dial it.
    """
    host, port = check_address(address).split("/")[2:5:2]
    if not int(port) or host in ("0.0.0.0", "::"):
        raise ValueError(f"others cannot dial {address}: name the host and port at which they can")
    return address


def parse_peer_address(address: str) -> tuple[bytes, str]:
    """Split ``/ip4/…/tcp/…/p2p/12D3KooW…`` into the peer's public key and the multiaddress without it.

    Raises:
        ValueError: it is not such an address.
    """
    direct, separator, peer = address.rpartition("/p2p/")
    if not separator:
        raise ValueError(f"the address must end with /p2p/12D3KooW…, the key of the peer; got {address!r}")
    check_dialable_address(direct)
    try:
        return parse_address(peer), direct
    except KeyFormatError as error:
        raise ValueError(str(error)) from None


def parse_proxy(text: str) -> Endpoint:
    """Host and port of ``HOST:PORT`` (``[ADDRESS]:PORT`` for IPv6).

    Raises:
        ValueError: it is something else.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]{1,253})):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) <= 65535:
        raise ValueError(f"expected HOST:PORT, such as 127.0.0.1:9050, got {text!r}")
    if match[1]:
        _parse_ip("ip6", match[1])
    host = match[1] or match[2]
    return ("127.0.0.1" if host == "localhost" else host), int(match[3])
