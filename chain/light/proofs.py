"""Proofs: a balance or a past operation, checked by a stranger who has only the genesis file and a checkpoint.

A proof leads from a trusted block to the one it is about, the *anchor*, in *steps*, each a header with the finality
certificate of its own epoch. A header names the validators of its epoch and of the next, so that those of a step are
known from the one before: the steps are the last block of every epoch in between, then the anchor. What is proven hangs
on the anchor: an account (or that there is none) by its path in the state tree, an operation by its path in the body of
the anchor or of an earlier block in the anchor's history. An operation at or below the checkpoint needs no step at all.

What it rests on: that the checkpoint is final, and that in each epoch since less than a third of the stake signs two
chains. That can be punished only while the stake is bonded; hence a checkpoint counts for ``unbonding_epochs`` epochs.
A proof cannot show that it is recent: compare the time of its anchor with a clock, and take checkpoints from a source
that knows the chain of today. A restart block (:mod:`chain.transition.restart`) is a step of its own, whose validators
no block before announces: it counts only if the checker's genesis file accepts it.

Measured with 32 validators, 100,000 accounts and a million blocks: about 3.6 KB for a balance within an epoch of the
checkpoint; for each epoch between them 2.5 KB and 2 ms of checking more, and 1.4 KB where its validators are others;
about 1.8 KB for an operation below the checkpoint. As text it is a third more.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Annotated

from chain import crypto
from chain.codec import Bounds, Hash, PublicKey, Record
from chain.exceptions import CodecError, InvalidBlock, InvalidCertificate, ProofError
from chain.genesis import Genesis
from chain.light.client import Checkpoint, check_header_form, is_too_old, verify_next_header
from chain.merkle.list import ListProof
from chain.merkle.mountain_range import MountainRangeProof
from chain.merkle.sparse_tree import TreeProof
from chain.state.keys import account_key
from chain.state.records import Account
from chain.transition.restart import is_restart
from chain.types.blocks import Header, compute_body_root
from chain.types.operations import OneTimeOperation, SignedOperation
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate

PROOF_VERSION = 1
"""Version of the proof record."""
MAX_LINKS = 1024
"""Header-chain links in one proof."""

MAX_PROOF_BYTES = 8 << 20
"""Largest encoded proof: ``MAX_LINKS`` links with 64 new validators each, and a capture."""

_BEGIN, _END = "-----BEGIN WWWSERVE PROOF-----", "-----END WWWSERVE PROOF-----"
_COLUMNS = 76


@dataclass(frozen=True, slots=True)
class HeaderLink(Record):
    """A header, its finality certificate, and the validators of its epoch.

    These are None if they are the same as in the last step that names any (in genesis, before the first).
    """

    header: Header
    validators: ValidatorSet | None
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class ProvenAccount(Record):
    """An account in the state after the anchor; None if there is none, because it never was or is empty again."""

    TAG = 1
    public_key: PublicKey
    account: Account | None
    path: TreeProof


@dataclass(frozen=True, slots=True)
class PastBlock(Record):
    """A block before the anchor."""

    header: Header
    path: MountainRangeProof


@dataclass(frozen=True, slots=True)
class ProvenOperation(Record):
    """An operation in the body of the anchor, or of the block ``past`` in the anchor's history.

    ``justification_hash`` is that of the rest of the body (:meth:`chain.types.blocks.Body.compute_justification_hash`).
    """

    TAG = 2
    operation: SignedOperation
    path: ListProof
    justification_hash: Hash
    past: PastBlock | None

    @property
    def shows_effect(self) -> bool:
        """Whether being in a block means having succeeded.

        Operations without a nonce are included only if they do. Others pay their fee and may fail, and no header
        commits to which of them did.
        """
        return isinstance(self.operation.operation, OneTimeOperation)


@dataclass(frozen=True, slots=True)
class Proof(Record):
    """The header of the checkpoint, the steps from there to the anchor (none if that is the anchor), and the claim."""

    version: Annotated[int, Bounds(PROOF_VERSION, PROOF_VERSION)]
    checkpoint: Header
    links: Annotated[tuple[HeaderLink, ...], Bounds(0, MAX_LINKS)]
    statement: ProvenAccount | ProvenOperation


@dataclass(frozen=True, slots=True)
class VerifiedProof:
    """What a proof shows that was found to hold.

    The ``statement`` is about the block of ``header``, which is the ``anchor`` or in its history. ``share`` of the
    stake (0 to 1) made the anchor final, and at least ``smallest_share`` made each step final; both are None without
    steps. ``restarts`` are the headers since the checkpoint that only the genesis file vouches for.
    """

    statement: ProvenAccount | ProvenOperation
    header: Header
    anchor: Header
    checkpoint: Header
    share: float | None
    smallest_share: float | None
    restarts: tuple[Header, ...]


def check_proof(genesis: Genesis, checkpoint: Checkpoint | None, proof: Proof) -> VerifiedProof:
    """Check a proof on the chain of ``genesis`` from a checkpoint that the caller trusts (None: genesis itself).

    Raises:
        ProofError: it does not hold, or does not start there; the message says why.
    """
    trusted = checkpoint or Checkpoint(0, genesis.header.id)
    start = proof.checkpoint
    if (start.height, start.id) != (trusted.height, trusted.block_id):
        raise ProofError(
            f"the proof starts from block {start.height} ({start.id.hex()[:16]}), "
            f"not from the checkpoint {trusted.height} ({trusted.block_id.hex()[:16]}); ask for one from there"
        )
    try:
        check_header_form(genesis, start)
    except InvalidBlock as error:
        raise ProofError(error.reason) from error
    anchor, known, shares = start, genesis.validators, []
    for link in proof.links:
        known = link.validators or known
        shares.append(_check_link(genesis, anchor, known, link))
        anchor = link.header
        check_age(genesis, start, anchor.epoch)
    header = _check_statement(genesis, anchor, proof.statement)
    return VerifiedProof(
        statement=proof.statement,
        header=header,
        anchor=anchor,
        checkpoint=start,
        share=shares[-1] if shares else None,
        smallest_share=min(shares) if shares else None,
        restarts=tuple(link.header for link in proof.links if link.header.id in genesis.restarts),
    )


def check_age(genesis: Genesis, checkpoint: Header, epoch: int) -> None:
    """Check that a checkpoint is not too old to lead to a block of ``epoch`` (:func:`chain.light.client.is_too_old`).

    Raises:
        ProofError: it is.
    """
    if is_too_old(genesis, checkpoint, epoch):
        raise ProofError(
            f"the checkpoint at height {checkpoint.height} is too old, {epoch - checkpoint.epoch} epochs before the "
            f"block to be proven: after {genesis.parameters.unbonding_epochs} its validators may have left with their "
            "stake; use a later checkpoint"
        )


def _check_link(genesis: Genesis, before: Header, validators: ValidatorSet, link: HeaderLink) -> float:
    """Check a step from the trusted header ``before``. Returns the share of the stake that signed it."""
    header, certificate = link.header, link.certificate
    if header.height <= before.height:
        raise ProofError(f"the step to block {header.height} does not lead forward from block {before.height}")
    try:
        verify_next_header(genesis, before, header, validators, certificate, genesis.restarts)
    except InvalidCertificate as error:
        raise ProofError(f"the certificate of block {header.height} does not do: {error.reason}") from error
    except InvalidBlock as error:
        if error.field == "validators_hash" and is_restart(header):
            raise ProofError(
                f"the chain was restarted without a quorum at height {header.height}; to accept it, "
                f"add the block id {header.id.hex()} to 'restarts' in the genesis file"
            ) from error
        raise ProofError(error.reason) from error
    signers = (validators[position].public_key for position in certificate.signers)
    return validators.get_stake(signers) / validators.total_stake


def _check_statement(genesis: Genesis, anchor: Header, statement: ProvenAccount | ProvenOperation) -> Header:
    """Check a claim on a trusted header. Returns the header of the block it is about."""
    if isinstance(statement, ProvenAccount):
        encoded = None if statement.account is None else statement.account.encode()
        if statement.path.compute_root(account_key(statement.public_key), encoded) != anchor.state_root:
            raise ProofError(f"the account is not part of the state after block {anchor.height}")
        return anchor
    header = anchor
    if statement.past is not None:
        header, path = statement.past.header, statement.past.path
        if (path.index, path.count) != (header.height, anchor.height):
            raise ProofError(f"the path through the history is not one from block {anchor.height} to {header.height}")
        if path.compute_root(header.id) != anchor.history_root:
            raise ProofError(f"block {header.height} is not part of the history of block {anchor.height}")
    root = statement.path.compute_root(statement.operation.encoded)
    if compute_body_root(root, statement.justification_hash) != header.body_root:
        raise ProofError(f"the operation is not part of block {header.height}")
    # Validators checked it before they voted; checked again, not even they can put words into the signer's mouth.
    if not crypto.verify_all([statement.operation.signature_check(genesis.chain_id)]):
        raise ProofError("the operation is not signed by the account it names")
    return header


def format_proof(proof: Proof) -> str:
    """A proof as text that survives mails and chats: its canonical bytes in base64, between two marks."""
    text = base64.b64encode(proof.encode()).decode("ascii")
    return "\n".join([_BEGIN, *(text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS)), _END, ""])


def parse_proof(text: str) -> Proof:
    """The proof of a text; spaces and line ends do not matter.

    Raises:
        ProofError: not a proof, cut short, or changed on its way.
    """
    if len(text) > 2 * MAX_PROOF_BYTES:
        raise ProofError(f"a proof has {2 * MAX_PROOF_BYTES} characters at most")
    content = "".join(text.split())
    begin, end = "".join(_BEGIN.split()), "".join(_END.split())
    if not content.startswith(begin):
        raise ProofError(f"this is not a proof (expected {_BEGIN!r})")
    if not content.endswith(end):
        raise ProofError(f"the proof is cut short (expected {_END!r} at its end)")
    content = content[len(begin) : -len(end)]
    try:
        raw = base64.b64decode(content, validate=True)
        if base64.b64encode(raw).decode("ascii") != content:
            raise ProofError("the proof is damaged: not the base64 of anything")
        return Proof.decode(raw, MAX_PROOF_BYTES)
    except ValueError as error:  # not base64, or not even ASCII
        raise ProofError(f"the proof is damaged: {error}") from error
    except CodecError as error:
        raise ProofError(f"the proof is damaged or of another version: {error}") from error
