"""The judging prompt: a file that an owner can replace, and how the texts to judge are put into it. Pure.

The file has the sections ``--- pair ---`` and ``--- solo ---``, and if the model takes a system message
``--- system ---``. These stand for what is put in:

=================  =========================================================================
``{{question}}``   what the user asked
``{{answer_a}}``   the first answer of a pair
``{{answer_b}}``   the second answer of a pair
``{{answer}}``     the one answer of ``solo``
``{{reply}}``      how to reply; it comes after all texts, as the last instruction a model reads
``{{code}}``       the code of this duel, which no text contains
``{{mark}}``       what each line of a text begins with
=================  =========================================================================

A text cannot end early or pose as another: BEGIN and END lines carry a code drawn for this duel after the texts were
fixed, and each line of a text begins with a mark (Hines and others, 2024, "Defending against indirect prompt injection
attacks with spotlighting"). Tokens of chat templates in a text are broken by a space, because many servers read them in
the content of a message as if they were their own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from typing import cast

from chain.crypto import hash_bytes
from serving.quality.judging.ballot import PAIR_CHOICES, SOLO_CHOICES, ReplyForm, describe_choices

MAX_PROMPT_BYTES = 64 << 10
"""Largest judging prompt."""
CODE_ALPHABET = "bcdfghjklmnpqrstvwxz"
"""Letters of codes: they make no words, and tokenizers join them, as they do not join digits."""
CODE_LETTERS = 12
"""Letters of the code of a duel: 52 bits."""
MARK_LETTERS = 3
"""Letters of the code that the mark in front of each line repeats."""
SEED_BITS = 31
"""Bits of the seed of a duel: every serving engine takes that many."""
SECTIONS = {
    "system": (frozenset[str](), ("code", "mark")),
    "pair": (frozenset({"question", "answer_a", "answer_b", "reply"}), ("code", "mark")),
    "solo": (frozenset({"question", "answer", "reply"}), ("code", "mark")),
}
"""The sections of a prompt: what each must contain, each exactly once, and what it may contain."""
OPTIONAL_SECTION = "system"
"""The section that may be missing."""

Message = dict[str, str]
"""One message of a chat completion."""

_HEADING = re.compile(r"---[ \t]*(\S*)[ \t]*---[ \t]*")
_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}")
_LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_CHAT_TOKEN = re.compile(
    r"<(?=[|｜]|/?(?:s|bos|eos|sop|unk|pad|mask|think|tool_call|tool_response|start_of_turn|end_of_turn|begin_of_text|"
    r"end_of_text|end_of_utterance|SYS|INST|SPECIAL_\d+)>|<SYS>>|</SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|gMASK)\])",
    re.IGNORECASE,
)
"""The first character of a token of a chat template (ChatML, Llama, Mistral, Gemma, DeepSeek, GLM, Qwen)."""


class PromptError(Exception):
    """A judging prompt cannot be used. The message says what is wrong, and in which line."""


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A question and two answers to it, in the order in which the judge sees them."""

    question: str
    answer_a: str
    answer_b: str


@dataclass(frozen=True, slots=True)
class SingleAnswer:
    """A question and one answer to it."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A judging prompt that has passed all checks; ``digest`` is the hash of the exact bytes of its file."""

    digest: bytes
    sections: Mapping[str, str]

    @classmethod
    def parse(cls, raw: bytes) -> JudgePrompt:
        """Read the bytes of a prompt file.

        Raises:
            PromptError: something is missing, unknown or in the wrong place.
        """
        if len(raw) > MAX_PROMPT_BYTES:
            raise PromptError(f"is larger than {MAX_PROMPT_BYTES} bytes")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise PromptError(f"line {line}: is not UTF-8 text") from None
        return cls(hash_bytes("judge prompt", raw), _split(text))

    def make_pair(self, texts: AnswerPair, code: str, form: ReplyForm) -> list[Message]:
        """The messages that ask for a ballot on two answers."""
        values = {
            "question": wrap("QUESTION", texts.question, code),
            "answer_a": wrap("ANSWER A", texts.answer_a, code),
            "answer_b": wrap("ANSWER B", texts.answer_b, code),
            "reply": describe_choices(PAIR_CHOICES, form),
        }
        return self._make("pair", values, code)

    def make_solo(self, texts: SingleAnswer, code: str, form: ReplyForm) -> list[Message]:
        """The messages that ask whether one answer is usable."""
        values = {
            "question": wrap("QUESTION", texts.question, code),
            "answer": wrap("ANSWER", texts.answer, code),
            "reply": describe_choices(SOLO_CHOICES, form),
        }
        return self._make("solo", values, code)

    def _make(self, section: str, values: dict[str, str], code: str) -> list[Message]:
        values |= {"code": code, "mark": make_mark(code)}

        def fill(text: str) -> str:  # in one pass, so that a placeholder inside an answer stays text
            return _PLACEHOLDER.sub(lambda found: values[found[1].strip()], text)

        system = self.sections.get(OPTIONAL_SECTION)
        messages = [] if system is None else [{"role": "system", "content": fill(system)}]
        return [*messages, {"role": "user", "content": fill(self.sections[section])}]


def load_default_prompt() -> bytes:
    """The bytes of the prompt that comes with this program."""
    return files("serving.quality.judging").joinpath("default_prompt.txt").read_bytes()


def draw_code(entropy: bytes, texts: Iterable[str]) -> str:
    """The code of a duel: letters that follow from ``entropy`` and that no text contains.

    Nor does a text contain the code in capitals, in other forms of its characters or with signs between them.
    """
    folded = [_fold(text) for text in texts]
    codes = (_spell(hash_bytes("judge code", entropy, number.to_bytes(8, "big"))) for number in count())
    return next(code for code in codes if not any(code in text for text in folded))


def draw_seed(entropy: bytes) -> int:
    """The seed of a duel, which follows from ``entropy`` too."""
    return int.from_bytes(hash_bytes("judge seed", entropy)[:8], "big") >> (64 - SEED_BITS)


def make_mark(code: str) -> str:
    """What each line of a text begins with in the duel with this code."""
    return f"{code[:MARK_LETTERS]}|"


def wrap(title: str, text: str, code: str) -> str:
    """A text between its BEGIN and END lines, each of its lines marked."""
    mark = make_mark(code)
    marked = _LINE_BREAK.sub(lambda found: found[0] + mark, break_chat_tokens(text))
    return f"BEGIN {title} {code}\n{mark}{marked}\nEND {title} {code}"


def break_chat_tokens(text: str) -> str:
    """A text as a judge sees it: tokens of chat templates are broken by a space, and what UTF-8 cannot say is replaced.

    Everything else stays, whole and in its order.
    """
    sound = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return _CHAT_TOKEN.sub(lambda found: found[0] + " ", sound)


def _spell(random: bytes) -> str:
    number = int.from_bytes(random, "big")
    return "".join(
        CODE_ALPHABET[number // len(CODE_ALPHABET) ** place % len(CODE_ALPHABET)] for place in range(CODE_LETTERS)
    )


def _fold(text: str) -> str:
    return "".join(character for character in unicodedata.normalize("NFKC", text).lower() if character.isalnum())


def _split(text: str) -> dict[str, str]:
    """The sections of a prompt, each without the line breaks around it."""
    sections: dict[str, list[str]] = {}
    starts: dict[str, int] = {}
    name = ""
    for number, line in enumerate(text.splitlines(), 1):
        heading = _HEADING.fullmatch(line)
        if heading is None:
            if not name:
                if line.strip():
                    raise PromptError(f"line {number}: stands before the first section, such as '--- pair ---'")
                continue
            sections[name].append(line)
            continue
        name = heading[1]
        if name not in SECTIONS:
            raise PromptError(f"line {number}: no section is called {name!r}: there are {', '.join(SECTIONS)}")
        if name in sections:
            raise PromptError(f"line {number}: the section '{name}' appears twice")
        sections[name], starts[name] = [], number
    for name in SECTIONS:
        if name not in sections and name != OPTIONAL_SECTION:
            raise PromptError(f"has no section '--- {name} ---'")
    for name, lines in sections.items():
        _check(name, lines, starts[name])
    return {name: "\n".join(lines).strip("\n") for name, lines in sections.items()}


def _check(name: str, lines: list[str], start: int) -> None:
    """Raises PromptError if a section lacks a placeholder, or has one that is unknown, doubled or misplaced."""
    needed, allowed = SECTIONS[name]
    found: list[str] = []
    for number, line in enumerate(lines, start + 1):
        for placeholder in cast(list[str], _PLACEHOLDER.findall(line)):
            word = placeholder.strip()
            if word not in needed and word not in allowed:
                known = ", ".join(f"{{{{{each}}}}}" for each in sorted((*needed, *allowed)))
                raise PromptError(f"line {number}: {{{{{placeholder}}}}} is unknown in '{name}': there are {known}")
            if word in needed and word in found:
                raise PromptError(f"line {number}: {{{{{word}}}}} appears twice in '{name}'")
            found.append(word)
    if missing := sorted(needed - set(found)):
        raise PromptError(f"line {start}: the section '{name}' lacks {{{{{missing[0]}}}}}")
    if needed and [word for word in found if word in needed][-1] != "reply":
        raise PromptError(f"line {start}: {{{{reply}}}} must come after all texts in '{name}'")
