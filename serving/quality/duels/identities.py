"""The identities of this node's models: whether its backends can honour them, and the taps on its answers.

Nodes that declare the same identity check each other's answers. So a backend must report log-probabilities that make a
transcript, and must be able to score one. Both are tried before an identity is declared.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog
import trio

from chain.types.checks import DeclaredIdentity
from serving.backends.backend import BackendError
from serving.openai.requests import Request
from serving.quality.same_model.checking import NotCheckable, NoTranscript, check_answer, get_answer, make_request
from serving.quality.same_model.engines import find_scorer
from serving.quality.same_model.identity import IdentityRefused, ModelIdentity
from serving.quality.same_model.logprob_tap import LogprobTap, ask_for_logprobs
from serving.quality.same_model.sampling import read_temperature
from serving.quality.same_model.scoring import Scorer, ScoringError
from serving.quality.same_model.transcript import encode_transcript
from serving.scheduling.admission import SlotLost
from serving.scheduling.backend_pool import BackendPool, ScheduledBackend

log = structlog.get_logger(__name__)

PROBE = "Count from one to five in words."
"""Prompt by which a backend is tried: can its answers be checked?"""
PROBE_TOKENS = 8
"""Most tokens of that answer."""
RETRY_INTERVAL_S = 10.0
"""Seconds between tries of a backend that did not answer."""


class Identities:
    """The identities that are configured, and those that may be declared."""

    def __init__(self, pool: BackendPool, identities: Iterable[ModelIdentity] = ()) -> None:
        self._pool = pool
        self._configured = {identity.model: identity for identity in identities}
        self._untried = dict(self._configured)
        self._withdrawn: set[str] = set()
        self._scorers: dict[int, Scorer] = {}
        """By the backend."""

    def get(self, model: str) -> ModelIdentity | None:
        """The identity that is configured for a model."""
        return self._configured.get(model)

    def get_declared(self) -> tuple[DeclaredIdentity, ...]:
        """The identities to declare on the ledger: those that were tried and are not withdrawn, sorted by model."""
        return tuple(
            DeclaredIdentity(model, identity.digest)
            for model, identity in sorted(self._configured.items())
            if model not in self._untried and model not in self._withdrawn
        )

    def find_digest(self, model: str) -> bytes | None:
        """The digest of the identity declared for a model; None if there is none."""
        return next((each.digest for each in self.get_declared() if each.model == model), None)

    def withdraw(self, model: str) -> None:
        """No longer declare the identity of a model: its answers do not match it."""
        self._withdrawn.add(model)

    def make_tap(self, request: Request) -> TranscriptTap | None:
        """The tap on the answer to a request that others may check; may run in a thread."""
        if request.model not in self._configured or read_temperature(request.body) is None:
            return None
        try:
            return TranscriptTap(ask_for_logprobs(request.body))
        except ValueError:
            return None

    # Trying

    async def try_living(self) -> None:
        """Try the backends that answer.

        Raises:
            IdentityRefused: one of them cannot honour its identity.
        """
        for model in list(self._untried):
            await self._try(model)

    async def run(self) -> None:
        """Try the backends that come to life later, until all are tried. An identity that is refused is not
        declared."""
        refused: set[str] = set()
        while self._untried.keys() - refused:
            await trio.sleep(RETRY_INTERVAL_S)
            for model in self._untried.keys() - refused:
                try:
                    await self._try(model)
                except IdentityRefused as error:
                    log.error("an identity is not declared", reason=str(error))
                    refused.add(model)

    async def _try(self, model: str) -> None:
        """Try all backends of a model, if any answers.

        Raises:
            IdentityRefused: one of them cannot honour the identity.
        """
        identity, found = self._configured[model], self._pool.find_all(model)
        try:
            for scheduled in found:
                async with scheduled.admission.lend_slot():
                    await self._try_backend(scheduled, identity)
        except (BackendError, SlotLost) as error:
            log.warning("an identity is not declared yet", model=model, reason=str(error))
            return
        if found:
            del self._untried[model]
            log.info("identity", model=model, digest=identity.digest.hex(), weights=identity.weights.hex())

    async def _try_backend(self, scheduled: ScheduledBackend, identity: ModelIdentity) -> None:
        request = make_request(identity.model, PROBE, max_tokens=PROBE_TOKENS, temperature=0)
        try:
            scorer = await self.find_scorer(scheduled, identity)
            answer, transcript = await get_answer(scheduled.backend, request)
            await check_answer(scorer, request, answer, transcript, b"probe")
        except (ScoringError, NoTranscript, NotCheckable) as error:
            raise IdentityRefused(f"the identity of model {identity.model!r} cannot be declared: {error}") from error

    async def find_scorer(self, scheduled: ScheduledBackend, identity: ModelIdentity) -> Scorer:
        """A scorer that asks a backend, after checking that its engine is the one that the identity names.

        Raises:
            ScoringError: the backend cannot score, or is of another engine.
            BackendError: it does not answer.
        """
        scorer = self._scorers.get(id(scheduled))
        if scorer is None:
            scorer = await find_scorer(scheduled.backend, identity.model)
            if scorer.engine != identity.engine:
                raise ScoringError(f"its engine is {scorer.engine}, not {identity.engine}")
            self._scorers[id(scheduled)] = scorer
        return scorer


class TranscriptTap:
    """The tap on one answer of a backend, as an executor uses it."""

    def __init__(self, asked: bytes) -> None:
        self.asked = asked
        self._tap: LogprobTap | None = None

    def begin(self, is_stream: bool) -> None:
        """See :meth:`serving.offload.context.AnswerTap.begin`."""
        self._tap = LogprobTap(is_stream)

    def feed(self, chunk: bytes) -> bytes:
        """See :meth:`serving.offload.context.AnswerTap.feed`."""
        return chunk if self._tap is None else self._tap.feed(chunk)

    def finish(self) -> bytes:
        """See :meth:`serving.offload.context.AnswerTap.finish`."""
        return b"" if self._tap is None else self._tap.finish()

    def make_transcript(self, passed: int) -> bytes | None:
        """See :meth:`serving.offload.context.AnswerTap.make_transcript`."""
        transcript = None if self._tap is None else self._tap.get_transcript(passed)
        if transcript is None:
            log.info("an answer has no transcript", reason="" if self._tap is None else self._tap.fault)
        return None if transcript is None else encode_transcript(transcript)
