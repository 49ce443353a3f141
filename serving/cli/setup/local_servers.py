"""Servers of models that run on this machine already, at the port that each kind has unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from serving.backends.detection import OWN_KIND, DetectionFailed, FoundServer
from serving.cli.setup.share import detect
from serving.http.client import HttpPool, HttpTimeouts

USUAL_PORTS = (8000, 11434, 30000, 8080, 1234)
"""Those of vLLM, Ollama, SGLang, llama.cpp and LM Studio."""
SEARCH_TIMEOUT_S = 3.0
"""Patience with whatever listens there, all together."""
TIMEOUTS = HttpTimeouts(connect_s=SEARCH_TIMEOUT_S, first_byte_s=SEARCH_TIMEOUT_S, stall_s=SEARCH_TIMEOUT_S)


def find_local_servers(ports: Sequence[int] = USUAL_PORTS) -> dict[str, FoundServer]:
    """The servers on loopback by their URLs, in the order of ``ports``; no nodes, and none that asks for a key."""
    return trio.run(_search, ports)


async def _search(ports: Sequence[int]) -> dict[str, FoundServer]:
    found: dict[str, FoundServer] = {}

    async def look(url: str) -> None:
        try:
            server = await detect(HttpPool(url, timeouts=TIMEOUTS))
        except DetectionFailed:
            return
        if server.kind != OWN_KIND:
            found[url] = server

    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with trio.move_on_after(SEARCH_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for url in urls:
                nursery.start_soon(look, url)
    return {url: found[url] for url in urls if url in found}
