"""The admin listener over real loopback HTTP, in front of a real node on a network in memory."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from chain.genesis import CREDIT
from chain.types.operations import Hold, compute_hold_id
from node import Node
from p2p.peers.announcement import Announcement, PeerLoad
from serving.admin.bodies import MAX_BODY_BYTES
from serving.admin.server import Admin
from serving.admin.token import load_or_create_token
from serving.dispatcher import RequestRecord
from serving.http.server import ListenError
from serving.scheduling.policy import PolicyParameters
from tests.serving.solo import CAPACITY, KEY, MODEL, OTHER, run_node

WAIT = 30
GUARDED = [
    ("GET", "/status"),
    ("GET", "/peers"),
    ("GET", "/models"),
    ("GET", "/requests"),
    ("GET", "/wallet"),
    ("POST", "/wallet/transfer"),
    ("POST", "/wallet/bond"),
    ("POST", "/wallet/unbond"),
    ("POST", "/wallet/withdraw"),
    ("POST", "/wallet/serve"),
    ("POST", "/wallet/enroll"),
    ("POST", "/wallet/retire"),
    ("POST", "/wallet/unjail"),
    ("POST", "/wallet/register"),
    ("GET", "/policy"),
    ("PUT", "/policy"),
]


@asynccontextmanager
async def run_admin(directory: Path) -> AsyncIterator[tuple[Node, httpx.AsyncClient]]:
    """A running node, and a client of its admin listener that has the token."""
    async with run_node() as node, trio.open_nursery() as nursery:
        admin = await Admin.open(node, "127.0.0.1", 0, directory / "admin.token")
        await nursery.start(admin.run)
        token = (directory / "admin.token").read_text().strip()
        url = "http://{}:{}".format(*admin.address)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False) as client:
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


def get_balance(node: Node, key: bytes) -> int:
    return node.engine.state.account(key).available


# Who may ask


@with_admin
async def test_health_and_metrics_need_no_token(node: Node, client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    health = await expect(client, "GET", "/healthz")
    assert (health["status"], health["height"]) == ("ok", node.engine.header.height)
    page = await client.get("/metrics")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert "wwwserve_final_height" in {family.name for family in text_string_to_metric_families(page.text)}


@with_admin
async def test_everything_else_needs_the_token(node: Node, client: httpx.AsyncClient) -> None:
    token = client.headers["Authorization"].removeprefix("Bearer ")
    before = node.policy.parameters
    for authorization in (None, "", "Bearer", f"Bearer {token}x", f"Basic {token}", token, "Bearer \xe9"):
        client.headers.pop("Authorization", None)
        headers = {} if authorization is None else {b"Authorization": authorization.encode("latin-1")}
        for method, path in GUARDED:
            response = await client.request(method, path, headers=headers, json={"max_queue": 1})
            assert response.status_code == 401, (method, path, authorization)
            assert "admin" not in response.text
            assert "token" in response.json()["error"]
            assert response.headers["www-authenticate"] == "Bearer"
    assert node.policy.parameters == before


@with_admin
async def test_unknown_paths_and_methods(node: Node, client: httpx.AsyncClient) -> None:
    assert await expect(client, "GET", "/nothing", 404) == {"error": "Not Found"}
    assert await expect(client, "DELETE", "/policy", 405) == {"error": "Method Not Allowed"}
    assert await expect(client, "GET", "/wallet/bond", 405) == {"error": "Method Not Allowed"}


@with_admin
async def test_an_internal_error_is_said_and_logged_and_ends_nothing(node: Node, client: httpx.AsyncClient) -> None:
    node.payments.payee.earned = {"not", "JSON"}  # type: ignore[assignment]
    answer = await expect(client, "GET", "/wallet", 500)
    node.payments.payee.earned = 0
    assert answer == {"error": "internal error; the node's log has more"}
    assert (await expect(client, "GET", "/wallet"))["earned"] == 0


# What is said


@with_admin
async def test_status(node: Node, client: httpx.AsyncClient) -> None:
    node.dispatcher.counters.offloaded = 4
    status = await expect(client, "GET", "/status")
    assert status["address"] == KEY.address
    assert status["chain_id"] == node.engine.genesis.chain_id.hex()
    assert (status["chain"], status["is_validator"], status["models"]) == ("test", True, [MODEL])
    assert (status["connected_peers"], status["known_peers"], status["requests_offloaded"]) == (0, 0, 4)


@with_admin
async def test_peers(node: Node, client: httpx.AsyncClient) -> None:
    assert await expect(client, "GET", "/peers") == {"peers": []}
    announcement = Announcement(
        peer=OTHER.public_key,
        incarnation=1,
        sequence=1,
        leaving=False,
        addresses=("/ip4/192.0.2.1/tcp/1",),
        relays=(),
        models=("a", "b"),
        load=PeerLoad(1, 2, 300),
        expires_after=60_000,
        signature=bytes(64),
    )
    node.discovery.table.apply(announcement, trio.current_time())
    (peer,) = (await expect(client, "GET", "/peers"))["peers"]
    assert peer == {
        "address": OTHER.address,
        "connected": False,
        "addresses": ["/ip4/192.0.2.1/tcp/1"],
        "relays": [],
        "models": ["a", "b"],
        "running": 1,
        "waiting": 2,
        "utilization": 300,
        "bonded": 100 * CREDIT,
    }


@with_admin
async def test_models(node: Node, client: httpx.AsyncClient) -> None:
    answer = await expect(client, "GET", "/models")
    assert answer["models"] == [{"id": MODEL, "local": True, "executors": 0, "stake": 0}]
    assert answer["backends"] == [{"capacity": CAPACITY, "running": 0, "queued_own": 0, "queued_delegated": 0}]


@with_admin
async def test_requests_are_joined_with_their_payments(node: Node, client: httpx.AsyncClient) -> None:
    now = trio.current_time()
    hold = Hold(OTHER.public_key, 5_000, 0, 0, 1, MODEL, bytes(32), 10_000)
    hold_id = compute_hold_id(KEY.public_key, 0, 1)
    node.payments.payer.sign_hold(hold)
    node.dispatcher.records.extend(
        [
            RequestRecord("one", MODEL, now - 9, finished=now - 8, outcome="refused"),
            RequestRecord("two", MODEL, now - 7, first_byte=now - 6.5, finished=now - 5, outcome="completed"),
            RequestRecord("three", MODEL, now - 2, OTHER.public_key, 1, hold_id, now - 1, None, 12),
        ]
    )
    rows = (await expect(client, "GET", "/requests"))["requests"]
    assert [row["id"] for row in rows] == ["three", "two", "one"]
    assert [row["executor"] for row in rows] == [OTHER.address, "local", None]
    assert [row["ttft_ms"] for row in rows] == [1000.0, 500.0, None]
    assert [row["duration_ms"] for row in rows] == [None, 2000.0, 1000.0]
    assert [row["outcome"] for row in rows] == ["running", "completed", "refused"]
    assert (rows[0]["attempt"], rows[0]["completion_tokens"], rows[0]["hold"]) == (1, 12, hold_id.hex())
    assert [rows[0][name] for name in ("held", "amount", "hold_height", "settled_height")] == [5_000, None, None, None]
    assert [rows[1][name] for name in ("held", "amount", "hold_height", "settled_height")] == [None] * 4
    payment = node.payments.payer.find(hold_id)
    assert payment is not None
    payment.hold_height, payment.settled_height, payment.paid = 7, 9, 1_200
    (row,) = (await expect(client, "GET", "/requests?limit=1"))["requests"]
    assert [row[name] for name in ("held", "amount", "hold_height", "settled_height")] == [5_000, 1_200, 7, 9]


@with_admin
async def test_requests_limit_is_checked(node: Node, client: httpx.AsyncClient) -> None:
    for limit in ("0", "-1", "x", "1025", "9" * 5000, "1.5", ""):
        answer = await expect(client, "GET", f"/requests?limit={limit}", 400)
        assert answer["error"].startswith("limit: must be a number from 1 to 1024")


# Wallet


@with_admin
async def test_wallet(node: Node, client: httpx.AsyncClient) -> None:
    node.payments.payee.earned = 77
    assert await expect(client, "GET", "/wallet") == {
        "address": KEY.address,
        "nonce": 0,
        "available": 1_000 * CREDIT,
        "spendable": 1_000 * CREDIT,
        "held": 0,
        "bonded": 100 * CREDIT,
        "unbonding": 0,
        "earned": 77,
        "models": [],
        "validator": "enrolled",
    }


@with_admin
async def test_transfer_is_final_when_waited_for(node: Node, client: httpx.AsyncClient) -> None:
    before = get_balance(node, OTHER.public_key)
    order = {"recipient": OTHER.address, "amount": 5, "memo": "für dich", "wait": WAIT}
    answer = await expect(client, "POST", "/wallet/transfer", 200, order)
    assert answer["failure"] is None
    assert answer["height"] <= node.engine.header.height
    assert await node.engine.wait_final(bytes.fromhex(answer["operation"]), 1) == (answer["height"], None)
    assert get_balance(node, OTHER.public_key) == before + 5
    assert get_balance(node, KEY.public_key) == 1_000 * CREDIT - 5 - answer["fee"]


@with_admin
async def test_equal_orders_at_one_time_are_all_carried_out(node: Node, client: httpx.AsyncClient) -> None:
    before = get_balance(node, OTHER.public_key)
    answers = []

    async def send() -> None:
        order = {"recipient": OTHER.address, "amount": 1, "wait": WAIT}
        answers.append(await expect(client, "POST", "/wallet/transfer", 200, order))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(send)
    assert len({answer["operation"] for answer in answers}) == 8
    assert get_balance(node, OTHER.public_key) == before + 8


@with_admin
async def test_bond_unbond_and_serve(node: Node, client: httpx.AsyncClient) -> None:
    await expect(client, "POST", "/wallet/bond", 200, {"amount": 3 * CREDIT, "wait": WAIT})
    await expect(client, "POST", "/wallet/unbond", 200, {"amount": CREDIT, "wait": WAIT})
    await expect(client, "POST", "/wallet/serve", 200, {"models": ["b", "a", "b"], "wait": WAIT})
    wallet = await expect(client, "GET", "/wallet")
    assert (wallet["bonded"], wallet["unbonding"], wallet["models"]) == (102 * CREDIT, CREDIT, ["a", "b"])
    await expect(client, "POST", "/wallet/serve", 200, {"models": [], "wait": WAIT})
    assert (await expect(client, "GET", "/wallet"))["models"] == []


@with_admin
async def test_validator_duty(node: Node, client: httpx.AsyncClient) -> None:
    await expect(client, "POST", "/wallet/retire", 200, {"wait": WAIT})
    assert (await expect(client, "GET", "/wallet"))["validator"] == "no"
    assert "not enrolled" in (await expect(client, "POST", "/wallet/retire", 409, {"wait": WAIT}))["error"]
    await expect(client, "POST", "/wallet/enroll", 200, {"wait": WAIT})
    assert (await expect(client, "GET", "/wallet"))["validator"] == "enrolled"


@with_admin
async def test_without_waiting_the_answer_comes_at_once(node: Node, client: httpx.AsyncClient) -> None:
    answer = await expect(client, "POST", "/wallet/bond", 202, {"amount": 1})
    assert (answer["height"], answer["failure"]) == (None, None)
    height, failure = await node.engine.wait_final(bytes.fromhex(answer["operation"]), WAIT)
    assert (height > 0, failure) == (True, None)


@with_admin
async def test_what_would_fail_is_refused_before_it_costs_a_fee(node: Node, client: httpx.AsyncClient) -> None:
    too_much = 2_000 * CREDIT
    orders: list[tuple[str, dict[str, Any]]] = [
        ("transfer", {"recipient": OTHER.address, "amount": too_much}),
        ("bond", {"amount": too_much}),
        ("unbond", {"amount": too_much}),
        ("withdraw", {}),
        ("enroll", {}),
        ("unjail", {}),
        ("register", {}),
    ]
    for kind, order in orders:
        answer = await expect(client, "POST", f"/wallet/{kind}", 409, {**order, "wait": WAIT})
        assert answer["error"]
    assert get_balance(node, KEY.public_key) == 1_000 * CREDIT
    assert node.engine.status().mempool_operations == 0


TRANSFER = {"recipient": OTHER.address, "amount": 1}
BAD_ORDERS: list[tuple[str, Any, str]] = [
    ("transfer", {"recipient": OTHER.address}, "amount: is missing"),
    ("transfer", {**TRANSFER, "amount": "5"}, "amount: must be a whole number, got '5'"),
    ("transfer", {**TRANSFER, "amount": 1.5}, "amount: must be a whole number"),
    ("transfer", {**TRANSFER, "amount": True}, "amount: must be a whole number, got true"),
    ("transfer", {**TRANSFER, "amount": 0}, "amount: must be at least 1"),
    ("transfer", {**TRANSFER, "amount": 2**63}, "amount: must be at most"),
    ("transfer", {**TRANSFER, "amount": 10**400}, "amount: must be"),
    ("transfer", {**TRANSFER, "recipient": "12D3KooW"}, "recipient: '12D3KooW' is not the address"),
    ("transfer", {**TRANSFER, "recipient": 5}, "recipient: must be text"),
    ("transfer", {**TRANSFER, "memo": "é" * 33}, "memo: has 66 bytes, more than 64"),
    ("transfer", {**TRANSFER, "memo": "\ud800"}, "surrogates not allowed"),
    ("transfer", {**TRANSFER, "wait": 301}, "wait: must be at most 300"),
    ("transfer", {**TRANSFER, "wait": -1}, "wait: must be at least 0"),
    ("transfer", {**TRANSFER, "wait": float("nan")}, "wait: must be"),
    ("transfer", {**TRANSFER, "amonut": 5}, "amonut: is unknown: did you mean 'amount'?"),
    ("transfer", {**TRANSFER, "\ud800": 5}, "surrogates not allowed"),
    ("bond", {}, "amount: is missing"),
    ("withdraw", {"amount": 5}, "amount: is unknown"),
    ("serve", {"models": "a"}, "models: must be a list"),
    ("serve", {"models": [""]}, "models[0]: must not be empty"),
    ("serve", {"models": ["x" * 129]}, "models[0]: must have at most 128 characters"),
    ("serve", {"models": [str(number) for number in range(17)]}, "models: must have at most 16 entries"),
    ("bond", [], "the body must be a JSON object"),
    ("bond", 5, "the body must be a JSON object"),
    ("bond", b"{", "the body is not JSON"),
    ("bond", b"\xff\xfe", "the body is not JSON"),
    ("bond", b"[" * 20_000, "the body is not JSON"),
    ("bond", b'{"amount": ' + b"9" * 5_000 + b"}", "the body is not JSON"),
]


@with_admin
async def test_bad_orders_are_explained(node: Node, client: httpx.AsyncClient) -> None:
    for kind, order, reason in BAD_ORDERS:
        content = order if isinstance(order, bytes) else json.dumps(order).encode()
        response = await client.post(f"/wallet/{kind}", content=content)
        assert response.status_code == 400, (kind, order, response.text)
        assert reason in response.json()["error"], (kind, order)
    assert node.engine.status().mempool_operations == 0


@with_admin
async def test_a_large_body_is_refused(node: Node, client: httpx.AsyncClient) -> None:
    response = await client.post("/wallet/bond", content=b" " * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413
    assert "larger than" in response.json()["error"]


@with_admin
async def test_a_client_that_goes_away_ends_nothing(node: Node, client: httpx.AsyncClient) -> None:
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    head = f"POST /wallet/bond HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['Authorization']}\r\n"
    for rest in ("", "Content-Length: 100\r\n\r\n{", 'Content-Length: 26\r\n\r\n{"amount": 7, "wait": 60.0}'):
        stream = await trio.open_tcp_stream(host, port)
        await stream.send_all((head + rest).encode())
        await stream.aclose()
    await expect(client, "GET", "/healthz")


# Policy


@with_admin
async def test_policy_changes_while_the_node_runs(node: Node, client: httpx.AsyncClient) -> None:
    assert await expect(client, "GET", "/policy") == asdict(PolicyParameters(max_queue=3))
    changes = {"offload_frequency": 0, "max_queue": 9, "prioritize_own": False}
    answer = await expect(client, "PUT", "/policy", 200, changes)
    assert answer == asdict(PolicyParameters(offload_frequency=0.0, max_queue=9, prioritize_own=False))
    assert await expect(client, "GET", "/policy") == answer
    assert asdict(node.policy.parameters) == answer
    (admission,) = node.backend_pool.admissions
    assert (admission.max_queue, admission.prioritize_own) == (9, False)


@with_admin
async def test_a_bad_policy_changes_nothing(node: Node, client: httpx.AsyncClient) -> None:
    bad: list[tuple[Any, str]] = [
        ({"max_queue": 5, "accept_frequency": 1.5}, "accept_frequency: must be at most 1"),
        ({"accept_freqency": 0.5}, "accept_freqency: is unknown: did you mean 'accept_frequency'?"),
        ({"name": "mine"}, "name: is unknown"),
        ({"max_queue": 5.5}, "max_queue: must be a whole number"),
        ([], "the body must be a JSON object"),
    ]
    for content, reason in bad:
        answer = await expect(client, "PUT", "/policy", 400, content)
        assert reason in answer["error"]
    assert node.policy.parameters == PolicyParameters(max_queue=3)
    assert node.backend_pool.admissions[0].max_queue == 3


# Listener and token


def test_a_port_in_use_is_a_listen_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with run_node() as node:
            first = await Admin.open(node, "localhost", 0, tmp_path / "token")
            host, port = first.address
            with pytest.raises(ListenError, match=f"cannot listen on {host}:{port}: .*in use"):
                await Admin.open(node, host, port, tmp_path / "token")

    trio.run(main)


def test_token_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    before = os.umask(0)
    try:
        token = load_or_create_token(path)
    finally:
        os.umask(before)
    assert len(token) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert load_or_create_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")  # what a crash of another program's making may leave
    assert load_or_create_token(path) not in ("", token)
    assert [entry.name for entry in tmp_path.iterdir()] == ["admin.token"]
