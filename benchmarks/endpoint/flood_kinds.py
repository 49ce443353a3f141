"""The floods of the ``floods`` benchmark, each a function that an ``Attacker`` of ``flooding`` is given.

A new flood is a coroutine function and an entry in :data:`FLOODS`. It runs until it is cancelled, and counts what it
does, so that a flood that did nothing is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, repeat

import trio

from benchmarks.endpoint.flooding import ADDRESSES, LIAR_MODEL, Attacker
from p2p.network import NetworkError
from p2p.streams.exchange import Exchange
from serving.offload.context import receive_message
from serving.offload.protocol import (
    CHUNK_BYTES,
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    OFFLOAD_PROTOCOL,
    Accepted,
    Offer,
    ResponseChunk,
    ResponseHead,
    encode_message,
)
from serving.openai.answers import EVENT_STREAM, MAX_EVENT_BYTES
from serving.openai.requests import CHAT_COMPLETIONS, MAX_JSON_ITEMS

CONNECTIONS = 64
"""HTTP connections from each address: as many as a node takes from one that is not of its own machine."""
RECONNECT_S = 0.05
"""Seconds between two connections of one task."""


# Offers.


def _make_body(model: str, content: bytes, tokens: int) -> bytes:
    return b'{"model":"%s","stream":true,"max_tokens":%d,"x":[%s]}' % (model.encode(), tokens, content)


async def flood_with_unpaid_offers(attacker: Attacker) -> None:
    """Small requests that are never paid, each for a long answer."""
    await attacker.offer_all(attacker.make_keys(), _make_body(attacker.target.model, b"", 200), 200)


async def flood_with_unpaid_bodies(attacker: Attacker) -> None:
    """The longest bodies, of accounts that do not exist, for nothing."""
    zeros = b"0.1," * ((MAX_REQUEST_BYTES - 200) // 4) + b"0"
    await attacker.offer_all(attacker.make_keys(is_rich=False), _make_body(attacker.target.model, zeros, 1), None)


async def flood_with_slow_bodies(attacker: Attacker) -> None:
    """Bodies that take as long to parse as any that is parsed, of accounts that could pay and do not."""
    zeros = b"0," * (MAX_JSON_ITEMS - 100) + b"0"
    await attacker.offer_all(attacker.make_keys(), _make_body(attacker.target.model, zeros, 1), 1)


# HTTP.


async def _repeat_requests(
    attacker: Attacker, head: bytes, body: Callable[[], Iterator[bytes]], connections: int = CONNECTIONS
) -> None:
    """Send a request on ``connections`` from each address, as often as the target lets, and read what it answers."""
    host, port = attacker.target.api

    async def send(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            for piece in body():
                await stream.send_all(piece)

    async def request(source: str) -> None:
        stream = await trio.open_tcp_stream(host, port, local_address=source)
        async with stream, trio.open_nursery() as nursery:
            await stream.send_all(head)
            attacker.done += 1
            nursery.start_soon(send, stream)
            while await stream.receive_some(CHUNK_BYTES):
                pass
            nursery.cancel_scope.cancel()

    async def run(source: str) -> None:
        while True:
            try:
                await request(source)
            except* (OSError, trio.BrokenResourceError):
                pass
            await trio.sleep(RECONNECT_S)

    async with trio.open_nursery() as nursery:
        for number in range(ADDRESSES):
            for _ in range(connections):
                nursery.start_soon(run, attacker.get_address(number))


def _make_head(attacker: Attacker, method: str, *headers: str) -> bytes:
    host, port = attacker.target.api
    lines = (
        f"{method} {CHAT_COMPLETIONS} HTTP/1.1",
        f"Host: {host}:{port}",
        "Content-Type: application/json",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode()


async def flood_with_keyless_bodies(attacker: Attacker) -> None:
    """The longest bodies, by clients without a key."""
    head = _make_head(attacker, "POST", f"Content-Length: {MAX_REQUEST_BYTES}")
    await _repeat_requests(attacker, head, lambda: repeat(bytes(CHUNK_BYTES), MAX_REQUEST_BYTES // CHUNK_BYTES))


async def flood_with_crumbs(attacker: Attacker) -> None:
    """Bodies in chunks of one byte, by a user with a key."""
    head = _make_head(attacker, "POST", "Transfer-Encoding: chunked", f"Authorization: Bearer {attacker.user_key}")
    await _repeat_requests(attacker, head, lambda: repeat(b"1\r\n0\r\n" * 4096))


async def flood_with_connections(attacker: Attacker) -> None:
    """Connections that are refused for want of a key, and made again."""
    await _repeat_requests(attacker, _make_head(attacker, "GET"), lambda: iter(()))


# The executor that lies.


async def _lie(attacker: Attacker, answer: Callable[[], Iterator[bytes]]) -> None:
    """Have users of the target ask for what only the liar serves, and answer as fast as the target reads."""

    async def serve(exchange: Exchange) -> None:
        offer = await receive_message(exchange, 10.0)
        if not isinstance(offer, Offer):
            raise NetworkError("expected an offer")
        missing = offer.size
        while missing > 0:
            missing -= len(await exchange.receive() or bytes(missing))
        await exchange.send(encode_message(Accepted(False)))
        await receive_message(exchange, 10.0)
        await exchange.send(encode_message(ResponseHead(200, EVENT_STREAM, bytes(16))))
        attacker.done += 1
        for piece in answer():
            for start in range(0, len(piece), CHUNK_BYTES):
                await exchange.send(encode_message(ResponseChunk(piece[start : start + CHUNK_BYTES])))

    attacker.node.streams.handle(OFFLOAD_PROTOCOL, serve)
    body = json.dumps({"model": LIAR_MODEL, "stream": True, "max_tokens": 1000, "messages": []}).encode()
    head = _make_head(attacker, "POST", f"Content-Length: {len(body)}", f"Authorization: Bearer {attacker.user_key}")
    await _repeat_requests(attacker, head, lambda: iter((body,)), 1)


async def flood_with_long_events(attacker: Attacker) -> None:
    """Answers of the longest events. They are no JSON."""
    event = b"data: " + b"x" * (MAX_EVENT_BYTES - 8) + b"\n\n"
    await _lie(attacker, lambda: chain([_TOKEN], repeat(event, MAX_ANSWER_BYTES // len(event) - 1)))


async def flood_with_slow_events(attacker: Attacker) -> None:
    """Answers of the events that take longest to parse."""
    event = b'data: {"choices":[%s{}]}\n\n' % (b"{}," * ((MAX_EVENT_BYTES - 40) // 3))
    await _lie(attacker, lambda: chain([_TOKEN], repeat(event, MAX_ANSWER_BYTES // len(event) - 1)))


async def flood_with_tiny_events(attacker: Attacker) -> None:
    """Answers of as many events as possible."""
    events = b"data:{}\n\n" * (CHUNK_BYTES // 9)
    await _lie(attacker, lambda: chain([_TOKEN], repeat(events, MAX_ANSWER_BYTES // len(events) - 1)))


_TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
"""After the first token the target can ask no other executor."""


@dataclass(frozen=True, slots=True)
class Flood:
    """One flood: what it is called in the figures, and what it does."""

    title: str
    run: Callable[[Attacker], Awaitable[None]]
    victim_pays: bool = False
    """Whether the victim is the node that offloads, not the one that it offloads to."""


FLOODS = {
    "unpaid_offers": Flood("offers that are never paid", flood_with_unpaid_offers),
    "unpaid_bodies": Flood("4 MiB bodies of strangers", flood_with_unpaid_bodies),
    "slow_bodies": Flood("bodies that are slow to parse", flood_with_slow_bodies),
    "keyless_bodies": Flood("HTTP: 4 MiB bodies without a key", flood_with_keyless_bodies),
    "crumbs": Flood("HTTP: bodies in chunks of one byte", flood_with_crumbs),
    "connections": Flood("HTTP: connections without a key", flood_with_connections),
    "long_events": Flood("an executor's answers of 1 MiB events", flood_with_long_events, victim_pays=True),
    "slow_events": Flood("an executor's events that are slow to parse", flood_with_slow_events, victim_pays=True),
    "tiny_events": Flood("an executor's answers of tiny events", flood_with_tiny_events, victim_pays=True),
}
"""All floods, in the order in which they are measured."""
