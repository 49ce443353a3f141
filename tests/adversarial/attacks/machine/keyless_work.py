"""A client without a key has a node read a large body before the node looks for the key."""

from __future__ import annotations

from typing import cast

import trio

from chain.store.kv import MemoryStore
from p2p.runtime import RealRuntime
from serving.api import Api
from serving.dispatcher import Dispatcher
from serving.keys.keyring import Keyring
from serving.keys.records import ConfiguredKey
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.http_front import connect, receive_all, run_front
from tests.support.waiting import PATIENCE

BODY_BYTES = 4 * 1024 * 1024
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def run_attack() -> Outcome:
    return trio.run(send_head)


async def send_head() -> Outcome:
    """Send the head of a request; send the body only if the node waits for it."""
    keys = Keyring(MemoryStore(), RealRuntime(), [ConfiguredKey("secret")])
    api = Api(cast(Dispatcher, None), keys)  # no request gets as far as to be dispatched
    head = HEAD + b"Content-Length: %d\r\n\r\n" % BODY_BYTES
    async with run_front(api.handle, admit=api.admit) as server, await connect(server) as stream:
        await stream.send_all(head)
        read, response = 0, b""
        with trio.move_on_after(PATIENCE):
            response = await receive_all(stream)
        if not response:
            await stream.send_all(bytes(BODY_BYTES))
            response = await receive_all(stream)
            read = BODY_BYTES
        assert response.startswith(b"HTTP/1.1 401 ")
    return Outcome(len(head), read, read, "the head is refused, and nothing after it is read", "bytes")


ATTACK = Attack(
    "bodies of clients without a key",
    Outcome(107, BODY_BYTES, BODY_BYTES, "the body is read whole before the key is looked at", "bytes"),
    run_attack,
)
