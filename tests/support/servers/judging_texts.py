"""The texts in a judging prompt, as a model that judges by a script reads them."""

from __future__ import annotations

import re

_TEXT = re.compile(r"^BEGIN ([A-Z ]+) ([a-z]+)\n(.*?)\nEND \1 \2$", re.MULTILINE | re.DOTALL)
_LINE_BREAK = re.compile("(\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029])")


def read_texts(messages: list[dict[str, str]]) -> dict[str, str]:
    """The texts in a judging prompt by title, without their marks.

    Raises:
        ValueError: a line of a text is not marked.
    """
    found = {}
    for title, code, marked in _TEXT.findall(messages[-1]["content"]):
        parts = _LINE_BREAK.split(marked)
        mark = f"{code[:3]}|"
        if not all(line.startswith(mark) for line in parts[::2]):
            raise ValueError(f"a line of {title} is not marked")
        found[title] = "".join(part.removeprefix(mark) if not place % 2 else part for place, part in enumerate(parts))
    return found
