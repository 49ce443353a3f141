"""Operations that wait for a block. Pure: it reads no clock and no network; time is passed in (seconds).

An operation is *ready* if the ledger would take it on the last final state. Otherwise it *waits*: for an earlier nonce,
for credit, or for a block that its author has and this node has not (a capture may overtake its hold). An operation
that has waited for :data:`MAX_UNREADY_WAIT_S` is dropped. Only ready operations count as work and are selected.

Room in the pool costs nothing until an operation is included, so it is bounded by the credit that an account owns.

- One account holds at most :data:`MAX_NONCED` operations with a nonce and :data:`MAX_ACCOUNT_BYTES` in all. It can pay
  the fees of all of them, and all its ready holds at once, from what it has in the last final state. Of operations that
  exclude each other (the same nonce, the same hold number, a second capture of a hold) only one is taken.
- Room is shared in proportion to credit (:mod:`consensus.mempool.room`).
- A block is filled in turns of equal bytes, so that an account's flood fills only its own lines. An owner of
  many accounts has many lines, but pays for the bytes that they take in the block.

Operations that a final block may affect are judged again later (:mod:`consensus.mempool.revalidation`). Until then an
operation may wrongly count as ready. The proposer that tries to include it notices, and calls :meth:`Mempool.reject`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import replace

from chain.collections import BoundedDict
from chain.exceptions import CannotPay, InvalidNonce, InvalidOperation, InvalidSignature
from chain.genesis import Genesis
from chain.state.keys import ACCOUNT_PREFIX
from chain.state.state import State, StateOverlay
from chain.transition.context import BlockContext
from chain.transition.fees import compute_fee
from chain.transition.operations import check_form, process_operation
from chain.types.blocks import Block, Header
from chain.types.operations import Capture, Dispute, Hold, NoncedOperation, SignedOperation
from consensus.mempool.entries import (
    AccountQueue,
    Entry,
    check_need,
    count_work,
    explain_shortfall,
    get_conflict_keys,
    get_cost,
    is_payee,
    update_from_state,
)
from consensus.mempool.packing import BlockPacker
from consensus.mempool.revalidation import RevalidationQueue
from consensus.mempool.room import MAX_POOL_BYTES, MAX_POOL_OPERATIONS, Room

MAX_UNREADY_WAIT_S = 30.0
"""Seconds that an operation may wait to become ready."""
MAX_READY_BLOCKS = 256
"""Final blocks after which a ready operation that no proposer included is dropped."""
MAX_NONCED = 64
"""Pending operations with a nonce, per account."""
MAX_ACCOUNT_BYTES = 256 * 1024
"""Pending bytes per account: room for a whole window of holds, and for their captures."""
MAX_WAITING_OPERATIONS = 2_048
"""Waiting operations in all."""
MAX_FINAL_IDS = 65_536
"""Final operations remembered by id, so that a late copy of one is not taken for a new one."""
MAX_VERIFIED_IDS = 32_768
"""Operations remembered whose signature holds, beside those pending."""
DEADLINE_MARGIN_MS = 5_000
"""Chain time in ms that must be left until a hold's deadline for it to be ready: the next blocks must be able to take
it."""
MAX_REJECTIONS = 3
"""How often a proposer may find that a ready operation cannot be included before it is dropped."""
REVALIDATION_BUDGET = 256
"""Work of revalidation after each block, and at each :meth:`Mempool.expire`, in signature checks."""


class AlreadyKnown(InvalidOperation):
    """The operation is pending or final already."""


class PoolFull(InvalidOperation):
    """A limit of the mempool is reached; later the operation may be taken."""


class Mempool:
    """Pending operations on top of a final state.

    Callers check signatures between :meth:`check` and :meth:`add`, in batches and in other threads, unless
    :meth:`is_verified` says that they hold.
    """

    def __init__(
        self,
        genesis: Genesis,
        header: Header,
        state: State,
        max_bytes: int = MAX_POOL_BYTES,
        max_operations: int = MAX_POOL_OPERATIONS,
    ) -> None:
        self._genesis = genesis
        self._state = state
        self._proven: set[bytes] = set()
        """Ids of pending registrations whose proof of work holds."""
        self._context = self._make_context(header)
        self._room = Room(max_bytes, max_operations)
        self._entries: dict[bytes, Entry] = {}
        self._accounts: dict[bytes, AccountQueue] = {}
        self._waiting: dict[bytes, float] = {}
        """When each waiting operation began to wait, in that order."""
        self._revalidation = RevalidationQueue()
        self._rejected: dict[bytes, None] = {}
        self._final: BoundedDict[bytes, None] = BoundedDict(MAX_FINAL_IDS)
        self._verified: BoundedDict[bytes, bytes] = BoundedDict(MAX_VERIFIED_IDS)
        """Signatures that hold, by the id of the operation."""
        self._arrivals = 0
        self._now = 0.0
        self._final_at = -math.inf
        """When the last final block came."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, operation_id: object) -> bool:
        return operation_id in self._entries

    @property
    def size(self) -> int:
        """Pending bytes."""
        return self._room.size

    def get(self, operation_id: bytes) -> SignedOperation | None:
        """The pending operation of that id, or None."""
        entry = self._entries.get(operation_id)
        return None if entry is None else entry.operation

    def is_verified(self, signed: SignedOperation) -> bool:
        """Whether the signature of this very operation was found to hold before, here or in a block.

        Safe in any thread.
        """
        entry = self._entries.get(signed.id)
        if entry is not None and entry.operation.signature == signed.signature:
            return True
        return self._verified.get(signed.id) == signed.signature

    def note_verified(self, operations: Iterable[SignedOperation]) -> None:
        """Remember that the signatures of ``operations`` hold, so that none is checked again."""
        for signed in operations:
            self._verified[signed.id] = signed.signature

    # Admission.

    def check(self, signed: SignedOperation) -> None:
        """Check, as far as that is cheap, that :meth:`add` would take an operation.

        Raises:
            AlreadyKnown: it is pending or final. InvalidNonce: its nonce is used, or another operation with it is
            pending (the first one wins). CannotPay: its account cannot pay the fee on top of what it has pending.
            PoolFull: its account, or the pool, has no room. InvalidOperation: it is malformed, or its effect has
            happened, or another pending operation asks for the same.
        """
        check_form(signed)
        if signed.id in self._entries:
            raise AlreadyKnown("the operation is pending already")
        if signed.id in self._final:
            raise AlreadyKnown("the operation is final already")
        operation, signer = signed.operation, signed.signer
        pending = self._accounts.get(signer) or self._make_account(signer)
        fee = compute_fee(self._genesis, signed)
        if isinstance(operation, NoncedOperation):
            if operation.nonce < pending.nonce:
                raise InvalidNonce(f"the nonce {operation.nonce} is used, the account's next is {pending.nonce}")
            if operation.nonce in pending.nonced:
                raise InvalidNonce(f"another operation with the nonce {operation.nonce} is pending")
            if len(pending.nonced) >= MAX_NONCED:
                raise PoolFull(f"the account has {MAX_NONCED} operations pending, which is the limit")
            fee += pending.fees
            if pending.payable < fee:
                raise CannotPay(f"the fees pending are {fee} micro-credits, {pending.payable} can pay them")
        else:
            check_need(self._state, signed)
            for conflict in get_conflict_keys(operation):
                rival = pending.conflicts.get(conflict)
                if rival is not None and self._entries[rival].ready:
                    raise InvalidOperation("another pending operation of the account asks for the same")
        # The fees of captures and disputes come out of what they settle, so their account may have nothing available.
        # If it owns nothing at all, all holds that it captures must be open. (An account that may dispute owns a hold.)
        if isinstance(operation, Capture | Dispute):
            captures_own = isinstance(operation, Capture) and is_payee(self._state, operation, signer)
            if pending.owned < fee and not captures_own:
                raise CannotPay(f"the fee is {fee} micro-credits, the account owns {pending.owned}")
        elif pending.available < fee and not isinstance(operation, NoncedOperation):
            raise CannotPay(f"the fee is {fee} micro-credits, {pending.available} are available")
        size = pending.size + len(signed.encoded)
        if size > MAX_ACCOUNT_BYTES:
            raise PoolFull(f"the account would have more than {MAX_ACCOUNT_BYTES} bytes pending")
        if self._room.is_full(len(signed.encoded)) and not self._room.can_be_made(size, pending.owned):
            raise PoolFull("the pool is full")

    def add(self, signed: SignedOperation, now: float, is_proven: bool = False) -> None:
        """Take an operation whose signature holds, and if it ``is_proven`` its proof of work.

        Raises:
            InvalidSignature: a signature inside it does not hold.
            InvalidOperation: as :meth:`check`.
        """
        self._now = now
        self.note_verified([signed])
        self.check(signed)
        size = len(signed.encoded)
        while self._room.is_full(size):
            self._drop_last(self._accounts[self._room.find_greediest()])
        self._arrivals += 1
        operation, fee = signed.operation, compute_fee(self._genesis, signed)
        cost = get_cost(self._genesis.parameters, operation, fee)
        entry = Entry(signed, self._arrivals, self._context.height, size, fee, cost)
        pending = self._accounts.get(signed.signer)
        if pending is None:
            pending = self._accounts[signed.signer] = self._make_account(signed.signer)
        if isinstance(operation, NoncedOperation):
            pending.nonced[operation.nonce] = entry
            pending.fees += entry.fee
        else:
            for conflict in get_conflict_keys(operation):
                rival = pending.conflicts.get(conflict)
                if rival is not None:  # it waits, and this one may do better
                    self.remove(rival)
                    pending = self._accounts.setdefault(signed.signer, pending)
                pending.conflicts[conflict] = signed.id
            pending.one_time[signed.id] = entry
            self._revalidation.add(signed)
        self._entries[signed.id] = entry
        if is_proven:
            self._proven.add(signed.id)
        self._resize(signed.signer, pending, size)
        self._set_ready(entry, False, "")
        if isinstance(operation, NoncedOperation):
            self._close_gap(pending)
        else:
            self._revalidate(entry)
            if signed.id not in self._entries:
                raise InvalidSignature(entry.reason)
        while len(self._waiting) > MAX_WAITING_OPERATIONS:
            self.remove(next(reversed(self._accounts[self._room.find_greediest_waiting()].waiting)))

    def get_reason(self, operation_id: bytes) -> str | None:
        """Why a pending operation is not ready, or None if it is ready or not pending."""
        entry = self._entries.get(operation_id)
        if entry is None or entry.ready:
            return None
        missing = self._accounts[entry.operation.signer].next_nonce
        return entry.reason or f"the operation with the nonce {missing} is missing"

    # Choosing for a block.

    def is_ready(self, operation_id: bytes) -> bool:
        """Whether an operation is pending and would go into a block now."""
        entry = self._entries.get(operation_id)
        return entry is not None and entry.ready

    def has_ready(self, excluded: Container[bytes] = ()) -> bool:
        """Whether there is work for a block, beside the operations ``excluded`` by id (those in blocks not yet final).

        It takes constant time, plus time for the excluded ones.
        """
        ready = len(self._entries) - len(self._waiting)
        if not ready or not excluded:
            return ready > 0
        return any(entry.ready and key not in excluded for key, entry in self._entries.items())

    def draw(self, max_bytes: int, excluded: Container[bytes] = ()) -> BlockPacker:
        """Ready operations for a block of at most ``max_bytes`` of them, in a deterministic order, one after the other.

        Each account has two lines: its operations with a nonce in the order of nonces, and the others in the order of
        arrival, so that a gateway's holds never queue behind its transfers. Captures need no precedence: they compete
        in their payee's line.
        """
        lines: list[list[Entry]] = []
        for pending in self._accounts.values():
            lines.append([pending.nonced[nonce] for nonce in range(pending.nonce, pending.next_nonce)])
            lines.append(list(pending.one_time.values()))
        return BlockPacker(lines, max_bytes, excluded)

    def select(self, max_bytes: int, excluded: Container[bytes] = ()) -> list[SignedOperation]:
        """All that :meth:`draw` brings, if none is turned down."""
        return list(self.draw(max_bytes, excluded))

    def reject(self, operation_id: bytes, reason: str, now: float) -> None:
        """Put a selected operation back to wait, because it cannot be included on the state of a block under way."""
        self._now = now
        entry = self._entries.get(operation_id)
        if entry is None:
            return
        entry.rejections += 1
        if entry.rejections >= MAX_REJECTIONS:
            self.remove(operation_id)
            return
        self._rejected[operation_id] = None
        self._set_ready(entry, False, reason)
        if isinstance(entry.operation.operation, NoncedOperation):
            pending, nonce = self._accounts[entry.operation.signer], entry.operation.operation.nonce
            self._open_gap(pending, nonce)

    # What a final block changes.

    def on_final(self, block: Block, state: State, changed: Iterable[bytes], now: float) -> None:
        """Advance to a newly final block: drop operations that it included or made impossible, and revalidate those it
        touched.

        ``changed`` are the keys of the state that it changed.
        """
        self._now = self._final_at = now
        self._state = state
        self._context = self._make_context(block.header)
        for signed in block.body.operations:
            self._remove(signed.id, opens_gap=False)
            self._final[signed.id] = None
            rivals = self._accounts.get(signed.signer)
            if rivals is not None and not isinstance(signed.operation, NoncedOperation):
                for conflict in get_conflict_keys(signed.operation):
                    self.remove(rivals.conflicts.get(conflict, b""))
        rejected, self._rejected = self._rejected, {}
        for operation_id in rejected:
            self._reconsider(operation_id)
        for key in changed:
            if key[:1] == ACCOUNT_PREFIX and key[1:] in self._accounts:
                self._update_account(key[1:])
            self._revalidation.mark_dependents(key)
        while (
            oldest := next(iter(self._entries.values()), None)
        ) and oldest.height + MAX_READY_BLOCKS < self._context.height:
            self.remove(oldest.operation.id)
        self.expire(now)

    def on_snapshot(self, header: Header, state: State, now: float) -> None:
        """Continue from a state far ahead. Pending operations are dropped; their authors submit them again."""
        for operation_id in list(self._entries):
            self.remove(operation_id)
        self._now, self._final_at, self._state = now, -math.inf, state
        self._context = self._make_context(header)

    def expire(self, now: float) -> None:
        """Drop operations that have waited too long, and revalidate some that may have become ready or impossible."""
        self._now = now
        while self._waiting:
            operation_id, since = next(iter(self._waiting.items()))
            if now - since < MAX_UNREADY_WAIT_S:
                break
            self.remove(operation_id)
        work = REVALIDATION_BUDGET
        while work > 0 and (marked := self._revalidation.find_marked()) is not None:
            work -= self._revalidate(self._entries[marked])
        # All others in turns: deadlines pass, epochs end, and some marks may have been forgotten.
        work = min(REVALIDATION_BUDGET // 16, len(self._revalidation))
        while work > 0 and (oldest := self._revalidation.find_oldest()) is not None:
            work -= self._revalidate(self._entries[oldest])

    def _update_account(self, signer: bytes) -> None:
        pending, account = self._accounts[signer], self._state.account(signer)
        spent = range(pending.nonce, account.nonce)
        for nonce in spent if len(spent) < len(pending.nonced) else sorted(pending.nonced):
            if nonce < account.nonce and nonce in pending.nonced:
                self._remove(pending.nonced[nonce].operation.id, opens_gap=False)
        update_from_state(pending, account)
        while pending.fees > account.payable:  # none of them is included for less than its fee
            self.remove(pending.nonced[max(pending.nonced)].operation.id)
        if signer not in self._accounts:
            return
        self._room.note(signer, pending)
        self._room.note_waiting(signer, pending)
        pending.next_nonce = max(pending.next_nonce, account.nonce)
        self._close_gap(pending)
        if pending.reserved + pending.fees > account.available:
            for entry in reversed(list(pending.one_time.values())):
                if entry.ready and entry.cost and pending.reserved + pending.fees > account.available:
                    self._set_ready(entry, False, explain_shortfall(entry, account.available))
        for operation_id in pending.waiting:
            if operation_id in pending.one_time:
                self._revalidation.mark(operation_id, signer)

    def _reconsider(self, operation_id: bytes) -> None:
        """Look again at an operation that a proposer rejected."""
        entry = self._entries.get(operation_id)
        if entry is None:
            return
        if isinstance(entry.operation.operation, NoncedOperation):
            entry.reason = ""
            self._close_gap(self._accounts[entry.operation.signer])
        else:
            self._revalidation.mark(operation_id, entry.operation.signer)

    def _open_gap(self, pending: AccountQueue, nonce: int) -> None:
        """What follows a nonce that cannot be included cannot be either."""
        for later in range(nonce, pending.next_nonce):
            entry = pending.nonced.get(later)
            if entry is not None:
                self._set_ready(entry, False, entry.reason)
        pending.next_nonce = min(pending.next_nonce, nonce)

    def _close_gap(self, pending: AccountQueue) -> None:
        while (entry := pending.nonced.get(pending.next_nonce)) is not None and not entry.reason:
            self._set_ready(entry, True, "")
            pending.next_nonce += 1

    def _revalidate(self, entry: Entry) -> int:
        """Find out whether a one-time operation is ready, and drop it if it never will be. Returns the work done."""
        signed = entry.operation
        operation, signer = signed.operation, signed.signer
        self._revalidation.note_judged(signed.id, signer)
        pending = self._accounts[signer]
        reserved = pending.reserved + pending.fees - (entry.cost if entry.ready else 0)
        try:
            if entry.cost and reserved + entry.cost > pending.available:
                raise CannotPay(explain_shortfall(entry, pending.available))
            process_operation(StateOverlay(self._state), self._context, signed)
            if isinstance(operation, Hold) and operation.deadline <= self._get_latest_time() + DEADLINE_MARGIN_MS:
                raise InvalidOperation(
                    f"the deadline {operation.deadline} is too close to be sure of a block before it"
                )
        except InvalidSignature as error:  # of a receipt: it will not get better
            self.remove(signed.id)
            entry.reason = str(error)
        except InvalidOperation as error:
            self._set_ready(entry, False, str(error))
        else:
            self._set_ready(entry, True, "")
        return count_work(operation)

    # Bookkeeping.

    def _make_context(self, header: Header) -> BlockContext:
        """That of the block after ``header``."""
        return replace(BlockContext.after(self._genesis, header), proven=self._proven)

    def _get_latest_time(self) -> int:
        """The chain time that the next block has if it is made now, rounded up."""
        elapsed = min(1000 * (self._now - self._final_at), self._genesis.parameters.idle_beat_ms)
        return self._context.chain_time + math.ceil(elapsed)

    def _make_account(self, signer: bytes) -> AccountQueue:
        account = self._state.account(signer)
        return AccountQueue(account.nonce, account.available, account.payable, account.total, account.nonce)

    def _set_ready(self, entry: Entry, ready: bool, reason: str) -> None:
        signed = entry.operation
        pending = self._accounts[signed.signer]
        pending.reserved += entry.cost * (ready - entry.ready)
        entry.ready, entry.reason = ready, reason
        if ready == (signed.id not in self._waiting):
            return
        if ready:
            del self._waiting[signed.id]
            pending.waiting_size -= pending.waiting.pop(signed.id)
        else:
            self._waiting[signed.id] = self._now
            pending.waiting[signed.id] = entry.size
            pending.waiting_size += entry.size
        self._room.note_waiting(signed.signer, pending)

    def _drop_last(self, pending: AccountQueue) -> None:
        """Drop the operation of an account that could be included last."""
        last = [pending.nonced[max(pending.nonced)]] if pending.nonced else []
        last += [pending.one_time[next(reversed(pending.one_time))]] if pending.one_time else []
        self.remove(max(last, key=lambda entry: entry.arrival).operation.id)

    def remove(self, operation_id: bytes) -> None:
        """Forget a pending operation, if there is one of that id."""
        self._remove(operation_id, opens_gap=True)

    def _remove(self, operation_id: bytes, opens_gap: bool) -> None:
        entry = self._entries.get(operation_id)
        if entry is None:
            return
        signer, operation = entry.operation.signer, entry.operation.operation
        pending = self._accounts[signer]
        self._set_ready(entry, True, "")  # it waits for nothing any more
        pending.reserved -= entry.cost
        del self._entries[operation_id]
        self._proven.discard(operation_id)
        if isinstance(operation, NoncedOperation):
            del pending.nonced[operation.nonce]
            pending.fees -= entry.fee
            if opens_gap:
                self._open_gap(pending, operation.nonce)
        else:
            del pending.one_time[operation_id]
            self._revalidation.remove(entry.operation)
            for conflict in get_conflict_keys(operation):
                del pending.conflicts[conflict]
        self._resize(signer, pending, -entry.size)

    def _resize(self, signer: bytes, pending: AccountQueue, difference: int) -> None:
        self._room.resize(signer, pending, difference)
        if not pending.size:
            del self._accounts[signer]
