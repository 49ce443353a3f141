"""How this node dials: TCP, directly or through a SOCKS5 proxy, to permitted addresses only.

Every outbound connection of the host is made by :class:`GuardedTCP`, whichever part of the node asks for it. An
anonymous node's :class:`DialRules` name the few addresses that may be dialled. They are checked directly before the
socket is made, so that no path leads around them. With a proxy no name is resolved and no address dialled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio
from libp2p.abc import IRawConnection
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp import tcp
from multiaddr import Multiaddr

from p2p.addresses import Endpoint, Reach, format_endpoint, get_endpoint, is_in_scope, is_ip_address
from p2p.host.transport.simultaneous_open import open_simultaneously
from p2p.host.transport.socks5 import ProxyError, dial_through

_FAMILIES = {"dns": trio.socket.AF_UNSPEC, "dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}
"""The versions of IP that an address with a name leads to."""


@dataclass(frozen=True, slots=True)
class DialRules:
    """What may be dialled, and how.

    ``allowed`` are the only endpoints that may be dialled; None allows all. ``proxy`` is the SOCKS5 server through
    which every connection is made; None dials directly. ``trusted`` are endpoints that the owner names: their host
    names may resolve to any address, other names only to one in the scope of the network.
    """

    allowed: frozenset[Endpoint] | None = None
    proxy: Endpoint | None = None
    trusted: frozenset[Endpoint] = frozenset()

    @classmethod
    def only(cls, addresses: Iterable[str], proxy: Endpoint | None = None) -> DialRules:
        """Rules that allow the multiaddresses in ``addresses`` and nothing else.

        Raises:
            ValueError: one of them is not the address of a TCP port.
        """
        endpoints = frozenset(get_endpoint(str(Multiaddr(address))) for address in addresses)
        return cls(endpoints, proxy, endpoints)

    @property
    def is_restricted(self) -> bool:
        """Whether only some addresses may be dialled."""
        return self.allowed is not None

    @property
    def is_unlimited(self) -> bool:
        """Whether every address may be dialled, and directly."""
        return self.allowed is None and self.proxy is None

    def allows(self, address: Multiaddr) -> bool:
        """Whether ``address`` may be dialled."""
        if self.allowed is None:
            return True
        try:
            return get_endpoint(str(address)) in self.allowed
        except ValueError:
            return False


class GuardedTCP(tcp.TCP):
    """TCP by the rules. A host that may dial only some addresses does not listen either.

    ``get_scope()`` is that of the network (:func:`p2p.addresses.get_scope`).
    """

    def __init__(self, rules: DialRules, get_scope: Callable[[], Reach] = lambda: Reach.MACHINE) -> None:
        super().__init__()
        self._rules = rules
        self._get_scope = get_scope

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """
        Raises:
            OpenConnectionError: the rules forbid it, or it failed.
        """
        if not self._rules.allows(maddr):
            raise OpenConnectionError(
                f"this node does not dial {maddr}: it is neither a relay nor a bootstrap peer of it"
            )
        try:
            host, port = get_endpoint(str(maddr))
            if self._rules.proxy is not None:
                return RawConnection(TrioTCPStream(await dial_through(self._rules.proxy, (host, port))), True)
        except (ProxyError, ValueError) as error:
            raise OpenConnectionError(str(error)) from None
        if is_ip_address(host):
            return await super().dial(maddr)
        failure: object = "the name stands for no address in the scope of this network"
        for address in await self._resolve(str(maddr), host, port):
            try:
                return await super().dial(Multiaddr(address))
            except OpenConnectionError as error:
                failure = error
        raise OpenConnectionError(f"{maddr}: {failure}")

    async def _resolve(self, name: str, host: str, port: int) -> list[str]:
        """The addresses of TCP ports that ``name`` stands for, and that may be dialled.

        Raises:
            OpenConnectionError: there is no such name.
        """
        family = _FAMILIES[name.split("/")[1]]
        try:
            found = await trio.socket.getaddrinfo(host, port, family, trio.socket.SOCK_STREAM)
        except OSError as error:
            raise OpenConnectionError(f"{name}: {error.strerror}") from None
        hosts = dict.fromkeys(str(address[0]) for *_, address in found if "%" not in str(address[0]))
        addresses = [format_endpoint(one, port) for one in hosts]
        is_trusted = (host, port) in self._rules.trusted
        return [one for one in addresses if is_trusted or is_in_scope(one, self._get_scope())]

    async def dial_with_source(self, maddr: Multiaddr, source: tuple[str, int]) -> IRawConnection:
        """The library's hole punching dials from another port if it cannot have the chosen one. Ours is below."""
        raise OpenConnectionError(f"no dialling from the chosen source {source}")

    async def open_simultaneously(self, local: Endpoint, remote: Endpoint, initiator: bool) -> IRawConnection:
        """A connection from ``local`` to ``remote``, whose NAT lets it in as soon as the node there dials ``local``.

        ``initiator`` says which of the two begins the handshake; TCP has no say in that.

        Raises:
            OpenConnectionError: the rules forbid it, since it would bypass a proxy and reveal who is behind it; or the
                local address cannot be used; or no connection came about.
        """
        if not self._rules.is_unlimited:
            raise OpenConnectionError("this node punches no holes")
        try:
            stream = await open_simultaneously(local, remote)
        except OSError as error:
            raise OpenConnectionError(f"no hole from {local} to {remote}: {error}") from None
        return RawConnection(TrioTCPStream(stream), initiator)

    def can_listen(self, maddr: Multiaddr) -> bool:
        return not self._rules.is_restricted and super().can_listen(maddr)
