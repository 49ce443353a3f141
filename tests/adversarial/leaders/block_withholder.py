"""A validator that shows its blocks to as few as possible."""

from __future__ import annotations

from collections.abc import Iterator

from chain.types.blocks import Block
from consensus.simplex.messages import Broadcast, Effect, Propose, Send
from tests.support.agreement.conspirator import Conspirator


class BlockWithholder(Conspirator):
    """Sends its blocks to as few as make a quorum with it, and answers no request for them."""

    def hand_out(self, block: Block) -> Block | None:
        return None

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        if isinstance(effect, Broadcast) and isinstance(effect.message, Propose):
            shown: list[bytes] = []
            while not self.validators.is_quorum([self._me, *shown]):
                shown.append(self.others[(effect.message.proposal.view + len(shown)) % len(self.others)])
            yield from (Send(peer, effect.message) for peer in shown)
        else:
            yield effect
