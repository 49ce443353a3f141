"""Turns: what a node has to do in one stage of a duel or of a check, and how far it has come. Pure.

The progress of a turn is in memory only, so after a restart the turn begins again. Texts that arrive for a turn that is
over are dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from chain.types.checks import CheckOperation
from chain.types.duels import DuelOperation
from serving.quality.duels.texts import Text, TextKind

MAX_ACTIVE = 4
"""Turns that are under way at a time, of duels and of checks each; those whose stage ends first come first."""
SUBMIT_INTERVAL_S = 5.0
"""Seconds until an operation that is not in a final block is submitted again."""
RETRY_DELAY_S = 2.0
"""Seconds until what failed is tried again."""
FETCH_SHARE = 2
"""Texts are asked for in the first half of a stage: the rest is for answering, judging, scoring."""
END_SHARE = 8
"""In the last eighth of a stage, a node that has nothing to commit to abstains."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One stage of a duel or of a check, as far as this node's duty in it goes."""

    hold: bytes
    stage: int
    is_accused: bool
    ends_at: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit an operation, once the table is on the disk."""

    operation: DuelOperation | CheckOperation


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the ``holders``, one after another, for a text of at most ``limit`` bytes, within ``seconds`` in all."""

    turn: Turn
    kind: TextKind
    holders: tuple[bytes, ...]
    limit: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DueText:
    """A text that is to be obtained: its digest on the ledger, who has it, and the most bytes that it can have."""

    digest: bytes | None
    holders: tuple[bytes, ...]
    limit: int


@dataclass(slots=True)
class Progress:
    """How far a turn has come. Times in seconds of the node's monotonic clock."""

    texts: dict[TextKind, Text] = field(default_factory=dict)
    under_way: set[TextKind | None] = field(default_factory=set)
    """Texts being asked for; None: the backend is being asked."""
    tried: set[TextKind] = field(default_factory=set)
    """Texts that were asked for in vain."""
    not_before: float = float("-inf")


class Turns(ABC):
    """The turns of one node in duels, or in checks."""

    def __init__(self) -> None:
        self._progress: dict[Turn, Progress] = {}
        self._given_up: set[Turn] = set()
        """Turns in which nothing more is to be done."""
        self._submitted: dict[tuple[Turn, type[object]], float] = {}

    @property
    def active(self) -> int:
        """Turns for which texts are held or something is under way."""
        return len(self._progress)

    @abstractmethod
    def find_text(self, hold: bytes, kind: TextKind) -> DueText | None:
        """What is known of a text; None if the duel or check is over."""

    # What arrives

    def take_text(self, turn: Turn, kind: TextKind, text: Text) -> bool:
        """A text has come. Returns whether it matches the digest on the ledger; if not, it is dropped."""
        due, progress = self.find_text(turn.hold, kind), self._progress.get(turn)
        if due is None or progress is None:
            return True  # the turn is over, and the text no matter any more
        if text.digest != due.digest or len(text.body) > due.limit:
            return False
        progress.texts[kind] = text
        progress.under_way.discard(kind)
        return True

    def note_not_obtained(self, turn: Turn, kind: TextKind, now: float) -> None:
        """None of the holders gave a text."""
        progress = self._progress.get(turn)
        if progress is not None:
            progress.under_way.discard(kind)
            progress.tried.add(kind)
            progress.not_before = now + RETRY_DELAY_S

    def note_failed(self, turn: Turn, now: float, *, is_final: bool) -> None:
        """The backend has failed. Unless the failure ``is_final``, it is asked again after a while."""
        progress = self._progress.get(turn)
        if progress is not None:
            progress.under_way.discard(None)
            progress.not_before = now + RETRY_DELAY_S
            if is_final:
                self._give_up(turn)

    # For the duties

    def _keep(self, turns: Collection[Turn]) -> None:
        """Forget all turns but these."""
        self._progress = {turn: progress for turn, progress in self._progress.items() if turn in turns}
        self._given_up &= set(turns)
        self._submitted = {key: at for key, at in self._submitted.items() if key[0] in turns}

    def _submit(self, turn: Turn, operation: DuelOperation | CheckOperation, now: float) -> Iterator[Submit]:
        self._progress.pop(turn, None)
        key = turn, type(operation)
        if now - self._submitted.get(key, float("-inf")) >= SUBMIT_INTERVAL_S:
            self._submitted[key] = now
            yield Submit(operation)

    def _give_up(self, turn: Turn) -> None:
        """Do nothing more in a turn."""
        self._progress.pop(turn, None)
        self._given_up.add(turn)

    def _begin(self, turn: Turn) -> Progress | None:
        """The progress of a turn; None if it is given up, or too many others are under way."""
        progress = self._progress.get(turn)
        if progress is None and turn not in self._given_up and len(self._progress) < MAX_ACTIVE:
            progress = self._progress[turn] = Progress()
        return progress

    def _fetch(self, turn: Turn, progress: Progress, kind: TextKind, chain_time: int, length: int) -> Iterator[Fetch]:
        """Ask for a text, leaving time for the work. After the first half of the stage, half of the remaining time is
        used.

        ``length`` is that of the whole stage in ms.
        """
        due = self.find_text(turn.hold, kind)
        if due is None or kind in progress.under_way:
            return
        progress.under_way.add(kind)
        left = get_fetch_ms(turn, chain_time, length)
        left = left if left > 0 else max(0, turn.ends_at - chain_time) // FETCH_SHARE
        yield Fetch(turn, kind, due.holders, due.limit, left / 1000)


def get_fetch_ms(turn: Turn, chain_time: int, length: int) -> int:
    """Milliseconds that are left for asking for texts in a stage of ``length`` ms; 0 or less once the rest of the stage
    is needed for work."""
    return turn.ends_at - chain_time - (length - length // FETCH_SHARE)


def is_ending(turn: Turn, chain_time: int, length: int) -> bool:
    """Whether so little of a stage of ``length`` ms is left that a later commitment may come too late."""
    return turn.ends_at - chain_time <= length // END_SHARE
