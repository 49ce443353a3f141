"""A server of a foreign DHT: a host of the library with its ``KadDHT``, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from tests.support.forked import ForkedServer


@contextmanager
def run_dht_server() -> Iterator[str]:
    """The address of a server that runs meanwhile."""
    server = ForkedServer(_run)
    try:
        yield server.told
    finally:
        server.kill()


def _run(started: Connection) -> None:
    trio.run(_serve, started)


async def _serve(started: Connection) -> None:
    host = new_host(key_pair=create_new_key_pair())
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]), background_trio_service(KadDHT(host, DHTMode.SERVER)):
        place = str(host.get_transport_addrs()[0]).split("/p2p/")[0]
        started.send(f"{place}/p2p/{host.get_id()}")
        await trio.sleep_forever()
