"""The judge: asks the owner's own backend for a ballot, through the ``openai`` SDK.

At temperature 0, and with code and seed from the same random bytes, another node with the same weights, prompt and
form of reply can ask for a ballot again and compare. Texts are judged whole: a backend that finds them too long refuses
them, and the judge abstains.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from serving.backends.backend import Backend
from serving.backends.sdk import open_client
from serving.quality.judging.ballot import (
    MAX_DETAIL_CHARS,
    PAIR_CHOICES,
    SOLO_CHOICES,
    Abstention,
    AnyBallot,
    Ballot,
    Choices,
    Reason,
    ReplyForm,
    SoloBallot,
    make_schema,
    read_reply,
)
from serving.quality.judging.prompt import AnswerPair, JudgePrompt, Message, SingleAnswer, draw_code, draw_seed

if TYPE_CHECKING:
    import openai

JSON_REPLY_TOKENS = 32
"""Most tokens of a reply in JSON; the object takes about ten, with spaces more."""
LETTER_REPLY_TOKENS = 1
"""Tokens of a reply of one letter."""
PROBE_TIMEOUT_S = 120.0
"""How long a backend may take to show whether it enforces a schema."""
PROBE_QUESTION = "Write one sentence about the sea."
"""A question that no model answers in JSON of its own accord."""
PROBE_CHOICES = {"R": ("ready", SoloBallot(is_unusable=False))}
"""The only reply to it that a schema leaves."""
LONG_WORD = "a b c d "
"""What a text beyond any context consists of."""
LONG_TEXT_BYTES = 3 << 20
"""Its length: one and a half million tokens."""

_TOO_LONG = re.compile(r"context|too long|too many tokens|maximum.{0,20}(?:length|tokens)", re.IGNORECASE)
"""What servers say of a prompt that is too long."""
_REFUSALS_OF_LENGTH = (400, 413, 422)
"""Status codes that come with it."""


class JudgeError(Exception):
    """The backend cannot be used as a judge. The message says why."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Which model judges, and how. ``reasoning_tokens`` are for a model that reasons before it replies."""

    model: str
    form: ReplyForm
    timeout_s: float = 120.0
    reasoning_tokens: int = 0


class Judge:
    """Gives ballots. Its methods never raise for what a backend does: a ballot that is not there is an abstention."""

    def __init__(self, backend: Backend, prompt: JudgePrompt, settings: JudgeSettings) -> None:
        self._client = open_client(backend)
        self.prompt = prompt
        self.settings = settings

    async def compare(self, texts: AnswerPair, entropy: bytes) -> Ballot | Abstention:
        """A ballot on two answers. From ``entropy``, random bytes of this duel, follow its code and its seed."""
        code = draw_code(entropy, (texts.question, texts.answer_a, texts.answer_b))
        messages = self.prompt.make_pair(texts, code, self.settings.form)
        return await self._ask(messages, PAIR_CHOICES, draw_seed(entropy))

    async def check(self, texts: SingleAnswer, entropy: bytes) -> SoloBallot | Abstention:
        """A ballot on one answer, where there is no other to compare it with."""
        code = draw_code(entropy, (texts.question, texts.answer))
        messages = self.prompt.make_solo(texts, code, self.settings.form)
        return await self._ask(messages, SOLO_CHOICES, draw_seed(entropy))

    async def refuses_long_texts(self) -> bool:
        """Whether the backend replies nothing to a prompt beyond any context: one that replies has read a part."""
        too_long = AnswerPair("", LONG_WORD * (LONG_TEXT_BYTES // len(LONG_WORD)), "")
        found = await self.compare(too_long, b"")
        return isinstance(found, Abstention) and found.reason is not Reason.UNREADABLE

    async def _ask(self, messages: list[Message], choices: Choices[AnyBallot], seed: int) -> AnyBallot | Abstention:
        settings = self.settings
        with trio.move_on_after(settings.timeout_s):
            reply = await _complete(self._client, settings, messages, choices, seed)
            return reply if isinstance(reply, Abstention) else read_reply(reply, choices, settings.form)
        return Abstention(Reason.TIMEOUT, f"{settings.timeout_s:g} s")


async def detect_form(backend: Backend, model: str, reasoning_tokens: int = 0) -> ReplyForm:
    """Find out whether a backend enforces a schema: it then replies in JSON to a question that asks for a sentence.

    Raises:
        JudgeError: the backend answers nothing, or does not serve the model.
    """
    client = open_client(backend)
    messages = [{"role": "user", "content": PROBE_QUESTION}]
    failed = Abstention(Reason.TIMEOUT, f"{PROBE_TIMEOUT_S:g} s")
    with trio.move_on_after(PROBE_TIMEOUT_S):
        for form in ReplyForm:
            settings = JudgeSettings(model, form, PROBE_TIMEOUT_S, reasoning_tokens)
            reply = await _complete(client, settings, messages, PROBE_CHOICES, 0)
            if isinstance(reply, str) and (
                form is ReplyForm.LETTER or not isinstance(read_reply(reply, PROBE_CHOICES, form), Abstention)
            ):
                return form
            if isinstance(reply, Abstention):
                failed = reply
    raise JudgeError(f"{failed.reason.value}: {failed.detail}")


async def _complete(
    client: openai.AsyncOpenAI, settings: JudgeSettings, messages: list[Message], choices: Choices[Any], seed: int
) -> str | Abstention:
    """What the model wrote, or why there is nothing."""
    import openai  # a third of a second, which a node that judges has spent on its client

    is_json = settings.form is ReplyForm.JSON
    reply_tokens = JSON_REPLY_TOKENS if is_json else LETTER_REPLY_TOKENS
    fields: dict[str, Any] = {
        "model": settings.model,
        "messages": messages,
        "temperature": 0,
        "seed": seed,
        "max_tokens": settings.reasoning_tokens + reply_tokens,
    }
    if is_json:
        fields["response_format"] = make_schema(choices)
    try:
        completion = await client.chat.completions.create(**fields)
    except openai.APIStatusError as error:
        is_length = error.status_code in _REFUSALS_OF_LENGTH and _TOO_LONG.search(error.message)
        detail = f"status {error.status_code}: {error.message}"[:MAX_DETAIL_CHARS]
        return Abstention(Reason.TOO_LONG if is_length else Reason.REFUSED, detail)
    except openai.APIConnectionError as error:
        return Abstention(Reason.UNREACHABLE, str(error.__cause__ or error)[:MAX_DETAIL_CHARS])
    except (openai.OpenAIError, json.JSONDecodeError, UnicodeDecodeError) as error:
        return Abstention(Reason.UNREADABLE, f"{type(error).__name__}: {error}"[:MAX_DETAIL_CHARS])
    try:
        text = completion.choices[0].message.content
    except (AttributeError, IndexError, TypeError):  # the SDK does not check what a server sends
        text = None
    return text if isinstance(text, str) else Abstention(Reason.UNREADABLE, "the answer has no text")
