"""How long an answer will be: learned for each model from the answers that this node has seen. Pure.

Answers are classed by the size of their prompt and by whether the request has a limit of its own, as a request for ten
words has. The mean length of a class is the number of tokens written, those of answers under way included, divided by
the number of answers that have ended. This is the occurrence/exposure rate of survival analysis, the maximum likelihood
estimate for exponential lengths of which some are censored (Epstein and Sobel 1953). So long answers count while they
are written, and the first to end, which are the shortest, do not make all look short. In the long run it is the mean of
any distribution of lengths. No mean is above the longest answer seen so far: answers are rarely memoryless, and nothing
is known beyond that length. All is decayed with each answer that ends.

A class without answers takes the mean of the whole model. A model without answers takes :data:`PRIOR_OUTPUT_TOKENS`. An
answer that was cut off counts with its length so far or with the mean, whichever is longer.
"""

from __future__ import annotations

from bisect import bisect_right

import msgspec
from msgspec.structs import replace

from chain.collections import BoundedDict

PRIOR_OUTPUT_TOKENS = 256.0
"""Expected tokens of an answer of which nothing is known: some paragraphs."""
PRIOR_WEIGHT = 1.0
"""Weight of what was expected before the first answer of a class, in answers."""
DECAY = 15 / 16
"""Part of their weight that earlier answers keep at each new one."""
PROMPT_CLASSES = (256, 2048, 16_384)
"""Prompt tokens at which the next class begins."""
MAX_CLASSES = 1024
"""Classes that are kept; beyond it, the one that changed longest ago is forgotten."""
STEP_TOKENS = 32.0
"""Tokens after which an answer under way is counted again: so rarely that it costs nothing."""

Key = tuple[str, int, bool]
WHOLE_MODEL = -1
"""Stands for the class of all prompts of a model."""


class OutputLengths:
    """The expected lengths of answers, in tokens."""

    def __init__(self) -> None:
        self._seen: BoundedDict[Key, _Seen] = BoundedDict(MAX_CLASSES)

    def __len__(self) -> int:
        """Classes that are kept."""
        return len(self._seen)

    def get_usual(self, model: str) -> float:
        """The length of an answer of which only the model is known."""
        mean = self._get_mean((model, WHOLE_MODEL, False))
        return PRIOR_OUTPUT_TOKENS if mean is None else mean

    def expect(self, model: str, prompt: int, limit: int, *, is_limited: bool) -> float:
        """The expected length of an answer to a prompt of ``prompt`` tokens, at most ``limit``.

        ``is_limited``: the request itself set the limit.
        """
        mean = self._get_mean(_get_key(model, prompt, is_limited))
        return min(float(limit), self.get_usual(model) if mean is None else mean)

    def note_written(self, model: str, prompt: int, tokens: float, more: float, *, is_limited: bool) -> None:
        """An answer under way has ``tokens`` by now, of which ``more`` are new since it was last noted."""
        for key, seen in self._find_all(model, prompt, is_limited):
            self._seen[key] = replace(seen, written=seen.written + more, longest=max(seen.longest, tokens))

    def note(
        self, model: str, prompt: int, tokens: float, *, is_limited: bool, is_cut_off: bool, noted: float = 0.0
    ) -> None:
        """An answer has ended with ``tokens``, or would have had at least as many (``is_cut_off``).

        ``noted`` of them were noted while it was written.
        """
        for key, seen in self._find_all(model, prompt, is_limited):
            length = max(tokens, seen.mean) if is_cut_off else tokens
            self._seen[key] = _Seen(
                seen.written * DECAY + length - noted, seen.ended * DECAY + 1.0, max(seen.longest * DECAY, length)
            )

    def _find_all(self, model: str, prompt: int, is_limited: bool) -> list[tuple[Key, _Seen]]:
        """What was seen of the classes of an answer. A class without answers begins with the expected length."""
        usual = self.get_usual(model)
        prior = _Seen(usual * PRIOR_WEIGHT, PRIOR_WEIGHT, usual)
        keys = [_get_key(model, prompt, is_limited), (model, WHOLE_MODEL, False)]
        return [(key, self._seen.get(key, prior)) for key in keys]

    def _get_mean(self, key: Key) -> float | None:
        found = self._seen.get(key)
        return None if found is None else found.mean


class _Seen(msgspec.Struct, frozen=True, gc=False):
    """Of one class: tokens that were written, answers that have ended, and the tokens of the longest answer."""

    written: float
    ended: float
    longest: float

    @property
    def mean(self) -> float:
        return min(self.written / self.ended, self.longest)


class AnswerLength:
    """The length of one answer to a prompt of ``prompt`` tokens, noted while it is written.

    ``token_bytes`` completion bytes count as one token. An answer that is not text (``is_text``) is not counted.
    """

    def __init__(
        self,
        lengths: OutputLengths,
        model: str,
        prompt: int,
        token_bytes: int,
        *,
        is_limited: bool,
        is_text: bool = True,
    ) -> None:
        self._lengths = lengths
        self._model = model
        self._prompt = prompt
        self._token_bytes = token_bytes
        self._is_limited = is_limited
        self._is_text = is_text
        self._noted = 0.0

    def grow(self, completion_bytes: int) -> None:
        """So much of it was written by now."""
        more = completion_bytes / self._token_bytes - self._noted
        if more >= STEP_TOKENS:
            self._noted += more
            self._lengths.note_written(self._model, self._prompt, self._noted, more, is_limited=self._is_limited)

    def end(self, completion_bytes: int, *, is_cut_off: bool) -> None:
        """That was all of it."""
        if not self._is_text:
            return
        self._lengths.note(
            self._model,
            self._prompt,
            completion_bytes / self._token_bytes,
            is_limited=self._is_limited,
            is_cut_off=is_cut_off,
            noted=self._noted,
        )


def _get_key(model: str, prompt: int, is_limited: bool) -> Key:
    return model, bisect_right(PROMPT_CLASSES, prompt), is_limited
