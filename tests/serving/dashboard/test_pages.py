"""The dashboard over real loopback HTTP: who may see and do what, and what a browser is told to forbid."""

from __future__ import annotations

import gzip
import json
import stat
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from chain.files import SECRET_MODE
from node import Node
from serving.admin.confinement import CONTENT_SECURITY_POLICY
from serving.admin.levels import Level
from serving.config.data_directory import SESSIONS_FILE
from serving.dashboard import pages, sessions
from serving.dashboard.events import MAX_VIEWERS
from serving.dashboard.files import MEDIA_TYPES, STATIC
from serving.dashboard.views import measure_first_tokens
from serving.dispatcher import Dispatcher
from serving.logs.recent import RECENT
from serving.openai.errors import not_found
from serving.openai.requests import LOCAL_ONLY, Request
from serving.request_records import Outcome, RequestRecord
from serving.scheduling.policy import LoadSnapshot
from tests.serving.admin.client import expect, log_in, run_admin, with_admin
from tests.support.solo_node import KEY, MODEL
from tests.support.waiting import PATIENCE, eventually

PUBLIC = [
    *(
        ("GET", path)
        for path in ("/", "/static/app.js", "/healthz", "/dashboard/session", "/chain/head", "/chain/blocks")
    ),
    *(("GET", path) for path in ("/chain/validators", f"/chain/accounts/{KEY.address}", "/chain/search?q=0")),
    ("POST", "/dashboard/logout"),
]
READING = [
    *(("GET", path) for path in ("/status", "/peers", "/models", "/requests", "/wallet", "/policy", "/duels")),
    *(("GET", path) for path in ("/doctor", "/ledger/total", "/dashboard/history", "/dashboard/history?span=day")),
]
ACTING = [("PUT", "/policy"), ("POST", "/wallet/bond"), ("POST", "/wallet/transfer"), ("POST", "/dashboard/code")]


async def read_event(client: httpx.AsyncClient) -> dict[str, Any]:
    """The first event of a stream."""
    async with client.stream("GET", "/dashboard/events") as response:
        assert response.headers["content-type"] == "text/event-stream"
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                return json.loads(line.removeprefix("data: "))  # type: ignore[no-any-return]
    raise AssertionError("the stream ended")


@with_admin
async def test_who_may_ask_what(node: Node, client: httpx.AsyncClient) -> None:
    client.headers["Content-Type"] = "application/json"
    await log_in(client)
    cookies = dict(client.cookies)
    client.cookies.clear()
    for method, path in PUBLIC:
        assert (await client.request(method, path, content=b"{}")).status_code == 200, path
    for method, path in (*READING, *ACTING):
        assert (await client.request(method, path, content=b"{}")).status_code == 401, path
    client.cookies.update(cookies)
    for method, path in (*PUBLIC[:-1], *READING):
        assert (await client.request(method, path)).status_code == 200, path
    for method, path in ACTING:
        response = await client.request(method, path, content=b"{}")
        assert response.status_code == 403 and "unlock" in response.json()["error"], path
    unlocked = await expect(client, "POST", "/dashboard/unlock", content={})
    assert (unlocked["level"], unlocked["locked_in_s"]) == ("acting", sessions.UNLOCKED_S)
    assert unlocked["api_url"].endswith("/v1")
    for method, path in ACTING:
        assert (await client.request(method, path, content=b"{}")).status_code in (200, 400), path
    assert (await expect(client, "POST", "/dashboard/lock", content={}))["level"] == "reading"
    assert (await client.put("/policy", json={})).status_code == 403
    assert (await expect(client, "POST", "/dashboard/logout", content={}))["level"] == "public"
    client.cookies.update(cookies)
    assert (await client.get("/status")).status_code == 401, "a session that was ended is worth nothing"


@pytest.mark.parametrize("damage", [None, b"no list"])
def test_a_session_that_was_ended_is_none_after_a_restart(tmp_path: Path, damage: bytes | None) -> None:
    made: list[str] = []

    async def end_one_of_two() -> None:
        async with run_admin(tmp_path) as (_, client):
            token = await log_in(client)
            made.extend(client.cookies.values())
            client.cookies.clear()
            client.headers["Authorization"] = token
            await log_in(client)
            made.extend(client.cookies.values())
            await expect(client, "POST", "/dashboard/logout", content={})

    async def look() -> list[int]:
        async with run_admin(tmp_path) as (_, client):
            del client.headers["Authorization"]
            found = []
            for session in made:
                client.cookies.clear()
                client.cookies.set(f"wwwserve-{client.base_url.port}", session)
                found.append((await client.get("/status")).status_code)
            return found

    trio.run(end_one_of_two)
    file = tmp_path / SESSIONS_FILE
    assert stat.S_IMODE(file.stat().st_mode) == SECRET_MODE
    if damage is not None:
        file.write_bytes(damage)
    assert trio.run(look) == [200 if damage is None else 401, 401]


def test_a_logout_that_cannot_be_kept_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with run_admin(tmp_path) as (_, client):
            await log_in(client)
            (tmp_path / SESSIONS_FILE).mkdir()
            answer = await expect(client, "POST", "/dashboard/logout", 500, {})
            assert "until the node is started again" in answer["error"]
            assert (await client.get("/status")).status_code == 401

    trio.run(main)


@with_admin
async def test_every_response_confines_pages(node: Node, client: httpx.AsyncClient) -> None:
    paths = ("/", "/static/vendor.js", "/status", "/nothing", "/healthz", "/dashboard/session", "/chain/blocks/x")
    responses = [await client.get(path) for path in paths]
    responses.append(await client.get("/", headers={"Host": "evil.example"}))
    for response in responses:
        assert response.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "trusted-types 'none'"):
        assert rule in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY


@with_admin
async def test_only_the_pages_own_origin_is_answered(node: Node, client: httpx.AsyncClient) -> None:
    await log_in(client)
    own = f"http://127.0.0.1:{client.base_url.port}"
    assert (await client.get("/status", headers={"Origin": own})).status_code == 200
    for method, path in (*PUBLIC, *READING, *ACTING, ("GET", "/dashboard/events"), ("POST", "/v1/chat/completions")):
        for origin in ("http://evil.example", "http://127.0.0.1:1", own.replace("http", "https"), "null"):
            for kind in ("text/plain", "application/json"):
                headers = {"Origin": origin, "Content-Type": kind}
                assert (await client.request(method, path, headers=headers, content=b"{}")).status_code == 403, path
        for host in ("evil.example", "192.0.2.1", "localhost.evil.example"):
            assert (await client.request(method, path, headers={"Host": host})).status_code == 403, path
    assert node.policy.parameters.max_queue == 3


@with_admin
async def test_a_code_is_exchanged_once_within_a_minute(node: Node, client: httpx.AsyncClient) -> None:
    made = [(await expect(client, "POST", "/dashboard/code", content={}))["code"] for _ in range(2)]
    del client.headers["Authorization"]
    response = await client.post("/dashboard/login", json={"code": made[0]})
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert cookie.startswith(f"wwwserve-{client.base_url.port}="), "cookies of a host are sent to all of its ports"
    for code in (made[0], "", "x" * 43):
        client.cookies.clear()
        answer = await expect(client, "POST", "/dashboard/login", 403, {"code": code})
        assert "wwwserve dashboard" in answer["error"]
        assert (await expect(client, "GET", "/dashboard/session"))["level"] == "public"
    await expect(client, "POST", "/dashboard/login", 400, {"code": "x" * 1000})
    later = node.runtime.now() + 1000 * (sessions.CODE_LIFETIME_S + 1)
    node.runtime.now = lambda: int(later)  # type: ignore[method-assign]
    await expect(client, "POST", "/dashboard/login", 403, {"code": made[1]})


@with_admin
async def test_files_are_served_once_and_packed(node: Node, client: httpx.AsyncClient) -> None:
    for path in sorted(STATIC.rglob("*.*")):
        name = path.relative_to(STATIC).as_posix()
        url = "/" if name == "index.html" else f"/static/{name}"
        response = await client.get(url)
        assert response.content == path.read_bytes()
        assert response.headers["content-encoding"] == "gzip"
        assert response.headers["content-type"] == MEDIA_TYPES[path.suffix]
        again = await client.get(url, headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert (await client.get("/static/../sessions.py")).status_code == 404


def test_the_whole_page_is_small() -> None:
    packed = sum(len(gzip.compress(path.read_bytes())) for path in STATIC.rglob("*.*") if path.suffix != ".txt")
    assert packed <= 80_000


@with_admin
async def test_the_public_sees_nothing_of_the_owner(node: Node, client: httpx.AsyncClient) -> None:
    node.dispatcher.records.append(RequestRecord("req-secret", "secret-model", trio.current_time()))
    RECENT.add('{"event":"secret event"}')
    token = client.headers.pop("Authorization")
    public = await read_event(client)
    assert set(public) <= {"now", "blocks", "chain", "network", "flows", "models"}
    client.headers["Authorization"] = token
    owner = await read_event(client)
    assert {"requests", "wallet", "troubles", "peers", "policy", "backends", "node"} <= set(owner)
    assert owner["requests"][0]["id"] == "req-secret" and owner["log"][-1] == {"event": "secret event"}
    text = json.dumps(public)
    addresses = [address for peer in owner["peers"] for address in peer["addresses"]] + owner["node"]["listening"]
    for secret in ("secret event", "req-secret", "secret-model", "/ip4/", "/ip6/", "spendable", "scores", *addresses):
        assert secret not in text


@with_admin
async def test_viewers_are_bounded_and_give_their_place_back(node: Node, client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    limits = httpx.Limits(max_connections=None)
    options: dict[str, Any] = {"base_url": client.base_url, "limits": limits, "trust_env": False, "timeout": 60}
    async with httpx.AsyncClient(**options) as other, trio.open_nursery() as nursery:
        opened = 0

        async def look() -> None:
            nonlocal opened
            async with other.stream("GET", "/dashboard/events") as response:
                assert response.status_code == 200
                async for _ in response.aiter_lines():
                    opened += 1
                    await trio.sleep_forever()

        for _ in range(MAX_VIEWERS[Level.PUBLIC]):
            nursery.start_soon(look)
        await eventually(lambda: opened == MAX_VIEWERS[Level.PUBLIC])
        refused = await other.get("/dashboard/events")
        assert refused.status_code == 503 and "close one" in refused.json()["error"]
        nursery.cancel_scope.cancel()
    with trio.fail_after(PATIENCE):
        while True:
            async with client.stream("GET", "/dashboard/events") as response:
                if response.status_code == 200:
                    break
            await trio.sleep(0.05)


@with_admin
async def test_a_stream_ends_when_its_session_does(node: Node, client: httpx.AsyncClient) -> None:
    await log_in(client)
    with trio.fail_after(PATIENCE):
        async with client.stream("GET", "/dashboard/events") as response:
            lines = response.aiter_lines()
            assert "wallet" in await anext(lines)
            await expect(client, "POST", "/dashboard/logout", content={})
            async for _ in lines:
                pass


@with_admin
async def test_chat_takes_a_session_and_says_what_fails(node: Node, client: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
    await log_in(client)
    client.headers["x-wwwserve-local-only"] = "1"
    answer = await expect(client, "POST", "/v1/chat/completions", 502, body)
    assert "parrots only repeat" in answer["error"]["message"]
    answer = await expect(client, "POST", "/v1/chat/completions", 400, {"messages": 1})
    assert answer["error"]["type"] == "invalid_request_error"
    response = await client.post(
        "/v1/chat/completions", content=json.dumps(body), headers={"Content-Type": "text/plain"}
    )
    assert response.status_code == 415
    response = await client.post("/v1/chat/completions", json={"text": "x" * pages.MAX_CHAT_BYTES})
    assert response.status_code == 413
    client.cookies.clear()
    await expect(client, "POST", "/v1/chat/completions", 401, body)
    assert node.dispatcher.counters.ended[Outcome.REFUSED] == 1


@with_admin
async def test_chat_stays_here_on_demand(node: Node, client: httpx.AsyncClient) -> None:
    """By what the API takes for a demand, too: ``wwwserve ask --local-only`` comes here."""
    asked: list[bool] = []

    def read(dispatcher: Dispatcher, body: bytes, *, local_only: bool) -> Request:
        asked.append(local_only)
        raise not_found("")

    await log_in(client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "read_chat", read)
        await expect(client, "POST", "/v1/chat/completions", 404, {})
        for value in ("1", "true", "0", "False"):
            client.headers[LOCAL_ONLY] = value
            await expect(client, "POST", "/v1/chat/completions", 404, {})
    assert asked == [False, True, True, False, False]


class _Recorded:
    """A node of which only the records of requests are looked at; the first bytes took 0, 50, 100 … ms."""

    def __init__(self, count: int) -> None:
        self.dispatcher = self
        self.records = [RequestRecord("", "", 0.0, first_byte=0.05 * number) for number in range(count)]


@pytest.mark.parametrize(("count", "expected"), [(0, (None, None)), (1, (0.0, 0.0)), (5, (100.0, 190.0))])
def test_first_tokens_of_the_last_minute(count: int, expected: tuple[float | None, float | None]) -> None:
    async def measure() -> tuple[float | None, float | None]:
        return measure_first_tokens(_Recorded(count))  # type: ignore[arg-type]

    assert trio.run(measure, clock=trio.testing.MockClock()) == expected


@with_admin
async def test_a_change_of_the_policy_is_tried_on_past_requests(node: Node, client: httpx.AsyncClient) -> None:
    for number in range(10):
        record = RequestRecord(f"req-{number}", MODEL, 0.0, load=LoadSnapshot(MODEL, number / 10, 0, 0))
        node.dispatcher.records.append(record)
    await log_in(client)
    before = node.policy.parameters
    tried = await expect(client, "POST", "/dashboard/replay", 200, {"target_utilization": 0.5, "offload_frequency": 1})
    assert (tried["requests"], tried["would_offload"]) == (10, 5)
    assert tried["offloaded"] <= 3, "those above the target of 0.7"
    await expect(client, "POST", "/dashboard/replay", 400, {"target_utilization": 2})
    assert node.policy.parameters == before
