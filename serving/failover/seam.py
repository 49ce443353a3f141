"""The seam of an answer that another goes on with: the rest of it is made to look like one stream with the beginning.

Its events get the id, the name of the model and the time of the first ones, and its usage becomes that of the whole.
The text itself is passed on as it is, but for white space that would stand there twice: the text so far is given to a
model without the white space at its end, since most tokens begin with theirs.

Some servers repeat the beginning and then go on, and some begin the answer again. What looks like it is held back: a
whole repetition is taken away, and from any other nobody sees anything, so that yet another can be asked. Pure.
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
"""Characters of the beginning of an answer that are no accident at the beginning of its rest."""
EMPTY: tuple[Any, ...] = (None, "", [], {})
"""What says nothing in a piece of a message."""

_EVENT = re.compile(rb".+?(?:\r?\n\r?\n|\Z)", re.DOTALL)


class BegunAgain(BackendError):
    """An answer was begun again, where the rest of it was asked for."""


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
        """White space that the user has, and the model does not know of."""
        is_repetitive = self._text.find(self._text[: MIN_REPEATED_CHARS // 2], 1) >= 0
        self._may_repeat = len(self._text) >= MIN_REPEATED_CHARS and not is_repetitive
        self._repeated = 0
        """Characters of the beginning that were repeated, once there are so many that it is no accident."""
        self.has_repeated = False
        """Whether all of it was."""
        self._held: str | None = ""
        """The text of the rest as far as it is held back; None: no more of it is."""

    def feed(self, chunk: bytes) -> bytes:
        """The next whole events; returns what the user gets of them.

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
        """Take out of a choice what the user has already, and what is held back."""
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
        """The next of the text; returns what is passed on by now.

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
        """Take a repetition of the beginning out of what is held back, as far as it has come.

        Raises:
            BegunAgain: it is only a part of the beginning, and no accident.
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
        """The usage of the whole answer. What was written before counts as prompt in that of the rest."""
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
