"""The rules of the operations: what each one does to the accounts, and when it is refused.

Every ``process_…`` function raises :class:`~chain.exceptions.InvalidOperation` with a reason. For an operation with an
account nonce that means that it failed: its fee stays paid and its nonce used. One without a nonce is then not
included at all, or it could be replayed to drain fees.

Beside the fee for its bytes, which pass, an operation pays for each entry that stays in the state for good: the account
that a transfer makes, the window of a payer's first hold, the duty of who enrolls for the first time. Or anybody could
fill every node's memory for the price of some bytes. What others leave is resolved, or limited (registrations).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chain import crypto
from chain.exceptions import CannotPay, InvalidNonce, InvalidOperation, InvalidSignature
from chain.genesis import Genesis
from chain.state.lottery import compute_lottery_seed
from chain.state.state import (
    MAX_UNBONDINGS,
    Account,
    DueCaptures,
    OpenHold,
    StateOverlay,
    StateReader,
    Unbonding,
    account_key,
    due_captures_key,
    hold_key,
    replay_window_key,
)
from chain.transition import validators as duties
from chain.transition.epochs import get_epoch
from chain.transition.registration import process_register
from chain.types.blocks import Header
from chain.types.operations import (
    MAX_CAPTURE_BYTES,
    MAX_OPERATION_BYTES,
    Bond,
    Capture,
    Delivery,
    Dispute,
    Enroll,
    Evidence,
    Hold,
    NoncedOperation,
    Operation,
    Recommit,
    Register,
    Release,
    Retire,
    Serve,
    SignedOperation,
    Transfer,
    Unbond,
    Unjail,
    Withdraw,
    compute_hold_id,
)


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What an operation may know of the block that it stands in."""

    genesis: Genesis
    epoch: int
    height: int
    chain_time: int

    @classmethod
    def after(cls, genesis: Genesis, header: Header) -> BlockContext:
        """That of the block after ``header``, with the earliest chain time that it may have."""
        height = header.height + 1
        return cls(genesis, get_epoch(genesis.parameters, height), height, header.chain_time)


def process_operation(overlay: StateOverlay, context: BlockContext, signed: SignedOperation) -> str | None:
    """Execute one operation whose signature holds. Returns None, or why it failed although its fee was paid.

    Raises:
        InvalidOperation: it cannot be included here; ``overlay`` is then unchanged.
    """
    operation, signer = signed.operation, signed.signer
    check_form(signed)
    fee = compute_fee(context.genesis, signed)
    if not isinstance(operation, NoncedOperation):
        attempt = StateOverlay(overlay)
        if isinstance(operation, Capture):  # its fee comes out of what it captures
            holds = _process_capture(attempt, context, operation, signer)
            _charge_capture(attempt, operation, holds, signer, fee)
        else:
            _charge_fee(attempt, signer, fee)
            _process(attempt, context, operation, signer)
        overlay.merge(attempt)
        return None
    account = overlay.account(signer)
    if operation.nonce != account.nonce:
        raise InvalidNonce(f"the nonce is {operation.nonce}, the account's next is {account.nonce}")
    _charge_fee(overlay, signer, fee, nonces=1)
    effect = StateOverlay(overlay)
    try:
        _process(effect, context, operation, signer)
    except InvalidOperation as error:
        return str(error)
    overlay.merge(effect)
    return None


def check_form(signed: SignedOperation) -> None:
    """Check what needs no state.

    Raises:
        InvalidOperation: too large, or malformed beyond what its encoding shows.
    """
    operation = signed.operation
    limit = MAX_CAPTURE_BYTES if isinstance(operation, Capture) else MAX_OPERATION_BYTES
    if len(signed.encoded) > limit:
        raise InvalidOperation(f"the operation has {len(signed.encoded)} bytes, more than {limit}")
    if isinstance(operation, Transfer) and not crypto.is_valid_public_key(operation.recipient):
        raise InvalidOperation("the recipient is not a usable key")
    if isinstance(operation, Serve | Register) and list(operation.models) != sorted(set(operation.models)):
        raise InvalidOperation("models must be sorted and distinct")
    if isinstance(operation, Capture):
        holds = [item.delivery.hold for item in operation.items]
        if len(set(holds)) != len(holds):
            raise InvalidOperation("a hold is captured twice")
    if isinstance(operation, Evidence):
        duties.check_evidence(operation)


def compute_fee(genesis: Genesis, signed: SignedOperation) -> int:
    """Fee of an operation in micro-credits: by its bytes. For a hold it grows with the attempt: skipping costs."""
    if isinstance(signed.operation, Register):
        return 0
    fee = genesis.parameters.fee_per_byte * len(signed.encoded)
    return fee * (1 + signed.operation.attempt) if isinstance(signed.operation, Hold) else fee


def settle_due_captures(overlay: StateOverlay, previous: int, now: int) -> None:
    """Pay the pending captures that fall due in chain time (previous, now], in order of their second."""
    for second in range(previous // 1000 + 1, now // 1000 + 1):
        due_captures = overlay.due_captures(second)
        if due_captures is None:
            continue
        for hold_id in due_captures.holds:
            hold = overlay.hold(hold_id)
            if hold is not None and hold.unsettled_delivery is not None:  # else disputed in the meantime
                _resolve(overlay, hold_id, hold, hold.payee, hold.unsettled_delivery.amount)
        overlay.put(due_captures_key(second), None)


def _charge_fee(overlay: StateOverlay, signer: bytes, fee: int, nonces: int = 0) -> None:
    """Take the fee, and use up ``nonces`` of the account's numbers."""
    account = overlay.account(signer)
    if account.available < fee:
        raise CannotPay(f"the fee is {fee} micro-credits, {account.available} are available")
    overlay.put_account(signer, replace(account, available=account.available - fee, nonce=account.nonce + nonces))
    overlay.fill_treasury(fee)


def _process(overlay: StateOverlay, context: BlockContext, operation: Operation, signer: bytes) -> None:
    match operation:
        case Transfer():
            _process_transfer(overlay, context, operation, signer)
        case Bond():
            _process_bond(overlay, context, operation, signer)
        case Unbond():
            _process_unbond(overlay, context, operation, signer)
        case Withdraw():
            _process_withdraw(overlay, context, signer)
        case Serve():
            overlay.put_account(signer, replace(overlay.account(signer), models=operation.models))
        case Enroll():
            if overlay.validator_record(signer) is None:
                _charge_entry(overlay, context, signer)
            duties.process_enroll(overlay, context.genesis, context.epoch, context.height, operation, signer)
        case Retire():
            duties.process_retire(overlay, signer)
        case Unjail():
            duties.process_unjail(overlay, context.epoch, context.height, signer)
        case Recommit():
            duties.process_recommit(overlay, context.epoch, operation, signer)
        case Register():
            process_register(overlay, context.genesis, operation, signer)
        case Evidence():
            duties.process_evidence(overlay, context.genesis, context.epoch, operation, signer)
        case Hold():
            _process_hold(overlay, context, operation, signer)
        case Release():
            _process_release(overlay, context, operation)
        case Dispute():
            _process_dispute(overlay, operation, signer)


def _spend(account: Account, amount: int) -> Account:
    if account.available < amount:
        raise CannotPay(f"{amount} micro-credits asked, {account.available} available")
    return account.credit(-amount)


def _charge_entry(overlay: StateOverlay, context: BlockContext, signer: bytes) -> None:
    """Take the price of an entry that stays in the state for good."""
    price = context.genesis.parameters.entry_fee
    account = overlay.account(signer)
    if account.available < price:
        raise CannotPay(f"a new entry in the ledger costs {price} micro-credits, {account.available} are available")
    overlay.put_account(signer, account.credit(-price))
    overlay.fill_treasury(price)


def _process_transfer(overlay: StateOverlay, context: BlockContext, operation: Transfer, signer: bytes) -> None:
    overlay.put_account(signer, _spend(overlay.account(signer), operation.amount))
    if operation.amount and overlay.get(account_key(operation.recipient)) is None:
        _charge_entry(overlay, context, signer)
    recipient = overlay.account(operation.recipient)
    overlay.put_account(operation.recipient, recipient.credit(operation.amount))


def _process_bond(overlay: StateOverlay, context: BlockContext, operation: Bond, signer: bytes) -> None:
    account = _spend(overlay.account(signer), operation.amount)
    overlay.put_account(signer, replace(account, bonded=account.bonded + operation.amount))
    duties.note_larger_bond(overlay, context.height, signer)


def _process_unbond(overlay: StateOverlay, context: BlockContext, operation: Unbond, signer: bytes) -> None:
    account = overlay.account(signer)
    if not operation.amount:  # an entry of nothing could never be withdrawn, and would keep its place for ever
        raise InvalidOperation("nothing to unbond")
    free = max(0, account.bonded - account.grant)
    if free < operation.amount:
        raise CannotPay(f"{operation.amount} micro-credits asked, {free} bonded (not counting a newcomer's grant)")
    # The tables of this and the next epoch are frozen already: the stake carries weight until the end of the next, and
    # from then on it takes the unbonding epochs in full.
    release = context.epoch + 2 + context.genesis.parameters.unbonding_epochs
    parts = {part.release_epoch: part.amount for part in account.unbonding}
    parts[release] = parts.get(release, 0) + operation.amount
    if len(parts) > MAX_UNBONDINGS:
        raise InvalidOperation(f"{MAX_UNBONDINGS} amounts are unbonding already; withdraw what is free first")
    unbonding = tuple(Unbonding(amount, epoch) for epoch, amount in sorted(parts.items()))
    overlay.put_account(signer, replace(account, bonded=account.bonded - operation.amount, unbonding=unbonding))


def _process_withdraw(overlay: StateOverlay, context: BlockContext, signer: bytes) -> None:
    account = overlay.account(signer)
    free = sum(part.amount for part in account.unbonding if part.release_epoch <= context.epoch)
    if not free:
        raise InvalidOperation("nothing has finished unbonding")
    rest = tuple(part for part in account.unbonding if part.release_epoch > context.epoch)
    overlay.put_account(signer, replace(account, available=account.available + free, unbonding=rest))


def _process_hold(overlay: StateOverlay, context: BlockContext, operation: Hold, signer: bytes) -> None:
    parameters = context.genesis.parameters
    if operation.attempt >= parameters.max_attempts:
        raise InvalidOperation(f"attempt {operation.attempt} is beyond the {parameters.max_attempts} allowed")
    least = parameters.get_price(operation.model).per_request
    if operation.amount < least:  # or open holds, which take room in the state, would lock up nothing
        raise InvalidOperation(f"holds {operation.amount} micro-credits, less than the {least} of any request")
    if not context.chain_time < operation.deadline <= context.chain_time + parameters.max_hold_time:
        raise InvalidOperation(
            f"the deadline {operation.deadline} is not within {parameters.max_hold_time} ms from now"
        )
    if not context.epoch - 1 <= operation.epoch <= context.epoch:
        raise InvalidOperation(f"epoch {operation.epoch} is neither this one ({context.epoch}) nor the one before")
    window = overlay.replay_window(signer)
    if not window.is_usable(operation.seq, operation.attempt):
        raise InvalidOperation(
            f"hold {operation.seq}/{operation.attempt} is used or outside the window at {window.top}"
        )
    payee = get_executor(overlay, operation.epoch, signer, operation.seq, operation.attempt, operation.model)
    if payee != operation.payee:
        raise InvalidOperation(f"the payee is not number {operation.attempt} of the lottery")
    if not overlay.account(operation.payee).models:
        raise InvalidOperation("the payee has left the lottery")
    account = _spend(overlay.account(signer), operation.amount)
    overlay.put_account(signer, replace(account, held=account.held + operation.amount))
    if not window.top:
        _charge_entry(overlay, context, signer)
    overlay.put(replay_window_key(signer), window.use(operation.seq, operation.attempt))
    hold = OpenHold(
        signer, operation.payee, operation.amount, operation.model, operation.request_digest, operation.deadline
    )
    overlay.put(hold_key(compute_hold_id(signer, operation.seq, operation.attempt)), hold)


def get_executor(state: StateReader, epoch: int, payer: bytes, seq: int, attempt: int, model: str) -> bytes | None:
    """The account that request ``seq`` of ``payer`` must be offered to at ``attempt``, or None if there is none."""
    table, source = state.serving_table(epoch), state.beacon.get_epoch_seed(epoch)
    if table is None or source is None:
        return None
    seed = compute_lottery_seed(source, payer, seq)
    return table.lottery(model).get_executor(seed, payer, attempt)


def _process_capture(overlay: StateOverlay, context: BlockContext, operation: Capture, signer: bytes) -> list[OpenHold]:
    """Execute a capture, but for its fee. Returns the holds of its items as they were."""
    holds = [_check_delivery(overlay, context, item.delivery, signer) for item in operation.items]
    # Receipts only when all else is well: while a capture waits for a hold it is tried after every block, for free.
    for item, hold in zip(operation.items, holds, strict=True):
        if item.receipt is not None:
            message = item.delivery.encode()
            claim = crypto.SignatureCheck(hold.payer, "receipt", context.genesis.chain_id, message, item.receipt)
            if not crypto.verify_all([claim]):
                raise InvalidSignature("the receipt is not the payer's")
    pays_at = context.chain_time + context.genesis.parameters.capture_grace
    unsettled_delivery = []
    for item, hold in zip(operation.items, holds, strict=True):
        delivery = item.delivery
        if item.receipt is not None or not delivery.amount:
            _resolve(overlay, delivery.hold, hold, signer, delivery.amount)
        else:
            overlay.put(hold_key(delivery.hold), replace(hold, unsettled_delivery=delivery, pays_at=pays_at))
            unsettled_delivery.append(delivery.hold)
    if unsettled_delivery:  # together: one by one, a second full of captures would cost the square of their number
        second = -(-pays_at // 1000)
        due_captures = overlay.due_captures(second) or DueCaptures(())
        overlay.put(due_captures_key(second), DueCaptures((*due_captures.holds, *unsettled_delivery)))
    return holds


def _charge_capture(overlay: StateOverlay, operation: Capture, holds: list[OpenHold], signer: bytes, fee: int) -> None:
    """Take the fee of a capture that was executed.

    The payee pays from what it has available by now. One that has too little, a newcomer say, must be able to capture
    all the same, or it works for nothing and its payers wait for the deadline: so the rest comes out of the amounts
    that wait for their grace time, and then out of the holds that were given back whole.
    """
    available = overlay.account(signer).available
    if fee > available:
        _charge_holds(overlay, operation, holds, fee - available)
    _charge_fee(overlay, signer, min(fee, available))


def _charge_holds(overlay: StateOverlay, operation: Capture, holds: list[OpenHold], owed: int) -> None:
    """Take what the payee of an executed capture cannot pay of its fee out of the ``holds`` that it names."""
    overlay.fill_treasury(owed)
    items = list(zip(operation.items, holds, strict=True))
    for item, _ in items:
        hold = overlay.hold(item.delivery.hold)
        if hold is None or hold.unsettled_delivery is None:
            continue
        part = min(owed, hold.unsettled_delivery.amount)
        unsettled_delivery = replace(hold.unsettled_delivery, amount=hold.unsettled_delivery.amount - part)
        overlay.put(
            hold_key(item.delivery.hold),
            replace(hold, amount=hold.amount - part, unsettled_delivery=unsettled_delivery),
        )
        payer = overlay.account(hold.payer)
        overlay.put_account(hold.payer, replace(payer, held=payer.held - part))
        owed -= part
    for item, hold in items:
        if not item.delivery.amount:
            part = min(owed, hold.amount)
            overlay.put_account(hold.payer, overlay.account(hold.payer).credit(-part))
            owed -= part
    if owed:
        raise CannotPay(f"the fee is {owed} micro-credits more than is available and captured")


def _check_delivery(overlay: StateOverlay, context: BlockContext, delivery: Delivery, signer: bytes) -> OpenHold:
    """The open hold of a delivery that ``signer`` may capture.

    Raises:
        InvalidOperation: it may not.
    """
    hold = _open_hold(overlay, delivery.hold)
    if hold.payee != signer:
        raise InvalidOperation("only the payee captures a hold")
    if hold.unsettled_delivery is not None:
        raise InvalidOperation("the hold is captured already")
    price = context.genesis.parameters.get_price(hold.model).compute(delivery.usage)
    if delivery.amount > min(hold.amount, price):
        raise InvalidOperation(
            f"captures {delivery.amount}, more than the hold of {hold.amount} or the price of {price}"
        )
    return hold


def _process_release(overlay: StateOverlay, context: BlockContext, operation: Release) -> None:
    hold = _open_hold(overlay, operation.hold)
    if hold.unsettled_delivery is not None:
        raise InvalidOperation("the hold is captured already")
    if context.chain_time <= hold.deadline:
        raise InvalidOperation(f"the deadline {hold.deadline} has not passed at {context.chain_time}")
    _resolve(overlay, operation.hold, hold, hold.payer, 0)


def _process_dispute(overlay: StateOverlay, operation: Dispute, signer: bytes) -> None:
    hold = _open_hold(overlay, operation.hold)
    if hold.payer != signer:
        raise InvalidOperation("only the payer disputes a capture")
    if hold.unsettled_delivery is None:
        raise InvalidOperation("nothing was captured from the hold")
    _resolve(overlay, operation.hold, hold, None, hold.unsettled_delivery.amount)


def _open_hold(overlay: StateOverlay, hold_id: bytes) -> OpenHold:
    hold = overlay.hold(hold_id)
    if hold is None:
        raise InvalidOperation(f"no open hold {hold_id.hex()[:16]}")
    return hold


def _resolve(overlay: StateOverlay, hold_id: bytes, hold: OpenHold, receiver: bytes | None, amount: int) -> None:
    """Pay ``amount`` of a hold to ``receiver`` (None: the treasury), the rest back to its payer, and close it."""
    payer = overlay.account(hold.payer)
    rest = hold.amount - amount
    overlay.put_account(hold.payer, replace(payer, held=payer.held - hold.amount, available=payer.available + rest))
    if receiver is None:
        overlay.fill_treasury(amount)
    else:
        account = overlay.account(receiver)
        overlay.put_account(receiver, account.credit(amount))
    overlay.put(hold_key(hold_id), None)
