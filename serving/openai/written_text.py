"""The text of an answer so far, kept for another source that may have to continue it. Pure."""

from __future__ import annotations

from serving.openai.content import AnyContent, StreamedChoice, TextChoice

MAX_WRITTEN_CHARS = 1 << 20
"""Longest text that is kept."""


class WrittenText:
    """The text of the one choice of a stream, piece by piece.

    ``is_plain``: it is only text, and short enough. Reasoning and calls cannot be given to a model as the beginning of
    its answer.
    """

    def __init__(self) -> None:
        self.is_plain = True
        self._pieces: list[str] = []
        self._size = 0

    def note(self, content: AnyContent) -> None:
        """The next event has come."""
        if not self.is_plain:
            return
        for choice in content.choices or ():
            if isinstance(choice, TextChoice):
                self._add(choice.text)
            elif isinstance(choice, StreamedChoice) and (message := choice.message) is not None:
                is_more = message.reasoning or message.reasoning_content or message.tool_calls or message.function_call
                if is_more:
                    self._give_up()
                    return
                self._add(message.content)

    def join(self) -> str:
        """The whole of it."""
        return "".join(self._pieces)

    def _add(self, piece: str | None) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > MAX_WRITTEN_CHARS:
                self._give_up()

    def _give_up(self) -> None:
        self.is_plain = False
        self._pieces.clear()
