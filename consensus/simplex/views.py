"""What a validator knows of an epoch's views: votes, certificates and proposals.

Some of it serves more than agreement: votes that come after their view has ended count as participation, and finalize
votes add signers to the last finalization. (Equivocation is found in :mod:`consensus.simplex.equivocation`.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from chain.transition.justification import get_views_to_prove
from chain.types.validators import ValidatorSet
from chain.types.votes import EXCLUSIVE_KINDS, Certificate, Vote, VoteKind, make_certificate
from consensus.simplex.messages import Propose, Repropose
from consensus.simplex.validation import FinalizedBlock

NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE
"""Short names of the kinds of votes."""

VIEW_WINDOW = 16
"""How far ahead of the current view votes and proposals are kept."""

MAX_PAST_VIEWS = 16
"""Notarized views before the last final one whose votes are kept: more than there are blocks whose late votes count."""


@dataclass(slots=True)
class View:
    """The first vote of each signer and the certificate, by kind; and the first valid proposal."""

    votes: dict[VoteKind, dict[bytes, Vote]] = field(default_factory=lambda: {kind: {} for kind in VoteKind})
    certificates: dict[VoteKind, Certificate] = field(default_factory=dict)
    proposal: Propose | Repropose | None = None
    second_hand: set[Vote] = field(default_factory=set)
    """Votes known only from a certificate. When their signer first sends one itself, that is no repetition."""

    def add(self, vote: Vote) -> None:
        """Keep a vote that has no rival."""
        self.votes[VoteKind(vote.kind)][vote.signer] = vote

    def find_rival(self, kind: VoteKind, signer: bytes) -> Vote | None:
        """A known vote of ``signer`` whose kind excludes ``kind``. (Two of one kind exclude each other unless they are
        equal.)"""
        return next((self.votes[other][signer] for other in EXCLUSIVE_KINDS[kind] if signer in self.votes[other]), None)

    def gather(self, vote: Vote, validators: ValidatorSet) -> Certificate | None:
        """The certificate of all votes that say the same as ``vote``, if they are a quorum."""
        same = [other for other in self.votes[VoteKind(vote.kind)].values() if other.block_id == vote.block_id]
        return make_certificate(same, validators) if validators.is_quorum(other.signer for other in same) else None

    def count_signers(self, certificate: Certificate, validators: ValidatorSet) -> int:
        """The signers that ``certificate`` would have once extended."""
        signers = {validators.keys[position] for position in certificate.signers}
        votes = self.votes[VoteKind(certificate.kind)].values()
        signers.update(vote.signer for vote in votes if vote.block_id == certificate.block_id)
        return len(signers)

    def extend(self, certificate: Certificate, validators: ValidatorSet) -> Certificate:
        """``certificate`` with all other known votes that say the same."""
        votes = {vote.signer: vote for vote in certificate.votes(validators)}
        for vote in self.votes[VoteKind(certificate.kind)].values():
            if vote.block_id == certificate.block_id:
                votes.setdefault(vote.signer, vote)
        return make_certificate(votes.values(), validators)


class Views:
    """The views since the last finalization, made when first asked for, and some notarized ones before it."""

    def __init__(self, finalized: FinalizedBlock, epoch: int, validators: ValidatorSet) -> None:
        self._validators = validators
        self._open: dict[int, View] = {}
        self._past: dict[int, View] = {}
        self.final_view = finalized.get_view(epoch)
        """The latest view with a finalization."""
        self.finalization = finalized.certificate if self.final_view else None
        self.highest, self.highest_id, self.highest_view = finalized.certificate, finalized.block_id, self.final_view
        """The certificate of the highest notarized block (a notarization or finalization), the id of that block, and
        the view."""

    def __getitem__(self, view: int) -> View:
        if view not in self._open:
            self._open[view] = View()
        return self._open[view]

    def find(self, view: int) -> View | None:
        """What is known of a view, or None."""
        return self._open.get(view) or self._past.get(view)

    def take(self, certificate: Certificate, me: bytes) -> None:
        """Keep a certificate and the votes inside it; own votes (those of ``me``) are never learned from others."""
        here = self[certificate.view]
        here.certificates[VoteKind(certificate.kind)] = certificate
        if certificate.kind != NULLIFY and certificate.view > self.highest_view:
            self.highest, self.highest_id, self.highest_view = certificate, certificate.block_id, certificate.view
        for vote in certificate.votes(self._validators):
            if here.find_rival(VoteKind(vote.kind), vote.signer) is None and vote.signer != me:
                here.add(vote)
                here.second_hand.add(vote)

    def close(self, finalization: Certificate) -> list[Vote]:
        """Forget the views before that of a finalization, but for the votes in the last notarized views.

        Returns the notarize votes for blocks that were not notarized, of recent views since the finalization before.
        """
        before, self.final_view, self.finalization = self.final_view, finalization.view, finalization
        vain: list[Vote] = []
        for view in sorted(view for view in self._open if view <= self.final_view):
            ended = self._open[view]
            certified = {ended.certificates[kind].block_id for kind in ended.certificates if kind != NULLIFY}
            if view > max(before, self.final_view - MAX_PAST_VIEWS):
                vain += [vote for vote in ended.votes[NOTARIZE].values() if vote.block_id not in certified]
            if view < self.final_view:
                del self._open[view]
                if certified:
                    ended.proposal = None  # a block may be large
                    self._past[view] = ended
        self._past = {view: self._past[view] for view in sorted(self._past)[-MAX_PAST_VIEWS:]}
        return vain

    def extend_finalization(self, block_id: bytes, *, only_if_all: bool) -> Certificate | None:
        """The last finalization with further votes, if it is of this block and there are any; ``only_if_all``: if all
        have signed."""
        if self.finalization is None or self.finalization.block_id != block_id:
            return None
        here = self[self.final_view]
        if only_if_all and here.count_signers(self.finalization, self._validators) < len(self._validators.keys):
            return None
        stronger = here.extend(self.finalization, self._validators)
        gained = len(stronger.signers) - len(self.finalization.signers)
        if gained == 0:
            return None
        self.finalization = stronger
        return stronger

    def get_certificates(self, start: int, end: int, count: int) -> list[Certificate]:
        """The latest finalization, the highest notarization, and nullifications after it.

        The nullifications are of the views from ``start`` to before ``end``, the earliest ones if there are more than
        ``count`` certificates in all.
        """
        found = [] if self.finalization is None else [self.finalization]
        if self.highest is not None and self.highest_view > self.final_view:
            found.append(self.highest)
        start = max(start, self.highest_view + 1)
        return [*found, *self.get_nullifications(start, min(end, start + count - len(found)))]

    def is_nullified(self, view: int) -> bool:
        """Whether the nullification of a view since the last finalization is held."""
        return view in self._open and NULLIFY in self._open[view].certificates

    def get_nullifications(self, start: int, end: int) -> tuple[Certificate, ...]:
        """The nullifications of the views from ``start`` to before ``end``; every one must be held."""
        return tuple(self._open[view].certificates[NULLIFY] for view in range(start, end))

    def get_proof(self, view: int) -> tuple[Certificate, ...]:
        """The nullifications that a proposal of ``view`` on the highest notarized block carries."""
        views = get_views_to_prove(self.highest_view, view)
        return self.get_nullifications(views.start, views.stop)

    def get_open_votes(self, signer: bytes, view: int) -> list[Vote]:
        """Votes of ``signer`` that may still count when it is in ``view``.

        They are its finalize votes of the last views that are not final, and all its votes of this and later views. It
        has votes of later views only if it signed them before a crash.
        """
        last = range(max(self.final_view + 1, self.highest_view - VIEW_WINDOW), view)
        return self.get_votes(signer, last, [FINALIZE]) + self.get_votes(signer, range(view, view + VIEW_WINDOW))

    def get_votes(self, signer: bytes, views: range, kinds: Iterable[VoteKind] = VoteKind) -> list[Vote]:
        """The votes of ``signer`` in those of ``views`` that are not before the last finalization."""
        wanted = tuple(kinds)
        found = [self._open[view].votes for view in views if view in self._open]
        return [votes[kind][signer] for votes in found for kind in wanted if signer in votes[kind]]

    def get_notarize_votes(self, block_id: bytes, view: int) -> list[Vote]:
        """For each signer, one of its known notarize votes for a block, in ``view`` or a later one."""
        found: dict[bytes, Vote] = {}
        known = self._past | self._open
        for number in sorted(number for number in known if number >= view):
            for vote in known[number].votes[NOTARIZE].values():
                if vote.block_id == block_id:
                    found.setdefault(vote.signer, vote)
        return [found[signer] for signer in sorted(found)]
