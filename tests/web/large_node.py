"""A real node that believes to be in a large network: its own listener answers the page, with all that it computes.

Made up are only what one node cannot have by itself: the announcements of its peers, whose loads change all the time,
the holds that they make, its past, and the very many operations of an account.
``python -m tests.web.large_node`` runs it for a look.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import httpx
import pytest
import trio

from chain.crypto import KeyPair, format_address
from chain.explorer.accounts import AFTER_ALL, Place
from chain.explorer.flows import FinalHold
from chain.genesis import GenesisAccount
from chain.parameters.parameters import CREDIT
from chain.types.operations import Transfer
from node import Node
from p2p.peers.announcement import Announcement, ModelLoad, PeerLoad
from serving.admin import ledger
from serving.admin.server import Admin
from serving.dashboard.pages import Dashboard
from serving.dashboard.views import take_sample
from serving.request_records import Outcome, RequestRecord
from tests.support.solo_node import KEY, MODEL, OTHER, make_node

MODELS = (MODEL, "Llama-3.1-8B", "gemma-3-12b", "Qwen3-32B", "smollm2-135m")
SLOTS = 8
PAST_S = 600
"""Length of the history that is made up."""
LIFETIME_MS = 7_200_000


@dataclass
class LargeNode:
    """The node, with ``peers`` peers, and ``operations`` operations of its account."""

    peers: int = 99
    operations: int = 100_000
    seed: int = 1
    url: str = ""
    """Origin of its pages, while it runs."""
    token: str = ""
    refresh_s: list[float] = field(default_factory=list)
    """How long the node took to compute what its pages show, each time."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.keys = [KeyPair(self.chance.randbytes(32)).public_key for _ in range(self.peers)]
        self.models = {key: MODELS[min(self.chance.choices(range(5), (9, 5, 3, 2, 2)))] for key in self.keys}
        self.bonds = {key: round((50 + 4_000 * self.chance.random() ** 4) * CREDIT) for key in self.keys}

    def make_code(self) -> str:
        """A code for a login of the owner."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return str(httpx.post(f"{self.url}/dashboard/code", json={}, headers=headers).raise_for_status().json()["code"])

    async def serve(self, directory: Path, ready: SimpleQueue[Any]) -> None:
        """Run until the function is called that is put into ``ready``."""
        accounts = [GenesisAccount(key, CREDIT, self.bonds[key], (self.models[key],), None) for key in self.keys]
        node, hub = make_node(*accounts)
        node.engine.chain.index_accounts = True
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            nursery.start_soon(node.backend_pool.run)
            await nursery.start(node.streams.run)
            await nursery.start(node.engine.run)
            nursery.start_soon(node.payments.run)
            admin = await Admin.open(node, "127.0.0.1", 0, directory / "admin.token", make_pages=Dashboard)
            dashboard = cast(Dashboard, admin._pages)
            self._make_past(node, dashboard)
            await nursery.start(admin.run)
            self.url = "http://{}:{}".format(*admin.address)
            self.token = (directory / "admin.token").read_text().strip()
            token = trio.lowlevel.current_trio_token()
            ready.put(lambda: token.run_sync_soon(nursery.cancel_scope.cancel))
            while True:
                await self._live(node, dashboard)

    def _make_past(self, node: Node, dashboard: Dashboard) -> None:
        now, sample = node.runtime.now() // 1000, take_sample(node)
        for age in range(PAST_S, 0, -1):
            second, chance = PAST_S - age, random.Random(age // 20)
            counted = {"local": 2 * second, "offloaded": second // 2, "served": second // 3, "tokens": 61 * second}
            gauges = {"running": chance.randrange(2, 8), "capacity": 12, "available": chance.randrange(10**9)}
            dashboard._history.add({**sample, **counted, **gauges, "at": now - age})
        for number, key in enumerate(self.keys):
            made = node.runtime.now()
            address = (f"/ip4/198.51.100.{number % 250}/tcp/{4001 + number // 250}",)
            models = (self.models[key],)
            node.discovery.table.apply(
                Announcement(key, made, made, False, address, (), models, PeerLoad(), LIFETIME_MS, bytes(64)),
                trio.current_time(),
            )
        compute = dashboard._hub.compute

        def time_compute() -> None:
            started = time.perf_counter()
            compute()
            self.refresh_s.append(time.perf_counter() - started)

        dashboard._hub.compute = time_compute  # type: ignore[method-assign]

    async def _live(self, node: Node, dashboard: Dashboard) -> None:
        """One second: a tenth of the peers announces another load, holds are made, a request comes, and a block."""
        chance, now = self.chance, node.runtime.now()
        for key in chance.sample(self.keys, max(1, self.peers // 10)):
            load = ModelLoad(self.models[key], chance.randrange(SLOTS + 1), 0, SLOTS, 2_000_000, 30_000)
            node.discovery.table.set_load(key, PeerLoad((load,)))
        for payer, payee in (chance.sample(self.keys, 2) for _ in range(self.peers // 30 + 1)):
            dashboard._blocks._holds.append(FinalHold(now, payer, payee, 5_000))
        started = trio.current_time()
        record = RequestRecord(f"req-{chance.getrandbits(64):016x}", MODEL, started - 2, chance.choice(self.keys))
        record.first_byte, record.finished, record.completion_tokens = started - 1.8, started, chance.randrange(400)
        record.outcome, record.key = Outcome.COMPLETED, chance.choice(("", "alice"))
        node.dispatcher.records.append(record)
        await node.wallet.submit(lambda nonce: Transfer(nonce, OTHER.public_key, 1))
        await trio.sleep(1)

    def list_operations(
        self, chain: object, public_key: bytes, before: Place = AFTER_ALL, limit: int = 50
    ) -> dict[str, Any]:
        """What :func:`chain.explorer.accounts.list_operations` says, of an account with very many operations."""
        top = min(before[0], self.operations)
        numbers = range(top - 1, max(-1, top - 1 - limit), -1)
        return {
            "address": format_address(public_key),
            "indexed_height": self.operations,
            "operations": [self._make_operation(number) for number in numbers],
            "next": f"{numbers[-1]}.0" if numbers and numbers[-1] else None,
        }

    def _make_operation(self, number: int) -> dict[str, Any]:
        """Operation ``number`` of the account, counted from its first."""
        chance = random.Random(number)
        kind = chance.choice(("hold", "capture", "transfer"))
        peer = format_address(chance.choice(self.keys))
        fields: dict[str, Any] = {
            "hold": {"payee": peer, "amount": 5_210, "model": MODELS[0]},
            "capture": {"items": [{"delivery": {"amount": 1_733}}]},
            "transfer": {"recipient": peer, "amount": 12_500_000},
        }[kind]
        common = {"id": f"{number:064x}", "kind": kind, "signer": KEY.address, "failure": None}
        return {**common, **fields, "height": number, "index": 0, "timestamp": 1_700_000_000_000 + 1_000 * number}


@contextmanager
def run_large_node(node: LargeNode) -> Iterator[LargeNode]:
    """Run it in a thread of its own."""
    ready: SimpleQueue[Any] = SimpleQueue()
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "list_operations", node.list_operations)
        thread = threading.Thread(target=_run, args=(node, Path(directory), ready))
        thread.start()
        stop = ready.get()
        if isinstance(stop, BaseException):
            raise stop
        try:
            yield node
        finally:
            stop()
            thread.join()


def _run(node: LargeNode, directory: Path, ready: SimpleQueue[Any]) -> None:
    """Run it until it is stopped; who waits for it hears of a failure."""
    try:
        trio.run(node.serve, directory, ready)
    except BaseException as error:
        ready.put(error)


if __name__ == "__main__":
    with run_large_node(LargeNode()) as large:
        print(f"{large.url}/#t={large.make_code()}", flush=True)
        threading.Event().wait()
