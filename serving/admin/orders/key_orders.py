"""The owner's orders about API keys: make one, revoke one, list them, and what each used on each day.

Amounts are in micro-credits, times in ms since the Unix epoch. ``wwwserve keys`` uses the same functions on the file of
a node that is stopped.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, Strict

from serving.admin.node_view import NodeView
from serving.admin.orders.wallet_orders import OrderRefused
from serving.config.fields import MAX_AMOUNT, ModelName, Section
from serving.keys.keyring import Keyring
from serving.keys.records import KeyLimits, KeyRecord, KeyRefused

MAX_KEY_MODELS = 256
"""Models that a key may be restricted to."""
MAX_RATE = 10**9
"""Largest rate of a key."""
MAX_TIME = 2**53
"""Latest time at which a key may expire."""


class RevokeOrder(Section):
    """Which key to revoke."""

    name: str


class CreateOrder(RevokeOrder):
    """A key to make, with its limits (see :class:`serving.keys.records.KeyLimits`)."""

    models: Annotated[tuple[ModelName, ...], Strict(False)] = Field(default=(), max_length=MAX_KEY_MODELS)
    requests_per_minute: int = Field(default=0, ge=0, le=MAX_RATE)
    tokens_per_minute: int = Field(default=0, ge=0, le=MAX_RATE)
    concurrency: int = Field(default=0, ge=0, le=MAX_RATE)
    budget: int | None = Field(default=None, ge=0, le=MAX_AMOUNT)
    expires: int | None = Field(default=None, ge=0, le=MAX_TIME)

    def get_limits(self) -> KeyLimits:
        """The limits, as a keyring takes them."""
        return KeyLimits(**self.model_dump(exclude={"name"}))


async def create_key(keys: Keyring, order: CreateOrder) -> dict[str, Any]:
    """Make a key. The answer has it, under ``key``; it cannot be shown again.

    Raises:
        OrderRefused: it cannot be made.
    """
    try:
        secret = await keys.create(order.name, order.get_limits())
    except KeyRefused as error:
        raise OrderRefused(str(error)) from None
    (record,) = (record for record in keys.get_records() if record.name == order.name)
    return {"key": secret, **_describe(keys, record)}


async def revoke_key(keys: Keyring, order: RevokeOrder) -> dict[str, Any]:
    """Revoke a key.

    Raises:
        OrderRefused: there is none, or it cannot be revoked.
    """
    try:
        return _describe(keys, await keys.revoke(order.name))
    except KeyRefused as error:
        raise OrderRefused(str(error)) from None


def list_keys(keys: Keyring) -> dict[str, Any]:
    """All keys with their limits, revoked ones included."""
    return {"keys": [_describe(keys, record) for record in keys.get_records()]}


def list_usage(keys: Keyring) -> dict[str, Any]:
    """What each key used on each day, by key and day (UTC)."""
    return {"usage": [{"key": name, "day": day, **asdict(usage)} for name, day, usage in keys.get_usage()]}


def report_keys_backup(node: NodeView) -> dict[str, Any]:
    """The keys that were made, as ``wwwserve backup`` keeps them: their hashes, limits, and what was spent."""
    return {"keys": node.keys.export()}


def report_keys(node: NodeView) -> dict[str, Any]:
    """All keys of a node."""
    return list_keys(node.keys)


def report_key_usage(node: NodeView) -> dict[str, Any]:
    """What was used of the keys of a node."""
    return list_usage(node.keys)


def _describe(keys: Keyring, record: KeyRecord) -> dict[str, Any]:
    described = asdict(record)
    del described["digest"]
    limits = described.pop("limits")
    return {**described, **limits, "left": keys.get_left(record.name), "running": keys.get_running(record.name)}
