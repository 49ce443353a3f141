"""docs/operating.md against the program: the messages of its troubleshooting tables exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MANUAL = (ROOT / "docs" / "operating.md").read_text()
PACKAGES = ("chain", "consensus", "p2p", "serving")


def test_every_message_of_the_manual_is_one_of_the_program() -> None:
    source = "\n".join(path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # texts that go on in the next line
    section = MANUAL.partition("## Troubleshooting")[2].partition("## Damage")[0]
    messages = re.findall(r"^\| [^`|]*`([^`]+)`[^|]*\|", section, re.MULTILINE)
    assert len(messages) > 25
    for message in messages:
        # What stands for other words in the message: dots, names, numbers, addresses.
        parts = re.split(r"cannot (?=dial)|…|\bDIR\b|[0-9./]+|'[^']*'|: ", message)
        assert max(parts, key=len).strip() in source, message
