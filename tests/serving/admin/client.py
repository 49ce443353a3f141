"""A running node on a network in memory, and an HTTP client of its admin listener."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from node import Node
from serving.admin.server import Admin
from serving.config.data_directory import SESSIONS_FILE
from serving.dashboard import pages
from serving.dashboard.pages import Dashboard
from tests.support.solo_node import run_node


@asynccontextmanager
async def run_admin(directory: Path) -> AsyncIterator[tuple[Node, httpx.AsyncClient]]:
    """A running node, and a client of its admin listener that has the token."""
    async with run_node() as node, trio.open_nursery() as nursery:
        make_pages = partial(Dashboard, ended_file=directory / SESSIONS_FILE)
        admin = await Admin.open(node, "127.0.0.1", 0, directory / "admin.token", make_pages=make_pages)
        await nursery.start(admin.run)
        token = (directory / "admin.token").read_text().strip()
        url = "http://{}:{}".format(*admin.address)
        headers = {"Authorization": f"Bearer {token}"}
        # By default it closes a connection after 5 s without a request, even one that a request was just given to.
        limits = httpx.Limits(keepalive_expiry=None)
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=60, trust_env=False, limits=limits
        ) as client:
            yield node, client
        nursery.cancel_scope.cancel()


def with_admin(test: Callable[[Node, httpx.AsyncClient], Awaitable[None]]) -> Callable[[Path], None]:
    """Run an async test with a node and a client."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            async with run_admin(tmp_path) as (node, client):
                await test(node, client)

        trio.run(main)

    run.__name__ = test.__name__
    return run


async def expect(client: httpx.AsyncClient, method: str, path: str, status: int = 200, content: Any = None) -> Any:
    """Send a request, insist on the status, and return the JSON answer."""
    response = await client.request(method, path, json=content)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


async def log_in(client: httpx.AsyncClient) -> str:
    """Exchange the client's token for a session, which its cookies keep."""
    code = (await expect(client, "POST", "/dashboard/code", content={}))["code"]
    token = client.headers.pop("Authorization")
    answer = await expect(client, "POST", "/dashboard/login", content={"code": code})
    assert answer["level"] == "reading"
    client.headers[pages.KEY] = answer["key"]
    return str(token)
