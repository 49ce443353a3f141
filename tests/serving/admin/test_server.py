"""The admin listener over real loopback HTTP, in front of a real node on a network in memory."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from chain.parameters.parameters import CREDIT
from chain.types.operations import Hold, Transfer, compute_hold_id
from consensus.voting.lockout import NONCE_BYTES
from node import Node
from p2p.peers.announcement import Announcement, ModelLoad, PeerLoad
from serving.admin.orders.policy_orders import reload_policy
from serving.admin.orders.wallet_orders import OrderRefused
from serving.admin.server import Admin
from serving.http.server import ListenError
from serving.prediction.predicted_time import BYTES_PER_TOKEN
from serving.request_records import Outcome, RequestRecord
from serving.scheduling.policy import ModelQuota, PolicyParameters
from tests.serving.admin.client import expect, with_admin
from tests.support.solo_node import CAPACITY, KEY, MODEL, OTHER, run_node
from tests.support.waiting import PATIENCE

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
    ("POST", "/policy/reload"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("POST", "/keys/revoke"),
    ("GET", "/keys/backup"),
    ("GET", "/keys/usage"),
]


# Who may ask


@with_admin
async def test_health_and_metrics_need_no_token(node: Node, client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    health = await expect(client, "GET", "/healthz")
    assert (health["status"], health["height"], health["reasons"]) == ("ready", node.engine.header.height, [])
    assert await expect(client, "GET", "/livez") == {"status": "alive"}
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


@with_admin
async def test_no_page_and_no_other_name_is_answered(node: Node, client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/metrics", "/status", "/nothing"):
        for headers in (
            {"Host": "evil.example:8001"},
            {"Origin": "https://evil.example"},
            {"Host": "evil.example", "Origin": "http://evil.example"},
        ):
            response = await client.get(path, headers=headers)
            assert response.status_code == 403, (path, headers)
            assert set(response.json()) == {"error"}
        assert (await client.get(path, headers={"Host": "localhost:5"})).status_code != 403


@with_admin
async def test_a_body_must_be_said_to_be_json(node: Node, client: httpx.AsyncClient) -> None:
    before = node.policy.parameters
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        response = await client.put("/policy", content=b'{"max_queue": 1}', headers=headers)
        assert response.status_code == 415 and "Content-Type: application/json" in response.json()["error"]
    assert node.policy.parameters == before


@with_admin
async def test_a_length_beside_chunks_ends_the_connection(node: Node, client: httpx.AsyncClient) -> None:
    head = f"PUT /policy HTTP/1.1\r\nHost: localhost\r\nAuthorization: {client.headers['Authorization']}\r\n"
    tail = b"0\r\n\r\n" + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    both = f"Content-Length: {len(tail)}\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", client.base_url.port or 0) as stream:
        await stream.send_all((head + both).encode() + tail)
        received = b""
        with trio.fail_after(PATIENCE):
            async for piece in stream:
                received += piece
    assert received.count(b"HTTP/1.1") <= 1 and b" 200 " not in received


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
async def test_a_machine_whose_votes_another_has_taken_over_says_so(node: Node, client: httpx.AsyncClient) -> None:
    assert "handed_over" not in {each["code"] for each in (await expect(client, "GET", "/status"))["troubles"]}
    claim = await node.wallet.submit(lambda nonce: Transfer(nonce, KEY.public_key, 0, b"n" * NONCE_BYTES))
    with trio.fail_after(PATIENCE):
        await node.engine.wait_final(claim.id, PATIENCE)
    (trouble, *_) = (await expect(client, "GET", "/status"))["troubles"]
    assert trouble["code"] == "handed_over" and "to the end of epoch 0, and then no more" in trouble["text"]
    assert "move votes.journal away" in trouble["mend"]
    assert "handed_over" in (await client.get("/healthz")).json()["reasons"]


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
        load=PeerLoad((ModelLoad("b", 3, 0, 10, 2_000_000, 30_000, 4_096, 3, 16, 96),)),
        expires_after=60_000,
        signature=bytes(64),
    )
    node.discovery.table.apply(announcement, trio.current_time())
    for _ in range(2):
        node.originator.scores.note_unshared_error(OTHER.public_key, "b", trio.current_time())
    (peer,) = (await expect(client, "GET", "/peers"))["peers"]
    assert peer == {
        "address": OTHER.address,
        "connected": False,
        "relayed": False,
        "connected_s": None,
        "round_trip_ms": None,
        "addresses": ["/ip4/192.0.2.1/tcp/1"],
        "relays": [],
        "models": ["a", "b"],
        "utilization": 300,
        "loads": {
            "b": {
                "running": 3,
                "waiting": 0,
                "slots": 10,
                "prefill_rate": 2000.0,
                "decode_rate": 30.0,
                "context_length": 4096,
                "cache_tokens": 0,
                "features": ["tools", "vision"],
                "number_formats": {"weights": ["fp8"], "activations": ["bf16", "fp16"], "cache": []},
            }
        },
        "bonded": 100 * CREDIT,
        "scores": {"b": {"delivered": 0, "failed": 0, "unshared_errors": 1.87, "is_faulty": True}},
    }


@with_admin
async def test_models(node: Node, client: httpx.AsyncClient) -> None:
    answer = await expect(client, "GET", "/models")
    unrated = {"duels": 0, "win_rate": None, "identities": []}
    (price,) = [each.pop("price") for each in answer["models"]]
    assert float(price["completion"]) == node.originator.get_price(MODEL).per_completion_byte * BYTES_PER_TOKEN / CREDIT
    assert answer["models"] == [{"id": MODEL, "local": True, "executors": 0, "stake": 0, **unrated}]
    assert answer["backends"] == [
        {
            "place": "parrot",
            "fault": None,
            "models": [MODEL],
            "is_alive": True,
            "capacity": CAPACITY,
            "running": 0,
            "queued_own": 0,
            "queued_delegated": 0,
            "drained_in_s": 0,
        }
    ]  # fmt: skip


@with_admin
async def test_requests_are_joined_with_their_payments(node: Node, client: httpx.AsyncClient) -> None:
    now = trio.current_time()
    hold = Hold(OTHER.public_key, 5_000, 0, 0, 1, MODEL, bytes(32), 10_000)
    hold_id = compute_hold_id(KEY.public_key, hold)
    node.payments.payer.sign_hold(hold)
    node.dispatcher.records.extend(
        [
            RequestRecord("one", MODEL, now - 9, finished=now - 8, outcome=Outcome.REFUSED),
            RequestRecord("two", MODEL, now - 7, first_byte=now - 6.5, finished=now - 5, outcome=Outcome.COMPLETED),
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
    assert [row["prompt_tokens"] for row in rows] == [0, 0, 0]
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


# Policy


def report(parameters: PolicyParameters, stake: float | None = None, name: str = "paper") -> dict[str, Any]:
    """What the listener says of a policy."""
    return {"name": name, **json.loads(json.dumps(asdict(parameters))), "stake": stake}


@with_admin
async def test_policy_changes_while_the_node_runs(node: Node, client: httpx.AsyncClient) -> None:
    assert await expect(client, "GET", "/policy") == report(PolicyParameters(max_queue=3))
    changes = {"offload_frequency": 0, "max_queue": 9, "prioritize_own": False}
    answer = await expect(client, "PUT", "/policy", 200, changes)
    assert answer == report(PolicyParameters(offload_frequency=0.0, max_queue=9, prioritize_own=False))
    assert await expect(client, "GET", "/policy") == answer
    assert await expect(client, "PUT", "/policy", 200, {"name": "paper"}) == answer
    assert report(node.policy.parameters) == answer
    (admission,) = node.backend_pool.admissions
    assert (admission.max_queue, admission.prioritize_own) == (9, False)


@with_admin
async def test_a_bad_policy_changes_nothing(node: Node, client: httpx.AsyncClient) -> None:
    bad: list[tuple[Any, str]] = [
        ({"max_queue": 5, "accept_frequency": 1.5}, "accept_frequency: must be at most 1"),
        ({"accept_freqency": 0.5}, "accept_freqency: is unknown: did you mean 'accept_frequency'?"),
        ({"max_queue": 5, "name": "mine"}, "name: 'paper' runs, and another policy takes a restart"),
        ({"max_queue": 5.5}, "max_queue: must be a whole number"),
        (
            {"max_queue": 5, "credit_price_s": 1.0},
            "credit_price_s: is for the policy 'adaptive', and this node's is 'paper'",
        ),
        ([], "the body must be a JSON object"),
        ({"max_queue": 5, "schedule": ["Mun"]}, "schedule[0]: 'Mun' is no day"),
        ({"max_queue": 5, "time_zone": "Mars"}, "time_zone: 'Mars' is no time zone"),
        ({"max_queue": 5, "models": {"m": {"max_own": 0}}}, "models.m.max_own: must be at least 1, got 0"),
        ({"max_queue": 5, "models": {"m": {"max_oun": 1}}}, "did you mean 'max_own'?"),
        ({"max_queue": 5, "models": 3}, "models: must be a section"),
        ({"max_queue": 5, "serve_others": "later"}, "serve_others: must be 'always', 'idle' or 'never'"),
        ({"max_queue": 5, "stake": -1}, "stake: must be at least 0"),
        ({"stake": 0.1234567}, "stake: has at most six decimals"),
    ]
    for content, reason in bad:
        answer = await expect(client, "PUT", "/policy", 400, content)
        assert reason in answer["error"]
    assert node.policy.parameters == PolicyParameters(max_queue=3)
    assert node.backend_pool.admissions[0].max_queue == 3 and node.stake_keeper.stake is None


@with_admin
async def test_limits_of_a_model_change_one_by_one(node: Node, client: httpx.AsyncClient) -> None:
    await expect(client, "PUT", "/policy", 200, {"models": {"m": {"max_own": 2}, "n": {"accept": False}}})
    answer = await expect(client, "PUT", "/policy", 200, {"models": {"m": {"max_tokens": 9}}, "stake": 5.25})
    expected = {"m": ModelQuota(max_own=2, max_tokens=9), "n": ModelQuota(accept=False)}
    assert answer == report(PolicyParameters(max_queue=3, models=expected), stake=5.25)
    assert node.policy.parameters.models == expected and node.stake_keeper.stake == 5_250_000
    answer = await expect(client, "PUT", "/policy", 200, {"models": {"m": None}, "stake": None, "max_queue": None})
    assert answer == report(PolicyParameters(models={"m": ModelQuota(), "n": ModelQuota(accept=False)}))


@with_admin
async def test_a_node_that_serves_no_others_says_so(node: Node, client: httpx.AsyncClient) -> None:
    async def get() -> tuple[Any, Any, Any]:
        status = await expect(client, "GET", "/status")
        return tuple(status[f"serves_others{name}"] for name in ("", "_because", "_changes_in_s"))

    assert await get() == (True, "always", None)
    await expect(client, "PUT", "/policy", 200, {"serve_others": "never"})
    assert await get() == (False, "other nodes are not served", None)
    await expect(client, "PUT", "/policy", 200, {"serve_others": "idle", "idle_after_minutes": 60})
    is_open, why, changes_in_s = await get()
    assert (is_open, why) == (False, "this node's users are active") and 3_500 < changes_in_s <= 3_600


def test_the_policy_is_read_from_the_file_again(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"

    async def main() -> None:
        async with run_node() as node:
            file.write_text("policy: {max_queue: 7, stake: 4, models: {m: {max_own: 1}}}\n")
            assert reload_policy(node, "adaptive", file) == report(node.policy.parameters, stake=4)
            changed = PolicyParameters(max_queue=7, models={"m": ModelQuota(max_own=1)})
            assert node.policy.parameters == changed and node.backend_pool.admissions[0].max_queue == 7
            for text, reason in [
                ("policy: {max_queue: -1}", "policy.max_queue: must be at least 0"),
                ("policy: {max_queue: 9, name: mine}", "takes a restart"),
                ("policy: {max_queue: 9}\nnonsense: 1", "nonsense: is unknown"),
            ]:
                file.write_text(text)
                with pytest.raises(OrderRefused, match=re.escape(reason)):
                    reload_policy(node, "adaptive", file)
            file.unlink()
            with pytest.raises(OrderRefused, match="cannot be read"):
                reload_policy(node, "adaptive", file)
            assert node.policy.parameters == changed and node.stake_keeper.stake == 4_000_000

    trio.run(main)


# API keys


@with_admin
async def test_keys_are_made_listed_and_revoked(node: Node, client: httpx.AsyncClient) -> None:
    made = await expect(client, "POST", "/keys", 200, {"name": "alice", "budget": 500, "models": [MODEL]})
    assert made["name"] == "alice" and made["left"] == 500 and made["models"] == [MODEL]
    assert node.keys.identify([(b"authorization", f"Bearer {made['key']}".encode())]) == "alice"
    (listed,) = (await expect(client, "GET", "/keys"))["keys"]
    assert {**listed, "key": made["key"]} == made
    assert "alice" in (await expect(client, "POST", "/keys", 409, {"name": "alice"}))["error"]
    for wrong in ({"name": 5}, {"name": "bob", "budget": -1}, {"name": "bob", "expires": "soon"}, {"nonsense": 1}):
        await expect(client, "POST", "/keys", 400, wrong)
    assert (await expect(client, "POST", "/keys/revoke", 200, {"name": "alice"}))["revoked"] is not None
    await expect(client, "POST", "/keys/revoke", 409, {"name": "bob"})
    assert await expect(client, "GET", "/keys/usage") == {"usage": []}
    page = (await client.get("/metrics")).text
    assert 'wwwserve_key_budget_left_microcredits{key="alice"} 500.0' in page


# Listener


def test_a_port_in_use_is_a_listen_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with run_node() as node:
            first = await Admin.open(node, "localhost", 0, tmp_path / "token")
            host, port = first.address
            with pytest.raises(ListenError, match=f"cannot listen on {host}:{port}: .*in use"):
                await Admin.open(node, host, port, tmp_path / "token")

    trio.run(main)
