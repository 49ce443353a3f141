"""What the mempool keeps of each operation and each account, and what operations need of the state. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from chain.exceptions import InvalidOperation
from chain.parameters.parameters import Parameters
from chain.state.keys import check_key, duel_key, hold_key
from chain.state.records import Account
from chain.state.state import State
from chain.transition.checks.duties import check_turn
from chain.transition.deposits import compute_hold_deposit
from chain.transition.duels.duties import check_duty
from chain.types.checks import CheckOperation
from chain.types.duels import DuelOperation
from chain.types.operations import (
    Capture,
    Dispute,
    Evidence,
    Hold,
    NoncedOperation,
    Operation,
    Release,
    SignedOperation,
)

ConflictKey = tuple[object, ...]
"""Names something that only one pending operation of an account may ask for."""


@dataclass(slots=True, eq=False)
class Entry:
    """One pending operation."""

    operation: SignedOperation
    arrival: int
    """Serial number of its admission."""
    height: int
    """Of the block that was to come next then."""
    size: int
    fee: int
    cost: int
    """What it takes out of the available credit when it is included, as far as that is known before."""
    ready: bool = False
    reason: str = ""
    """Why it is not ready, unless for an earlier nonce."""
    rejections: int = 0


@dataclass(slots=True, eq=False)
class AccountQueue:
    """What one account has pending. ``nonce``, ``available`` and ``payable`` are those of the state.

    ``payable`` is what the fees of operations with a nonce may come out of, ``owned`` all the credit of the account.
    """

    nonce: int
    available: int
    payable: int
    owned: int
    next_nonce: int
    """The first nonce that is missing or cannot be included: all pending ones below it are consecutive and can be."""
    nonced: dict[int, Entry] = field(default_factory=dict)
    one_time: dict[bytes, Entry] = field(default_factory=dict)
    """By id, in order of arrival."""
    conflicts: dict[ConflictKey, bytes] = field(default_factory=dict)
    """The conflict keys of the one-time operations, and their ids."""
    waiting: dict[bytes, int] = field(default_factory=dict)
    """The sizes of those that are not ready, by id."""
    size: int = 0
    waiting_size: int = 0
    fees: int = 0
    """Of the operations with a nonce."""
    reserved: int = 0
    """Cost of the one-time operations that are ready."""


def update_from_state(pending: AccountQueue, account: Account) -> None:
    pending.nonce, pending.available, pending.owned = account.nonce, account.available, account.total
    pending.payable = account.payable


def get_cost(parameters: Parameters, operation: Operation, fee: int) -> int:
    """What a one-time operation takes out of the available credit, without the deposit for skipped hold numbers."""
    if isinstance(operation, NoncedOperation | Capture | Dispute):
        return 0  # the fee of these two may come out of what they settle
    return fee + operation.amount + compute_hold_deposit(parameters) if isinstance(operation, Hold) else fee


def count_work(operation: Operation) -> int:
    """Cost of finding out whether an operation can be included, in signature checks."""
    if isinstance(operation, Capture):
        return 1 + sum(item.receipt is not None for item in operation.items)
    return 3 if isinstance(operation, Evidence) else 1


def get_conflict_keys(operation: Operation) -> list[ConflictKey]:
    """The conflict keys of a one-time operation: of two that share one, only one may be pending."""
    if isinstance(operation, Hold):
        return [("hold", operation.seq, operation.attempt)]
    if isinstance(operation, Capture):
        return [("capture", item.delivery.hold) for item in operation.items]
    if isinstance(operation, DuelOperation | CheckOperation):
        return [(type(operation), operation.hold)]
    return []


def get_dependencies(operation: Operation) -> list[bytes]:
    """The entries of the state, beside accounts, that an operation needs in order to be included."""
    if isinstance(operation, Capture):
        return [hold_key(item.delivery.hold) for item in operation.items]
    if isinstance(operation, DuelOperation):
        return [duel_key(operation.hold)]
    if isinstance(operation, CheckOperation):
        return [check_key(operation.hold)]
    return [hold_key(operation.hold)] if isinstance(operation, Release | Dispute) else []


def check_need(state: State, signed: SignedOperation) -> None:
    """Check, as far as that is cheap, that a one-time operation can still have its effect.

    Raises:
        InvalidOperation: its effect has happened already, or its signer may not ask for it.
    """
    operation = signed.operation
    if isinstance(operation, Hold):
        window = state.replay_window(signed.signer)
        if operation.seq < window.top and not window.is_usable(operation.seq, operation.attempt):
            raise InvalidOperation(f"hold {operation.seq}/{operation.attempt} is used or too old")
    if isinstance(operation, DuelOperation):  # which costs no fee, and would fill the pool for nothing
        check_duty(state, operation, signed.signer)
    if isinstance(operation, CheckOperation):  # nor do these
        check_turn(state, operation, signed.signer)


def is_payee(state: State, operation: Capture, signer: bytes) -> bool:
    """Whether the signer of a capture may capture all holds that it names."""
    holds = [state.hold(item.delivery.hold) for item in operation.items]
    return all(hold is not None and hold.payee == signer for hold in holds)


def explain_shortfall(entry: Entry, available: int) -> str:
    return f"{entry.cost} micro-credits asked beside what is promised, {available} available"
