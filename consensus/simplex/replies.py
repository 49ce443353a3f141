"""Messages to validators that are behind, or may have seen other proposals: rule 6 of :mod:`consensus.simplex.core`."""

from __future__ import annotations

from collections.abc import Iterable

from chain.types.validators import ValidatorSet
from chain.types.votes import Vote
from consensus.simplex.messages import Effect, Send
from consensus.simplex.views import Views

MAX_REPLY_CERTIFICATES = 16
"""Certificates in one answer to a validator that is behind."""

VAIN_VOTE_PEERS = 3
"""Validators to which a vote for a block that was not notarized is sent."""

MAX_REPLIES = 4
"""Answers to one validator between two timeouts or changes of view here, for each range of ``MAX_REPLY_CERTIFICATES``
views."""


class Replies:
    """Makes and counts the answers of ``me`` (empty: an observer). Messages to send are appended to ``effects``."""

    def __init__(self, me: bytes, views: Views, validators: ValidatorSet, effects: list[Effect]) -> None:
        self._me, self._views, self._validators, self._effects = me, views, validators, effects
        self._given: dict[tuple[bytes, int], int] = {}
        """Answers by signer and range of views."""

    def reset(self) -> None:
        """Begin to count answers anew."""
        self._given.clear()

    def may_answer(self, vote: Vote, view: int) -> bool:
        """Whether the signer of ``vote`` may have one more answer from a validator that is in ``view``."""
        return vote.signer != self._me and self._given.get(_get_subject(vote, view), 0) < MAX_REPLIES

    def answer(self, vote: Vote, view: int) -> None:
        """Send the signer of ``vote``, whose signature holds, the certificates that bring it to ``view``."""
        subject = _get_subject(vote, view)
        self._given[subject] = self._given.get(subject, 0) + 1
        known = self._views.get_certificates(vote.view, view, MAX_REPLY_CERTIFICATES)
        self._effects += [Send(vote.signer, certificate) for certificate in known]

    def pass_on(self, votes: Iterable[Vote]) -> None:
        """Send votes for blocks that were not notarized to a few other validators, in turns: they may know conflicting
        votes.

        An observer sends nothing.
        """
        if not self._me:
            return
        others = [validator.public_key for validator in self._validators if validator.public_key != self._me]
        turn = self._views.final_view % max(1, len(others))
        peers = (others[turn:] + others[:turn])[:VAIN_VOTE_PEERS]
        self._effects += [Send(peer, vote) for vote in votes for peer in peers if peer != vote.signer]


def _get_subject(vote: Vote, view: int) -> tuple[bytes, int]:
    return vote.signer, min(vote.view, view) // MAX_REPLY_CERTIFICATES
