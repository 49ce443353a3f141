"""Equivocation: one validator signs two votes in one view that exclude each other. Pure.

An equivocating validator sends the two votes to different nodes. Agreement soon forgets the votes that it does not
need: those of nullified views, those that come after a view has ended, and those in a second certificate of the same
kind. So this memory keeps all votes of recent views whose signatures hold: votes sent to this node, votes inside
certificates, and votes in the bodies of blocks, which also reach nodes outside the committee.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from chain import crypto
from chain.types.blocks import Block
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote, is_slashable

MAX_REMEMBERED_VIEWS = 128
"""Latest views whose votes are remembered."""

VotePair = tuple[Vote, Vote]


class EquivocationDetector:
    """Remembers votes on one chain. A signer is reported once in each view."""

    def __init__(
        self, chain_id: bytes, max_views: int = MAX_REMEMBERED_VIEWS, verify: crypto.Verify = crypto.verify_all
    ) -> None:
        self._chain_id = chain_id
        self._verify = verify
        self._max_views = max_views
        # By epoch and view, then by signer, then by what the vote says.
        self._views: dict[tuple[int, int], dict[bytes, dict[tuple[int, bytes], Vote]]] = {}
        # The same the other way round: who has said what.
        self._signers: dict[tuple[int, int], dict[tuple[int, bytes], set[bytes]]] = {}
        self._equivocators: dict[tuple[int, int], set[bytes]] = {}

    def has_equivocated(self, vote: Vote) -> bool:
        """Whether the signer of a vote was found to contradict itself in that view."""
        return vote.signer in self._equivocators.get((vote.epoch, vote.view), ())

    def is_new(self, vote: Vote) -> bool:
        """Whether a vote is worth checking: its view is remembered, and the vote is not known yet."""
        place = vote.epoch, vote.view
        if self._is_too_old(place) or self.has_equivocated(vote):
            return False
        return (vote.kind, vote.block_id) not in self._views.get(place, {}).get(vote.signer, ())

    def has_new_votes(self, certificate: Certificate, validators: ValidatorSet) -> bool:
        """Whether a vote in a certificate is worth checking (:meth:`is_new`), or a signer is not in ``validators``.

        Most certificates come from several members and contain nothing new, so this constructs no votes.
        """
        place, statement = (certificate.epoch, certificate.view), (certificate.kind, certificate.block_id)
        if self._is_too_old(place):
            return False
        keys = validators.keys
        if max(certificate.signers, default=0) >= len(keys):
            return True
        unknown = {keys[position] for position in certificate.signers}
        unknown -= self._signers.get(place, {}).get(statement, set())
        return not unknown <= self._equivocators.get(place, set())

    def observe(self, votes: Iterable[Vote]) -> list[VotePair]:
        """Remember votes whose signatures hold. Returns the pairs that no honest validator signs, each with the older
        vote first.

        Certificates name signers by position, so a wrong committee yields wrong signers: both votes are verified again
        before a pair is returned.
        """
        found: list[VotePair] = []
        for vote in votes:
            if not self.is_new(vote):
                continue
            place = vote.epoch, vote.view
            known = self._views.setdefault(place, {}).setdefault(vote.signer, {})
            rival = next((other for other in known.values() if is_slashable(other, vote)), None)
            if rival is None:
                self._remember(vote)
            elif self._is_valid(vote):
                if self._is_valid(rival):
                    self._equivocators.setdefault(place, set()).add(vote.signer)
                    found.append((rival, vote))
                else:
                    del known[rival.kind, rival.block_id]
                    self._signers[place][rival.kind, rival.block_id].discard(vote.signer)
                    self._remember(vote)
            if len(self._views) > self._max_views:
                oldest = min(self._views)
                del self._views[oldest]
                self._signers.pop(oldest, None)
                self._equivocators.pop(oldest, None)
        return found

    def observe_certificate(self, certificate: Certificate, validators: ValidatorSet | None) -> list[VotePair]:
        """Remember the votes in a certificate that holds; None if its committee is not known."""
        return self.observe(_list_votes(certificate, validators))

    def observe_block(self, block: Block, find_validators: Callable[[int], ValidatorSet | None]) -> list[VotePair]:
        """Remember the votes in the body of a block that was executed; ``find_validators`` returns the committee of an
        epoch."""
        return self.observe(_get_votes(block, find_validators))

    def _remember(self, vote: Vote) -> None:
        place, statement = (vote.epoch, vote.view), (vote.kind, vote.block_id)
        self._views[place][vote.signer][statement] = vote
        self._signers.setdefault(place, {}).setdefault(statement, set()).add(vote.signer)

    def _is_valid(self, vote: Vote) -> bool:
        return vote.is_valid(self._chain_id, self._verify)

    def _is_too_old(self, place: tuple[int, int]) -> bool:
        return place not in self._views and len(self._views) >= self._max_views and place < min(self._views)


def _get_votes(block: Block, find_validators: Callable[[int], ValidatorSet | None]) -> Iterator[Vote]:
    body = block.body
    parent = () if body.parent_certificate is None else (body.parent_certificate,)
    for certificate in (*parent, *body.nullifications):
        yield from _list_votes(certificate, find_validators(certificate.epoch))
    yield from body.late_votes


def _list_votes(certificate: Certificate, validators: ValidatorSet | None) -> list[Vote]:
    """The votes inside; none if the committee is surely another, as after a restart within the epoch."""
    if validators is None or any(position >= len(validators) for position in certificate.signers):
        return []
    return list(certificate.votes(validators))
