"""What a block does to the state, and everything that must hold for it.

:func:`state_transition` is pure: it checks a block against its parent and returns the state after it, or raises
:class:`~chain.exceptions.InvalidBlock` naming the field at fault. :func:`build_block` is its mirror image for a
proposer: the same code executes the operations, so that a proposer cannot disagree with a checker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from chain import crypto
from chain.codec import Record
from chain.exceptions import CodecError, InvalidBlock, InvalidCertificate, InvalidOperation
from chain.genesis import Genesis
from chain.state.beacon import NO_COMMITMENT, compute_commitment
from chain.state.keys import BEACON_KEY, HISTORY_KEY, validator_key
from chain.state.state import State, StateOverlay, StateReader
from chain.transition.checks.events import CheckEvent
from chain.transition.checks.opening import open_check
from chain.transition.checks.settlement import close_check_stages
from chain.transition.context import BlockContext
from chain.transition.duels.draw import draw_duels
from chain.transition.duels.events import DuelEvent
from chain.transition.duels.opening import open_duel
from chain.transition.duels.settlement import close_stages
from chain.transition.epoch_processing import process_epoch
from chain.transition.epochs import Epoch, get_last_height, get_next_epoch
from chain.transition.justification import get_justification_checks
from chain.transition.movements import Stage, SteppedOverlay, Steps
from chain.transition.operations import process_operation
from chain.transition.payments import settle_due_captures
from chain.transition.restart import check_restart, get_block_epoch, get_restart_view, is_restart, remove_validators
from chain.transition.rounds import note_serving_changes, process_round
from chain.transition.validators.participation import process_votes
from chain.transition.validators.slashing import charge_missed_leads
from chain.types.blocks import MAX_BLOCK_BYTES, VERSION, Block, Body, Header, sign_block
from chain.types.operations import SignedOperation
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote, VoteKind

HEADER_RESERVE_BYTES = 4 * 1024
"""Bytes of a block kept for header, signature and framing when operations are chosen."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What a block leads to.

    ``state`` is the state after it, and ``changes`` the entries in which that differs from the state before.
    ``failures`` has, per operation, why it failed (its fee is paid) or None. ``duel_events`` and ``check_events`` are
    the events of duels and of checks of the model, in order. ``steps`` tells which step made which changes.
    """

    state: State
    changes: Mapping[bytes, Record | None]
    failures: tuple[str | None, ...]
    duel_events: tuple[DuelEvent, ...] = ()
    check_events: tuple[CheckEvent, ...] = ()
    steps: Steps = ()


IsVerified = Callable[[SignedOperation], bool]


def state_transition(
    genesis: Genesis,
    parent: Header,
    state: State,
    block: Block,
    is_verified: IsVerified | None = None,
    verify: crypto.Verify = crypto.verify_all,
) -> Transition:
    """Check ``block`` on ``parent`` and the state after it, and return what follows.

    ``is_verified`` says which operations had their signature checked before, so that it is not checked again.
    ``verify`` checks all other signatures; a caller may answer from what it has checked before.

    Raises:
        InvalidBlock: any rule is broken.
    """
    epoch = get_block_epoch(genesis, state, block.body)
    check_header(genesis, epoch, parent, block.header)
    verify_signatures(get_signature_checks(genesis, epoch, parent, block, is_verified), verify)
    return _apply(genesis, epoch, parent, state, block)


def apply_block(genesis: Genesis, parent: Header, state: State, block: Block) -> Transition:
    """:func:`state_transition` without the checks of :func:`get_signature_checks`, for callers that do these elsewhere.

    The result is meaningless for a block that :func:`get_signature_checks` refuses, or whose signatures do not hold.

    Raises:
        InvalidBlock: any other rule is broken. Nothing else is raised, whatever the block holds.
    """
    epoch = get_block_epoch(genesis, state, block.body)
    check_header(genesis, epoch, parent, block.header)
    return _apply(genesis, epoch, parent, state, block)


def _apply(genesis: Genesis, epoch: Epoch, parent: Header, state: State, block: Block) -> Transition:
    """Check and execute the rest of a block, after its header and its signatures were checked."""
    if len(block.encoded) > MAX_BLOCK_BYTES:
        raise InvalidBlock("body", f"the block has {len(block.encoded)} bytes, more than {MAX_BLOCK_BYTES}")
    if block.body.root != block.header.body_root:
        raise InvalidBlock("body_root", "does not commit to the body")
    if is_restart(block.header):
        check_restart(genesis, state, block)
    elif block.body.removed:
        raise InvalidBlock("removed", "only a restart removes validators")
    else:
        check_reveal(state, block.header)
    result = execute(genesis, epoch, parent, state, block.header, block.body)
    if result.state.history.root != block.header.history_root:
        raise InvalidBlock("history_root", "does not commit to the earlier blocks")
    if result.state.root != block.header.state_root:
        raise InvalidBlock("state_root", "is not the root of the state after the block")
    return result


def get_signature_checks(
    genesis: Genesis, epoch: Epoch, parent: Header, block: Block, is_verified: IsVerified | None = None
) -> list[tuple[str, crypto.SignatureCheck]]:
    """Check the form of a block's agreement evidence. Returns every signature it rests on, each with its field.

    Raises:
        InvalidBlock: the agreement evidence is missing, misplaced, or lacks a quorum.
    """
    checks = [("signature", block.signature_check())]
    checks += get_justification_checks(genesis, epoch, parent, block)
    checks += [
        (f"operations[{index}]", operation.signature_check(genesis.chain_id))
        for index, operation in enumerate(block.body.operations)
        if is_verified is None or not is_verified(operation)
    ]
    return checks


def verify_signatures(
    checks: Iterable[tuple[str, crypto.SignatureCheck]], verify: crypto.Verify = crypto.verify_all
) -> None:
    """Verify signatures.

    Raises:
        InvalidBlock: one does not hold; it names the field.
    """
    for field, check in checks:
        if not verify([check]):
            raise InvalidBlock(field, f"the signature is not that of {crypto.format_address(check.public_key)}")


def check_header(genesis: Genesis, epoch: Epoch, parent: Header, header: Header) -> None:
    """Check every header field that depends only on the parent's header and on ``epoch``, not on body or state.

    Raises:
        InvalidBlock: a field is wrong.
    """
    height = parent.height + 1
    expected: list[tuple[str, object]] = [
        ("version", VERSION),
        ("chain_id", genesis.chain_id),
        ("height", height),
        ("epoch", epoch.number),
        ("parent_id", parent.id),
        ("validators_hash", epoch.validators.hash),
        ("next_validators_hash", epoch.next_validators.hash),
    ]
    for field, value in expected:
        if getattr(header, field) != value:
            raise InvalidBlock(field, f"is {_show(getattr(header, field))}, expected {_show(value)}")
    if header.timestamp <= parent.timestamp:
        raise InvalidBlock("timestamp", f"{header.timestamp} is not after the parent's {parent.timestamp}")
    if header.chain_time != compute_chain_time(genesis, parent, header.timestamp):
        raise InvalidBlock("chain_time", "does not follow from the timestamps")
    if height > epoch.last_height:
        raise InvalidBlock("height", f"{height} is beyond the end of epoch {epoch.number}")
    first_view = parent.view + 1 if parent.epoch == epoch.number and parent.height else 1
    if header.view < first_view:
        raise InvalidBlock("view", f"{header.view} is before {first_view}")
    if is_restart(header):
        if header.view != get_restart_view(parent, epoch.number):
            raise InvalidBlock("view", f"is {header.view}, not that of a restart")
        if header.proposer not in epoch.validators:
            raise InvalidBlock("proposer", "is no validator that remains")
    elif header.proposer != epoch.compute_leader(header.view):
        raise InvalidBlock("proposer", f"does not lead view {header.view} of epoch {epoch.number}")


def check_reveal(state: StateReader, header: Header) -> None:
    """Check that the proposer's reveal opens its commitment in the parent's state.

    Raises:
        InvalidBlock: it does not, or there is no commitment.
    """
    validator = state.validator_record(header.proposer)
    if (
        validator is None
        or validator.commitment == NO_COMMITMENT
        or compute_commitment(header.beacon_reveal) != validator.commitment
    ):
        raise InvalidBlock("beacon_reveal", "does not open the proposer's commitment")


def compute_chain_time(genesis: Genesis, parent: Header, timestamp: int) -> int:
    """Chain time of a child: it grows with the timestamps, by at most the idle beat per block."""
    return parent.chain_time + min(timestamp - parent.timestamp, genesis.parameters.idle_beat_ms)


def verify_finality(genesis: Genesis, validators: ValidatorSet, header: Header, certificate: Certificate) -> None:
    """Check that ``certificate`` of its epoch's ``validators`` makes the block of ``header`` final.

    Raises:
        InvalidCertificate: it does not.
    """
    check_finality(genesis, header, certificate)
    certificate.verify(genesis.chain_id, validators)


def check_finality(genesis: Genesis, header: Header, certificate: Certificate) -> None:
    """Check that ``certificate`` says that the block of ``header`` is final, but not its signatures.

    Raises:
        InvalidCertificate: it says something else.
    """
    if certificate.kind != VoteKind.FINALIZE or certificate.block_id != header.id or certificate.epoch != header.epoch:
        raise InvalidCertificate(f"is not a finality certificate of block {header.height}")
    # Only the last block of an epoch is proposed, and made final, again in later views.
    is_last = header.height == get_last_height(genesis.parameters, header.epoch)
    if certificate.view < header.view or (certificate.view > header.view and not is_last):
        raise InvalidCertificate(f"is of view {certificate.view}, the block of view {header.view}")


def execute(genesis: Genesis, epoch: Epoch, parent: Header, state: State, header: Header, body: Body) -> Transition:
    """The state after a block of ``header`` (whose roots are not read) and ``body``.

    Raises:
        InvalidBlock: an operation cannot be included, or a late vote does not count.
    """
    overlay, context, opened = _begin(genesis, epoch, parent, state, header, body)
    failures = []
    for index, operation in enumerate(body.operations):
        overlay.begin(index)
        try:
            failures.append(process_operation(overlay, context, operation))
        except InvalidOperation as error:
            raise InvalidBlock("operations", f"number {index} cannot be included: {error}") from error
    return _finish(genesis, epoch, state, overlay, header, failures, opened)


def _begin(
    genesis: Genesis, epoch: Epoch, parent: Header, state: State, header: Header, body: Body
) -> tuple[SteppedOverlay, BlockContext, _Opened]:
    """The steps of a block before its operations. Returns what it opened."""
    overlay = SteppedOverlay(state)
    overlay.begin(Stage.MISSED_LEADS)
    overlay.put(HISTORY_KEY, state.history.append(parent.id))
    overlay.put(BEACON_KEY, state.beacon.absorb(header.beacon_reveal))
    if is_restart(header):
        remove_validators(overlay, body.removed)
    else:
        validator = state.validator_record(header.proposer)
        assert validator is not None  # check_reveal
        overlay.put(validator_key(header.proposer), replace(validator, commitment=header.beacon_reveal))
    process_votes(overlay, epoch, parent, body)
    charge_missed_leads(overlay, genesis.parameters, epoch, body)
    overlay.begin(Stage.DRAWS)
    opened = _open_drawn(overlay, genesis, header)
    return overlay, BlockContext(genesis, epoch.number, header.height, header.chain_time), opened


@dataclass(frozen=True, slots=True)
class _Opened:
    """The duels and the checks that a block opened."""

    duels: tuple[DuelEvent, ...] = ()
    checks: tuple[CheckEvent, ...] = ()


def _open_drawn(overlay: StateOverlay, genesis: Genesis, header: Header) -> _Opened:
    """Open the duels and checks that this block draws. This precedes its operations, or they could influence the draws.

    Duels come first: if the treasury cannot pay for all, comparing answers has precedence over checking models.
    """
    parameters, now = genesis.parameters, header.chain_time
    if not parameters.duels.rate:
        return _Opened()
    drawn = draw_duels(overlay, parameters.duels, header.height)
    duels = [open_duel(overlay, parameters.duels, capture, now) for capture in drawn]
    checks = [open_check(overlay, parameters, capture, now) for capture in drawn]
    return _Opened(
        tuple(event for event in duels if event is not None), tuple(event for event in checks if event is not None)
    )


def _finish(
    genesis: Genesis,
    epoch: Epoch,
    state: State,
    overlay: SteppedOverlay,
    header: Header,
    failures: list[str | None],
    opened: _Opened,
) -> Transition:
    """The steps of a block after its operations, and those of the last block of a round or an epoch."""
    # After the operations: then a dispute in the block after the capture is always in time, however far chain time
    # jumps.
    overlay.begin(Stage.SETTLEMENT)
    settle_due_captures(overlay, genesis.parameters, header.height, header.chain_time)
    duel_events, check_events = [*opened.duels], [*opened.checks]
    if genesis.parameters.duels.rate:
        overlay.begin(Stage.DUELS)
        duel_events += close_stages(overlay, genesis.parameters, header.chain_time)
        overlay.begin(Stage.CHECKS)
        check_events += close_check_stages(overlay, genesis.parameters, header.chain_time)
    overlay.begin(Stage.END)
    note_serving_changes(overlay, state, genesis, header.height)
    after = state.update(overlay.changes)
    if header.height % genesis.parameters.round_heights == 0:
        end = StateOverlay(overlay)
        process_round(end, after, genesis, header.height)
        if header.height == epoch.last_height:
            process_epoch(end, after, genesis, epoch, header.chain_time)
        overlay.merge(end)
        after = after.update(end.changes)
    return Transition(after, overlay.changes, tuple(failures), tuple(duel_events), tuple(check_events), overlay.steps)


def build_block(
    genesis: Genesis,
    key: crypto.KeyPair,
    parent: Header,
    state: State,
    operations: Iterable[SignedOperation],
    *,
    view: int,
    timestamp: int,
    reveal: bytes,
    parent_certificate: Certificate | None,
    nullifications: Sequence[Certificate],
    late_votes: Sequence[Vote] = (),
    on_rejected: Callable[[SignedOperation], None] = lambda _: None,
) -> tuple[Block, Transition, list[tuple[SignedOperation, str]]]:
    """Build, execute and sign a block on ``parent``.

    ``reveal`` opens the commitment of ``key`` in ``state``; ``late_votes`` count
    (:func:`~chain.transition.validators.participation.process_votes`). Takes ``operations``, whose signatures must have
    been checked, in order, until the block is full. An operation that cannot be included is skipped, and passed to
    ``on_rejected`` before the next one is taken. Returns the block, its transition, and the skipped operations, each
    with the reason.

    Raises:
        InvalidBlock: the reveal or a late vote is not right.
    """
    timestamp = max(timestamp, parent.timestamp + 1)
    epoch = get_next_epoch(genesis, state)
    header = Header(
        version=VERSION,
        chain_id=genesis.chain_id,
        epoch=epoch.number,
        height=parent.height + 1,
        view=view,
        parent_id=parent.id,
        timestamp=timestamp,
        chain_time=compute_chain_time(genesis, parent, timestamp),
        proposer=key.public_key,
        body_root=bytes(32),
        state_root=bytes(32),
        history_root=bytes(32),
        validators_hash=epoch.validators.hash,
        next_validators_hash=epoch.next_validators.hash,
        beacon_reveal=reveal,
    )
    body = Body((), parent_certificate, tuple(nullifications), tuple(late_votes))
    room_bytes = MAX_BLOCK_BYTES - HEADER_RESERVE_BYTES - len(body.encode())
    check_reveal(state, header)
    overlay, context, opened = _begin(genesis, epoch, parent, state, header, body)
    included: list[SignedOperation] = []
    failures: list[str | None] = []
    rejected: list[tuple[SignedOperation, str]] = []
    for operation in operations:
        if len(operation.encoded) > room_bytes:
            break
        overlay.begin(len(included))
        try:
            failures.append(process_operation(overlay, context, operation))
        except (InvalidOperation, CodecError) as error:
            rejected.append((operation, str(error)))
            on_rejected(operation)
            continue
        included.append(operation)
        room_bytes -= len(operation.encoded)
    result = _finish(genesis, epoch, state, overlay, header, failures, opened)
    after = result.state
    body = replace(body, operations=tuple(included))
    header = replace(header, body_root=body.root, state_root=after.root, history_root=after.history.root)
    return sign_block(key, header, body), result, rejected


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
