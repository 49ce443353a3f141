"""How this node dials: TCP, directly or through a SOCKS5 proxy, to permitted addresses only.

Every outbound connection of the host is made by :class:`GuardedTCP`, whichever part of the node asks for it. An
anonymous node's :class:`DialRules` name the few addresses that may be dialled. They are checked directly before the
socket is made, so that no path leads around them. With a proxy no name is resolved and no address dialled here.

Source of the proxy protocol: RFC 1928.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import trio
from libp2p.abc import IRawConnection
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp import tcp
from multiaddr import Multiaddr

from p2p.addresses import Endpoint, get_endpoint

PROXY_TIMEOUT_S = 30.0
"""Time that a proxy may take to connect; onion routes are slow."""
PUNCH_TIMEOUT_S = 6.0
"""Time that both ends have to punch a hole: TCP resends after one second and after three."""
PUNCH_INTERVAL_S = 0.4
"""Time between a dial that is refused and the next."""
MAX_PUNCHES = 10
"""Dials of one attempt to punch a hole."""

_VERSION = 5
_NO_AUTHENTICATION = 0
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REPLIES = {
    1: "it failed",
    2: "its rules forbid the connection",
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "the connection was refused",
    6: "the connection timed out",
    7: "it does not connect to others",
    8: "it does not know this kind of address",
}


class ProxyError(Exception):
    """The proxy cannot be used, or could not make the connection."""


@dataclass(frozen=True, slots=True)
class DialRules:
    """What may be dialled, and how.

    ``allowed`` are the only endpoints that may be dialled; None allows all. ``proxy`` is the SOCKS5 server through
    which every connection is made; None dials directly.
    """

    allowed: frozenset[Endpoint] | None = None
    proxy: Endpoint | None = None

    @classmethod
    def only(cls, addresses: Iterable[str], proxy: Endpoint | None = None) -> DialRules:
        """Rules that allow the multiaddresses in ``addresses`` and nothing else.

        Raises:
            ValueError: one of them is not the address of a TCP port.
        """
        return cls(frozenset(get_endpoint(str(Multiaddr(address))) for address in addresses), proxy)

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
    """TCP by the rules. A host that may dial only some addresses does not listen either."""

    def __init__(self, rules: DialRules) -> None:
        super().__init__()
        self._rules = rules

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """
        Raises:
            OpenConnectionError: the rules forbid it, or it failed.
        """
        if not self._rules.allows(maddr):
            raise OpenConnectionError(
                f"this node does not dial {maddr}: it is neither a relay nor a bootstrap peer of it"
            )
        if self._rules.proxy is None:
            return await super().dial(maddr)
        try:
            stream = await dial_through(self._rules.proxy, get_endpoint(str(maddr)))
        except (ProxyError, ValueError) as error:
            raise OpenConnectionError(str(error)) from None
        return RawConnection(TrioTCPStream(stream), True)

    async def dial_with_source(self, maddr: Multiaddr, source: tuple[str, int]) -> IRawConnection:
        """The library's hole punching dials from any other port where it cannot have the chosen one. Ours is below."""
        raise OpenConnectionError(f"no dialling from the chosen source {source}")

    async def open_simultaneously(self, local: Endpoint, remote: Endpoint, initiator: bool) -> IRawConnection:
        """A connection from ``local`` to ``remote``, whose NAT lets it in as soon as the node there dials ``local``.

        ``initiator`` says which of the two begins the handshake; TCP has no say in that.

        Raises:
            OpenConnectionError: the rules forbid it, since it would go around a proxy and tell who is behind it; or the
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


async def dial_through(proxy: Endpoint, target: Endpoint) -> trio.SocketStream:
    """A TCP connection to ``target`` made by the SOCKS5 server at ``proxy``, which also resolves the name if it is one.

    Raises:
        ProxyError: the proxy does not answer, refuses, or cannot reach the target.
    """
    way = f"{target[0]}:{target[1]} through the proxy {proxy[0]}:{proxy[1]}"
    try:
        with trio.fail_after(PROXY_TIMEOUT_S):
            stream = await trio.open_tcp_stream(*proxy)
            try:
                await _negotiate(stream, target)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return stream
    except trio.TooSlowError:
        raise ProxyError(f"cannot reach {way}: no answer within {PROXY_TIMEOUT_S:g} s") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise ProxyError(f"cannot reach {way}: {error or 'the proxy hung up'}") from None
    except ProxyError as error:
        raise ProxyError(f"cannot reach {way}: {error}") from None


async def open_simultaneously(local: Endpoint, remote: Endpoint) -> trio.SocketStream:
    """A TCP connection between two addresses, dialled from here, from there, or both (RFC 9293, section 3.5).

    From ``remote`` a NAT may have made another port of the same host.

    Raises:
        OSError: the local address cannot be used, or no connection came about.
    """
    made: list[trio.socket.SocketType] = []

    async def accept(listener: trio.socket.SocketType, done: trio.CancelScope) -> None:
        while True:
            end, address = await listener.accept()
            if made or address[0] != remote[0]:
                end.close()
            else:
                made.append(end)
                done.cancel()
                return

    async def dial(done: trio.CancelScope) -> None:
        for _ in range(MAX_PUNCHES):
            with suppress(OSError):  # refused by a NAT, or by a host that is not there yet
                end = await _bind(local)
                try:
                    await end.connect(remote)
                except BaseException:
                    end.close()
                    raise
                if made:
                    end.close()
                else:
                    made.append(end)
                    done.cancel()
                return
            await trio.sleep(PUNCH_INTERVAL_S)

    try:
        with await _bind(local) as listener:
            listener.listen(4)
            with trio.move_on_after(PUNCH_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(accept, listener, nursery.cancel_scope)
                    nursery.start_soon(dial, nursery.cancel_scope)
    except BaseException:
        for end in made:
            end.close()
        raise
    if not made:
        raise OSError(f"no connection with {remote[0]}:{remote[1]}")
    return trio.SocketStream(made[0])


async def _bind(local: Endpoint) -> trio.socket.SocketType:
    """A socket at a port that other connections use, too."""
    family = trio.socket.AF_INET6 if ":" in local[0] else trio.socket.AF_INET
    made = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        made.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        if hasattr(trio.socket, "SO_REUSEPORT"):  # for a port at which another one listens
            made.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
        await made.bind(local)
    except BaseException:
        made.close()
        raise
    return made


async def _negotiate(stream: trio.SocketStream, target: Endpoint) -> None:
    await stream.send_all(bytes([_VERSION, 1, _NO_AUTHENTICATION]))
    if await _receive(stream, 2) != bytes([_VERSION, _NO_AUTHENTICATION]):
        raise ProxyError("it is no SOCKS5 proxy, or wants a password")
    await stream.send_all(bytes([_VERSION, _CONNECT, 0]) + _encode(target))
    version, reply, _, kind = await _receive(stream, 4)
    if version != _VERSION or reply:
        raise ProxyError(f"the proxy says: {_REPLIES.get(reply, f'error {reply}')}")
    # The address that the proxy dialled from follows; it has to be read, and is of no use.
    length = (await _receive(stream, 1))[0] if kind == _NAME else {_IPV4: 4, _IPV6: 16}.get(kind)
    if length is None:
        raise ProxyError("it does not keep to the SOCKS5 protocol")
    await _receive(stream, length + 2)


def _encode(target: Endpoint) -> bytes:
    host, port = target
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii", "strict")
        if not 0 < len(name) < 256:
            raise ProxyError(f"{host!r} is not a host name") from None
        return bytes([_NAME, len(name)]) + name + struct.pack(">H", port)
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed + struct.pack(">H", port)


async def _receive(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:  # no buffer: what follows belongs to the connection
        chunk = await stream.receive_some(size - len(data))
        if not chunk:
            raise ProxyError("the proxy hung up")
        data += chunk
    return data
