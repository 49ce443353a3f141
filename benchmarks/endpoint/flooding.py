"""The attackers of the ``floods`` benchmark: one process that carries out each flood of ``flood_kinds``.

It floods whichever node it is told to, from many accounts, peers and addresses, and is a node itself: it follows the
chain, and is the executor that lies.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import structlog
import trio
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from multiaddr import Multiaddr

from chain.crypto import KeyPair
from chain.genesis import Genesis, GenesisAccount
from chain.parameters.parameters import CREDIT
from chain.state.lottery import compute_lottery_seed
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.types.operations import Hold, Usage, compute_digest
from node import Node
from p2p.addresses import get_endpoint
from p2p.host.network import Libp2pNetwork
from p2p.host.transport.tcp import GuardedTCP
from p2p.network import NetworkError
from p2p.runtime import RealRuntime
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.offload.protocol import (
    CHUNK_BYTES,
    OFFLOAD_PROTOCOL,
    Accepted,
    Message,
    Offer,
    decode_message,
    encode_message,
)
from serving.openai.requests import CHAT_COMPLETIONS, HELD_BYTES_PER_TOKEN
from serving.scheduling.policy import PolicyParameters, ProbabilisticPolicy
from tests.support.forked import end_with_parent

if TYPE_CHECKING:
    from benchmarks.endpoint.flood_kinds import Flood

ADDRESSES = 8
"""Addresses of the attackers; at each there is one peer, with an account of its own."""
MAX_FLOODS = 120
"""Floods of one run: each has peers of its own, since those of others may be banned by then."""
BALANCE = 100 * CREDIT
"""Micro-credits of each of them, where a flood needs any."""
LIAR_BOND = 1_000 * CREDIT
"""Micro-credits behind the executor that lies."""
LIAR_MODEL = "a-model-of-the-liar"
"""The model that it alone serves."""
OFFERS_AT_ONCE = 16
"""Offers that each peer makes at a time."""
OFFERS_PER_S = 30.0
"""Offers of each peer: somewhat fewer than a stranger is blamed for."""
NICENESS = 19
"""Of what runs on other machines in reality, and shall not slow down the nodes here."""
CONNECT_TIMEOUT_S = 120.0
"""Of the executor that lies, to each node: at the start all processes want the processor."""
CONNECT_INTERVAL_S = 0.5
"""Seconds between two tries."""
SALT = bytes(16)
LIAR_KEY = KeyPair(bytes([0xA8]) * 32)


def make_key(flood: int, number: int, is_rich: bool = True) -> KeyPair:
    """The key of account ``number`` of a flood; ``is_rich``: of one that genesis gives credit to."""
    return KeyPair(bytes([0xA7, is_rich, flood, number]) * 8)


def make_accounts() -> list[GenesisAccount]:
    """What genesis gives to the attackers."""
    keys = [make_key(flood, number) for flood in range(MAX_FLOODS) for number in range(ADDRESSES)]
    return [
        GenesisAccount(LIAR_KEY.public_key, BALANCE, LIAR_BOND, (LIAR_MODEL,), None),
        *(GenesisAccount(key.public_key, BALANCE, 0, (), None) for key in keys),
    ]


_source: ContextVar[str | None] = ContextVar("source", default=None)


async def _dial(transport: GuardedTCP, address: Multiaddr) -> RawConnection:
    """Dial as the library does, but from the address in ``_source``."""
    host, port = get_endpoint(str(address))
    return RawConnection(TrioTCPStream(await trio.open_tcp_stream(host, port, local_address=_source.get())), True)


@dataclass(frozen=True, slots=True)
class Target:
    """A node that may be flooded: its multiaddress, where its API is, and the model that it serves."""

    public_key: bytes
    address: str
    api: tuple[str, int]
    model: str


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is to do: flood ``target``, as flood ``number`` of this run."""

    name: str
    target: Target
    number: int


@dataclass(frozen=True, slots=True)
class Stranger:
    """One account of the attackers, connected with the target."""

    key: KeyPair
    streams: Streams


class Attacker:
    """What a flood has at hand: a node that follows the chain, and accounts of its own."""

    def __init__(self, genesis: Genesis, node: Node, order: Order, user_key: str) -> None:
        """``user_key`` is an API key that works at the target."""
        self.target = order.target
        self.node = node
        self.user_key = user_key
        self.done = 0
        """What was done so far, each kind of flood in its own unit."""
        self._genesis = genesis
        self._number = order.number

    def make_keys(self, is_rich: bool = True) -> list[KeyPair]:
        """The keys of all its accounts."""
        return [make_key(self._number, number, is_rich) for number in range(ADDRESSES)]

    def get_address(self, number: int) -> str:
        """One of its addresses, all of them on loopback."""
        return f"127.0.{1 + self._number}.{1 + number}"

    @asynccontextmanager
    async def join(self, key: KeyPair, source: str) -> AsyncIterator[Stranger]:
        """A peer with this key, connected with the target from the loopback address ``source``."""
        _source.set(source)
        network = Libp2pNetwork(key, (), RealRuntime(), public=False)
        streams = Streams(network)
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            await nursery.start(streams.run)
            await network.connect(self.target.public_key, [self.target.address])
            yield Stranger(key, streams)
            nursery.cancel_scope.cancel()

    def make_hold(self, payer: bytes, seq: int, body: bytes, tokens: int | None) -> Hold:
        """A hold for the target; of an amount of 0 if ``tokens`` is None."""
        engine, model = self.node.engine, self.target.model
        period = engine.state.serving_periods.current
        table = engine.state.serving_table(period.first_round)
        assert table is not None and period.source is not None
        order = list(table.lottery(model).order(compute_lottery_seed(period.source, payer, seq), payer))
        amount = 0
        if tokens is not None:
            usage = Usage(len(body), tokens * HELD_BYTES_PER_TOKEN)
            amount = engine.genesis.parameters.get_price(model).compute(usage)
        attempt, deadline = order.index(self.target.public_key), engine.chain_time() + 600_000
        digest = compute_digest(SALT, body)
        return Hold(self.target.public_key, amount, period.first_round, seq % 256, attempt, model, digest, deadline)

    async def offer(self, stranger: Stranger, seq: int, body: bytes, tokens: int | None) -> None:
        """Offer a request, and do not pay for it, for as long as the target waits."""
        hold = self.make_hold(stranger.key.public_key, seq % 256, body, tokens)
        with suppress(NetworkError, trio.TooSlowError):
            async with stranger.streams.open(self.target.public_key, OFFLOAD_PROTOCOL) as exchange:
                await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, len(body), SALT, hold)))
                self.done += 1
                with suppress(NetworkError):  # it was declined already
                    for start in range(0, len(body), CHUNK_BYTES):
                        await exchange.send(body[start : start + CHUNK_BYTES])
                if isinstance(await _receive(exchange), Accepted):
                    await _receive(exchange)

    async def offer_all(self, keys: list[KeyPair], body: bytes, tokens: int | None) -> None:
        """Offer ``body`` again and again, from all ``keys`` and many times at once."""

        async def repeat(stranger: Stranger, first: int) -> None:
            for seq in count(first, OFFERS_AT_ONCE):
                await self.offer(stranger, seq, body, tokens)
                await trio.sleep(OFFERS_AT_ONCE / OFFERS_PER_S)

        async def run(key: KeyPair, source: str) -> None:
            while True:
                try:
                    async with self.join(key, source) as stranger, trio.open_nursery() as nursery:
                        for number in range(OFFERS_AT_ONCE):
                            nursery.start_soon(repeat, stranger, number)
                except* NetworkError:  # a nursery puts it into a group
                    pass
                await trio.sleep(1.0)

        async with trio.open_nursery() as nursery:
            for number, key in enumerate(keys):
                nursery.start_soon(run, key, self.get_address(number))


async def _receive(exchange: Exchange) -> Message:
    with trio.fail_after(30.0):
        frame = await exchange.receive()
    if frame is None:
        raise NetworkError("the target ended the exchange")
    return decode_message(frame)


def lower_priority(pid: int) -> None:
    """Have a process run at :data:`NICENESS`, with all threads that it has and will have (Linux: setpriority(2))."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), NICENESS)


async def _connect(network: Libp2pNetwork, target: Target) -> None:
    """Connect to a node, which may be slow to answer while all processes of the benchmark start.

    Raises:
        trio.TooSlowError: it does not answer.
    """
    with trio.fail_after(CONNECT_TIMEOUT_S):
        while True:
            with suppress(NetworkError):
                await network.connect(target.public_key, [target.address])
                return
            await trio.sleep(CONNECT_INTERVAL_S)


def run_attackers(
    orders: Connection,
    genesis: Genesis,
    targets: list[Target],
    backend_url: str,
    user_key: str,
    floods: dict[str, Flood],
) -> None:
    """Carry out one :class:`Order` after the other until this process is killed.

    It says so once it is ready. A flood begins with its order. Each None answers with what was done since then; a False
    ends the flood.
    """
    end_with_parent()
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    async def obey(node: Node) -> None:
        lower_priority(os.getpid())  # not before, or it would hardly start on a busy machine
        orders.send(0)
        while True:
            order: Order = await trio.to_thread.run_sync(orders.recv)
            attacker = Attacker(genesis, node, order, user_key)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(floods[order.name].run, attacker)
                while await trio.to_thread.run_sync(orders.recv) is None:
                    orders.send(attacker.done)
                nursery.cancel_scope.cancel()
            orders.send(attacker.done)

    async def main() -> None:
        store, runtime = MemoryStore(), RealRuntime()
        network = Libp2pNetwork(LIAR_KEY, (), runtime, public=False)
        node = Node(
            genesis=genesis,
            key=LIAR_KEY,
            network=network,
            blocks=ChainStore(store, genesis),
            runtime=runtime,
            policy=ProbabilisticPolicy(PolicyParameters()),
            backends=[(OpenAICompatibleBackend(backend_url, models=(LIAR_MODEL,), load_reader="none"), 1)],
            bootstrap=[(target.public_key, target.address) for target in targets],
            store=store,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            for target in targets:
                await _connect(network, target)
            await nursery.start(node.run)
            await obey(node)

    with patch.object(GuardedTCP, "dial", _dial):
        trio.run(main)
