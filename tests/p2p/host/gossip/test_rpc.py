"""The bounds on what gossip reads and keeps: what is in an RPC, queues and recent messages."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

from p2p.host.gossip import rpc
from p2p.host.gossip.rpc import (
    MAX_CACHED_BYTES,
    MAX_CONTROL_BYTES,
    MAX_QUEUED_RPC_BYTES,
    MAX_RPC_BYTES,
    MAX_RPC_ITEMS,
    BoundedCache,
    BoundedQueue,
    count_items,
    is_sound,
)
from p2p.length_prefixed import MalformedMessage

SOUND: dict[str, Any] = {
    "from_id": b"f" * 38,
    "data": b"x",
    "seqno": bytes(8),
    "topicIDs": ["topic"],
    "signature": bytes(64),
    "key": bytes(36),
}


def make_rpc(messages: int = 0, subscriptions: int = 0, prunes: int = 0) -> bytes:
    rpc = rpc_pb2.RPC()
    for _ in range(messages):
        rpc.publish.add(**SOUND)
    for number in range(subscriptions):
        rpc.subscriptions.add(subscribe=True, topicid=str(number))
    for number in range(prunes):
        rpc.control.prune.add(topicID=str(number))
    return rpc.SerializeToString()


def message(size: int, number: int = 0) -> rpc_pb2.Message:
    return rpc_pb2.Message(**SOUND | {"data": bytes(size), "seqno": number.to_bytes(8, "big")})


# Items


def test_what_an_rpc_has_is_counted_before_it_is_decoded() -> None:
    assert count_items(make_rpc(3, 2, 1)) == (3, 2)
    assert count_items(b"") == (0, 0)
    assert count_items(make_rpc(MAX_RPC_ITEMS, MAX_RPC_ITEMS)) == (MAX_RPC_ITEMS, MAX_RPC_ITEMS)


@pytest.mark.parametrize(
    "raw",
    [
        make_rpc(messages=MAX_RPC_ITEMS + 1),
        make_rpc(subscriptions=MAX_RPC_ITEMS + 1),
        make_rpc(prunes=MAX_CONTROL_BYTES // 4),
        b"\x12\x00" * (MAX_RPC_BYTES // 2),
        b"".join(encode_uvarint(field << 3 | 2) + b"\x00" for field in range(4, 500)),
        b"\x12\x05abc",
        b"\x10\x05",
        b"\xff" * 64,
    ],
    ids=["messages", "subscriptions", "control", "empty", "unknown", "short", "number", "garbage"],
)
def test_what_no_honest_peer_sends_is_not_decoded(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        count_items(raw)


@given(st.binary(max_size=200) | st.builds(make_rpc, st.integers(0, 70), st.integers(0, 70), st.integers(0, 5)))
def test_counts_are_those_of_the_decoded_rpc(raw: bytes) -> None:
    try:
        counts = count_items(raw)
    except MalformedMessage:
        return
    try:
        rpc = rpc_pb2.RPC.FromString(raw)
    except DecodeError:
        return
    assert counts == (len(rpc.publish), len(rpc.subscriptions))


@pytest.mark.parametrize(
    "changes",
    [
        {"topicIDs": []},
        {"topicIDs": ["topic", "made up"]},
        {"topicIDs": ["x" * 1000]},
        {"seqno": bytes(1 << 16)},
        {"key": bytes(1 << 16)},
        {"signature": bytes(1 << 16)},
    ],
    ids=["no topic", "two topics", "topic", "seqno", "key", "signature"],
)
def test_only_the_payload_of_a_message_may_be_long(changes: dict[str, Any]) -> None:
    assert is_sound(rpc_pb2.Message(**SOUND))
    assert not is_sound(rpc_pb2.Message(**SOUND | changes))


# Queues and the cache


@pytest.mark.trio
async def test_a_queue_is_bounded_by_bytes() -> None:
    queue = BoundedQueue()
    rpc = rpc_pb2.RPC(publish=[message(1 << 20)])
    assert sum(queue.push(rpc) for _ in range(10)) == MAX_QUEUED_RPC_BYTES // rpc.ByteSize()
    assert queue.size <= MAX_QUEUED_RPC_BYTES
    while len(queue):
        await queue.pop()
    assert queue.size == 0 and queue.push(rpc)


def test_the_oldest_messages_are_forgotten_when_they_are_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MAX_CACHED_BYTES", 10_000)
    cache = BoundedCache(2, 3)
    for number in range(30):
        cache.put(message(1000, number))
    cache.put(message(1000, 29))
    assert len(cache.msgs) == len(cache.window("topic")) == 8 and cache.size <= 10_000 < MAX_CACHED_BYTES
    assert all(cache.get(name) is not None for name in cache.window("topic"))
    cache.put(message(20_000, 99))  # larger than everything
    assert len(cache.msgs) == 1
    for _ in range(3):
        cache.shift()
    assert cache.size == 0 and not cache.msgs
