"""Questions, answers and injections for which the right ballot is known: the files in ``cases/``, read and checked.

All texts were written for this set. The answers are of the kind that a good model gives; the broken ones are of the
kind that a defective server sends. The injections and the null answers know the judging prompt, as everyone does, but
not the code of their duel.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import yaml


@dataclass(frozen=True, slots=True)
class QuestionCase:
    """A question with two sound answers, a broken one, and words that make the first longer without adding to it."""

    name: str
    question: str
    answer: str
    other: str
    broken: str
    padding: str

    @property
    def padded(self) -> str:
        """The first answer and its padding, together about one and a half times as long."""
        return f"{self.answer}\n\n{self.padding}"


@dataclass(frozen=True, slots=True)
class Injection:
    """A whole answer that speaks to the judge, and the family of attacks that it belongs to."""

    name: str
    family: str
    text: str


@dataclass(frozen=True, slots=True)
class Cases:
    """The whole set. ``null_answers`` are the same text whatever was asked."""

    questions: tuple[QuestionCase, ...]
    injections: tuple[Injection, ...]
    null_answers: tuple[str, ...]


def load_cases() -> Cases:
    """The set that comes with this program."""
    folder = files("serving.quality.judging").joinpath("cases")
    questions, families, null_answers = (
        yaml.safe_load(folder.joinpath(name).read_text(encoding="utf-8"))
        for name in ("questions.yaml", "injections.yaml", "null_answers.yaml")
    )
    injections = [
        Injection(f"{family} {number}", family, text)
        for family, texts in families.items()
        for number, text in enumerate(texts, 1)
    ]
    return Cases(tuple(QuestionCase(**entry) for entry in questions), tuple(injections), tuple(null_answers))
