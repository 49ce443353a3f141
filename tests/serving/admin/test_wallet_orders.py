"""The owner's orders to the wallet: what each does, and how a bad one is explained."""

from __future__ import annotations

import json
from typing import Any

import httpx
import trio

from chain.parameters.parameters import CREDIT
from node import Node
from serving.admin.orders.bodies import MAX_ADMIN_BODY_BYTES
from tests.serving.admin.client import expect, with_admin
from tests.support.solo_node import KEY, OTHER

WAIT = 30


def get_balance(node: Node, key: bytes) -> int:
    return node.engine.state.account(key).available


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
        "locked": 0,
        "deposit": 0,
        "unbonding": 0,
        "income_to_bond": 0,
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
async def test_validator_registry(node: Node, client: httpx.AsyncClient) -> None:
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
        response = await client.post(f"/wallet/{kind}", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 400, (kind, order, response.text)
        assert reason in response.json()["error"], (kind, order)
    assert node.engine.status().mempool_operations == 0


@with_admin
async def test_a_large_body_is_refused(node: Node, client: httpx.AsyncClient) -> None:
    response = await client.post("/wallet/bond", content=b" " * (MAX_ADMIN_BODY_BYTES + 1))
    assert response.status_code == 413
    assert "larger than" in response.json()["error"]


@with_admin
async def test_a_client_that_goes_away_ends_nothing(node: Node, client: httpx.AsyncClient) -> None:
    host, port = client.base_url.host, client.base_url.port
    assert port is not None
    authorization = client.headers["Authorization"]
    head = f"POST /wallet/bond HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n"
    head += "Content-Type: application/json\r\n"
    for rest in ("", "Content-Length: 100\r\n\r\n{", 'Content-Length: 26\r\n\r\n{"amount": 7, "wait": 60.0}'):
        stream = await trio.open_tcp_stream(host, port)
        await stream.send_all((head + rest).encode())
        await stream.aclose()
    await expect(client, "GET", "/healthz")


@with_admin
async def test_a_dry_run_says_what_an_order_would_cost_and_sends_nothing(node: Node, client: httpx.AsyncClient) -> None:
    order = {"recipient": OTHER.address, "amount": 3 * CREDIT}
    before = node.engine.state.account(KEY.public_key)
    foreseen = await expect(client, "POST", "/wallet/transfer", 200, {**order, "dry_run": True})
    assert (foreseen["operation"], foreseen["height"]) == (None, None)
    assert foreseen["available_after"] == before.available - 3 * CREDIT - foreseen["fee"]
    assert (foreseen["bonded_after"], foreseen["free_from_epoch"]) == (before.bonded, None)
    unbond = await expect(client, "POST", "/wallet/unbond", 200, {"amount": CREDIT, "dry_run": True})
    assert unbond["bonded_after"] == before.bonded - CREDIT
    assert unbond["free_from_epoch"] >= unbond["votes_from_epoch"] == node.engine.status().epoch + 2
    assert node.engine.status().mempool_operations == 0
    done = await expect(client, "POST", "/wallet/transfer", 200, {**order, "wait": WAIT})
    assert done["fee"] == foreseen["fee"]
    assert node.engine.state.account(KEY.public_key).available == foreseen["available_after"]
    refused = await expect(client, "POST", "/wallet/transfer", 409, {**order, "amount": 10**12, "dry_run": True})
    assert "available" in refused["error"]
