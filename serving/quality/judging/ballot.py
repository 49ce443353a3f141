"""What a judge says of answers, and how it is read from what its model wrote. Pure.

A model replies with one letter of a few: in a JSON object whose schema the backend enforces, or by itself where the
backend enforces none. Any other reply is an abstention, so that no ballot is ever a guess.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

MAX_DETAIL_CHARS = 200
"""Most characters of a reply or an error that an abstention quotes."""
REPLY_KEY = "ballot"
"""The one key of a reply in JSON."""


class Better(Enum):
    """Which of two answers is better."""

    A = "A"
    B = "B"
    TIE = "tie"


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a judge says of two answers. An answer that no user could use is never better than one that is usable."""

    better: Better
    unusable_a: bool = False
    unusable_b: bool = False

    def swap(self) -> Ballot:
        """The same opinion on the same answers in the other order."""
        other = {Better.A: Better.B, Better.B: Better.A, Better.TIE: Better.TIE}
        return Ballot(other[self.better], self.unusable_b, self.unusable_a)


@dataclass(frozen=True, slots=True)
class SoloBallot:
    """What a judge says of a single answer."""

    is_unusable: bool


class Reason(Enum):
    """Why a judge abstains."""

    TOO_LONG = "the texts do not fit its context"
    TIMEOUT = "no reply in time"
    UNREACHABLE = "the backend does not answer"
    REFUSED = "the backend refuses the request"
    UNREADABLE = "the reply is no ballot"


@dataclass(frozen=True, slots=True)
class Abstention:
    """A judge says nothing; ``detail`` is for its owner."""

    reason: Reason
    detail: str = ""


class ReplyForm(Enum):
    """How a model replies: JSON by an enforced schema, or one letter."""

    JSON = "json"
    LETTER = "letter"


PAIR_CHOICES: Mapping[str, tuple[str, Ballot]] = {
    "A": ("answer A is better", Ballot(Better.A)),
    "B": ("answer B is better", Ballot(Better.B)),
    "C": ("neither is better", Ballot(Better.TIE)),
    "X": ("answer A is unusable, answer B is not", Ballot(Better.B, unusable_a=True)),
    "Y": ("answer B is unusable, answer A is not", Ballot(Better.A, unusable_b=True)),
    "Z": ("both answers are unusable", Ballot(Better.TIE, unusable_a=True, unusable_b=True)),
}
"""The choices for two answers: letter, meaning and ballot."""
SOLO_CHOICES: Mapping[str, tuple[str, SoloBallot]] = {
    "U": ("the answer is usable", SoloBallot(is_unusable=False)),
    "X": ("the answer is unusable", SoloBallot(is_unusable=True)),
}
"""The choices for a single answer."""

AnyBallot = TypeVar("AnyBallot", Ballot, SoloBallot)
Choices = Mapping[str, tuple[str, AnyBallot]]


def describe_choices(choices: Choices[Any], form: ReplyForm) -> str:
    """The instruction that ends a judging prompt: how to reply, and what each letter means."""
    heads = {
        ReplyForm.JSON: f'Reply with one JSON object, {{"{REPLY_KEY}": "LETTER"}}, and nothing else. LETTER is one of:',
        ReplyForm.LETTER: "Reply with one letter and nothing else:",
    }
    return "\n".join((heads[form], *(f"{letter}: {meaning}" for letter, (meaning, _) in choices.items())))


def make_schema(choices: Choices[Any]) -> dict[str, Any]:
    """The JSON schema of a reply, as the field ``response_format`` of a chat completion."""
    schema = {
        "type": "object",
        "properties": {REPLY_KEY: {"type": "string", "enum": list(choices)}},
        "required": [REPLY_KEY],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": REPLY_KEY, "strict": True, "schema": schema}}


def read_reply(reply: str, choices: Choices[AnyBallot], form: ReplyForm) -> AnyBallot | Abstention:
    """The ballot in the whole reply of a model. White space around it does not count; anything else does."""
    text = reply.strip()
    letter = _read_json(text) if form is ReplyForm.JSON else text
    if letter in choices:
        return choices[letter][1]
    return Abstention(Reason.UNREADABLE, reply[:MAX_DETAIL_CHARS])


def _read_json(text: str) -> str:
    """The letter in a JSON object with exactly that one key; "" if it is anything else."""
    try:
        pairs = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError):
        return ""
    match pairs:
        case [(key, str(letter))] if key == REPLY_KEY and text.startswith("{"):
            return letter
    return ""
