"""What a block shows about agreement: the certificate of its parent, and the views that were given up since.

The same rules serve the ledger, which checks the bodies of blocks, and validators, which check a proposal before they
vote for it.
"""

from __future__ import annotations

from chain import crypto
from chain.exceptions import InvalidBlock, InvalidCertificate
from chain.genesis import Genesis
from chain.transition.epochs import Epoch
from chain.transition.restart import is_restart
from chain.types.blocks import MAX_NULLIFICATIONS, Block, Header
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, VoteKind


def get_views_to_prove(parent_view: int, view: int) -> range:
    """The views whose nullifications a block of ``view`` on a parent of ``parent_view`` carries, in this order."""
    return range(max(parent_view + 1, view - MAX_NULLIFICATIONS), view)


def get_parent_view(certificate: Certificate | None, epoch: int) -> int:
    """The view of ``epoch`` in which a certificate makes its block a parent; 0 for the block the epoch starts from.

    A finalization stands for the notarization that it implies; across an epoch boundary only a finalization is valid.
    ``certificate`` is None on genesis.

    Raises:
        InvalidCertificate: it makes no block a parent.
    """
    if certificate is None:
        return 0
    if certificate.epoch == epoch:
        if certificate.kind == VoteKind.NULLIFY or certificate.view == 0:
            raise InvalidCertificate("is not a notarization or a finalization", "parent_certificate")
        return certificate.view
    if certificate.kind != VoteKind.FINALIZE:
        raise InvalidCertificate("is not a finalization", "parent_certificate")
    return 0


def check_parent_certificate(parent: Header, epoch: int, certificate: Certificate | None) -> int:
    """Check the parent certificate of a block of ``epoch``, but for its signatures. Returns the parent's view.

    Raises:
        InvalidBlock: missing, or not a certificate of ``parent`` that makes it a parent.
    """
    if parent.height == 0:
        if certificate is not None:
            raise InvalidBlock("parent_certificate", "genesis has none")
        return 0
    if certificate is None:
        raise InvalidBlock("parent_certificate", "is missing")
    parent_view = get_parent_view(certificate, epoch)
    if (certificate.epoch, certificate.block_id) != (parent.epoch, parent.id):
        raise InvalidBlock("parent_certificate", "is not of the parent")
    if parent_view and parent_view != parent.view:
        raise InvalidBlock("parent_certificate", f"is of view {parent_view}, the parent of view {parent.view}")
    return parent_view


def get_justification_checks(
    genesis: Genesis, epoch: Epoch, parent: Header, block: Block
) -> list[tuple[str, crypto.SignatureCheck]]:
    """Check the form of a block's justification. Returns the signature checks that it rests on.

    The parent must be certified (notarized, or finalized across an epoch boundary), and the last views between the
    parent's and the block's nullified. Which blocks the late votes may be of depends on the state
    (:func:`chain.transition.validators.participation.process_votes`).

    Raises:
        InvalidBlock: a certificate is missing, misplaced, or lacks a quorum.
    """
    header, body = block.header, block.body
    if is_restart(header):
        return []  # what it stands on is not agreement
    checks: list[tuple[str, crypto.SignatureCheck]] = []
    certificate = body.parent_certificate
    parent_view = check_parent_certificate(parent, header.epoch, certificate)
    if certificate is not None:
        voters = epoch.find_validators(parent.epoch)
        if voters is None:
            raise InvalidBlock("parent_certificate", f"is of epoch {parent.epoch}, the block of {epoch.number}")
        checks += _get_certificate_checks("parent_certificate", genesis, certificate, voters)
    views = get_views_to_prove(parent_view, header.view)
    skipped = [(c.kind, c.epoch, c.view) for c in body.nullifications]
    if skipped != [(VoteKind.NULLIFY, header.epoch, view) for view in views]:
        raise InvalidBlock("nullifications", f"do not cover exactly the views {views.start} to {header.view - 1}")
    for nullification in body.nullifications:
        checks += _get_certificate_checks("nullifications", genesis, nullification, epoch.validators)
    checks += [("late_votes", vote.signature_check(genesis.chain_id)) for vote in body.late_votes]
    return checks


def _get_certificate_checks(
    field: str, genesis: Genesis, certificate: Certificate, validators: ValidatorSet
) -> list[tuple[str, crypto.SignatureCheck]]:
    try:
        return [(field, check) for check in certificate.signature_checks(genesis.chain_id, validators)]
    except InvalidCertificate as error:
        raise InvalidCertificate(error.reason, field) from error
