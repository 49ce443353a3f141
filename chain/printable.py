"""Text from elsewhere, made safe to show.

A terminal obeys control characters, and shows the rest of a line in another order after a bidirectional control. Names
and messages of other nodes may hold both. So everything that is shown to the owner passes :func:`escape_unprintable`.
"""

from __future__ import annotations

import json


def escape_unprintable(text: str, keep: str = "") -> str:
    """``text`` with an escape such as ``\\u001b`` for every character that does not print, but for those in ``keep``.

    What prints is what Unicode does not class as control, format (such as bidirectional controls), surrogate, private
    use, unassigned or separator; the space prints. The escapes are those of JSON, so JSON stays the same JSON.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escape(character) for character in text
    )


def _escape(character: str) -> str:
    # JSON leaves one control character of ASCII as it is.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]
