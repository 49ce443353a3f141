"""Run a SOCKS5 proxy that prints what it is asked for: ``python -m tests.nat.proxy HOST PORT``."""

from __future__ import annotations

import sys

import trio

from tests.support.proxy import Proxy


class PrintingProxy(Proxy):
    async def serve(self, client: trio.SocketStream) -> None:
        before = len(self.requests)
        try:
            await super().serve(client)
        finally:
            print(self.requests[before:], flush=True)


async def main(host: str, port: int) -> None:
    """Serve until killed; the first line of the output says that it listens."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    print("listening", flush=True)
    await trio.serve_listeners(PrintingProxy(port, {}).serve, listeners)


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
