"""What became of each check of the model, as the blocks of a chain say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chain.audit.replay import replay
from chain.audit.sources import ChainSource
from chain.state.check_records import ModelCheck
from chain.transition.checks.events import CheckEvent, CheckOpened, CheckSettled
from chain.transition.checks.finding import CheckOutcome


@dataclass(slots=True)
class CheckCounts:
    """How many checks were opened, how they ended, and how many of them proved a substitution.

    ``paid`` and ``taken`` are what they moved from and to the treasury, in micro-credits.
    """

    checks: int = 0
    substitutions: int = 0
    outcomes: Counter[CheckOutcome] = field(default_factory=Counter)
    paid: int = 0
    taken: int = 0

    def add(self, events: Iterable[CheckEvent]) -> None:
        """Count what a block did."""
        for event in events:
            match event:
                case CheckOpened():
                    self.checks += 1
                case CheckSettled():
                    self.outcomes[event.finding.outcome] += 1
                    self.substitutions += event.is_substitution
                    self.paid += sum(max(0, each.amount) for each in event.movements)
                    self.taken += sum(max(0, -each.amount) for each in event.movements)


@dataclass(slots=True)
class ListedCheck:
    """One check: the heights at which it was opened and settled, and how it was ``settled``, if it was.

    ``opened_at`` is None if the chain begins after that. ``check`` is its last state.
    """

    hold: bytes
    check: ModelCheck
    opened_at: int | None = None
    settled_at: int | None = None
    settled: CheckSettled | None = None


def list_checks(source: ChainSource, on_progress: Callable[[int], None] = lambda height: None) -> list[ListedCheck]:
    """Every check of a chain in the order of opening. Executes every block and checks no signature.

    Raises:
        StoreError: the source cannot be read.
        LedgerError: a block cannot be executed.
    """
    found: dict[bytes, ListedCheck] = {}
    for height, transition in replay(source, on_progress):
        state = transition.state
        for event in transition.check_events:
            listed = found.setdefault(event.hold, ListedCheck(event.hold, event.check))
            listed.check = event.check
            match event:
                case CheckOpened():
                    listed.opened_at = height
                case CheckSettled():
                    listed.settled_at, listed.settled = height, event
    for listed in found.values():
        listed.check = state.model_check(listed.hold) or listed.check
    return list(found.values())
