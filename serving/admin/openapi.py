"""The OpenAPI document of the admin listener (version 3.1.0): the ledger, reports, and the owner's orders (pure).

The API for users has a document of its own (:mod:`serving.openapi`). Answers are JSON objects; what they hold stands in
docs/operating.md. A test compares the table here with the routes that the listener has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel

from serving.admin.connectivity import PingOrder
from serving.admin.health.health import get_version
from serving.admin.levels import Level
from serving.admin.orders.key_orders import CreateOrder, RevokeOrder
from serving.admin.orders.wallet_orders import WALLET_ORDERS, Order

DOCUMENT = "/openapi.json"
"""Path of the document."""
PUBLIC, READING, ACTING = Level
LIMIT: dict[str, Any] = {"type": "integer", "minimum": 1}
TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}
PAGE = {"before": NUMBER, "limit": {**LIMIT, "maximum": 200}}
CHECKPOINT = {"checkpoint": {**TEXT, "description": "HEIGHT:BLOCKID, from which the proof begins"}}


class Described(NamedTuple):
    """One route: who may use it, what it answers or does, its query, and what its body is."""

    level: Level
    summary: str
    query: Mapping[str, Any] = {}
    body: type[BaseModel] | None = None
    may_be_any_object: bool = False
    """Whether the body is an object whose keys the policy defines."""


ROUTES: Mapping[tuple[str, str], Described] = {
    ("GET", "/healthz"): Described(PUBLIC, "Ready or degraded, or stalled or ending (status 503), and why."),
    ("GET", "/livez"): Described(PUBLIC, "That the process answers."),
    ("GET", "/metrics"): Described(PUBLIC, "The page for Prometheus, as text."),
    ("GET", DOCUMENT): Described(PUBLIC, "This document."),
    ("GET", "/chain/head"): Described(PUBLIC, "The last final block, supply, treasury, number of validators."),
    ("GET", "/chain/blocks"): Described(PUBLIC, "Blocks, the latest first.", PAGE),
    ("GET", "/chain/blocks/{block}"): Described(PUBLIC, "A block, by height, id or 'head', and who made it final."),
    ("GET", "/chain/operations/{operation}"): Described(PUBLIC, "An operation, its block, and why it failed."),
    ("GET", "/chain/accounts/{address}"): Described(PUBLIC, "An account after the last final block."),
    ("GET", "/chain/accounts/{address}/operations"): Described(
        PUBLIC,
        "What an account signed, what names it, and what is about its holds, the latest first.",
        {"before": {**TEXT, "description": "HEIGHT.INDEX"}, "limit": PAGE["limit"]},
    ),
    ("GET", "/chain/accounts/{address}/movements"): Described(
        PUBLIC,
        "All that changed the balance of an account, and why, the latest first: it adds up to the balance.",
        {"before": {**TEXT, "description": "HEIGHT.NUMBER"}, "limit": PAGE["limit"]},
    ),
    ("GET", "/chain/validators"): Described(PUBLIC, "Who votes on the next block, and who is jailed."),
    ("GET", "/chain/epochs/{epoch}"): Described(PUBLIC, "An epoch: its heights, validators and last block."),
    ("GET", "/chain/flows"): Described(
        PUBLIC,
        "Who pays whom: the holds of the last minute, or of the time since then, by payer and payee.",
        {"since": {**NUMBER, "description": "ms since 1970"}, "before": NUMBER},
    ),
    ("GET", "/chain/search"): Described(PUBLIC, "What a text names.", {"q": {**TEXT, "maxLength": 128}}),
    ("GET", "/chain/proof/accounts/{address}"): Described(PUBLIC, "A proof of an account, as text.", CHECKPOINT),
    ("GET", "/chain/proof/operations/{operation}"): Described(PUBLIC, "A proof of an operation, as text.", CHECKPOINT),
    ("GET", "/status"): Described(READING, "Where the node stands, and what is wrong."),
    ("GET", "/ledger/total"): Described(READING, "All credit, added up account by account."),
    ("GET", "/peers"): Described(READING, "Who is online, as each announces itself."),
    ("GET", "/models"): Described(READING, "Models that users can ask for, and this node's backends."),
    ("GET", "/wallet"): Described(READING, "The account of the node."),
    ("GET", "/policy"): Described(READING, "The policy in force."),
    ("GET", "/duels"): Described(READING, "Duels and checks that this node took part in since it started."),
    ("GET", "/network/check"): Described(READING, "How this node reaches others and is reached."),
    ("GET", "/doctor"): Described(READING, "What the node finds of configuration, disk, ports and clock."),
    ("GET", "/keys"): Described(READING, "API keys, without their secrets."),
    ("GET", "/keys/backup"): Described(READING, "API keys by their digests, as 'wwwserve backup' keeps them."),
    ("GET", "/keys/usage"): Described(READING, "What each API key used, by day and model."),
    ("GET", "/requests"): Described(READING, "The last requests of users.", {"limit": {**LIMIT, "maximum": 1024}}),
    **{
        ("POST", f"/wallet/{name}"): Described(ACTING, f"Submit the operation '{name}'.", body=order.body)
        for name, order in WALLET_ORDERS.items()
    },
    ("POST", "/wallet/register"): Described(
        ACTING, "Find a proof of work, and register for first credits.", body=Order
    ),
    ("POST", "/network/ping"): Described(ACTING, "Ping a peer.", body=PingOrder),
    ("POST", "/keys"): Described(ACTING, "Make an API key; its secret is in the answer alone.", body=CreateOrder),
    ("POST", "/keys/revoke"): Described(ACTING, "End an API key.", body=RevokeOrder),
    ("PUT", "/policy"): Described(ACTING, "Change the policy until the node stops.", may_be_any_object=True),
    ("POST", "/policy/reload"): Described(ACTING, "Follow the configuration file again."),
}
"""All routes but those of the dashboard and of tests."""


@cache
def make_admin_document() -> dict[str, Any]:
    """The document."""
    paths: dict[str, Any] = {}
    for (method, path), route in ROUTES.items():
        paths.setdefault(path, {})[method.lower()] = _describe(method, path, route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "wwwserve: ledger and administration",
            "version": get_version(),
            "description": "What a node tells everybody of the ledger, and its owner of itself.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8001", "description": "The admin listener; admin.port moves it."}],
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {"type": "object", "properties": {"error": TEXT}, "required": ["error"]},
                "Object": {"type": "object"},
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _describe(method: str, path: str, route: Described) -> dict[str, Any]:
    answer = (
        {"text/plain": {"schema": TEXT}} if path == "/metrics" else _as_json({"$ref": "#/components/schemas/Object"})
    )
    error = _as_json({"$ref": "#/components/schemas/Error"})
    names = re.findall(r"{(\w+)}", path)
    in_path = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]
    in_query = [{"name": name, "in": "query", "schema": schema} for name, schema in route.query.items()]
    described: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", path)]),
        "summary": route.summary,
        "security": [{}] if route.level is PUBLIC else [{"token": []}],
        "responses": {
            "200": {"description": "The answer.", "content": answer},
            "default": {"description": "An error.", "content": error},
        },
    }
    if in_path or in_query:
        described["parameters"] = in_path + in_query
    if route.body is not None:
        described["requestBody"] = {"content": _as_json(route.body.model_json_schema())}
    elif route.may_be_any_object:
        described["requestBody"] = {"content": _as_json({"type": "object"})}
    return described


def _as_json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
