"""Amounts, counts, times and tables as people read them; imports nothing heavy."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from chain.amounts import format_credits
from chain.printable import escape_unprintable


def print_line(line: str, *, to_stderr: bool = False) -> None:
    """Print one line for the owner; what does not print is escaped."""
    print(escape_unprintable(line), file=sys.stderr if to_stderr else None)


def print_lines(text: str, *, to_stderr: bool = False, clear: bool = False) -> None:
    """Print lines for the owner; the line breaks in ``text`` must be the program's own. With ``clear`` they take the
    place of all that is on the terminal."""
    if clear:
        print("\x1b[H\x1b[2J", end="")
    print(escape_unprintable(text, keep="\n"), file=sys.stderr if to_stderr else None)


def print_part(text: str) -> None:
    """Print a part of a line at once; what does not print is escaped, but for line breaks and tabs."""
    print(escape_unprintable(text, keep="\n\t"), end="", flush=True)


def format_count(number: int, noun: str) -> str:
    """A number of things: ``1 block``, ``2,000 blocks``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_percent(share: float) -> str:
    """A share from 0 to 1, rounded to a tenth of a percent."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def shorten_address(address: str) -> str:
    """An address by its beginning and its end, as people compare it."""
    return address if len(address) < 20 else f"{address[:8]}…{address[-4:]}"


def format_time(timestamp: int) -> str:
    """A time in ms since the Unix epoch."""
    try:
        return datetime.fromtimestamp(timestamp // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return f"{timestamp} ms"


def format_duration(ms: int) -> str:
    """A length of time by its two largest units."""
    seconds = ms // 1000
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((index for index, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number:,} {unit}" for number, unit in parts[first : first + 2] if number or unit == "s")


def format_rows(rows: dict[str, str]) -> str:
    """Names and values, one pair a line."""
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {escape_unprintable(value)}" for name, value in rows.items())


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; what does not print is escaped, and nothing is cut."""
    table = [tuple(headings), *(tuple(map(escape_unprintable, row)) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for the owner."""
    for line in format_table(headings, rows):
        print_line(line)


def say_credits(reason: str) -> str:
    """A reason of the ledger with its amounts in credits, as people know them."""
    if "micro-credits" not in reason:
        return reason
    return re.sub("[0-9]+", lambda match: format_credits(int(match[0])), reason.replace("micro-credits", "credits"))
