"""The routes under ``/chain`` of a running node: what they answer, refuse, and that they change nothing."""

from __future__ import annotations

import re

import httpx
import trio

from chain.crypto import format_address
from chain.light.client import Checkpoint
from chain.light.proofs import check_proof, parse_proof
from chain.parameters.parameters import CREDIT
from chain.types.operations import Transfer
from node import Node
from serving.admin.ledger import QUERIES
from tests.serving.admin.client import expect, with_admin
from tests.support.solo_node import KEY, OTHER
from tests.support.waiting import PATIENCE

NOWHERE = "00" * 32


async def pay(node: Node, client: httpx.AsyncClient) -> dict:
    """Have a transfer be final, and return what is said of it."""
    signed = await node.wallet.submit(lambda nonce: Transfer(nonce, OTHER.public_key, CREDIT, b"rent"))
    with trio.fail_after(PATIENCE):
        await node.engine.wait_final(signed.id, PATIENCE)
        while (answer := await client.get(f"/chain/operations/{signed.id.hex()}")).status_code == 404:
            await trio.sleep(0.01)
    return answer.json()


@with_admin
async def test_a_payment_is_seen_in_its_block_and_at_both_accounts_and_proved(
    node: Node, client: httpx.AsyncClient
) -> None:
    node.engine.chain.index_accounts = True
    paid = await pay(node, client)
    assert (paid["kind"], paid["recipient"], paid["failure"]) == ("transfer", OTHER.address, None)
    while node.engine.chain.extend_index():
        pass
    block = await expect(client, "GET", f"/chain/blocks/{paid['height']}")
    assert paid["id"] in {each["id"] for each in block["operations"]}
    assert await expect(client, "GET", f"/chain/blocks/{block['id']}") == block
    for key in (KEY, OTHER):
        history = await expect(client, "GET", f"/chain/accounts/{key.address}/operations?limit=5")
        assert paid["id"] in {each["id"] for each in history["operations"]}
    account = await expect(client, "GET", f"/chain/accounts/{OTHER.address}")
    assert account["available"] == 1_001 * CREDIT
    genesis = node.engine.genesis
    for path in (f"operations/{paid['id']}", f"accounts/{OTHER.address}"):
        proof = (await expect(client, "GET", f"/chain/proof/{path}"))["proof"]
        check_proof(genesis, None, parse_proof(proof))
        trusted = Checkpoint(paid["height"], bytes.fromhex(block["id"]))
        proof = (await expect(client, "GET", f"/chain/proof/{path}?checkpoint={trusted}"))["proof"]
        check_proof(genesis, trusted, parse_proof(proof))


@with_admin
async def test_head_blocks_validators_epochs_and_search(node: Node, client: httpx.AsyncClient) -> None:
    paid = await pay(node, client)
    head = await expect(client, "GET", "/chain/head")
    assert head["height"] >= paid["height"] and head["name"] == "test"
    page = await expect(client, "GET", f"/chain/blocks?limit=1&before={paid['height'] + 1}")
    assert [block["height"] for block in page["blocks"]] == [paid["height"]]
    validators = await expect(client, "GET", "/chain/validators")
    assert [each["address"] for each in validators["validators"]] == [KEY.address]
    assert (await expect(client, "GET", "/chain/epochs/0"))["first_height"] == 1
    assert (await expect(client, "GET", "/chain/blocks/%68ead"))["header"]["height"] >= paid["height"]
    for text, kind in (("1", "block"), (paid["id"], "operation"), (OTHER.address, "account"), ("?", None)):
        assert (await expect(client, "GET", f"/chain/search?q={text}"))["kind"] == kind


@with_admin
async def test_who_has_an_answer_is_not_sent_it_again(node: Node, client: httpx.AsyncClient) -> None:
    first = await client.get("/chain/epochs/0")
    again = await client.get("/chain/epochs/0", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert "content-length" not in again.headers, "it would be that of the answer (RFC 9110, section 8.6)"


@with_admin
async def test_what_is_not_there_or_malformed_is_refused_with_a_reason(node: Node, client: httpx.AsyncClient) -> None:
    stranger = format_address(b"\x58" + bytes(30) + b"\x66")
    for status, path in (
        (404, "blocks/999999999"),
        (404, f"blocks/{NOWHERE}"),
        (404, f"operations/{NOWHERE}"),
        (404, "epochs/99999"),
        (400, "epochs/x"),
        (400, "blocks/x"),
        (400, "operations/x"),
        (400, "blocks?limit=0"),
        (400, "blocks?limit=201"),
        (400, "blocks?before=-1"),
        (400, "accounts/x"),
        (400, f"accounts/{OTHER.address}/operations?before=5"),
        (409, f"accounts/{OTHER.address}/operations"),
        (400, f"proof/operations/{NOWHERE}"),
        (400, f"proof/accounts/{OTHER.address}?checkpoint=5"),
        (400, f"accounts/{stranger}"),
    ):
        answer = await expect(client, "GET", f"/chain/{path}", status)
        assert set(answer) == {"error"} and answer["error"], path


@with_admin
async def test_every_route_is_everybodys_and_read_only(node: Node, client: httpx.AsyncClient) -> None:
    for path in QUERIES:
        filled = re.sub(r"{epoch:int}", "0", path)
        filled = re.sub(r"{address}", OTHER.address, filled)
        filled = re.sub(r"{\w+}", NOWHERE, filled)
        status = (await client.get(filled, headers={"Authorization": "Bearer no"})).status_code
        assert status not in (401, 403, 500), path
        for method in ("POST", "PUT", "DELETE"):
            assert (await client.request(method, filled)).status_code == 405, path


@with_admin
async def test_many_readers_at_once_see_one_consistent_chain(node: Node, client: httpx.AsyncClient) -> None:
    await pay(node, client)

    async def read() -> None:
        for _ in range(10):
            head = await expect(client, "GET", "/chain/head")
            block = await expect(client, "GET", f"/chain/blocks/{head['height']}")
            assert block["id"] == head["block_id"]

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(read)
