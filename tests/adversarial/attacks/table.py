"""What an attack is, what came of it, and the table of all: ``python -m tests.adversarial.attacks.table [NAME…]``."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from rich.console import Console
from rich.table import Table

import tests.adversarial.attacks as package


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack cost its author, what it brought, and what its victims lost, all in ``unit``.

    ``gained`` is what came in, before ``spent`` is taken off. ``detail`` says in a few words what was seen.
    """

    spent: int
    gained: int
    lost: int
    detail: str
    unit: str = "µcredits"

    @property
    def net_gain(self) -> int:
        return self.gained - self.spent


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. ``before`` is its measured outcome on the code that it was found in.

    ``run`` carries it out from a fixed seed, and raises AssertionError if it could not: an attacker that did nothing
    shows nothing. ``accepted`` says why a net gain or a loss that is left is accepted; it is empty if there is none.
    """

    title: str
    before: Outcome
    run: Callable[[], Outcome]
    accepted: str = ""


def find_attacks() -> dict[str, Attack]:
    """All attacks by the name of their module."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    names = [module.name for module in found if not module.ispkg and module.name != f"{package.__name__}.table"]
    attacks = {name.rpartition(".")[2]: importlib.import_module(name).ATTACK for name in names}
    return dict(sorted(attacks.items()))


def is_answered(attack: Attack, outcome: Outcome) -> bool:
    """Whether the attack brings nothing any more, or what it brings is accepted for a stated reason."""
    return outcome.net_gain <= 0 or bool(attack.accepted)


def main() -> int:
    """Command line; the exit code is 1 if an attack pays."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    attacks = find_attacks()
    if unknown := [name for name in sys.argv[1:] if name not in attacks]:
        sys.exit(f"no attack {unknown[0]}: there are {', '.join(attacks)}")
    table = Table("attack", "unit", "spent", "gained", "victims lost", "now", title="Attacks, before and now")
    is_good = True
    for name in sys.argv[1:] or attacks:
        attack = attacks[name]
        outcome = attack.run()
        is_good &= is_answered(attack, outcome)
        columns = [
            f"{was:,} → {now:,}"
            for was, now in (
                (attack.before.spent, outcome.spent),
                (attack.before.gained, outcome.gained),
                (attack.before.lost, outcome.lost),
            )
        ]
        verdict = f"{outcome.detail}; accepted: {attack.accepted}" if attack.accepted else outcome.detail
        table.add_row(f"{name}: {attack.title}", outcome.unit, *columns, verdict)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
