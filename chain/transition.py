"""What a block does to the state, and everything that must hold for it.

:func:`state_transition` is pure: it checks a block against its parent and returns the state after it, or raises
:class:`~chain.exceptions.InvalidBlock` naming the field at fault. :func:`build_block` is its mirror image for a
proposer: the same code executes the operations, so that a proposer cannot disagree with a checker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from chain import crypto
from chain.blocks import MAX_BLOCK, NO_REVEAL, VERSION, Block, Body, Header, sign_block
from chain.codec import Record
from chain.epochs import get_beacon, get_epoch, get_last_height, get_validators
from chain.exceptions import CodecError, InvalidBlock, InvalidCertificate, InvalidOperation
from chain.genesis import Genesis, compute_serving_table
from chain.ledger import BlockContext, process_operation, settle_due_captures
from chain.operations import SignedOperation
from chain.state import HISTORY_KEY, Draft, State, table_key
from chain.validators import ValidatorSet
from chain.votes import Certificate, VoteKind

HEADER_ROOM = 4 * 1024
"""Bytes of a block kept for header, signature and framing when operations are chosen."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What a block leads to.

    ``state`` is the state after it and ``changes`` the entries in which it differs from the one before; ``failures``
    has, per operation, why it failed (its fee is paid) or None.
    """

    state: State
    changes: Mapping[bytes, Record | None]
    failures: tuple[str | None, ...]


IsVerified = Callable[[SignedOperation], bool]


def state_transition(
    genesis: Genesis, parent: Header, state: State, block: Block, is_verified: IsVerified | None = None
) -> Transition:
    """Check ``block`` on ``parent`` and the state after it, and return what follows.

    ``is_verified`` says which operations had their signature checked before, so that it is not checked again.

    Raises:
        InvalidBlock: any rule is broken.
    """
    check_header(genesis, parent, block.header)
    check_claims(get_claims(genesis, parent, block, is_verified))
    return apply_block(genesis, parent, state, block)


def apply_block(genesis: Genesis, parent: Header, state: State, block: Block) -> Transition:
    """:func:`state_transition` without the signatures of :func:`get_claims`, for callers that check them elsewhere.

    Raises:
        InvalidBlock: any other rule is broken.
    """
    check_header(genesis, parent, block.header)
    if len(block.encoded) > MAX_BLOCK:
        raise InvalidBlock("body", f"the block has {len(block.encoded)} bytes, more than {MAX_BLOCK}")
    if block.body.compute_root() != block.header.body_root:
        raise InvalidBlock("body_root", "does not commit to the body")
    result = execute(genesis, parent, state, block.header, block.body.operations)
    if result.state.history.root != block.header.history_root:
        raise InvalidBlock("history_root", "does not commit to the earlier blocks")
    if result.state.root != block.header.state_root:
        raise InvalidBlock("state_root", "is not the root of the state after the block")
    return result


def get_claims(
    genesis: Genesis, parent: Header, block: Block, is_verified: IsVerified | None = None
) -> list[tuple[str, crypto.Claim]]:
    """Every signature that a block stands on, each with the field it belongs to, after the evidence's form was checked.

    Raises:
        InvalidBlock: the agreement evidence is missing, misplaced, or lacks a quorum.
    """
    claims = [("signature", block.claim())]
    claims += get_evidence_claims(genesis, parent, block)
    claims += [
        (f"operations[{index}]", operation.claim(genesis.chain_id))
        for index, operation in enumerate(block.body.operations)
        if is_verified is None or not is_verified(operation)
    ]
    return claims


def check_claims(claims: Iterable[tuple[str, crypto.Claim]]) -> None:
    """Verify signatures.

    Raises:
        InvalidBlock: one does not hold; it names the field.
    """
    for field, claim in claims:
        if not crypto.verify_all([claim]):
            raise InvalidBlock(field, f"the signature is not that of {crypto.format_address(claim.public_key)}")


def check_header(genesis: Genesis, parent: Header, header: Header) -> None:
    """Check every header field that does not depend on the body or the state.

    Raises:
        InvalidBlock: a field is wrong.
    """
    parameters = genesis.parameters
    height = parent.height + 1
    epoch = get_epoch(parameters, height)
    validators = get_validators(genesis, epoch)
    expected: list[tuple[str, object]] = [
        ("version", VERSION),
        ("chain_id", genesis.chain_id),
        ("height", height),
        ("epoch", epoch),
        ("parent_id", parent.id),
        ("validators_hash", validators.hash),
        ("next_validators_hash", get_validators(genesis, epoch + 1).hash),
        ("beacon_reveal", NO_REVEAL),
    ]
    for field, value in expected:
        if getattr(header, field) != value:
            raise InvalidBlock(field, f"is {_show(getattr(header, field))}, expected {_show(value)}")
    if header.timestamp <= parent.timestamp:
        raise InvalidBlock("timestamp", f"{header.timestamp} is not after the parent's {parent.timestamp}")
    if header.chain_time != compute_chain_time(genesis, parent, header.timestamp):
        raise InvalidBlock("chain_time", "does not follow from the timestamps")
    first_view = parent.view + 1 if parent.epoch == epoch and parent.height else 1
    if header.view < first_view:
        raise InvalidBlock("view", f"{header.view} is before {first_view}")
    if header.proposer != validators.compute_leader(get_beacon(genesis, epoch), header.view):
        raise InvalidBlock("proposer", f"does not lead view {header.view} of epoch {epoch}")


def compute_chain_time(genesis: Genesis, parent: Header, timestamp: int) -> int:
    """Chain time of a child: it grows with the timestamps, by at most the idle beat per block."""
    return parent.chain_time + min(timestamp - parent.timestamp, genesis.parameters.idle_beat)


def get_evidence_claims(genesis: Genesis, parent: Header, block: Block) -> list[tuple[str, crypto.Claim]]:
    """The signature checks that a block's agreement evidence stands on, after its form was checked.

    The parent must be certified (notarized, or finalized across an epoch boundary), and each view between the parent's
    and the block's nullified.

    Raises:
        InvalidBlock: evidence is missing, misplaced, or lacks a quorum.
    """
    header, body = block.header, block.body
    validators = get_validators(genesis, header.epoch)
    claims: list[tuple[str, crypto.Claim]] = []
    last_view = 0
    certificate = body.parent_certificate
    if parent.height == 0:
        if certificate is not None:
            raise InvalidBlock("parent_certificate", "genesis has none")
    else:
        same_epoch = parent.epoch == header.epoch
        # A finality certificate stands for the notarization it implies; across an epoch boundary only finality will do.
        kinds = (VoteKind.NOTARIZE, VoteKind.FINALIZE) if same_epoch else (VoteKind.FINALIZE,)
        if certificate is None or certificate.kind not in kinds:
            raise InvalidBlock("parent_certificate", f"is not a {kinds[0].domain} certificate")
        if (certificate.epoch, certificate.block_id) != (parent.epoch, parent.id):
            raise InvalidBlock("parent_certificate", "is not of the parent")
        if same_epoch:
            last_view = certificate.view
            if last_view != parent.view:
                raise InvalidBlock("parent_certificate", f"is of view {last_view}, the parent of view {parent.view}")
        voters = get_validators(genesis, parent.epoch)
        claims += _get_certificate_claims("parent_certificate", genesis, certificate, voters)
    skipped = [(c.kind, c.epoch, c.view) for c in body.nullifications]
    # Counted first: the view is the proposer's claim, and a list of all views below 2^62 would not end.
    if len(skipped) != header.view - last_view - 1 or any(
        entry != (VoteKind.NULLIFY, header.epoch, last_view + 1 + index) for index, entry in enumerate(skipped)
    ):
        raise InvalidBlock("nullifications", f"do not cover exactly the views {last_view + 1} to {header.view - 1}")
    for nullification in body.nullifications:
        claims += _get_certificate_claims("nullifications", genesis, nullification, validators)
    return claims


def _get_certificate_claims(
    field: str, genesis: Genesis, certificate: Certificate, validators: ValidatorSet
) -> list[tuple[str, crypto.Claim]]:
    try:
        return [(field, claim) for claim in certificate.claims(genesis.chain_id, validators)]
    except InvalidCertificate as error:
        raise InvalidCertificate(error.reason, field) from error


def verify_finality(genesis: Genesis, header: Header, certificate: Certificate) -> None:
    """Check that ``certificate`` makes the block of ``header`` final.

    Raises:
        InvalidCertificate: it does not.
    """
    if certificate.kind != VoteKind.FINALIZE or certificate.block_id != header.id or certificate.epoch != header.epoch:
        raise InvalidCertificate(f"is not a finality certificate of block {header.height}")
    certificate.verify(genesis.chain_id, get_validators(genesis, header.epoch))


def execute(
    genesis: Genesis, parent: Header, state: State, header: Header, operations: Iterable[SignedOperation]
) -> Transition:
    """The state after ``operations`` in a block of ``header`` (its roots are not read).

    Raises:
        InvalidBlock: an operation cannot be included.
    """
    draft, context = _begin(genesis, parent, state, header)
    failures = []
    for index, operation in enumerate(operations):
        try:
            failures.append(process_operation(draft, context, operation))
        except InvalidOperation as error:
            raise InvalidBlock("operations", f"number {index} cannot be included: {error}") from error
    return _finish(genesis, state, draft, header, failures)


def _begin(genesis: Genesis, parent: Header, state: State, header: Header) -> tuple[Draft, BlockContext]:
    draft = Draft(state)
    context = BlockContext(genesis, header.epoch, header.chain_time)
    draft.put(HISTORY_KEY, state.history.append(parent.id))
    settle_due_captures(draft, parent.chain_time, header.chain_time)
    return draft, context


def _finish(genesis: Genesis, state: State, draft: Draft, header: Header, failures: list[str | None]) -> Transition:
    """Apply the draft and, on the last height of an epoch, freeze the serving table of the epoch after next."""
    after = state.update(draft.changes)
    epoch = header.epoch
    if header.height == get_last_height(genesis.parameters, epoch):
        draft.put(table_key(epoch + 2), compute_serving_table(after, genesis.parameters))
        if epoch:
            draft.put(table_key(epoch - 1), None)
        after = state.update(draft.changes)
    return Transition(after, draft.changes, tuple(failures))


def build_block(
    genesis: Genesis,
    key: crypto.KeyPair,
    parent: Header,
    state: State,
    operations: Iterable[SignedOperation],
    *,
    view: int,
    timestamp: int,
    parent_certificate: Certificate | None,
    nullifications: Sequence[Certificate],
) -> tuple[Block, Transition, list[tuple[SignedOperation, str]]]:
    """Build, execute and sign a block on ``parent``.

    Takes ``operations`` (their signatures checked already) in order, as many as fit, and leaves out those that cannot
    be included. Returns the block, its transition, and the operations left out with the reason.
    """
    timestamp = max(timestamp, parent.timestamp + 1)
    epoch = get_epoch(genesis.parameters, parent.height + 1)
    header = Header(
        version=VERSION,
        chain_id=genesis.chain_id,
        epoch=epoch,
        height=parent.height + 1,
        view=view,
        parent_id=parent.id,
        timestamp=timestamp,
        chain_time=compute_chain_time(genesis, parent, timestamp),
        proposer=key.public_key,
        body_root=bytes(32),
        state_root=bytes(32),
        history_root=bytes(32),
        validators_hash=get_validators(genesis, epoch).hash,
        next_validators_hash=get_validators(genesis, epoch + 1).hash,
        beacon_reveal=NO_REVEAL,
    )
    room = MAX_BLOCK - HEADER_ROOM - len(Body((), parent_certificate, tuple(nullifications), ()).encode())
    draft, context = _begin(genesis, parent, state, header)
    included: list[SignedOperation] = []
    failures: list[str | None] = []
    rejected: list[tuple[SignedOperation, str]] = []
    for operation in operations:
        if len(operation.encoded) > room:
            break
        try:
            failures.append(process_operation(draft, context, operation))
        except (InvalidOperation, CodecError) as error:
            rejected.append((operation, str(error)))
            continue
        included.append(operation)
        room -= len(operation.encoded)
    result = _finish(genesis, state, draft, header, failures)
    after = result.state
    body = Body(tuple(included), parent_certificate, tuple(nullifications), ())
    header = replace(header, body_root=body.compute_root(), state_root=after.root, history_root=after.history.root)
    return sign_block(key, header, body), result, rejected


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
