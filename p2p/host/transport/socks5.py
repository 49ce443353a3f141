"""A client of SOCKS5 proxies, without authentication. The proxy also resolves names.

It reads no byte more than it must, because what follows belongs to the connection. Source: RFC 1928.
"""

from __future__ import annotations

import ipaddress
import struct

import trio

from p2p.addresses import Endpoint

PROXY_TIMEOUT_S = 30.0
"""Time that a proxy may take to connect; Tor is slow."""

_VERSION = 5
_NO_AUTHENTICATION = 0
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_REPLIES = {
    1: "the connection failed",
    2: "the rules of the proxy forbid the connection",
    3: "the network cannot be reached",
    4: "the host cannot be reached",
    5: "the connection was refused",
    6: "the connection timed out",
    7: "the proxy makes no outbound connections",
    8: "the proxy does not know this kind of address",
}


class ProxyError(Exception):
    """The proxy cannot be used, or could not make the connection."""


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


async def _negotiate(stream: trio.SocketStream, target: Endpoint) -> None:
    await stream.send_all(bytes([_VERSION, 1, _NO_AUTHENTICATION]))
    if await _receive(stream, 2) != bytes([_VERSION, _NO_AUTHENTICATION]):
        raise ProxyError("this is no SOCKS5 proxy, or the proxy wants a password")
    await stream.send_all(bytes([_VERSION, _CONNECT, 0]) + _encode(target))
    version, reply, _, kind = await _receive(stream, 4)
    if version != _VERSION or reply:
        raise ProxyError(f"the proxy says: {_REPLIES.get(reply, f'error {reply}')}")
    # The address that the proxy dialled from follows; it has to be read, and is of no use.
    length = (await _receive(stream, 1))[0] if kind == _NAME else {_IPV4: 4, _IPV6: 16}.get(kind)
    if length is None:
        raise ProxyError("the proxy does not keep to the SOCKS5 protocol")
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
