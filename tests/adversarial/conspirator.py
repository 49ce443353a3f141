"""What the adversaries of agreement build on: a core whose every effect passes through their hands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chain.blocks import Block
from consensus.messages import Broadcast, Effect, Message, Send
from consensus.simplex import Simplex


class Conspirator(Simplex):
    """Follows the protocol, except that what leaves it is what :meth:`corrupt` makes of it."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.heard: list[Message] = []

    def on_message(self, message: Message) -> list[Effect]:
        self.heard = [*self.heard[-200:], message]
        return super().on_message(message)

    def hand_out(self, block: Block) -> Block | None:
        """What its node gives to who asks for ``block``."""
        return block

    def corrupt(self, effect: Effect) -> Iterator[Effect]:
        """What to do instead of ``effect``."""
        yield effect

    def _act(self) -> list[Effect]:
        return [other for effect in super()._act() for other in self.corrupt(effect)]

    @property
    def others(self) -> list[bytes]:
        """Public keys of the other validators."""
        return [validator.public_key for validator in self.validators if validator.public_key != self._me]

    def tell(self, half: int, message: Message) -> list[Effect]:
        """Orders to send ``message`` to one of two halves of the others."""
        return [Send(peer, message) for peer in self.others[half::2]]


def get_said(effect: Effect) -> Message | None:
    """The message that an effect sends to anybody."""
    return effect.message if isinstance(effect, Broadcast | Send) else None
