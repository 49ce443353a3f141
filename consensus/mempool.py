"""Operations that wait for a block. Pure: it reads no clock and no network; time is passed in (seconds).

An operation is *ready* when the ledger would take it on the last final state, else it *waits*: for an earlier nonce, or
because this node is a block behind whoever made it (a capture may overtake its hold). What has waited for
:data:`PATIENCE` is dropped. Only ready operations count as work and are selected.

Nobody can fill the pool at another's cost. One account holds at most :data:`MAX_NONCED` operations with a nonce and
:data:`MAX_ACCOUNT_BYTES` in all, it must be able to pay the fees of what it has pending, and when the pool is full the
account with the most bytes in it makes room.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable
from dataclasses import dataclass
from itertools import takewhile

from chain.blocks import Block, Header
from chain.epochs import get_epoch
from chain.exceptions import CannotPay, InvalidNonce, InvalidOperation
from chain.genesis import Genesis
from chain.ledger import BlockContext, check_form, compute_fee, process_operation
from chain.operations import Capture, Hold, NoncedOperation, SignedOperation
from chain.state import Draft, State

PATIENCE = 30.0
"""Seconds that an operation may wait to become ready."""
MAX_NONCED = 64
"""Pending operations with a nonce, per account."""
MAX_ACCOUNT_BYTES = 256 * 1024
"""Pending bytes, per account: room for a whole window of holds, and for captures of as many."""
MAX_BYTES = 32 << 20
MAX_OPERATIONS = 100_000
MAX_WAITING = 2_048
"""Waiting operations in all: each is looked at again after every final block."""
MAX_REMEMBERED = 65_536
"""Final operations remembered by id, so that a late copy of one is not taken for a new one."""


class AlreadyKnown(InvalidOperation):
    """The operation is pending or final already."""


class PoolFull(InvalidOperation):
    """A limit of the mempool is reached; later the operation may be taken."""


@dataclass(slots=True, eq=False)
class _Entry:
    operation: SignedOperation
    arrival: int
    """Serial number of its admission."""
    size: int
    fee: int
    ready: bool = False
    reason: str = ""
    """Why it is not ready, unless for an earlier nonce."""


class _Account:
    """What one account has pending."""

    __slots__ = ("fees", "next_nonce", "nonced", "one_time", "size")

    def __init__(self, nonce: int) -> None:
        self.nonced: dict[int, _Entry] = {}
        self.one_time: dict[bytes, _Entry] = {}
        """By id, in order of arrival."""
        self.size = 0
        self.fees = 0
        """Of the operations with a nonce."""
        self.next_nonce = nonce
        """The first nonce that is missing: those pending below it follow the account's without a gap."""


class Mempool:
    """Pending operations on top of a final state.

    Callers check signatures between :meth:`check` and :meth:`add`, many at a time and elsewhere.
    """

    def __init__(
        self,
        genesis: Genesis,
        header: Header,
        state: State,
        max_bytes: int = MAX_BYTES,
        max_operations: int = MAX_OPERATIONS,
    ) -> None:
        self._genesis = genesis
        self._state = state
        self._context = _get_context(genesis, header)
        self._max_bytes = max_bytes
        self._max_operations = max_operations
        self._entries: dict[bytes, _Entry] = {}
        self._accounts: dict[bytes, _Account] = {}
        self._waiting: dict[bytes, float] = {}
        """When each waiting operation began to wait, in that order."""
        self._final: dict[bytes, None] = {}
        # Accounts by the bit length of their pending bytes, to find one of the heaviest at once.
        self._weights: list[dict[bytes, None]] = [{} for _ in range(MAX_ACCOUNT_BYTES.bit_length() + 1)]
        self._arrivals = 0
        self.size = 0
        """Pending bytes."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, operation_id: object) -> bool:
        return operation_id in self._entries

    def get(self, operation_id: bytes) -> SignedOperation | None:
        """The pending operation of that id, or None."""
        entry = self._entries.get(operation_id)
        return None if entry is None else entry.operation

    def is_verified(self, signed: SignedOperation) -> bool:
        """Whether this very operation, signature included, is pending: its signature was checked when it came."""
        entry = self._entries.get(signed.id)
        return entry is not None and entry.operation.signature == signed.signature

    def check(self, signed: SignedOperation) -> None:
        """Whether :meth:`add` would take an operation, as far as that can be told cheaply.

        Raises:
            AlreadyKnown: it is pending or final.
            InvalidNonce: its nonce is used, or another operation with it is pending (the first one wins).
            CannotPay: its account cannot pay the fee on top of what it has pending.
            PoolFull: its account, or the pool, has no room.
            InvalidOperation: it is malformed, or asks for what has happened already.
        """
        check_form(signed)
        if signed.id in self._entries:
            raise AlreadyKnown("the operation is pending already")
        if signed.id in self._final:
            raise AlreadyKnown("the operation is final already")
        operation, signer = signed.operation, signed.signer
        account = self._state.account(signer)
        pending = self._accounts.get(signer) or _Account(account.nonce)
        fee = compute_fee(self._genesis, signed)
        if isinstance(operation, NoncedOperation):
            if operation.nonce < account.nonce:
                raise InvalidNonce(f"the nonce {operation.nonce} is used, the account's next is {account.nonce}")
            if operation.nonce in pending.nonced:
                raise InvalidNonce(f"another operation with the nonce {operation.nonce} is pending")
            if len(pending.nonced) >= MAX_NONCED:
                raise PoolFull(f"the account has {MAX_NONCED} operations pending, which is the limit")
            fee += pending.fees
        elif isinstance(operation, Hold):
            window = self._state.window(signer)
            if operation.seq < window.top and not window.is_usable(operation.seq, operation.attempt):
                raise InvalidOperation(f"hold {operation.seq}/{operation.attempt} is used or too old")
        if account.available < fee and not isinstance(operation, Capture):  # whose fee comes out of what it captures
            raise CannotPay(f"the fees pending are {fee} micro-credits, {account.available} are available")
        size = len(signed.encoded)
        if pending.size + size > MAX_ACCOUNT_BYTES:
            raise PoolFull(f"the account would have more than {MAX_ACCOUNT_BYTES} bytes pending")
        if self._is_full(size) and not self._is_heavier_than(pending.size + size):
            raise PoolFull("the pool is full")

    def add(self, signed: SignedOperation, now: float) -> None:
        """Take an operation whose signature holds.

        Raises:
            InvalidOperation: as :meth:`check`.
        """
        self.check(signed)
        size = len(signed.encoded)
        while self._is_full(size):
            self._make_room()
        self._arrivals += 1
        entry = _Entry(signed, self._arrivals, size, compute_fee(self._genesis, signed))
        pending = self._accounts.get(signed.signer)
        if pending is None:
            pending = self._accounts[signed.signer] = _Account(self._state.account(signed.signer).nonce)
            self._weights[0][signed.signer] = None
        if isinstance(signed.operation, NoncedOperation):
            pending.nonced[signed.operation.nonce] = entry
            pending.fees += entry.fee
        else:
            pending.one_time[signed.id] = entry
        self._entries[signed.id] = entry
        self._resize(signed.signer, pending, size)
        if isinstance(signed.operation, NoncedOperation):
            self._set_ready(entry, False, "", now)
            self._close_gap(pending, now)
        else:
            self._judge_one_time(entry, now)
        while len(self._waiting) > MAX_WAITING:
            self.remove(next(iter(self._waiting)))

    def get_reason(self, operation_id: bytes) -> str | None:
        """Why a pending operation is not ready, or None if it is ready or not pending."""
        entry = self._entries.get(operation_id)
        if entry is None or entry.ready:
            return None
        missing = self._accounts[entry.operation.signer].next_nonce
        return entry.reason or f"the operation with the nonce {missing} is missing"

    def has_ready(self, excluded: Container[bytes] = ()) -> bool:
        """Whether there is work for a block, beside the operations ``excluded`` by id (those in blocks not yet final).

        Constant time but for the excluded ones.
        """
        ready = len(self._entries) - len(self._waiting)
        if not ready or not excluded:
            return ready > 0
        return any(entry.ready and key not in excluded for key, entry in self._entries.items())

    def select(self, max_bytes: int, excluded: Container[bytes] = ()) -> list[SignedOperation]:
        """Ready operations for a block of at most ``max_bytes`` of them, in a deterministic order.

        Each account has two lines: its operations with a nonce in the order of nonces, and the others in the order of
        arrival, so that a gateway's holds never queue behind its transfers. Lines are served in turns of equal bytes
        (an operation's rank is the bytes before it in its line), ties by arrival: a flood fills only its own line, and
        nobody gains by cutting an operation in two. Captures need no precedence: they compete in their payee's line.
        """
        lines: list[list[_Entry]] = []
        for pending in self._accounts.values():
            for entries in (_get_ready_run(pending.nonced), pending.one_time.values()):
                line = [entry for entry in entries if entry.ready and entry.operation.id not in excluded]
                if line:
                    lines.append(line)
        # (rank, arrival, number of the line, position in it); arrivals are distinct
        heads = [(0, line[0].arrival, number, 0) for number, line in enumerate(lines)]
        heapq.heapify(heads)
        selected: list[SignedOperation] = []
        while heads:
            rank, _, number, position = heapq.heappop(heads)
            line = lines[number]
            entry = line[position]
            if entry.size > max_bytes:
                continue  # and nothing after it in its line: nonces keep their order
            max_bytes -= entry.size
            selected.append(entry.operation)
            if position + 1 < len(line):
                heapq.heappush(heads, (rank + entry.size, line[position + 1].arrival, number, position + 1))
        return selected

    def reject(self, operation_id: bytes, reason: str, now: float) -> None:
        """Let a selected operation wait, because it cannot be included on the state of a block under way."""
        entry = self._entries.get(operation_id)
        if entry is not None:
            self._set_ready(entry, False, reason, now)

    def on_final(self, block: Block, state: State, changed: Iterable[bytes], now: float) -> None:
        """Go on to a newly final block: drop what it included or made impossible, and judge again what it touched.

        ``changed`` are the keys of the state that it changed.
        """
        self._state = state
        self._context = _get_context(self._genesis, block.header)
        for operation in block.body.operations:
            self.remove(operation.id)
            self._final[operation.id] = None
        while len(self._final) > MAX_REMEMBERED:
            del self._final[next(iter(self._final))]
        self.expire(now)
        touched = [key[1:] for key in changed if key[:1] == b"a" and key[1:] in self._accounts]
        judged = dict.fromkeys(touched)
        for signer in judged:
            for entry in list(self._accounts[signer].one_time.values()):
                self._judge_one_time(entry, now)
        for operation_id in list(self._waiting):
            entry = self._entries[operation_id]
            if isinstance(entry.operation.operation, NoncedOperation):
                judged[entry.operation.signer] = None
            elif entry.operation.signer not in judged:
                self._judge_one_time(entry, now)
        for signer in judged:
            self._judge_nonced(signer, now)

    def expire(self, now: float) -> None:
        """Drop what has waited too long."""
        while self._waiting:
            operation_id, since = next(iter(self._waiting.items()))
            if now - since < PATIENCE:
                break
            self.remove(operation_id)

    def _judge_nonced(self, signer: bytes, now: float) -> None:
        """Ready are those that follow the account's nonce without a gap; what it cannot pay for is dropped."""
        account, pending = self._state.account(signer), self._accounts[signer]
        expected, fees = account.nonce, 0
        for nonce in sorted(pending.nonced):
            entry = pending.nonced[nonce]
            if nonce < account.nonce or fees + entry.fee > account.available:
                self.remove(entry.operation.id)
                continue
            fees += entry.fee
            if nonce == expected:
                self._set_ready(entry, True, "", now)
                expected += 1
            else:
                self._set_ready(entry, False, "", now)
        pending.next_nonce = expected

    def _close_gap(self, pending: _Account, now: float) -> None:
        while (entry := pending.nonced.get(pending.next_nonce)) is not None:
            self._set_ready(entry, True, "", now)
            pending.next_nonce += 1

    def _judge_one_time(self, entry: _Entry, now: float) -> None:
        try:
            process_operation(Draft(self._state), self._context, entry.operation)
        except InvalidOperation as error:
            self._set_ready(entry, False, str(error), now)
        else:
            self._set_ready(entry, True, "", now)

    def _set_ready(self, entry: _Entry, ready: bool, reason: str, now: float) -> None:
        entry.ready, entry.reason = ready, reason
        if ready:
            self._waiting.pop(entry.operation.id, None)
        else:
            self._waiting.setdefault(entry.operation.id, now)

    def _is_full(self, size: int) -> bool:
        return self.size + size > self._max_bytes or len(self._entries) >= self._max_operations

    def _is_heavier_than(self, size: int) -> bool:
        """Whether some account has clearly more pending than ``size`` bytes (in powers of two)."""
        return any(self._weights[size.bit_length() + 1 :])

    def _make_room(self) -> None:
        """Drop the last operation of an account with the most bytes."""
        heaviest = next(accounts for accounts in reversed(self._weights) if accounts)
        pending = self._accounts[next(iter(heaviest))]
        last = [pending.nonced[max(pending.nonced)]] if pending.nonced else []
        last += [pending.one_time[next(reversed(pending.one_time))]] if pending.one_time else []
        self.remove(max(last, key=lambda entry: entry.arrival).operation.id)

    def remove(self, operation_id: bytes) -> None:
        """Forget a pending operation, if there is one of that id."""
        entry = self._entries.pop(operation_id, None)
        if entry is None:
            return
        self._waiting.pop(operation_id, None)
        signer, operation = entry.operation.signer, entry.operation.operation
        pending = self._accounts[signer]
        if isinstance(operation, NoncedOperation):
            del pending.nonced[operation.nonce]
            pending.fees -= entry.fee
            pending.next_nonce = min(pending.next_nonce, operation.nonce)
        else:
            del pending.one_time[operation_id]
        self._resize(signer, pending, -entry.size)

    def _resize(self, signer: bytes, pending: _Account, difference: int) -> None:
        before = pending.size.bit_length()
        pending.size += difference
        self.size += difference
        after = pending.size.bit_length()
        if not pending.size:
            del self._weights[before][signer], self._accounts[signer]
        elif after != before:
            del self._weights[before][signer]
            self._weights[after][signer] = None


def _get_ready_run(nonced: dict[int, _Entry]) -> list[_Entry]:
    """The entries in the order of nonces, up to the first that is not ready."""
    return list(takewhile(lambda entry: entry.ready, (nonced[nonce] for nonce in sorted(nonced))))


def _get_context(genesis: Genesis, header: Header) -> BlockContext:
    """What operations of the next block may know, with the earliest chain time that it may have."""
    return BlockContext(genesis, get_epoch(genesis.parameters, header.height + 1), header.chain_time)
