"""The wire of duels and checks: one exchange of ``/wwwserve/duel/2`` for each text.

::

    challenger, judge or checker              executor, originator or challenger
    TextRequest, end               ──▶
                                   ◀──        TextHead, body frames…, end

Who may have which text is a question of the last final state (:func:`~serving.quality.duels.texts.find_refusal`,
:func:`~serving.quality.duels.texts.find_check_refusal`). A node that is refused may be ahead of the other by a block,
so it asks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Hash, Record
from serving.offload.protocol import MAX_ANSWER_BYTES, Reason, Salt

DUEL_PROTOCOL = "/wwwserve/duel/2"
"""Name of the protocol; its number grows when a message changes."""
MAX_DUEL_MESSAGE_BYTES = 1024
"""Longest encoded message."""


@dataclass(frozen=True, slots=True)
class TextRequest(Record):
    """Asks for a text of the duel or the check about ``hold``, of a :class:`~serving.quality.duels.texts.TextKind`."""

    hold: Hash
    kind: Annotated[int, Bounds(1, 4)]


@dataclass(frozen=True, slots=True)
class TextHead(Record):
    """The salt of a text's digest; ``size`` bytes of body follow in frames of their own.

    Without a salt nothing follows: the text is not handed over, as ``refusal`` says.
    """

    salt: Salt | None
    size: Annotated[int, Bounds(0, MAX_ANSWER_BYTES)]
    refusal: Reason = ""
