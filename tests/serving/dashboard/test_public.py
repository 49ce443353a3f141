"""The public's listener: it shows the public's level to anybody, within bounds, and nothing else to nobody."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from node import Node
from p2p.limits.rate_limit import Rate
from serving.admin.confinement import CONTENT_SECURITY_POLICY
from serving.admin.server import Admin
from serving.config.schema import DashboardConfig
from serving.dashboard.pages import Dashboard
from serving.dashboard.public import RATE, TOTAL_RATE, PublicDoor, open_public
from serving.http.access import AccessRules
from serving.http.messages import RequestHead
from serving.http.responder import Responder
from serving.http.server import HttpServer
from serving.openai.errors import ApiError
from tests.support.solo_node import run_node
from tests.support.waiting import PATIENCE, eventually


@asynccontextmanager
async def run_public(directory: Path) -> AsyncIterator[tuple[Node, HttpServer, httpx.AsyncClient]]:
    async with run_node() as node, trio.open_nursery() as nursery:
        admin = await Admin.open(node, "127.0.0.1", 0, directory / "admin.token", make_pages=Dashboard)
        await nursery.start(admin.run)
        config = DashboardConfig(public=True, host="127.0.0.1", port=0, allowed_hosts=("explorer.example.org",))
        public = await open_public(admin.make_public_app(), config, node.runtime)
        nursery.start_soon(public.run)
        url = "http://{}:{}".format(*public.address)
        token = (directory / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Host": "explorer.example.org"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
            yield node, public, client
        nursery.cancel_scope.cancel()


def test_it_shows_the_publics_level_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with run_public(tmp_path) as (_, _, client):
            for path in ("/", "/static/app.js", "/healthz", "/chain/head"):
                response = await client.get(path)
                assert response.status_code == 200, path
                assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
            assert (await client.get("/dashboard/session")).json()["level"] == "public", "the token is worth nothing"
            for path in ("/status", "/wallet", "/requests", "/metrics", "/dashboard/history", "/policy"):
                assert (await client.get(path)).status_code == 404, path
            for path in ("/dashboard/code", "/dashboard/login", "/wallet/transfer", "/v1/chat/completions", "/"):
                assert (await client.post(path, json={})).status_code == 405, path
            assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 403

    trio.run(main)


def test_its_events_are_the_publics(tmp_path: Path) -> None:
    async def main() -> None:
        async with run_public(tmp_path) as (_, public, client):
            with trio.fail_after(PATIENCE):
                async with client.stream("GET", "/dashboard/events") as response:
                    event: dict[str, Any] = {}
                    async for line in response.aiter_lines():
                        event = json.loads(line.removeprefix("data: "))
                        break
            assert {"chain", "network", "models"} <= set(event)
            assert not {"wallet", "requests", "peers", "troubles"} & set(event)
            await client.aclose()
            await eventually(lambda: public.connections == 0)

    trio.run(main)


@pytest.mark.parametrize(("client", "rate"), [("192.0.2.1", RATE), ("127.0.0.1", TOTAL_RATE), ("::1", TOTAL_RATE)])
def test_who_asks_too_often_waits_and_a_proxy_asks_for_all(client: str, rate: Rate) -> None:
    def ask(door: PublicDoor) -> bool:
        try:
            door.admit(RequestHead("GET", "/healthz", (), client), Responder(None, "GET"))  # type: ignore[arg-type]
        except ApiError as error:
            assert error.status == 429
            return False
        return True

    async def main() -> None:
        door, most = PublicDoor(AccessRules("0.0.0.0")), int(rate.items * rate.burst)
        admitted = [ask(door) for _ in range(2 * most)]
        assert all(admitted[:most]) and not any(admitted[most + 1 :])
        await trio.sleep(1.0)
        assert rate.items - 1 <= sum(ask(door) for _ in range(most)) <= rate.items + 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
