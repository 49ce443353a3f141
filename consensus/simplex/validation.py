"""What makes votes, certificates and proposals of one epoch valid, as far as it can be checked without executing a
block.

The rules are those of the docstring of :mod:`consensus.simplex.core`. Nothing here has state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from chain import crypto
from chain.exceptions import InvalidCertificate
from chain.transition.epochs import Epoch
from chain.transition.justification import get_parent_view, get_views_to_prove
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Header, Proposal
from chain.types.votes import NO_BLOCK, Certificate, Vote, VoteKind
from consensus.exceptions import ForgedMessage, InvalidMessage
from consensus.simplex.messages import Message, Propose, Repropose


def get_parent_certificate(message: Propose | Repropose) -> Certificate | None:
    """The certificate of a proposal's parent; None for the first block after genesis."""
    return message.block.body.parent_certificate if isinstance(message, Propose) else message.certificate


def get_nullifications(message: Propose | Repropose) -> tuple[Certificate, ...]:
    """The nullifications that a proposal carries."""
    return message.block.body.nullifications if isinstance(message, Propose) else message.nullifications


@dataclass(frozen=True, slots=True)
class FinalizedBlock:
    """The last final block: where an instance starts. ``certificate`` is its finalization, None only for genesis."""

    block_id: bytes
    height: int
    certificate: Certificate | None

    def get_view(self, epoch: int) -> int:
        """The view of ``epoch`` in which the block was agreed on, 0 for the block that the epoch starts from."""
        return self.certificate.view if self.certificate is not None and self.certificate.epoch == epoch else 0


def is_authentic(block: Block, verify: crypto.Verify = crypto.verify_all) -> bool:
    """Whether body and signature belong to the header. A peer that passes a block on could change them."""
    return block.body.root == block.header.body_root and verify([block.signature_check()])


@dataclass(frozen=True, slots=True)
class MessageValidation:
    """Validity in one epoch. It has no state, and may be used in any thread.

    Args:
        root: the block that the epoch starts from, or a later final one. With a later one, a child of the first
            block is too old.
        verify: checks signatures.
    """

    chain_id: bytes
    epoch: Epoch
    root: FinalizedBlock
    verify: crypto.Verify

    def __post_init__(self) -> None:
        certificate = self.root.certificate
        is_older = certificate is not None and certificate.epoch != self.epoch.number
        if is_older and self.epoch.previous_validators is None:
            raise ValueError("the parent is of the epoch before, whose validators are missing")

    def verify_with(self, verify: crypto.Verify) -> Self:
        """The same rules, with ``verify`` to check signatures."""
        return type(self)(self.chain_id, self.epoch, self.root, verify)

    def validate(self, message: Message) -> None:
        """Check a message as far as possible without knowing other messages of the epoch.

        Raises:
            InvalidMessage: naming the part at fault.
        """
        match message:
            case Vote():
                self.validate_vote(message)
            case Certificate():
                self.validate_certificate(message)
            case _:
                self.validate_proposal(message)

    def validate_vote(self, vote: Vote) -> None:
        """Raise :class:`InvalidMessage` unless the vote is well formed and signed by a validator."""
        if vote.signer not in self.epoch.validators:
            raise InvalidMessage("vote", "the signer is not a validator")
        if (vote.kind == VoteKind.NULLIFY) != (vote.block_id == NO_BLOCK):
            raise InvalidMessage("vote", "only nullify names no block")
        if not self.verify([vote.signature_check(self.chain_id)]):
            raise ForgedMessage("vote", "not signed by its signer")

    def validate_certificate(self, certificate: Certificate) -> None:
        """Check that a quorum of this epoch or of the one before signed a certificate.

        Raises:
            InvalidMessage: malformed, of another epoch, or not signed by a quorum.
        """
        if not self.verify(self.get_signatures(certificate)):
            raise InvalidMessage("certificate", "a signature does not hold")

    def get_signatures(self, certificate: Certificate) -> list[crypto.SignatureCheck]:
        """Check all of a certificate but its signatures, and return these.

        Raises:
            InvalidMessage: malformed, of another epoch, or its signers are no quorum.
        """
        epoch = self.epoch
        validators = epoch.validators if certificate.epoch == epoch.number else epoch.previous_validators
        if validators is None or certificate.epoch not in (epoch.number, epoch.number - 1):
            raise InvalidMessage("certificate", "of another epoch")
        try:
            return certificate.signature_checks(self.chain_id, validators)
        except InvalidCertificate as error:
            raise InvalidMessage(error.field, error.reason) from error

    def is_authentic(self, block: Block) -> bool:
        """:func:`is_authentic`, without checking a signature twice."""
        return is_authentic(block, self.verify)

    def _validate_leader(self, proposal: Proposal) -> None:
        leader = self.epoch.compute_leader(proposal.view)
        if proposal.epoch != self.epoch.number or proposal.leader != leader:
            raise InvalidMessage("leader", "another validator leads this view")
        if not self.verify([proposal.signature_check(self.chain_id)]):
            raise ForgedMessage("signature", "the proposal is not signed by its leader")

    def validate_header(self, proposal: Proposal, header: Header) -> None:
        """Check that the leader of its view signed a proposal, and that ``header`` is the one that it names.

        This is cheap, and says whether the block is worth further work.

        Raises:
            InvalidMessage: naming the part at fault.
        """
        self._validate_leader(proposal)
        named = (header.id, header.chain_id, header.epoch, header.view, header.proposer)
        if named != (proposal.block_id, self.chain_id, self.epoch.number, proposal.view, proposal.leader):
            raise InvalidMessage("header", "not the block that the proposal names, or of another place")
        if header.height > self.epoch.last_height:
            raise InvalidMessage("height", "beyond the end of the epoch")

    def validate_proposal(self, message: Propose | Repropose) -> None:
        """Check that the leader of its view signed a proposal, and that it carries the justification of its place.

        The caller must check two things: that the views since the parent's which the justification does not cover were
        nullified; and that the parent's height is one less, or, for a ``Repropose``, that the block is the last.

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
        try:
            parent_view = get_parent_view(certificate, self.epoch.number)
        except InvalidCertificate as error:
            raise InvalidMessage(error.field, error.reason) from error
        if parent_view == 0 and (parent_id != self.root.block_id or self.root.get_view(self.epoch.number)):
            raise InvalidMessage("certificate", "the parent is not the block that the epoch starts from")
        if certificate is not None:
            self.validate_certificate(certificate)
        elif self.root.certificate is not None:
            raise InvalidMessage("certificate", "the finalization of the parent is missing")
        return parent_view

    def _validate_nullifications(self, certificates: tuple[Certificate, ...], parent_view: int, view: int) -> None:
        """Raise unless there is, in order, one nullification for each view that must be proven."""
        if parent_view >= view:
            raise InvalidMessage("view", "not after the parent's")
        views = get_views_to_prove(parent_view, view)
        if len(certificates) != len(views):
            raise InvalidMessage("nullifications", "not one for each view since the parent's, or for the last of them")
        for skipped, certificate in zip(views, certificates, strict=True):
            expected = VoteKind.NULLIFY, self.epoch.number, skipped
            if (certificate.kind, certificate.epoch, certificate.view) != expected:
                raise InvalidMessage("nullifications", f"none of view {skipped}")
            self.validate_certificate(certificate)
