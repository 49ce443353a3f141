"""What makes votes, certificates and proposals of one epoch valid, as far as can be told without executing a block.

The rules are those of the docstring of :mod:`consensus.simplex.core`; they hold no state but a small memory of
certificates already checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from chain import crypto
from chain.exceptions import InvalidCertificate
from chain.types.blocks import MAX_BLOCK_BYTES, MAX_NULLIFICATIONS, Block, Header, Proposal
from chain.types.validators import ValidatorSet
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind
from consensus.exceptions import ForgedMessage, InvalidMessage
from consensus.simplex.messages import Propose, Repropose

MAX_VERIFIED_CERTIFICATES = 64
"""Certificates remembered to hold."""


def get_parent_certificate(message: Propose | Repropose) -> Certificate | None:
    """What a proposal rests on; None for the first block after genesis."""
    return message.block.body.parent_certificate if isinstance(message, Propose) else message.certificate


def get_nullifications(message: Propose | Repropose) -> tuple[Certificate, ...]:
    """The nullifications that a proposal carries."""
    return message.block.body.nullifications if isinstance(message, Propose) else message.nullifications


def get_proven_views(parent_view: int, view: int) -> range:
    """The views whose nullifications a proposal of ``view`` on a parent of ``parent_view`` carries."""
    return range(max(parent_view + 1, view - MAX_NULLIFICATIONS), view)


@dataclass(frozen=True, slots=True)
class FinalizedBlock:
    """The last final block: where an instance starts. ``certificate`` is its finalization, None only for genesis."""

    block_id: bytes
    height: int
    certificate: Certificate | None

    def get_view(self, epoch: int) -> int:
        """The view of ``epoch`` in which the block was agreed on, 0 for the block that the epoch starts from."""
        return self.certificate.view if self.certificate is not None and self.certificate.epoch == epoch else 0


def is_authentic(
    block: Block, are_signed: Callable[[Iterable[crypto.SignatureCheck]], bool] = crypto.verify_all
) -> bool:
    """Whether body and signature are those of the header: whoever passes a block on could change them."""
    return block.body.root == block.header.body_root and are_signed([block.signature_check()])


class MessageValidation:
    """Validity in one epoch.

    Args:
        beacon: what the leaders of the epoch are drawn from.
        last_height: height of the epoch's last block.
        root: the block that the epoch starts from, or any later final one, after which a child of the first is too old.
        previous_validators: who signed the root's certificate if that is of the epoch before.
        verify: checks signatures.
    """

    def __init__(
        self,
        *,
        chain_id: bytes,
        epoch: int,
        validators: ValidatorSet,
        beacon: bytes,
        last_height: int,
        root: FinalizedBlock,
        previous_validators: ValidatorSet | None,
        verify: Callable[[Iterable[crypto.SignatureCheck]], bool],
    ) -> None:
        if root.certificate is not None and root.certificate.epoch != epoch and previous_validators is None:
            raise ValueError("the parent is of the epoch before, whose validators are missing")
        self.chain_id, self.epoch, self.validators = chain_id, epoch, validators
        self.beacon, self.last_height, self.root = beacon, last_height, root
        self.previous_validators = previous_validators
        self._verify = verify
        self._remembered: dict[Certificate, None] = {}

    def validate_vote(self, vote: Vote) -> None:
        """Raise :class:`InvalidMessage` unless the vote is well formed and signed by a validator."""
        if vote.signer not in self.validators:
            raise InvalidMessage("vote", "the signer is not a validator")
        if (vote.kind == VoteKind.NULLIFY) != (vote.block_id == NO_BLOCK):
            raise InvalidMessage("vote", "only nullify names no block")
        if not self._verify([vote.signature_check(self.chain_id)]):
            raise ForgedMessage("vote", "not signed by its signer")

    def validate_certificate(self, certificate: Certificate) -> None:
        """Check that a quorum of this epoch signed a certificate, or of the epoch before.

        Raises:
            InvalidMessage: malformed, of another epoch, or not signed by a quorum.
        """
        if certificate in self._remembered:
            return
        if not self._verify(self.validate_form(certificate)):
            raise InvalidMessage("certificate", "a signature does not hold")
        self.remember(certificate)

    def validate_form(self, certificate: Certificate) -> list[crypto.SignatureCheck]:
        """Check a certificate but for its signatures. Returns the checks of these.

        Raises:
            InvalidMessage: malformed, of another epoch, or its signers are no quorum.
        """
        validators = self.validators if certificate.epoch == self.epoch else self.previous_validators
        if validators is None or certificate.epoch not in (self.epoch, self.epoch - 1):
            raise InvalidMessage("certificate", "of another epoch")
        try:
            return certificate.signature_checks(self.chain_id, validators)
        except InvalidCertificate as error:
            raise InvalidMessage(error.field, error.reason) from error

    def remember(self, certificate: Certificate) -> None:
        """Spare a certificate known to hold its next check."""
        if len(self._remembered) >= MAX_VERIFIED_CERTIFICATES:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[certificate] = None

    def is_authentic(self, block: Block) -> bool:
        """:func:`is_authentic`, without checking a signature twice."""
        return is_authentic(block, self._verify)

    def _validate_leader(self, proposal: Proposal) -> None:
        leader = self.validators.compute_leader(self.beacon, proposal.view)
        if proposal.epoch != self.epoch or proposal.leader != leader:
            raise InvalidMessage("leader", "another validator leads this view")
        if not self._verify([proposal.signature_check(self.chain_id)]):
            raise ForgedMessage("signature", "the proposal is not signed by its leader")

    def validate_header(self, proposal: Proposal, header: Header) -> None:
        """Whether the leader of its view signed a proposal, and ``header`` is the one that it names.

        This is cheap, and says whether the block is worth more.

        Raises:
            InvalidMessage: naming the part at fault.
        """
        self._validate_leader(proposal)
        named = (header.id, header.chain_id, header.epoch, header.view, header.proposer)
        if named != (proposal.block_id, self.chain_id, self.epoch, proposal.view, proposal.leader):
            raise InvalidMessage("header", "not the block that the proposal names, or of another place")
        if header.height > self.last_height:
            raise InvalidMessage("height", "beyond the end of the epoch")

    def validate_proposal(self, message: Propose | Repropose) -> None:
        """Whether the leader of its view signed it and it carries the evidence of its place that it must.

        Left to the caller: that the views since the parent's were nullified as far as that evidence does not reach, and
        that the parent's height is one less, or for a ``Repropose`` that the block is the last.

        Raises:
            InvalidMessage: naming the part at fault.
        """
        proposal = message.proposal
        if isinstance(message, Propose):
            self.validate_header(proposal, message.block.header)
            if len(message.block.encoded) > MAX_BLOCK_BYTES:
                raise InvalidMessage("body", f"{len(message.block.encoded)} bytes, more than {MAX_BLOCK_BYTES}")
            if not self.is_authentic(message.block):
                raise InvalidMessage("block", "altered under its header")
            parent_id = message.block.header.parent_id
        else:
            self._validate_leader(proposal)
            parent_id = proposal.block_id
        parent_view = self._validate_parent(parent_id, get_parent_certificate(message))
        if isinstance(message, Repropose) and parent_view == 0:
            raise InvalidMessage("certificate", "the block was not notarized in this epoch")
        self._validate_nullifications(get_nullifications(message), parent_view, proposal.view)

    def _validate_parent(self, parent_id: bytes, certificate: Certificate | None) -> int:
        """The view in which ``certificate`` makes a block a parent; 0 if it is the one the epoch starts from."""
        if certificate is not None and certificate.block_id != parent_id:
            raise InvalidMessage("certificate", "not of the parent")
        if certificate is not None and certificate.epoch == self.epoch:
            if certificate.kind == VoteKind.NULLIFY or certificate.view == 0:
                raise InvalidMessage("certificate", "not the notarization of the parent")
            self.validate_certificate(certificate)
            return certificate.view
        if parent_id != self.root.block_id or self.root.get_view(self.epoch):
            raise InvalidMessage("certificate", "the parent is not the block that the epoch starts from")
        if (certificate is None) != (self.root.certificate is None):
            raise InvalidMessage("certificate", "the finalization of the parent is missing")
        if certificate is not None:
            if certificate.kind != VoteKind.FINALIZE:
                raise InvalidMessage("certificate", "not the finalization of the parent")
            self.validate_certificate(certificate)
        return 0

    def _validate_nullifications(self, certificates: tuple[Certificate, ...], parent_view: int, view: int) -> None:
        """Raise unless there is, in order, one nullification for each view that must be proven."""
        if parent_view >= view:
            raise InvalidMessage("view", "not after the parent's")
        views = get_proven_views(parent_view, view)
        if len(certificates) != len(views):
            raise InvalidMessage("nullifications", "not one for each view since the parent's, or for the last of them")
        for skipped, certificate in zip(views, certificates, strict=True):
            if (certificate.kind, certificate.epoch, certificate.view) != (VoteKind.NULLIFY, self.epoch, skipped):
                raise InvalidMessage("nullifications", f"none of view {skipped}")
            self.validate_certificate(certificate)
