"""The payer's side of payments: holds that this node makes, and what becomes of them.

The payer knows how much it may still spend (its final balance less the holds that are not final yet), disputes captures
of more than was delivered, and releases holds that were not captured in time. It remembers across restarts how much was
delivered.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from chain.amounts import format_credits
from chain.crypto import KeyPair
from chain.histogram import Histogram
from chain.state.records import OpenHold
from chain.state.state import State
from chain.store.kv import MemoryStore, Store
from chain.store.layout import HOLD_NUMBER_KEY, SET_ASIDE_KEY, encode_number
from chain.transition.deposits import compute_deposit_growth, compute_hold_deposit
from chain.transition.fees import compute_fee
from chain.types.operations import (
    Delivery,
    Dispute,
    Hold,
    Release,
    SignedOperation,
    Usage,
    sign_operation,
)
from consensus.engine import Engine
from consensus.stall import LATE_BLOCK_S, compute_overdue
from p2p.runtime import Runtime
from serving.accounting.hold_numbers import HoldNumbers, TooManyPayments
from serving.accounting.max_captures import MaxCaptures
from serving.accounting.receipts import sign_receipt
from serving.accounting.submitter import RESUBMIT_DELAY_S, Submitter

FINALITY_BOUNDS_S = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 15, 30, 60)
"""Bounds of the histogram of times until a hold is final."""
MAX_REMEMBERED_HOLDS = 4096
"""Holds that are remembered. More are kept only while they may have to be disputed or released."""


class CannotAfford(Exception):
    """The account cannot cover another hold."""


@dataclass(slots=True)
class HoldRecord:
    """One hold that this node made. Heights are None until final; amounts are in micro-credits.

    The deadline is in chain time (ms), the other times in seconds of the node's monotonic clock.
    """

    hold_id: bytes
    payee: bytes
    amount: int
    deadline: int
    max_capture: int
    """A capture of more, without a receipt, is disputed."""
    made_at: float
    hold_height: int | None = None
    settled_height: int | None = None
    paid: int | None = None
    closed: bool = False
    asked_at: float = float("-inf")
    """When a dispute or release was submitted last."""


class Payer:
    """The holds of one node."""

    def __init__(
        self, key: KeyPair, engine: Engine, submitter: Submitter, runtime: Runtime, store: Store | None = None
    ) -> None:
        """``store`` keeps, across restarts, which hold numbers were used and what may be captured."""
        self._key = key
        self._engine = engine
        self._submitter = submitter
        self._runtime = runtime
        self._store = store if store is not None else MemoryStore()
        self._max_captures = MaxCaptures(self._store)
        self._topped: tuple[State, int] | None = None
        """A state of the ledger, and its ``_top``."""
        self._numbers = self._load_numbers()
        self._number_freed = trio.lowlevel.ParkingLot()
        self._unconfirmed_holds: dict[bytes, tuple[int, Hold]] = {}
        """Amount with deposit and fee of each hold that is signed but not final."""
        self._records: dict[bytes, HoldRecord] = {}
        self.finality_times = Histogram(FINALITY_BOUNDS_S)
        """Seconds from signing a hold until it was final here. Holds that were signed before a restart are not
        included."""

    def _load_numbers(self) -> HoldNumbers:
        stored, aside = (self._store.get(key) or b"" for key in (HOLD_NUMBER_KEY, SET_ASIDE_KEY))
        self._has_set_aside = bool(aside)
        """Whether numbers are set aside on the disk. After a crash, none may be there under which a hold was signed
        since."""
        set_aside = [int.from_bytes(aside[start : start + 8], "big") for start in range(0, len(aside), 8)]
        return HoldNumbers(self._top, int.from_bytes(stored, "big"), set_aside)

    @property
    def _top(self) -> int:
        """One more than the highest hold number that is final: looked up once for each state of the ledger."""
        state = self._engine.state
        if self._topped is None or self._topped[0] is not state:
            self._topped = state, state.replay_window(self._key.public_key).top
        return self._topped[1]

    @property
    def spendable(self) -> int:
        """Micro-credits available for new holds: the final balance less promises that are not final.

        Promises are the amounts of holds, their deposits and fees, and the deposit for numbers that are skipped
        meanwhile.
        """
        return self._compute_spendable()

    def _compute_spendable(self, *seqs: int) -> int:
        """What is spendable if holds under ``seqs`` are made as well, before their own cost is subtracted."""
        promised = sum(cost for cost, _ in self._unconfirmed_holds.values())
        return self._engine.state.account(self._key.public_key).available - promised - self._compute_deposit_due(*seqs)

    def _compute_deposit_due(self, *more: int) -> int:
        """By how much the deposit grows once the unconfirmed holds, those of ``more`` and of offers are final."""
        window = self._engine.state.replay_window(self._key.public_key)
        seqs = {hold.seq for _, hold in self._unconfirmed_holds.values()} | {*more}
        if seqs:
            seqs |= self._numbers.taken
        return compute_deposit_growth(self._engine.genesis.parameters, window, seqs)

    @property
    def next_seq(self) -> int:
        """The sequence number that :meth:`take_seq` would return.

        Raises:
            TooManyPayments: see there.
        """
        return self._numbers.peek(self._top)

    async def wait_for_number(self, seconds: float) -> None:
        """Wait until a sequence number is free, at most ``seconds``: each block frees the numbers of its holds."""
        with trio.move_on_after(seconds):
            while not self._has_number:
                await self._number_freed.park()

    @property
    def _has_number(self) -> bool:
        try:
            self._numbers.peek(self._top)
        except TooManyPayments:
            return False
        return True

    def take_seq(self) -> int:
        """A sequence number that no hold of this node has used. To be given back at the end.

        Raises:
            TooManyPayments: too many holds are on their way already.
        """
        return self._numbers.take(self._top)

    def give_back(self, seq: int) -> None:
        """The request of a sequence number is over. If no hold was signed under it, another request may use it."""
        self._numbers.give_back(seq)
        self._number_freed.unpark()

    def compute_price(self, model: str, prompt_bytes: int, completion_bytes: int) -> int:
        """Price of an answer in micro-credits."""
        return self._engine.genesis.parameters.get_price(model).compute(Usage(prompt_bytes, completion_bytes))

    def check_affordable(self, amount: int) -> None:
        """Refuse a hold of ``amount`` that cannot be paid with its deposit.

        Raises:
            CannotAfford: that is more than is spendable; the message says what is missing.
        """
        self._check_spendable(amount + compute_hold_deposit(self._engine.genesis.parameters))

    def _check_spendable(self, cost: int, *seqs: int) -> None:
        spendable = max(0, self._compute_spendable(*seqs))
        if spendable < cost:
            need, have = format_credits(cost), format_credits(spendable)
            raise CannotAfford(f"the request needs {need} credits, deposit included, and {have} are available")

    def predict_wait(self) -> float:
        """Extra seconds for which a hold that is signed now is expected to wait until it is final.

        They are the seconds for which a block has been overdue already: since this node's own holds, or since the idle
        beat.
        """
        engine, now = self._engine, trio.current_time()
        if engine.silence <= LATE_BLOCK_S:
            return 0.0
        waiting = (each for each in self._unconfirmed_holds if engine.is_overdue(each, LATE_BLOCK_S))
        since = next((self._records[each].made_at for each in waiting), now)
        return compute_overdue(engine.silence, engine.genesis.parameters.idle_beat_ms / 1000, now - since)

    def sign_hold(self, hold: Hold) -> SignedOperation:
        """Sign a hold and count it against the balance. Nothing may be captured from it until something was received.

        Raises:
            CannotAfford: the balance does not cover it and its fee.
        """
        genesis = self._engine.genesis
        signed = sign_operation(self._key, genesis.chain_id, hold)
        cost = hold.amount + compute_hold_deposit(genesis.parameters) + compute_fee(genesis, signed)
        if not self._unconfirmed_holds and not self._top:
            cost += genesis.parameters.entry_fee  # the first hold makes the window of all
        self._check_spendable(cost, hold.seq)
        reserved = self._numbers.reserve(hold.seq)
        changes: dict[bytes, bytes | None] = {}
        if reserved is not None:
            changes[HOLD_NUMBER_KEY] = encode_number(reserved)
        if self._has_set_aside:
            self._has_set_aside, changes[SET_ASIDE_KEY] = False, None
        if changes:
            self._store.write(changes)
        self._unconfirmed_holds[signed.id] = (cost, hold)
        self._remember(signed.id, hold.payee, hold.amount, hold.deadline)
        self._engine.trust(signed)
        return signed

    def sign_receipt(self, delivery: Delivery) -> bytes:
        """Accept a delivery: it may be captured at once."""
        return sign_receipt(self._key, self._engine.genesis.chain_id, delivery)

    def set_max_capture(self, hold_id: bytes, amount: int) -> None:
        """Set the most that may be captured from a hold without a receipt. Captures of more are disputed."""
        record = self._records.get(hold_id)
        if record is not None:
            record.max_capture = amount
            self._max_captures.put(hold_id, amount, record.deadline)

    def close(self) -> None:
        """The node stops: nothing more is signed, and the next start skips no hold number."""
        unsigned = b"".join(map(encode_number, self._numbers.find_unsigned()))
        self._has_set_aside = bool(unsigned)
        self._store.write(
            {
                HOLD_NUMBER_KEY: encode_number(self._numbers.release_reserve()),
                SET_ASIDE_KEY: unsigned or None,
                **self._max_captures.take_changes(),
            }
        )

    async def save(self) -> None:
        """Write to the disk what may be captured, if that changed."""
        changes = self._max_captures.take_changes()
        if changes:
            await self._runtime.run_sync(self._store.write, changes)

    def find(self, hold_id: bytes) -> HoldRecord | None:
        """A recent hold of this node."""
        return self._records.get(hold_id)

    def _remember(self, hold_id: bytes, payee: bytes, amount: int, deadline: int) -> None:
        max_capture = self._max_captures.get(hold_id)
        self._records[hold_id] = HoldRecord(hold_id, payee, amount, deadline, max_capture, trio.current_time())
        while len(self._records) > MAX_REMEMBERED_HOLDS:
            oldest = next((record.hold_id for record in self._records.values() if record.closed), None)
            if oldest is None:  # all may still have to be reclaimed
                return
            del self._records[oldest]

    # What becomes of the holds

    def on_start(self, hold_id: bytes, hold: OpenHold) -> None:
        """A hold of this node that is open when the node starts."""
        if hold_id not in self._records:
            self._remember(hold_id, hold.payee, hold.amount, hold.deadline)

    def on_hold(self, hold_id: bytes, hold: Hold, height: int) -> None:
        """A hold of this node is final."""
        self._number_freed.unpark_all()
        self._unconfirmed_holds.pop(hold_id, None)
        if hold_id not in self._records:  # signed before a restart
            self._remember(hold_id, hold.payee, hold.amount, hold.deadline)
        else:
            self.finality_times.observe(trio.current_time() - self._records[hold_id].made_at)
        self._records[hold_id].hold_height = height

    def on_capture(self, delivery: Delivery, height: int) -> None:
        """A capture is final, of this node's hold or another's."""
        record = self._records.get(delivery.hold)
        if record is not None and record.settled_height is None:
            record.settled_height, record.paid = height, delivery.amount

    def drop_unconfirmed(self) -> None:
        """Stop counting holds that can never become final: their number is used or their deadline over."""
        window, now = self._engine.state.replay_window(self._key.public_key), self._engine.chain_time()
        for hold_id, (_, hold) in list(self._unconfirmed_holds.items()):
            if now >= hold.deadline or not window.is_usable(hold.seq, hold.attempt):
                del self._unconfirmed_holds[hold_id]
        for hold_id in self._max_captures.find_expired(now):  # settled while this node was away, or never made
            if hold_id not in self._records and self._engine.state.hold(hold_id) is None:
                self._max_captures.drop(hold_id)

    async def reclaim(self, now: float) -> None:
        """Dispute captures of more than was delivered, and release holds that were not captured in time."""
        for record in list(self._records.values()):
            if record.closed or now - record.asked_at < RESUBMIT_DELAY_S:
                continue
            hold = self._engine.state.hold(record.hold_id)
            if hold is None:
                record.closed = record.hold_height is not None or self._engine.chain_time() >= record.deadline
                if record.closed:
                    self._max_captures.drop(record.hold_id)
                continue
            if hold.unsettled_delivery is not None and hold.unsettled_delivery.amount > record.max_capture:
                record.asked_at = now
                await self._submitter.submit(Dispute(record.hold_id))
            elif hold.unsettled_delivery is None and self._engine.chain_time() > hold.deadline:
                record.asked_at = now
                await self._submitter.submit(Release(record.hold_id))
