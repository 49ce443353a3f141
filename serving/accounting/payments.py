"""Payments of one node: holds that it makes, captures that it collects, and what becomes of both.

As a payer it knows how much it may still promise (its final balance less the holds that are not final yet), releases
holds that nobody captured, and disputes captures of more than was delivered. As a payee it gathers deliveries into
captures, and asks again until the ledger shows the hold resolved.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import structlog
import trio

from chain.crypto import KeyPair
from chain.exceptions import InvalidOperation
from chain.state.state import WINDOW, OpenHold
from chain.store.kv import MemoryStore, Store
from chain.transition.operations import compute_fee
from chain.types.blocks import Block
from chain.types.operations import (
    MAX_CAPTURE_ITEMS,
    Capture,
    CaptureItem,
    Delivery,
    Dispute,
    Hold,
    Operation,
    Release,
    SignedOperation,
    Usage,
    compute_hold_id,
    sign_operation,
)
from consensus.engine import Engine
from serving.accounting.receipts import sign_receipt

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 20.0
"""Seconds until an operation that has not become final is submitted again."""
GATHER_S = 0.25
"""Seconds over which deliveries are gathered into one capture."""
MAX_RECORDS = 4096
REFUND_AFTER_S = 5.0
"""Seconds after which a hold for this node that nobody is served for is refunded."""
AHEAD = WINDOW // 2
"""Hold numbers that may be in use beyond the last final one. The ledger takes twice as many, so that a node that has
just started can skip those of holds that may still be on their way."""
RESERVE = 8
"""Hold numbers that one write to the store reserves."""
PREFIX = b"w"
"""Of what a node keeps of its own payments, in the database of its chain."""
SEQ_KEY = PREFIX + b"seq"


class CannotAfford(Exception):
    """The account cannot cover another hold."""


class TooManyPayments(Exception):
    """All hold numbers are in use; some will be free soon."""


def make_refund(hold_id: bytes, digest: bytes = bytes(32)) -> Delivery:
    """The delivery that asks for nothing, so that the whole hold returns to its payer."""
    return Delivery(hold_id, 0, digest, Usage(0, 0), "error")


@dataclass(slots=True)
class HoldRecord:
    """One hold that this node made, for its owner's eyes: heights are None until final."""

    hold_id: bytes
    payee: bytes
    amount: int
    deadline: int
    max_capture: int
    made_at: float
    hold_height: int | None = None
    settled_height: int | None = None
    paid: int | None = None
    closed: bool = False
    asked_at: float = float("-inf")


@dataclass(slots=True)
class UncapturedDelivery:
    """A delivery waiting for its capture to be final."""

    hold: SignedOperation | None
    """None if it is final already."""
    item: CaptureItem
    deadline: int
    is_hold_final: bool = False
    submitted_at: float = float("-inf")


class Payments:
    """What one node pays and is paid."""

    def __init__(self, key: KeyPair, engine: Engine, store: Store | None = None) -> None:
        """``store`` keeps, across restarts, which hold numbers were used."""
        self._store = store if store is not None else MemoryStore()
        self._key = key
        self._engine = engine
        self._chain_id = engine.genesis.chain_id
        top = engine.state.window(key.public_key).top
        self._reserved = max(top, int.from_bytes(self._store.get(SEQ_KEY) or b"", "big"))
        """No hold was ever signed under this number or a higher one."""
        self._next_seq, self._limit = self._reserved, min(self._reserved + AHEAD, top + WINDOW)
        self._taken: dict[int, None] = {}
        """Hold numbers under which no hold was signed yet."""
        self._unsigned: dict[int, None] = {}
        """Those of them that were given back."""
        self._unconfirmed_holds: dict[bytes, tuple[int, Hold]] = {}
        """Amount with fee of each hold that is signed but not final."""
        self._payments: OrderedDict[bytes, HoldRecord] = OrderedDict()
        self.serving: set[bytes] = set()
        """Holds that executions under way are for; the executor keeps it."""
        self._received: dict[bytes, float] = {}
        """Final holds for this node that are not captured, and since when."""
        self._uncaptured: dict[bytes, UncapturedDelivery] = {}
        self._work_arrived = trio.Event()
        self.earned = 0

    # As a payer

    @property
    def spendable(self) -> int:
        """Micro-credits available for new holds: the final balance less what is promised but not final."""
        promised = sum(cost for cost, _ in self._unconfirmed_holds.values())
        return self._engine.state.account(self._key.public_key).available - promised

    @property
    def next_seq(self) -> int:
        """The sequence number that :meth:`take_seq` would return.

        Raises:
            TooManyPayments: see there.
        """
        top = self._engine.state.window(self._key.public_key).top
        fresh = max(self._next_seq, top)
        if fresh < max(self._limit, top + AHEAD):
            return fresh
        reusable = next((seq for seq in self._unsigned if seq >= top - AHEAD), None)
        if reusable is None:
            raise TooManyPayments(f"{AHEAD} payments are waiting to become final")
        return reusable

    def take_seq(self) -> int:
        """A sequence number that no hold of this node has used. To be given back at the end.

        Raises:
            TooManyPayments: too many holds are on their way already.
        """
        seq = self.next_seq
        self._unsigned.pop(seq, None)
        self._next_seq = max(self._next_seq, seq + 1)
        self._taken[seq] = None
        return seq

    def give_back(self, seq: int) -> None:
        """The request of a sequence number is over. Without a hold that carries it, it is for another request."""
        if seq not in self._taken:
            return
        del self._taken[seq]
        self._unsigned[seq] = None
        while len(self._unsigned) > WINDOW:
            del self._unsigned[next(iter(self._unsigned))]

    def compute_price(self, model: str, prompt_bytes: int, completion_tokens: int) -> int:
        """Price of an answer in micro-credits."""
        return self._engine.genesis.parameters.get_price(model).compute(Usage(prompt_bytes, completion_tokens))

    def check_affordable(self, amount: int) -> None:
        """Check that a hold of ``amount`` and its fee can be paid.

        Raises:
            CannotAfford: they cannot; the message says what is missing.
        """
        if self.spendable < amount:
            raise CannotAfford(f"the request may cost {amount} micro-credits, {max(0, self.spendable)} are available")

    def sign_hold(self, hold: Hold) -> SignedOperation:
        """Sign a hold and count it against the balance.

        Raises:
            CannotAfford: the balance does not cover it and its fee.
        """
        signed = sign_operation(self._key, self._chain_id, hold)
        cost = hold.amount + compute_fee(self._engine.genesis, signed)
        if not self._unconfirmed_holds and not self._engine.state.window(self._key.public_key).top:
            cost += self._engine.genesis.parameters.entry_fee  # the first hold makes the window of all
        self.check_affordable(cost)
        if hold.seq >= self._reserved:
            self._reserved = hold.seq + RESERVE
            self._store.write({SEQ_KEY: self._reserved.to_bytes(8, "big")})
        self._taken.pop(hold.seq, None)
        hold_id = compute_hold_id(self._key.public_key, hold.seq, hold.attempt)
        self._unconfirmed_holds[hold_id] = (cost, hold)
        self._remember(hold_id, hold.payee, hold.amount, hold.deadline)
        return signed

    def sign_receipt(self, delivery: Delivery) -> bytes:
        """Accept a delivery: it may be captured at once."""
        return sign_receipt(self._key, self._chain_id, delivery)

    def set_max_capture(self, hold_id: bytes, amount: int) -> None:
        """The most that may be captured from a hold without receipt; more is disputed."""
        if hold_id in self._payments:
            self._payments[hold_id].max_capture = amount

    def find(self, hold_id: bytes) -> HoldRecord | None:
        """A recent payment of this node."""
        return self._payments.get(hold_id)

    def _remember(self, hold_id: bytes, payee: bytes, amount: int, deadline: int) -> None:
        self._payments[hold_id] = HoldRecord(hold_id, payee, amount, deadline, amount, trio.current_time())
        while len(self._payments) > MAX_RECORDS:
            oldest = next((payment.hold_id for payment in self._payments.values() if payment.closed), None)
            if oldest is None:  # all may still have to be reclaimed
                return
            del self._payments[oldest]

    # As a payee

    def collect(self, hold: SignedOperation, delivery: Delivery, receipt: bytes | None) -> None:
        """Capture what a delivery earned, as soon as its hold is final; an amount of 0 refunds the payer."""
        assert isinstance(hold.operation, Hold)
        item = CaptureItem(delivery, receipt)
        self._uncaptured[delivery.hold] = UncapturedDelivery(hold, item, hold.operation.deadline)
        self._work_arrived.set()

    def is_collecting(self, hold_id: bytes) -> bool:
        """Whether something was delivered against a hold, and is not captured yet."""
        return hold_id in self._uncaptured

    def get_unpaid(self, payer: bytes) -> int:
        """Micro-credits that ``payer`` owes for deliveries whose hold is not final yet."""
        return sum(
            delivered.item.delivery.amount
            for delivered in self._uncaptured.values()
            if delivered.hold is not None and not delivered.is_hold_final and delivered.hold.signer == payer
        )

    # Both

    async def run(self) -> None:
        """Follow the ledger until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            nursery.start_soon(self._work)

    async def _follow(self) -> None:
        async with self._engine.subscribe_final() as blocks:
            self._recall()
            async for final in blocks:
                self._on_final(final.block)
                self._work_arrived.set()

    def _recall(self) -> None:
        """Take up holds from before a restart: what those of this node deliver is not disputed, those for it are
        refunded.
        """
        for leaf in self._engine.state.entries():
            hold, hold_id = leaf.record, leaf.key[1:]
            if isinstance(hold, OpenHold) and hold.payer == self._key.public_key and hold_id not in self._payments:
                self._remember(hold_id, hold.payee, hold.amount, hold.deadline)
            elif isinstance(hold, OpenHold) and hold.payee == self._key.public_key:
                self._received[hold_id] = float("-inf")

    def _on_final(self, block: Block) -> None:
        me = self._key.public_key
        for signed in block.body.operations:
            operation = signed.operation
            if isinstance(operation, Hold) and operation.payee == me:
                hold_id = compute_hold_id(signed.signer, operation.seq, operation.attempt)
                self._received[hold_id] = trio.current_time()
            elif isinstance(operation, Hold) and signed.signer == me:
                hold_id = compute_hold_id(me, operation.seq, operation.attempt)
                self._unconfirmed_holds.pop(hold_id, None)
                if hold_id not in self._payments:  # signed before a restart
                    self._remember(hold_id, operation.payee, operation.amount, operation.deadline)
                self._payments[hold_id].hold_height = block.height
            elif isinstance(operation, Capture):
                for item in operation.items:
                    self._on_capture(item, signed.signer, block.height)

    def _on_capture(self, item: CaptureItem, payee: bytes, height: int) -> None:
        delivery = item.delivery
        payment = self._payments.get(delivery.hold)
        if payment is not None and payment.settled_height is None:
            payment.settled_height, payment.paid = height, delivery.amount
        if payee == self._key.public_key:
            self.earned += delivery.amount

    async def _work(self) -> None:
        while True:
            with trio.move_on_after(1.0):
                await self._work_arrived.wait()
                await trio.sleep(GATHER_S)
            self._work_arrived = trio.Event()
            now = trio.current_time()
            self._forget_unconfirmed()
            self._refund_orphans(now)
            await self._capture_due(now)
            await self._reclaim(now)

    def _forget_unconfirmed(self) -> None:
        """Count no longer what can never become final: its number is used or its deadline over."""
        window, now = self._engine.state.window(self._key.public_key), self._engine.chain_time()
        for hold_id, (_, hold) in list(self._unconfirmed_holds.items()):
            if now >= hold.deadline or not window.is_usable(hold.seq, hold.attempt):
                del self._unconfirmed_holds[hold_id]

    def _refund_orphans(self, now: float) -> None:
        """Refund holds that nobody is served for: its user left early, or this node was restarted."""
        for hold_id, since in list(self._received.items()):
            hold = self._engine.state.hold(hold_id)
            if hold is None or hold.pending is not None:
                del self._received[hold_id]
            elif now - since > REFUND_AFTER_S and hold_id not in self.serving and hold_id not in self._uncaptured:
                log.info("refunding a hold without a request", hold=hold_id.hex()[:16])
                item = CaptureItem(make_refund(hold_id), None)
                self._uncaptured[hold_id] = UncapturedDelivery(None, item, hold.deadline, is_hold_final=True)

    async def _capture_due(self, now: float) -> None:
        """Submit captures for deliveries whose hold is final, and drop those that are resolved."""
        due: list[UncapturedDelivery] = []
        for hold_id, delivered in list(self._uncaptured.items()):
            hold = self._engine.state.hold(hold_id)
            if hold is None:
                if delivered.is_hold_final or self._engine.chain_time() > delivered.deadline:
                    if not delivered.is_hold_final:
                        log.warning("hold never became final; the answer stays unpaid", hold=hold_id.hex()[:16])
                    del self._uncaptured[hold_id]
                elif delivered.hold is not None and now - delivered.submitted_at > RETRY_AFTER_S:
                    delivered.submitted_at = now
                    await self._submit(delivered.hold)
                continue
            if not delivered.is_hold_final:
                delivered.is_hold_final, delivered.submitted_at = True, float("-inf")
            if hold.pending is not None:
                del self._uncaptured[hold_id]
            elif now - delivered.submitted_at > RETRY_AFTER_S:
                delivered.submitted_at = now
                due.append(delivered)
        for start in range(0, len(due), MAX_CAPTURE_ITEMS):
            batch = due[start : start + MAX_CAPTURE_ITEMS]
            if (
                not await self._submit_operation(Capture(tuple(delivered.item for delivered in batch)))
                and len(batch) > 1
            ):
                for delivered in batch:  # one bad item spoils a capture: find it by asking for each alone
                    await self._submit_operation(Capture((delivered.item,)))

    async def _reclaim(self, now: float) -> None:
        """Dispute captures of more than was delivered, and release holds that nobody captured in time."""
        for payment in list(self._payments.values()):
            if payment.closed or now - payment.asked_at < RETRY_AFTER_S:
                continue
            hold = self._engine.state.hold(payment.hold_id)
            if hold is None:
                payment.closed = payment.hold_height is not None or self._engine.chain_time() >= payment.deadline
                continue
            if hold.pending is not None and hold.pending.amount > payment.max_capture:
                payment.asked_at = now
                await self._submit_operation(Dispute(payment.hold_id))
            elif hold.pending is None and self._engine.chain_time() > hold.deadline:
                payment.asked_at = now
                await self._submit_operation(Release(payment.hold_id))

    async def _submit_operation(self, operation: Operation) -> bool:
        return await self._submit(sign_operation(self._key, self._chain_id, operation))

    async def _submit(self, signed: SignedOperation) -> bool:
        try:
            await self._engine.submit(signed)
        except InvalidOperation as error:
            log.info("operation refused", kind=type(signed.operation).__name__, reason=str(error))
            return False
        return True
