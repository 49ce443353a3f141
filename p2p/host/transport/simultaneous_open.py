"""A TCP connection that both ends dial at the same moment from known ports, for hole punching.

Source: RFC 9293, section 3.5 (simultaneous connection synchronization).
"""

from __future__ import annotations

from contextlib import suppress

import trio

from p2p.addresses import Endpoint

PUNCH_TIMEOUT_S = 6.0
"""Time that both ends have: TCP resends after one second and after three."""
PUNCH_INTERVAL_S = 0.4
"""Time between a dial that is refused and the next."""
MAX_PUNCHES = 10
"""Dials of one attempt."""


async def open_simultaneously(local: Endpoint, remote: Endpoint) -> trio.SocketStream:
    """A TCP connection between two addresses, dialled from here, from there, or both.

    A NAT may have changed the port of ``remote``, so any port of that host is accepted.

    Raises:
        OSError: the local address cannot be used, or no connection came about.
    """
    made: list[trio.socket.SocketType] = []
    try:
        with await _bind(local) as listener:
            listener.listen(4)
            with trio.move_on_after(PUNCH_TIMEOUT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_accept_from, listener, remote[0], made, nursery.cancel_scope)
                    nursery.start_soon(_dial, local, remote, made, nursery.cancel_scope)
    except BaseException:
        for end in made:
            end.close()
        raise
    if not made:
        raise OSError(f"no connection with {remote[0]}:{remote[1]}")
    return trio.SocketStream(made[0])


async def _accept_from(
    listener: trio.socket.SocketType, host: str, made: list[trio.socket.SocketType], done: trio.CancelScope
) -> None:
    """Accept the first connection from ``host``, unless another was ``made`` before."""
    while True:
        end, address = await listener.accept()
        if made or address[0] != host:
            end.close()
        else:
            made.append(end)
            done.cancel()
            return


async def _dial(local: Endpoint, remote: Endpoint, made: list[trio.socket.SocketType], done: trio.CancelScope) -> None:
    """Dial ``remote`` until it accepts, unless another connection was ``made`` before."""
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
