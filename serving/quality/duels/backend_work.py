"""What a duel asks of this node's own backends: an answer as the challenger, a ballot as a judge.

A backend works for a duel only in a slot that no request waits for, and stops as soon as one does
(:meth:`serving.scheduling.admission.Admission.lend_slot`). Then the work is begun anew later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chain.types.duels import DRAW, IDENTICAL, A, B, DeclaredJudge, DuelBallot
from p2p.runtime import Runtime
from serving.backends.backend import BackendError
from serving.openai.answers import AnswerInspector
from serving.openai.endpoints import EMBEDDINGS
from serving.openai.errors import ApiError
from serving.openai.requests import Request, find_path, read_request
from serving.quality.duels.reading import are_vectors, read_continued, read_question
from serving.quality.judging.ballot import Abstention, Ballot, Better, Reason, ReplyForm
from serving.quality.judging.judge import Judge, JudgeError, JudgeSettings, detect_form
from serving.quality.judging.prompt import AnswerPair, JudgePrompt, SingleAnswer
from serving.scheduling.admission import SlotLost
from serving.scheduling.backend_pool import BackendPool, ScheduledBackend

PASSING = frozenset({Reason.TIMEOUT, Reason.UNREACHABLE, Reason.REFUSED})
"""Reasons of an abstention that may soon pass. With any other reason the same judge would abstain again."""
END_RESERVE_BYTES = 16 << 10
"""Room for the events that end a stream which becomes too long."""
_BETTER = {Better.A: A, Better.B: B, Better.TIE: DRAW}


class WorkFailed(Exception):
    """There is no answer, or no ballot. If ``is_final``, another try would give none either."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


async def answer_request(pool: BackendPool, body: bytes, limit: int) -> bytes:
    """The answer of a backend of this node to a request, ended early if it would exceed ``limit`` bytes.

    Raises:
        WorkFailed: there is none.
    """
    try:
        request = read_request(find_path(body), body)
    except ApiError as error:
        raise WorkFailed(f"not a request: {error}", is_final=True) from None
    scheduled = pool.find(request.model)
    if scheduled is None:
        raise WorkFailed("the model is not served here at the moment")
    try:
        async with scheduled.admission.lend_slot():
            return await _complete(scheduled, request, limit)
    except SlotLost as error:
        raise WorkFailed(str(error)) from None
    except BackendError as error:
        raise WorkFailed(f"the backend failed: {error}") from error


async def _complete(scheduled: ScheduledBackend, request: Request, limit: int) -> bytes:
    """The answer of one backend, as an executor would deliver it."""
    answered = bytearray()
    async with scheduled.backend.complete(request.path, request.body, stream=request.stream) as answer:
        if answer.status != 200:
            raise BackendError(f"it answered {answer.status}")
        inspector = AnswerInspector(
            answer.is_stream,
            form=request.endpoint.form,
            choices=request.choices,
            has_tools=request.has_tools,
            cut_long=True,
        )
        async for piece in answer.body:
            passed = inspector.feed(piece)
            is_full = len(answered) + len(passed) > limit - END_RESERVE_BYTES
            if is_full and answer.is_stream and not inspector.is_over:
                answered += inspector.end()
                break
            answered += passed
        answered += inspector.finish()
    if not inspector.is_complete:
        raise BackendError(inspector.error or "the answer ended too early")
    if len(answered) > limit:
        raise BackendError(f"the answer is longer than {limit} bytes")
    return bytes(answered)


@dataclass(frozen=True, slots=True)
class DuelJudgeSettings:
    """How this node judges duels. ``model`` and ``form`` are found out if they are None."""

    prompt: JudgePrompt
    model: str | None = None
    form: ReplyForm | None = None
    timeout_s: float = 120.0
    reasoning_tokens: int = 0
    is_weak: bool = False
    """Whether it judges in both orders, and calls neither answer better if the two ballots contradict each other."""


class DuelJudge:
    """The judge of this node. ``find_identity`` has the digest of the identity that is declared for a model, if any."""

    def __init__(
        self,
        settings: DuelJudgeSettings,
        pool: BackendPool,
        runtime: Runtime,
        find_identity: Callable[[str], bytes | None] = lambda model: None,
    ) -> None:
        self._settings = settings
        self._find_identity = find_identity
        self._pool = pool
        self._runtime = runtime
        self._form = settings.form

    def declare(self) -> DeclaredJudge | None:
        """How this node judges, as it declares on the ledger; None while no backend answers."""
        model = self._settings.model or self._pool.first_model
        if model is None:
            return None
        return DeclaredJudge(model, self._settings.prompt.digest, self._settings.is_weak, self._find_identity(model))

    async def vote(
        self, declared: DeclaredJudge, request: bytes, answer_a: bytes, answer_b: bytes | None, entropy: bytes
    ) -> DuelBallot:
        """The ballot on two answers, or on one, by the judge ``declared`` when the duel was drawn. All texts are
        bodies.

        Raises:
            WorkFailed: the judge abstains.
        """
        settings = self._settings
        if declared.prompt_digest != settings.prompt.digest or declared.is_weak != settings.is_weak:
            raise WorkFailed("this node judges otherwise than it did when it was drawn", is_final=True)
        if await self._runtime.run_sync(find_path, request) == EMBEDDINGS.path:
            return await self._runtime.run_sync(_compare_vectors, request, answer_a, answer_b)
        question = await self._runtime.run_sync(read_question, request)
        first = await self._runtime.run_sync(read_continued, request, answer_a)
        second = None if answer_b is None else await self._runtime.run_sync(read_continued, request, answer_b)
        if first == second:
            return DuelBallot(IDENTICAL)
        scheduled = self._pool.find(declared.model)
        if scheduled is None:
            raise WorkFailed("the model that judges is not served here at the moment")
        try:
            async with scheduled.admission.lend_slot():
                judge = Judge(scheduled.backend, settings.prompt, await self._make_settings(scheduled, declared.model))
                if second is None:
                    return await _check(judge, SingleAnswer(question, first), entropy)
                return await _compare(judge, AnswerPair(question, first, second), entropy, settings.is_weak)
        except SlotLost as error:
            raise WorkFailed(str(error)) from None

    async def _make_settings(self, scheduled: ScheduledBackend, model: str) -> JudgeSettings:
        settings = self._settings
        if self._form is None:
            try:
                self._form = await detect_form(scheduled.backend, model, settings.reasoning_tokens)
            except JudgeError as error:
                raise WorkFailed(f"the model that judges gives no answer: {error}") from None
        return JudgeSettings(model, self._form, settings.timeout_s, settings.reasoning_tokens)


def _compare_vectors(request: bytes, answer_a: bytes, answer_b: bytes | None) -> DuelBallot:
    """A ballot on embeddings. Their quality cannot be read: answers that contain them all are equally good."""
    if answer_a == answer_b:
        return DuelBallot(IDENTICAL)
    unusable = A * (not are_vectors(request, answer_a))
    if answer_b is not None:
        unusable += B * (not are_vectors(request, answer_b))
    return DuelBallot(DRAW, unusable)


async def _check(judge: Judge, texts: SingleAnswer, entropy: bytes) -> DuelBallot:
    """A ballot on one answer."""
    found = await judge.check(texts, entropy)
    if isinstance(found, Abstention):
        raise _refuse(found)
    return DuelBallot(DRAW, A * found.is_unusable)


async def _compare(judge: Judge, texts: AnswerPair, entropy: bytes, is_weak: bool) -> DuelBallot:
    """A ballot on two answers. A weak judge sees them in both orders: where its ballots differ, neither counts."""
    found = await _ask(judge, texts, entropy)
    if is_weak:
        other = (await _ask(judge, AnswerPair(texts.question, texts.answer_b, texts.answer_a), entropy)).swap()
        found = Ballot(
            found.better if found.better is other.better else Better.TIE,
            found.unusable_a and other.unusable_a,
            found.unusable_b and other.unusable_b,
        )
    return DuelBallot(_BETTER[found.better], A * found.unusable_a + B * found.unusable_b)


async def _ask(judge: Judge, texts: AnswerPair, entropy: bytes) -> Ballot:
    found = await judge.compare(texts, entropy)
    if isinstance(found, Abstention):
        raise _refuse(found)
    return found


def _refuse(abstention: Abstention) -> WorkFailed:
    detail = f": {abstention.detail}" if abstention.detail else ""
    return WorkFailed(f"{abstention.reason.value}{detail}", is_final=abstention.reason not in PASSING)
