"""Payments of one node, as payer and as payee: this keeps both sides up to date with the ledger."""

from __future__ import annotations

import trio

from chain.crypto import KeyPair
from chain.state.records import OpenHold
from chain.store.kv import Store
from chain.types.blocks import Block
from chain.types.operations import Capture, Hold
from consensus.engine import Engine
from p2p.runtime import Runtime
from serving.accounting.payee import Payee
from serving.accounting.payer import Payer
from serving.accounting.submitter import Submitter

WORK_INTERVAL_S = 1.0
"""Seconds between reads of the ledger while nothing happens."""
GATHER_S = 0.25
"""Seconds over which deliveries are gathered into one capture."""
SAVE_INTERVAL_S = 1.0
"""Seconds between writes of the maximal captures: one synced write for all requests, in a thread."""


class Payments:
    """Both sides of one node's payments."""

    def __init__(self, key: KeyPair, engine: Engine, runtime: Runtime, store: Store | None = None) -> None:
        """``store`` keeps, across restarts, which hold numbers were used and what may be captured."""
        submitter = Submitter(key, engine)
        self.payer = Payer(key, engine, submitter, runtime, store)
        self.payee = Payee(key.public_key, engine, submitter, self._notify)
        self._me = key.public_key
        self._engine = engine
        self._changed = trio.Event()

    def _notify(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        """Follow the ledger until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                nursery.start_soon(self._work)
                nursery.start_soon(self._save)
        finally:
            self.payer.close()

    async def _follow(self) -> None:
        async with self._engine.subscribe_final() as blocks:
            self._take_up_open_holds()
            async for final in blocks:
                self._on_final(final.block)
                self._notify()

    def _take_up_open_holds(self) -> None:
        """Take up holds from before a restart."""
        for leaf in self._engine.state.entries():
            hold, hold_id = leaf.record, leaf.key[1:]
            if isinstance(hold, OpenHold) and hold.payer == self._me:
                self.payer.on_start(hold_id, hold)
            elif isinstance(hold, OpenHold) and hold.payee == self._me:
                self.payee.on_start(hold_id)

    def _on_final(self, block: Block) -> None:
        for signed in block.body.operations:
            operation = signed.operation
            if isinstance(operation, Hold) and operation.payee == self._me:
                self.payee.on_hold(signed.id)
            elif isinstance(operation, Hold) and signed.signer == self._me:
                self.payer.on_hold(signed.id, operation, block.height)
            elif isinstance(operation, Capture):
                for item in operation.items:
                    self.payer.on_capture(item.delivery, block.height)
                    if signed.signer == self._me:
                        self.payee.on_capture(item.delivery)

    async def _work(self) -> None:
        while True:
            with trio.move_on_after(WORK_INTERVAL_S):
                await self._changed.wait()
                await trio.sleep(GATHER_S)
            self._changed = trio.Event()
            now = trio.current_time()
            self.payer.drop_unconfirmed()
            await self.payee.capture(now)
            await self.payer.reclaim(now)

    async def _save(self) -> None:
        while True:
            await trio.sleep(SAVE_INTERVAL_S)
            await self.payer.save()
