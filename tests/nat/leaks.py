"""Finding addresses in what a node sends, and packets that go where they should not. Pure."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv6Address, ip_address

from tests.nat.box import Endpoint, Flow

_IP4 = b"\x04"
"""What precedes an IPv4 address in a multiaddress."""


def find_leaks(data: bytes, addresses: Iterable[str]) -> list[str]:
    """The spellings of any of ``addresses`` that occur in ``data``: as text and as bytes.

    Four bytes alone are found in random data at times (once in 4 GB), so they count only when they occur twice.
    """
    lowered = data.lower()
    found = []
    for address in addresses:
        found += [f"{text} ({address})" for text in _spell(address) if text.encode() in lowered]
        packed = ip_address(address).packed
        if len(packed) > 4 or _IP4 + packed in data or any(data.count(p) > 1 for p in (packed, packed[::-1])):
            found += [f"{packed.hex()} ({address})"] if packed in data or packed[::-1] in data else []
    return found


def _spell(address: str) -> Iterator[str]:
    parsed = ip_address(address)
    yield str(parsed)
    yield str(int(parsed))
    yield parsed.packed.hex()
    if isinstance(parsed, IPv6Address):
        yield parsed.exploded
    else:
        yield str(parsed).replace(".", "-")


def find_strays(flows: Iterable[Flow], allowed: Collection[Endpoint]) -> list[Flow]:
    """The packets that went, or tried to go, from a home to others than those in ``allowed``.

    What kernels do by themselves to find neighbours and groups in IPv6 is left out.
    """
    return [
        flow
        for flow in flows
        if flow.outbound
        and flow.target not in allowed
        and not (flow.protocol in _NEIGHBOURS and flow.target[0].startswith("ff02:"))
    ]


_NEIGHBOURS = (socket.IPPROTO_ICMPV6, socket.IPPROTO_HOPOPTS)
