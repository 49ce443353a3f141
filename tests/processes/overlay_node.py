"""One process of a libp2p host with discovery and nothing else; its view is written to a file several times a second.

Twelve whole nodes would need more memory than a small machine has, and the ledger adds nothing to what is tested.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import trio

from chain.crypto import KeyPair
from p2p.discovery.service import Discovery
from p2p.host.connection_gater import ConnectionLimits
from p2p.host.network import Libp2pNetwork
from p2p.runtime import RealRuntime
from p2p.streams.exchanges import Streams
from tests.support.forked import end_with_parent, preload

CHAIN = b"overlay-processes-of-a-test".ljust(32, b".")
WRITE_INTERVAL = 0.2

preload(__name__)


def run_overlay_node(seed: bytes, port: int, bootstrap: list[tuple[bytes, str]], view_file: str) -> None:
    """Run until killed, or until SIGTERM, which makes it say goodbye."""
    end_with_parent()
    trio.run(_run, KeyPair(seed), port, bootstrap, Path(view_file))


async def _run(key: KeyPair, port: int, bootstrap: list[tuple[bytes, str]], view_file: Path) -> None:
    runtime = RealRuntime()
    network = Libp2pNetwork(key, [f"/ip4/127.0.0.1/tcp/{port}"], runtime, limits=ConnectionLimits(exempt_loopback=True))
    streams = Streams(network)
    discovery = Discovery(network, streams, runtime, key, CHAIN, bootstrap=bootstrap)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            await nursery.start(streams.run)
            await nursery.start(discovery.run)
            nursery.start_soon(_write_view, discovery, view_file)
            async for _ in signals:
                break
            await discovery.leave()
            nursery.cancel_scope.cancel()


async def _write_view(discovery: Discovery, view_file: Path) -> None:
    temporary = view_file.with_suffix(".new")
    while True:
        temporary.write_text(json.dumps([known.peer.hex() for known in discovery.table.present()]))
        temporary.replace(view_file)
        await trio.sleep(WRITE_INTERVAL)
