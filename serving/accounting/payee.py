"""The payee's side of payments: deliveries of this node, gathered into captures.

A capture is submitted again until the ledger shows the hold resolved. A hold that earned nothing is refunded at once if
this node failed or was restarted. If its user left early or sent a bad request, it is refunded together with others,
and a payer gets only as many such refunds as it has made payments: each costs this node a fee. Any other hold is left
to its payer, which takes it back after the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
import trio

from chain.collections import BoundedDict
from chain.types.operations import (
    MAX_CAPTURE_ITEMS,
    Capture,
    CaptureItem,
    Delivery,
    Hold,
    SignedOperation,
    Usage,
    compute_hold_id,
)
from consensus.engine import Engine
from serving.accounting.payment_history import PaymentHistory
from serving.accounting.submitter import RESUBMIT_DELAY_S, Submitter

log = structlog.get_logger(__name__)

REFUND_GATHER_S = 60.0
"""Seconds over which refunds for failures that were not this node's are gathered into one capture."""
MAX_REMEMBERED = 4096
"""Holds of each kind that are remembered."""

HoldNumber = tuple[bytes, int, int]
"""Payer, sequence number and attempt: the ledger takes one hold under each number."""


def make_refund(hold_id: bytes, digest: bytes = bytes(32)) -> Delivery:
    """A delivery with amount 0, so that the whole hold returns to its payer."""
    return Delivery(hold_id, 0, digest, Usage(0, 0), "error")


@dataclass(slots=True)
class UncapturedDelivery:
    """A delivery whose capture is not final."""

    hold: SignedOperation | None
    """None if it is final already."""
    item: CaptureItem
    is_hold_final: bool = False
    is_courtesy: bool = False
    """Whether it is a refund for a failure that was not this node's."""
    final_at: float = float("-inf")
    submitted_at: float = float("-inf")


class Payee:
    """The deliveries of one node."""

    def __init__(self, public_key: bytes, engine: Engine, submitter: Submitter, notify: Callable[[], None]) -> None:
        """``notify`` is called when there is something to capture."""
        self._me = public_key
        self._engine = engine
        self._submitter = submitter
        self._notify = notify
        self._served: set[HoldNumber] = set()
        """Numbers of the holds whose requests are being served."""
        self._backed: dict[bytes, int] = {}
        """The most that each accepted request being served may cost, by hold."""
        self._left: BoundedDict[bytes, None] = BoundedDict(MAX_REMEMBERED)
        """Holds of accepted offers that had not come when the originator left."""
        self._uncaptured: dict[bytes, UncapturedDelivery] = {}
        self._receipted: BoundedDict[bytes, bytes] = BoundedDict(MAX_REMEMBERED)
        """Payers of receipted deliveries, by their hold."""
        self._bounced: BoundedDict[bytes, None] = BoundedDict(MAX_REMEMBERED)
        """Holds that are known to be unable to become final."""
        self.history = PaymentHistory()
        self.earned = 0

    @contextmanager
    def serving(self, payer: bytes, hold: Hold) -> Iterator[None]:
        """Within the context, a request is served: no hold under its number is accepted for another request.

        If the payer left this offer before and makes it again, its hold is no longer refunded: there may be a delivery
        for it.
        """
        number = payer, hold.seq, hold.attempt
        self._left.pop(compute_hold_id(payer, hold), None)
        self._served.add(number)
        try:
            yield
        finally:
            self._served.discard(number)

    @contextmanager
    def backing(self, hold_id: bytes, amount: int) -> Iterator[None]:
        """Within the context, a request that may cost ``amount`` is served, and so much of the bond stands behind
        it."""
        self._backed[hold_id] = amount
        try:
            yield
        finally:
            del self._backed[hold_id]

    def get_backing(self, hold_id: bytes) -> int:
        """How much of the bond stands behind the request of a hold, while it is served."""
        return self._backed.get(hold_id, 0)

    def lower_backing(self, hold_id: bytes, amount: int) -> None:
        """A request that is being served costs no more than ``amount``."""
        self._backed[hold_id] = min(self._backed[hold_id], amount)

    def is_in_use(self, payer: bytes, hold: Hold) -> bool:
        """Whether a request under the number of ``hold`` is being served, or was served and its hold is not final
        yet."""
        number = payer, hold.seq, hold.attempt
        pending = (delivered.hold.operation for delivered in self._find_pending(payer) if delivered.hold is not None)
        return number in self._served or any(
            isinstance(other, Hold) and (payer, other.seq, other.attempt) == number for other in pending
        )

    def collect(self, hold: SignedOperation, delivery: Delivery, receipt: bytes | None) -> None:
        """Capture what a delivery earned, as soon as its hold is final."""
        item = CaptureItem(delivery, receipt)
        self._uncaptured[delivery.hold] = UncapturedDelivery(hold, item)
        if receipt is not None:
            self._receipted[delivery.hold] = hold.signer
        self._notify()

    def refund(self, hold: SignedOperation, delivery: Delivery, is_own_fault: bool) -> None:
        """Refund a hold that earned nothing: at once if ``is_own_fault``, otherwise with others and within limits."""
        item = CaptureItem(delivery, None)
        self._uncaptured[delivery.hold] = UncapturedDelivery(hold, item, is_courtesy=not is_own_fault)
        self._notify()

    def note_left(self, hold_id: bytes) -> None:
        """The originator of an accepted offer left before its hold came. It may become final all the same."""
        self._left[hold_id] = None
        if self._engine.state.hold(hold_id) is not None:
            self.on_hold(hold_id)

    def note_bounced(self, payer: bytes, hold_id: bytes) -> None:
        """A hold that ``payer`` sent cannot become final, or is not in time. Each hold counts once."""
        if hold_id not in self._bounced:
            self._bounced[hold_id] = None
            self.history.note_fault(payer, trio.current_time())

    def get_pending_holds(self, payer: bytes) -> list[int]:
        """Amounts of the holds of ``payer`` that are still not final after their sessions."""
        holds = [delivered.hold.operation for delivered in self._find_pending(payer) if delivered.hold is not None]
        return [hold.amount for hold in holds if isinstance(hold, Hold)]

    def get_unpaid(self, payer: bytes) -> int:
        """Micro-credits that ``payer`` owes for deliveries whose hold is not final yet."""
        return sum(delivered.item.delivery.amount for delivered in self._find_pending(payer))

    def _find_pending(self, payer: bytes) -> Iterator[UncapturedDelivery]:
        """Deliveries to ``payer`` whose hold is not final."""
        for delivered in self._uncaptured.values():
            if delivered.hold is not None and not delivered.is_hold_final and delivered.hold.signer == payer:
                yield delivered

    @property
    def uncaptured(self) -> int:
        """Deliveries with an amount whose capture is not final yet."""
        return sum(not delivered.is_courtesy for delivered in self._uncaptured.values())

    def compute_free_bond(self) -> int:
        """The part of the bond, in micro-credits, that stands behind no request and no capture without a receipt.

        A grant is included, though it backs no such capture: a newcomer depends on the receipts of its payers.
        """
        account = self._engine.state.account(self._me)
        unreceipted = sum(
            delivered.item.delivery.amount
            for hold_id, delivered in self._uncaptured.items()
            if delivered.item.receipt is None and hold_id not in self._backed
        )
        backed = sum(self._backed.values()) + unreceipted
        return account.bonded - account.locked - self._engine.genesis.parameters.bond_per_hold * backed

    # What becomes of the holds

    def on_start(self, hold_id: bytes) -> None:
        """A hold for this node is open when the node starts: its request is lost."""
        log.info("refunding a hold from before the start", hold=hold_id.hex()[:16])
        item = CaptureItem(make_refund(hold_id), None)
        self._uncaptured[hold_id] = UncapturedDelivery(None, item, is_hold_final=True)

    def on_hold(self, hold_id: bytes) -> None:
        """A hold for this node is final. One that was never offered is left to its payer."""
        if hold_id in self._left:
            del self._left[hold_id]
            item = CaptureItem(make_refund(hold_id), None)
            self._uncaptured[hold_id] = UncapturedDelivery(None, item, is_courtesy=True)

    def on_capture(self, delivery: Delivery) -> None:
        """A capture of this node is final."""
        self.earned += delivery.amount
        payer = self._receipted.pop(delivery.hold, None)
        if payer is not None:
            self.history.note_payment(payer, delivery.amount)

    async def capture(self, now: float) -> None:
        """Submit captures for deliveries whose hold is final, and drop those that are resolved."""
        due: list[UncapturedDelivery] = []
        courtesies: list[UncapturedDelivery] = []
        free_bond = self._engine.state.account(self._me).free_bond
        for hold_id, delivered in list(self._uncaptured.items()):
            hold = self._engine.state.hold(hold_id)
            if hold is None:
                await self._await_hold(hold_id, delivered, now)
                continue
            if not delivered.is_hold_final:
                delivered.is_hold_final, delivered.final_at, delivered.submitted_at = True, now, float("-inf")
                if delivered.is_courtesy and not self.history.take_refund(hold.payer):
                    del self._uncaptured[hold_id]
                    continue
            if hold.unsettled_delivery is not None:
                del self._uncaptured[hold_id]
                continue
            if delivered.item.receipt is None:
                if delivered.item.delivery.amount > free_bond:
                    continue  # until captures before it are settled
                free_bond -= delivered.item.delivery.amount
            if now - delivered.submitted_at > RESUBMIT_DELAY_S:
                (courtesies if delivered.is_courtesy else due).append(delivered)
        if len(courtesies) >= MAX_CAPTURE_ITEMS or any(now - each.final_at > REFUND_GATHER_S for each in courtesies):
            due += courtesies
        for delivered in due:
            delivered.submitted_at = now
        for start in range(0, len(due), MAX_CAPTURE_ITEMS):
            await self._submit_capture([delivered.item for delivered in due[start : start + MAX_CAPTURE_ITEMS]])

    async def _await_hold(self, hold_id: bytes, delivered: UncapturedDelivery, now: float) -> None:
        """The ledger does not have the hold: it is resolved, or not final yet, or will never be final."""
        signed = delivered.hold
        if signed is None or delivered.is_hold_final or self._engine.is_final(signed.id):
            del self._uncaptured[hold_id]
        elif not self._can_become_final(signed):
            log.warning("hold never became final; the answer stays unpaid", hold=hold_id.hex()[:16])
            self.note_bounced(signed.signer, hold_id)
            del self._uncaptured[hold_id]
        elif now - delivered.submitted_at > RESUBMIT_DELAY_S:
            delivered.submitted_at = now
            await self._submitter.submit_signed(signed)

    def _can_become_final(self, signed: SignedOperation) -> bool:
        hold, engine = signed.operation, self._engine
        assert isinstance(hold, Hold)
        is_usable = engine.state.replay_window(signed.signer).is_usable(hold.seq, hold.attempt)
        return is_usable and engine.chain_time() <= hold.deadline

    async def _submit_capture(self, items: list[CaptureItem]) -> None:
        if not await self._submitter.submit(Capture(tuple(items))) and len(items) > 1:
            for item in items:  # one bad item spoils a capture: find it by asking for each alone
                await self._submitter.submit(Capture((item,)))
