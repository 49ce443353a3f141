"""Write the reference in ``docs/reference`` from the code: ``make reference``. With ``--check``, only compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from serving.admin.troubles import KINDS
from serving.logs.events import SECTIONS

HERE = Path(__file__).parent
GENERATED = "This page is written by `make reference`; a test compares it with the code."


def write_row(*cells: str) -> str:
    """A row of a table; what would end a cell is escaped."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def write_table(*head: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A table."""
    yield write_row(*head)
    yield write_row(*("---" for _ in head)).replace(" ", "")
    yield from (write_row(*row) for row in rows)


def write_head(title: str, text: str) -> Iterator[str]:
    """Title and introduction of a page."""
    yield f"# {title}\n"
    yield f"{GENERATED}\n"
    yield text


EVENTS_TEXT = """\
`wwwserve logs` shows the events of a node, and `wwwserve logs --event NAME` those of one name. Each has `timestamp`
(ISO 8601, UTC), `level`, `logger` and `event`, and the fields below. A defect has its traceback under `exception`.
Of one event there are at most 60 lines a minute. No event holds a prompt, an answer or a key. Events whose `logger`
begins with `p2p` have whole sentences as names, and are not listed."""


def write_events() -> Iterator[str]:
    """Every event that is logged."""
    yield from write_head("Events", EVENTS_TEXT)
    for title, events in SECTIONS.items():
        yield f"\n## {title}\n"
        rows = [
            (f"`{name}`", event.level, ", ".join(f"`{each}`" for each in event.fields), event.meaning)
            for name, event in events.items()
        ]
        yield from write_table("event", "level", "fields", "meaning", rows=rows)


TROUBLES_TEXT = """\
What `wwwserve status`, `wwwserve doctor`, the dashboard, `/healthz` and the event `trouble` say is wrong. A *problem*
is a part that does not work, *advice* is about one that could work better, and with a *note* nothing need be done.
`{…}` stands for a detail.
"""


def write_troubles() -> Iterator[str]:
    """Everything that can be said to be wrong."""
    yield from write_head("Troubles", TROUBLES_TEXT)
    rows = [
        (
            f"`{code}`",
            kind.subject,
            kind.severity.value,
            kind.text,
            kind.mend,
            f"`{kind.command}`" if kind.command else "",
        )
        for code, kind in KINDS.items()
    ]
    yield from write_table("code", "subject", "severity", "what is said", "what to do", "command", rows=rows)


PAGES: Mapping[str, Callable[[], Iterator[str]]] = {"events.md": write_events, "troubles.md": write_troubles}
"""The pages by their file."""


def find_differences() -> list[str]:
    """The pages that are not what the code says."""
    return [
        name
        for name, write in PAGES.items()
        if not (HERE / name).exists() or (HERE / name).read_text() != "\n".join(write()) + "\n"
    ]


def main() -> None:
    """Write the pages, or compare them."""
    if "--check" in sys.argv[1:]:
        different = find_differences()
        sys.exit(f"not as the code says (make reference): {', '.join(different)}" if different else 0)
    for name, write in PAGES.items():
        (HERE / name).write_text("\n".join(write()) + "\n")


if __name__ == "__main__":
    main()
