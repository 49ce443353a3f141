"""What the adversaries of agreement build on: a core whose every effect passes through their hands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

from chain.types.blocks import Block
from consensus.simplex.core import Simplex
from consensus.simplex.messages import Broadcast, Effect, Message, Send


class Conspirator(Simplex):
    """Follows the protocol, except that what leaves it is what :meth:`corrupt` makes of it."""

    deeds: ClassVar[Counter[str]] = Counter()
    """How often it really did what it is there for, by the kind of message; :func:`watch` begins to count."""

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
        effects = []
        for effect in super()._act():
            others = list(self.corrupt(effect))
            if others != [effect]:
                self.note(get_said(effect))
            effects += others
        return effects

    def note(self, message: Message | None, count: int = 1) -> None:
        """Count a deed."""
        self.deeds[type(message).__name__] += count

    @property
    def others(self) -> list[bytes]:
        """Public keys of the other validators."""
        return [validator.public_key for validator in self.validators if validator.public_key != self._me]

    def tell(self, half: int, message: Message) -> list[Effect]:
        """Orders to send ``message`` to one of two halves of the others."""
        return [Send(peer, message) for peer in self.others[half::2]]


Adversary = TypeVar("Adversary", bound=Conspirator)


def watch(adversary: type[Adversary]) -> type[Adversary]:
    """The same adversary with a count of its own, over all its lives: one that does nothing proves nothing."""
    return type(adversary.__name__, (adversary,), {"deeds": Counter()})


def get_said(effect: Effect) -> Message | None:
    """The message that an effect sends, if any."""
    return effect.message if isinstance(effect, Broadcast | Send) else None
