"""The judge against a server on loopback: what it sends, and that whatever comes back is a ballot or an abstention."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from p2p.runtime import RealRuntime
from serving.backends.embedded import MODEL as EMBEDDED
from serving.backends.embedded import EmbeddedBackend
from serving.backends.openai_compatible import OpenAICompatibleBackend
from serving.openai.answers import Answer
from serving.openai.errors import ApiError, bad_request, internal_error
from serving.quality.judging.ballot import Abstention, Ballot, Better, Reason, ReplyForm, SoloBallot
from serving.quality.judging.judge import (
    JSON_REPLY_TOKENS,
    LETTER_REPLY_TOKENS,
    Judge,
    JudgeError,
    JudgeSettings,
    detect_form,
)
from serving.quality.judging.prompt import AnswerPair, JudgePrompt, SingleAnswer, draw_seed, load_default_prompt
from tests.support.patience import PATIENT_BACKEND
from tests.support.servers.judge_server import MODEL, JudgeServer, Script, serving_judge
from tests.support.servers.judging_texts import read_texts
from tests.support.waiting import PATIENCE

PROMPT = JudgePrompt.parse(load_default_prompt())
PAIR = AnswerPair("What is 2 + 2?", "Four.", "Five.")
ENTROPY = b"duel"
T = TypeVar("T")


def run(server: JudgeServer, use: Callable[[OpenAICompatibleBackend], Awaitable[T]]) -> T:
    async def main() -> T:
        async with serving_judge(server), trio.open_nursery() as nursery:
            backend = OpenAICompatibleBackend(server.url, models=(MODEL,), load_reader="none", timeouts=PATIENT_BACKEND)
            nursery.start_soon(backend.run)
            with trio.fail_after(PATIENCE):
                result = await use(backend)
            nursery.cancel_scope.cancel()
        return result

    return trio.run(main)


def compare(server: JudgeServer, pair: AnswerPair = PAIR, entropy: bytes = ENTROPY, **settings: Any) -> Any:
    chosen = JudgeSettings(**{"model": MODEL, "form": ReplyForm.JSON, **settings})
    return run(server, lambda backend: Judge(backend, PROMPT, chosen).compare(pair, entropy))


def find_four(texts: dict[str, str]) -> str:
    return "A" if texts["ANSWER A"] == "Four." else "B"


@pytest.mark.parametrize("form", ReplyForm)
def test_it_judges_what_it_was_given_in_the_given_order(form: ReplyForm) -> None:
    swapped = AnswerPair(PAIR.question, PAIR.answer_b, PAIR.answer_a)
    for pair, better in ((PAIR, Better.A), (swapped, Better.B)):
        server = JudgeServer(find_four, has_schemas=form is ReplyForm.JSON)
        assert compare(server, pair, form=form) == Ballot(better)
        (body,) = server.bodies
        assert read_texts(body["messages"]) == {
            "QUESTION": pair.question,
            "ANSWER A": pair.answer_a,
            "ANSWER B": pair.answer_b,
        }


def test_a_ballot_can_be_asked_for_again_to_the_byte() -> None:
    server = JudgeServer()
    for entropy in (ENTROPY, ENTROPY, b"another duel"):
        compare(server, entropy=entropy, reasoning_tokens=100)
    first, again, other = server.bodies
    assert first == again and first["messages"] != other["messages"] and first["seed"] != other["seed"]
    assert first["temperature"] == 0 and first["seed"] == draw_seed(ENTROPY) and not first.get("stream")
    assert first["max_tokens"] == 100 + JSON_REPLY_TOKENS and first["response_format"]["type"] == "json_schema"


def test_a_reply_of_one_letter_is_one_token_without_a_schema() -> None:
    server = JudgeServer(lambda texts: "Z")
    assert compare(server, form=ReplyForm.LETTER) == Ballot(Better.TIE, unusable_a=True, unusable_b=True)
    (body,) = server.bodies
    assert body["max_tokens"] == LETTER_REPLY_TOKENS and "response_format" not in body


def test_a_single_answer_is_usable_or_not() -> None:
    settings = JudgeSettings(MODEL, ReplyForm.JSON)
    server = JudgeServer(lambda texts: "U" if texts["ANSWER"] == "Four." else "X")
    for answer in ("Four.", "Fo fo fo fo"):
        texts = SingleAnswer("What is 2 + 2?", answer)

        async def ask(backend: OpenAICompatibleBackend, texts: SingleAnswer = texts) -> object:
            return await Judge(backend, PROMPT, settings).check(texts, ENTROPY)

        assert run(server, ask) == SoloBallot(is_unusable=answer != "Four.")
        assert read_texts(server.bodies[-1]["messages"]) == {"QUESTION": texts.question, "ANSWER": answer}


def test_texts_are_judged_whole_or_not_at_all() -> None:
    long = AnswerPair("q", "x" * 900_000 + "end", "y")
    server = JudgeServer(lambda texts: "A" if texts["ANSWER A"].endswith("xend") else "B")
    assert compare(server, long) == Ballot(Better.A)
    longer = AnswerPair("q", "x" * 2_000_000, "y")
    found = compare(server, longer)
    assert found.reason is Reason.TOO_LONG and "maximum context length" in found.detail


CHOICE: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "B"}}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I prefer answer A.", Reason.UNREADABLE),
        ("", Reason.UNREADABLE),
        ('{"ballot": "A"', Reason.UNREADABLE),
        (bad_request("The prompt is too long for this model."), Reason.TOO_LONG),
        (bad_request("Unknown field 'seed'."), Reason.REFUSED),
        (ApiError(429, "slow down", "rate_limit_error"), Reason.REFUSED),
        (internal_error("broken"), Reason.REFUSED),
        (b"", Reason.UNREACHABLE),
        (b"no JSON at all", Reason.UNREADABLE),
        (b"[]", Reason.UNREADABLE),
        (b"null", Reason.UNREADABLE),
        (b"{}", Reason.UNREADABLE),
        (b'{"choices": []}', Reason.UNREADABLE),
        (b'{"choices": [null]}', Reason.UNREADABLE),
        (b'{"choices": [{"message": {"content": null}}]}', Reason.UNREADABLE),
        (b'{"choices": [{"message": {"content": ["A"]}}]}', Reason.UNREADABLE),
        (b'{"choices": 7}', Reason.UNREADABLE),
        (b'"' + b"x" * (5 << 20) + b'"', Reason.UNREACHABLE),
        (json.dumps({"choices": [CHOICE]}).encode(), Reason.UNREADABLE),
    ],
)
def test_whatever_else_a_backend_answers_is_an_abstention(reply: Any, reason: Reason) -> None:
    found = compare(JudgeServer(reply=reply))
    assert isinstance(found, Abstention) and found.reason is reason
    assert len(found.detail) <= 200


def test_a_backend_that_is_gone_is_an_abstention() -> None:
    async def ask() -> object:
        backend = OpenAICompatibleBackend("http://127.0.0.1:1", models=(MODEL,))
        return await Judge(backend, PROMPT, JudgeSettings(MODEL, ReplyForm.JSON)).compare(PAIR, ENTROPY)

    found = trio.run(ask)
    assert isinstance(found, Abstention) and found.reason is Reason.UNREACHABLE


class SilentBackend:
    """Takes a request and never answers."""

    models = (MODEL,)

    @asynccontextmanager
    async def complete(self, path: str, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
        await trio.sleep_forever()
        yield Answer(200, "application/json", None)  # type: ignore[arg-type]


def test_it_waits_as_long_as_its_own_timeout() -> None:
    async def ask() -> tuple[object, float]:
        settings = JudgeSettings(MODEL, ReplyForm.JSON, timeout_s=300)
        found = await Judge(SilentBackend(), PROMPT, settings).compare(PAIR, ENTROPY)  # type: ignore[arg-type]
        return found, trio.current_time()

    clock = trio.testing.MockClock(autojump_threshold=0)
    found, waited = trio.run(ask, clock=clock)
    assert found == Abstention(Reason.TIMEOUT, "300 s") and waited == 300


@pytest.mark.parametrize(
    ("server", "form"),
    [
        (JudgeServer(), ReplyForm.JSON),
        (JudgeServer(has_schemas=False), ReplyForm.LETTER),
        (JudgeServer(refuses_schemas=True), ReplyForm.LETTER),
    ],
    ids=["enforces", "ignores", "refuses"],
)
def test_the_form_of_reply_is_found_out(server: JudgeServer, form: ReplyForm) -> None:
    assert run(server, lambda backend: detect_form(backend, MODEL)) is form


def test_a_backend_without_the_model_cannot_judge() -> None:
    async def ask(backend: OpenAICompatibleBackend) -> str:
        with pytest.raises(JudgeError) as caught:
            await detect_form(backend, "another-model")
        return str(caught.value)

    assert "404" in run(JudgeServer(), ask)


@pytest.mark.parametrize("script", [lambda texts: "C", lambda texts: "What a long text!"], ids=["ballot", "prose"])
@pytest.mark.parametrize("cuts", [False, True])
def test_a_backend_that_shortens_prompts_is_found_out(cuts: bool, script: Script) -> None:
    judge = JudgeSettings(MODEL, ReplyForm.LETTER)
    server = JudgeServer(script, has_schemas=False, cuts_long=cuts)
    assert run(server, lambda backend: Judge(backend, PROMPT, judge).refuses_long_texts()) is not cuts


@pytest.mark.long
def test_the_embedded_model_gives_ballots_in_both_forms() -> None:
    async def main() -> None:
        backend = EmbeddedBackend(RealRuntime(), parallel=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.run)
            await backend.wait_alive()
            assert await detect_form(backend, EMBEDDED) is ReplyForm.JSON
            judge = Judge(backend, PROMPT, JudgeSettings(EMBEDDED, ReplyForm.JSON, timeout_s=600))
            assert isinstance(await judge.compare(PAIR, ENTROPY), Ballot)
            assert isinstance(await judge.check(SingleAnswer("What is 2 + 2?", "Four."), ENTROPY), SoloBallot)
            assert await judge.refuses_long_texts()
            too_long = await judge.compare(AnswerPair("q", "word " * 3000, "y"), ENTROPY)
            assert isinstance(too_long, Abstention) and too_long.reason is Reason.TOO_LONG
            letters = Judge(backend, PROMPT, JudgeSettings(EMBEDDED, ReplyForm.LETTER, timeout_s=600))
            found = await letters.compare(PAIR, ENTROPY)
            assert isinstance(found, Ballot) or found.reason is Reason.UNREADABLE
            nursery.cancel_scope.cancel()

    trio.run(main)
