"""How long an answer will be: learned for each model from the answers that this node has seen. Pure.

Answers are told apart by the size of their prompt and by whether the request had a limit of its own: who asks for ten
words sets one. A decayed mean stands for each such class. One that has seen nothing takes that of the whole model, and
a model of which nothing is known :data:`PRIOR_OUTPUT_TOKENS`. An answer that was cut off counts as at least so long.
"""

from __future__ import annotations

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

Key = tuple[str, int, bool]
WHOLE_MODEL = -1
"""Stands for the class of all prompts of a model."""


class OutputLengths:
    """The expected lengths of answers, in tokens."""

    def __init__(self) -> None:
        self._means: BoundedDict[Key, tuple[float, float]] = BoundedDict(MAX_CLASSES)
        """Mean and weight of each class."""

    def __len__(self) -> int:
        """Classes that are kept."""
        return len(self._means)

    def get_usual(self, model: str) -> float:
        """The length of an answer of which only the model is known."""
        found = self._means.get((model, WHOLE_MODEL, False))
        return PRIOR_OUTPUT_TOKENS if found is None else found[0]

    def expect(self, model: str, prompt: int, limit: int, *, is_limited: bool) -> float:
        """The length of an answer to a prompt of so many tokens, at most ``limit``.

        ``is_limited``: the request itself set the limit.
        """
        found = self._means.get(_get_key(model, prompt, is_limited))
        return min(float(limit), self.get_usual(model) if found is None else found[0])

    def note(self, model: str, prompt: int, tokens: float, *, is_limited: bool, is_cut_off: bool) -> None:
        """An answer had so many tokens, or (``is_cut_off``) would have had at least so many."""
        usual = self.get_usual(model)
        self._add(_get_key(model, prompt, is_limited), tokens, is_cut_off, usual)
        self._add((model, WHOLE_MODEL, False), tokens, is_cut_off, usual)

    def _add(self, key: Key, tokens: float, is_cut_off: bool, prior: float) -> None:
        mean, weight = self._means.get(key, (prior, PRIOR_WEIGHT))
        if is_cut_off:
            tokens = max(tokens, mean)
        weight = weight * DECAY + 1.0
        self._means[key] = (mean + (tokens - mean) / weight, weight)


def _get_key(model: str, prompt: int, is_limited: bool) -> Key:
    return model, sum(prompt >= least for least in PROMPT_CLASSES), is_limited
