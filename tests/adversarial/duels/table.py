"""The table of all strategies: ``python -m tests.adversarial.duels.table [FAMILY…]``."""

from __future__ import annotations

import importlib
import sys

from rich.console import Console
from rich.table import Table

from tests.adversarial.duels.strategy import Strategy, is_answered, measure
from tests.support.strategies.ledger_market import DUEL_RATE

FAMILIES = (
    "rubbish",
    "cheaper",
    "substitutes",
    "checkers",
    "challengers",
    "judges",
    "coalitions",
    "payers",
    "aimed",
    "accounts",
    "leaders",
)
"""Modules with strategies, in the order of the table."""


def find_strategies(family: str) -> list[Strategy]:
    """The strategies of a family."""
    strategies: list[Strategy] = importlib.import_module(f"tests.adversarial.duels.{family}").STRATEGIES
    return strategies


def main() -> int:
    """Command line; the exit code is 1 if a strategy pays."""
    if unknown := [name for name in sys.argv[1:] if name not in FAMILIES]:
        sys.exit(f"no family {unknown[0]}: there are {', '.join(FAMILIES)}")
    title = "prices gained over honesty per 1,000, with standard error"
    table = Table(title=f"Strategies where {DUEL_RATE} of 1,000 answers become duels: {title}")
    for heading in ("strategy", "per 1,000", "simulation", "ledger", ""):
        table.add_column(heading, justify="right" if heading in {"simulation", "ledger"} else "left")
    is_good = True
    for family in sys.argv[1:] or FAMILIES:
        for strategy in find_strategies(family):
            gain = measure(strategy)
            is_good &= is_answered(strategy, gain)
            simulated = "" if strategy.simulation is None else f"{strategy.simulation:,.0f}"
            verdict = f"accepted: {strategy.accepted}" if strategy.accepted else ""
            counted = f"{strategy.per}s{', against staying away' if strategy.stays_away else ''}"
            table.add_row(strategy.title, counted, simulated, f"{gain.mean:,.1f} ± {gain.error:,.1f}", verdict)
        table.add_section()
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
