"""``make crash``: real processes die at every durable write of every scenario in turn, until one ends by itself."""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import count
from pathlib import Path

from tests.adversarial.crashes.crash_process import OLD, SCENARIOS, Death, live, prepare


def _show(scenario: str, death: Death) -> str:
    return f"--scenario {scenario} --at {death.at}{' --after' if death.after else ''}"


def try_write(scenario: str, death: Death, old: Path) -> bool:
    """A life that ends at a write, and one after it. Returns whether there is such a write.

    Raises:
        AssertionError: see :func:`live`.
    """
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "nodes"
        prepare(directory, scenario, old)
        is_killed = bool(live(directory, SCENARIOS[scenario], death))
        if is_killed:
            assert live(directory, SCENARIOS[scenario]) == 0
        return is_killed


def main() -> None:
    parser = argparse.ArgumentParser(description="kill real processes at every durable write, and start them again")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="this one alone")
    parser.add_argument("--at", type=int, help="kill at this write alone")
    parser.add_argument("--after", action="store_true", help="with --at: right after it, not before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        old = Path(place)
        live(old, OLD)
        for scenario in [options.scenario] if options.scenario else SCENARIOS:
            for after in [options.after] if options.at else (False, True):
                for at in [options.at] if options.at else count(1):
                    death = Death(at=at, after=after)
                    try:
                        is_killed = try_write(scenario, death, old)
                    except AssertionError as error:
                        sys.exit(f"\nmake crash ARGS='{_show(scenario, death)}': {error}")
                    if not is_killed:
                        break
                    print(f"\r{scenario}, {'after' if after else 'before'} write {at}", end="", flush=True)
                print(": no process failed" if is_killed else f": no process failed, and there is no write {at}")


if __name__ == "__main__":
    main()
