"""Who contradicted itself: what each validator signed in recent views, from wherever it came. Pure.

A validator that tells two stories tells them to different people, and agreement itself soon forgets what it does not
need: votes in views that were given up, votes that came when a view was over, a second certificate of the same kind.
So every vote that a node comes across and whose signature holds is shown to one memory: those sent to it, those inside
certificates, and those in the bodies of blocks, which reach nodes outside the committee too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from chain.types.blocks import Block
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote, is_slashable

MAX_VIEWS = 128
"""Latest views whose votes are remembered."""

Pair = tuple[Vote, Vote]


def says_same(first: Vote, second: Vote) -> bool:
    """Whether two votes of one signer in one view say the same."""
    return (first.kind, first.block_id) == (second.kind, second.block_id)


class VoteWatch:
    """Remembers votes on one chain. A signer is reported once in each view."""

    def __init__(self, chain_id: bytes, max_views: int = MAX_VIEWS) -> None:
        self._chain_id = chain_id
        self._max_views = max_views
        self._views: dict[tuple[int, int], dict[bytes, list[Vote]]] = {}  # by epoch and view, then by signer
        self._guilty: dict[tuple[int, int], set[bytes]] = {}

    def is_guilty(self, vote: Vote) -> bool:
        """Whether the signer of a vote was found to contradict itself in that view."""
        return vote.signer in self._guilty.get((vote.epoch, vote.view), ())

    def is_news(self, vote: Vote) -> bool:
        """Whether a vote is worth checking: of a view that is remembered, and not known yet."""
        place = vote.epoch, vote.view
        if place not in self._views and self._is_full and place < min(self._views):
            return False
        known = self._views.get(place, {}).get(vote.signer, ())
        return not self.is_guilty(vote) and not any(says_same(vote, other) for other in known)

    def see(self, votes: Iterable[Vote]) -> list[Pair]:
        """Remember votes whose signatures hold. Returns the pairs that no honest validator signs, the one known first.

        Whose vote one inside a certificate is depends on the committee. A pair is checked before it is returned, in
        case the one assumed was not the right one.
        """
        found: list[Pair] = []
        for vote in votes:
            if not self.is_news(vote):
                continue
            place = vote.epoch, vote.view
            known = self._views.setdefault(place, {}).setdefault(vote.signer, [])
            rival = next((other for other in known if is_slashable(other, vote)), None)
            if rival is None:
                known.append(vote)
            elif vote.is_valid(self._chain_id):
                if rival.is_valid(self._chain_id):
                    self._guilty.setdefault(place, set()).add(vote.signer)
                    found.append((rival, vote))
                else:
                    known[known.index(rival)] = vote
            if len(self._views) > self._max_views:
                oldest = min(self._views)
                del self._views[oldest]
                self._guilty.pop(oldest, None)
        return found

    def see_certificate(self, certificate: Certificate, validators: ValidatorSet | None) -> list[Pair]:
        """Remember the votes in a certificate that holds; None if its committee is not known."""
        return self.see(_list_votes(certificate, validators))

    def see_block(self, block: Block, find_validators: Callable[[int], ValidatorSet | None]) -> list[Pair]:
        """Remember the votes in the body of a block that was executed; ``find_validators`` tells them by epoch."""
        return self.see(_get_votes(block, find_validators))

    @property
    def _is_full(self) -> bool:
        return len(self._views) >= self._max_views


def _get_votes(block: Block, find_validators: Callable[[int], ValidatorSet | None]) -> Iterator[Vote]:
    body = block.body
    parent = () if body.parent_certificate is None else (body.parent_certificate,)
    for certificate in (*parent, *body.nullifications):
        yield from _list_votes(certificate, find_validators(certificate.epoch))
    yield from body.late_votes


def _list_votes(certificate: Certificate, validators: ValidatorSet | None) -> list[Vote]:
    """The votes inside; none if the committee is surely not its own, as after a restart within the epoch."""
    if validators is None or any(position >= len(validators) for position in certificate.signers):
        return []
    return list(certificate.votes(validators))
