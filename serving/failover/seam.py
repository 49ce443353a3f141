"""The seam of a continued answer: makes the beginning and the rest, from another source, look like one stream.

Events of the rest get the id, the model name and the time of the first events, and the usage becomes that of the whole.
The text is passed on unchanged, except for duplicate white space: a model gets the text so far without the white space
at its end, since most tokens begin with theirs.

Some servers repeat the beginning and then continue, and some begin the answer again. Text that looks like a repetition
is held back. A complete repetition is removed. If it is incomplete, nothing of it is passed on, so that another source
can be asked. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from serving.backends.backend import BackendError
from serving.openai.answers import get_data
from serving.openai.bodies import parse_json
from serving.openai.content import ENVELOPE
from serving.openai.requests import encode_body

MIN_REPEATED_CHARS = 16
"""If the rest begins with so many characters of the answer's beginning, that is no coincidence."""
EMPTY: tuple[Any, ...] = (None, "", [], {})
"""Values without content in a piece of a message."""

_EVENT = re.compile(rb".+?(?:\r?\n\r?\n|\Z)", re.DOTALL)


class BegunAgain(BackendError):
    """A source began the answer again although the rest was asked for."""


class Seam:
    """Joins the events of the rest to an answer with the text ``begun``, of ``tokens``.

    ``last_event`` is the data of an event of the beginning.
    """

    def __init__(self, begun: str, tokens: int, last_event: bytes) -> None:
        first = parse_json(last_event)
        self._envelope = {name: first[name] for name in ENVELOPE if name in first} if isinstance(first, dict) else {}
        self._tokens = tokens
        self._text = begun.strip()
        self._space = begun[len(begun.rstrip()) :]
        """White space that the user has got, and that was not given to the model."""
        is_repetitive = self._text.find(self._text[: MIN_REPEATED_CHARS // 2], 1) >= 0
        self._may_repeat = len(self._text) >= MIN_REPEATED_CHARS and not is_repetitive
        self._repeated = 0
        """Repeated characters of the beginning, once there are so many that it is no coincidence."""
        self.has_repeated = False
        """Whether all of it was."""
        self._held: str | None = ""
        """The text of the rest that is held back; None: nothing is held back any more."""

    def feed(self, chunk: bytes) -> bytes:
        """The next whole events; returns the bytes for the user.

        Raises:
            BegunAgain: this is not the rest of the answer.
        """
        return b"".join(self._join(event) for event in _EVENT.findall(chunk))

    def _join(self, event: bytes) -> bytes:
        content = parse_json(get_data(event))
        if not isinstance(content, dict):
            return event
        content = {name: value for name, value in content.items() if name not in ENVELOPE} | self._envelope
        if isinstance(content.get("usage"), dict):
            content["usage"] = self._add_up(content["usage"])
        is_silent = content.get("usage") is None
        for choice in _find_choices(content):
            self._join_choice(choice)
            is_silent = is_silent and _says_nothing(choice)
        return b"" if is_silent else b"data: " + encode_body(content) + b"\n\n"

    def _join_choice(self, choice: dict[str, Any]) -> None:
        """Remove from a choice the text that the user has already, and the text that is held back."""
        piece, name = (choice, "text") if "text" in choice else (choice.get("delta"), "content")
        if not isinstance(piece, dict):
            return
        piece.pop("role", None)
        if self._held is None:
            return
        if piece.get("reasoning") or piece.get("reasoning_content"):
            raise BegunAgain("the answer is thought over again")
        text = piece.get(name)
        is_last = choice.get("finish_reason") is not None or not (text is None or isinstance(text, str))
        if text or is_last:
            piece[name] = self._take(text if isinstance(text, str) else "", is_last=is_last)

    def _take(self, text: str, *, is_last: bool) -> str:
        """The next piece of the text; returns what can be passed on now.

        Raises:
            BegunAgain: it begins the answer again.
        """
        assert self._held is not None
        self._held += text
        if self._may_repeat:
            self._look_for_repetition(is_last=is_last)
        may_be_space = self._space.startswith(self._held)
        if (may_be_space or self._may_repeat) and not is_last:
            return ""
        rest = self._held[_count_common(self._held, self._space) :]
        self._held = None
        return rest

    def _look_for_repetition(self, *, is_last: bool) -> None:
        """Remove a repetition of the beginning, as far as it has come, from the text that is held back.

        Raises:
            BegunAgain: only a part of the beginning is repeated, and that is no coincidence.
        """
        assert self._held is not None
        plain = self._held.lstrip() if not self._repeated else self._held
        left = self._text[self._repeated : self._repeated + len(plain)]
        common = _count_common(plain, left)
        if self._repeated + common < MIN_REPEATED_CHARS:
            self._may_repeat = common == len(plain)
            return
        self._repeated += common
        self._held = plain[common:]
        self.has_repeated = self._repeated == len(self._text)
        if self.has_repeated:
            self._may_repeat = False
        elif self._held or is_last:
            raise BegunAgain("the answer was begun again")

    def _add_up(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The usage of the whole answer. In the usage of the rest, the text before it counts as prompt."""
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if type(prompt) is not int or type(completion) is not int:
            return usage
        prompt, completion = max(0, prompt - self._tokens), completion + self._tokens
        counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return {**usage, **counted}


def _find_choices(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    choices = content.get("choices")
    return (choice for choice in (choices if isinstance(choices, list) else ()) if isinstance(choice, dict))


def _says_nothing(choice: dict[str, Any]) -> bool:
    """Whether a choice has neither an end nor anything that a client shows."""
    piece = choice.get("delta") if "text" not in choice else {"text": choice["text"]}
    is_empty = not isinstance(piece, dict) or all(value in EMPTY for value in piece.values())
    return is_empty and choice.get("finish_reason") is None


def _count_common(text: str, other: str) -> int:
    """Characters that two texts have in common at their beginning."""
    pairs = zip(text, other, strict=False)
    return next((place for place, (one, two) in enumerate(pairs) if one != two), min(len(text), len(other)))
