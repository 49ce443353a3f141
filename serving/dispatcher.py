"""The dispatcher: serves a user's request on this node, offloads it, or refuses it.

The owner's policy chooses between serving and offloading. A request that cannot be offloaded is served here if a
backend has its model; one that gets no slot here in time, or that all backends here fail, is offloaded. Otherwise the
user gets the error of the backend, or an error of this node. When a stream is cut later, another backend or executor
that can continues it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio
from msgspec.structs import replace

from p2p.runtime import Runtime
from serving.accounting.hold_numbers import TooManyPayments
from serving.accounting.payer import CannotAfford
from serving.backends.backend import BackendError
from serving.failover.continued_answer import ContinuedAnswer, Part
from serving.failover.local import (
    BackendsFailed,
    Tries,
    ask_backends,
    describe_failure,
    find_continuing,
    inspect_answer,
    inspect_whole,
)
from serving.failover.patience import compute_patience
from serving.keys.charged_request import ChargedRequest, Work, reserve
from serving.keys.keyring import Keyring
from serving.offload.originator.attempt import OffloadAttempt
from serving.offload.originator.attempt_terms import AttemptTerms
from serving.offload.originator.choice import Reason, is_kept
from serving.offload.originator.originator import Originator
from serving.offload.originator.refusal import NoExecutor
from serving.openai.answers import Answer, AnswerInspector, WholeBody
from serving.openai.errors import ApiError, insufficient_quota, unavailable
from serving.openai.requests import Request
from serving.prediction.predicted_time import BYTES_PER_TOKEN, predict_wait
from serving.providers import Providers, is_working
from serving.request_records import Counters, Outcome, RequestRecord, get_outcome, get_refusal
from serving.scheduling.admission import Demand, NotAdmitted, Origin
from serving.scheduling.availability import AvailabilityGate
from serving.scheduling.backend_pool import BackendPool, ScheduledBackend
from serving.scheduling.own_prediction import OwnPrediction, predict_own
from serving.scheduling.policy import Decision, Policy

log = structlog.get_logger(__name__)

ENDING_RETRY_AFTER_S = 5.0
"""When a user may come again to a node that ends: by then another may have its place."""
MAX_LISTED_REQUESTS = 1024
"""Past requests that the admin listener lists."""


@dataclass(slots=True)
class Dispatcher:
    """Serves the requests of this node's users."""

    backend_pool: BackendPool
    policy: Policy
    originator: Originator
    runtime: Runtime
    availability: AvailabilityGate
    keys: Keyring | None = None
    counters: Counters = field(default_factory=Counters)
    records: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=MAX_LISTED_REQUESTS))
    providers: Providers = field(init=False)

    def __post_init__(self) -> None:
        self.providers = Providers(self.backend_pool, self.originator)

    def get_token_caps(self) -> tuple[int, Mapping[str, int]]:
        """Most completion tokens that an answer may have, and of those models that have a number of their own."""
        parameters = self.policy.parameters
        return parameters.max_tokens, {model: parameters.get_max_tokens(model) for model in parameters.models}

    @property
    def under_way(self) -> int:
        """Requests whose answers have not ended."""
        return sum(record.finished is None for record in self.records)

    @asynccontextmanager
    async def complete(self, request: Request) -> AsyncIterator[tuple[Answer, RequestRecord]]:
        """Answer a request. Leaving the context early cancels the work wherever it is done.

        The body of the answer is what the user gets: without the usage that the user did not ask for, and an error if
        it breaks off or ends too early.

        Raises:
            ApiError: it cannot be answered.
        """
        if self.availability.ending is not None:
            raise unavailable("This node is ending.", ENDING_RETRY_AFTER_S)
        number = self.runtime.random.getrandbits(64)
        name, now = f"req-{number:016x}", trio.current_time()
        record = RequestRecord(name, request.model, now, is_stream=request.stream, key=request.key)
        self.records.append(record)
        answer: Answer | None = None
        inspector: AnswerInspector | None = None
        whole: ContinuedAnswer | None = None
        failure: BaseException | None = None
        charged: ChargedRequest | None = None
        try:
            self.providers.check_price(request)
            charged = await reserve(self.keys, request, self.originator.compute_price)
            with self.availability.own_use():
                async with AsyncExitStack() as stack:
                    answer, inspector = await self._begin(stack, request, record)
                    if not inspector.is_stream:  # it is here as a whole
                        record.first_byte = trio.current_time()
                        yield answer, record
                        return
                    ask = partial(self._ask_for_rest, request, record, [])
                    whole = ContinuedAnswer(request, (answer, inspector), stack, ask, partial(self._blame, record))
                    async with aclosing(_watch(whole, record)) as body:
                        yield answer.with_body(body), record
        except BaseException as error:
            failure = error
            raise
        finally:
            record.finished = trio.current_time()
            if whole is not None:
                inspector = whole.inspector
            if answer is None or inspector is None:
                record.outcome = get_refusal(failure)
            else:
                record.outcome = get_outcome(answer.status, inspector, failure)
                record.prompt_tokens = inspector.prompt_tokens
                record.completion_tokens = inspector.completion_tokens
                record.is_estimated = inspector.is_estimated
                self._note_measured(request, record, inspector)
            self.counters.note_ended(record)
            is_owed = answer is not None and answer.status == 200  # an error costs nothing, here as among nodes
            self._settle(charged, record, answer, inspector if is_owed else None)
            del failure

    def _settle(
        self, charged: ChargedRequest | None, record: RequestRecord, answer: Answer | None, owed: AnswerInspector | None
    ) -> None:
        """Settle what a request costs its API key: for the answer that is ``owed``, or for work if its user left.

        A node that ends leaves, not its user.
        """
        if charged is None:
            return
        has_left = answer is None and record.outcome is Outcome.CANCELLED and self.availability.ending is None
        if owed is not None:
            charged.settle_answer(owed.completion_bytes, owed.completion_tokens)
        elif has_left and record.work is not None:
            charged.settle_left(record.work, trio.current_time())
        else:
            charged.settle_nothing()

    def _note_measured(self, request: Request, record: RequestRecord, inspector: AnswerInspector) -> None:
        """Compare what an answer of this node's backend took with what was predicted, and learn from both.

        The originator does so of the answers of others.
        """
        if record.outcome is not Outcome.COMPLETED or record.executor is not None or record.prediction is None:
            return
        assert record.first_byte is not None and record.finished is not None
        predictor, tokens = self.originator.predictor, inspector.completion_bytes / BYTES_PER_TOKEN / request.choices
        first_token_s = record.first_byte - record.predicted_at if inspector.is_stream else None
        total_s = record.finished - record.predicted_at - record.unread_s
        predictor.note(record.prediction, record.finished, tokens, first_token_s, total_s)
        predictor.note_answered(predictor.me, request)

    async def _begin(
        self, stack: AsyncExitStack, request: Request, record: RequestRecord
    ) -> tuple[Answer, AnswerInspector]:
        backends = self.providers.find_backends(request.model, request.rules)
        can_offload = self.providers.can_offload(request)
        if not backends and not can_offload:
            raise self.providers.refuse(request)
        refusal: ApiError | None = None
        doubted: AttemptTerms | None = None
        here = self._predict_here(backends[0], request) if backends else None
        works = is_working(backends)
        if can_offload and (here is None or not works or self._wants_offload(here, request, record)):
            try:
                part = await self._offload(stack, request, record, backends[0] if backends else None)
                self.counters.offloaded += 1
                return part
            except CannotAfford as error:
                refusal = insufficient_quota(f"This node's account cannot pay: {error}.")
            except TooManyPayments as error:
                refusal = unavailable(f"This node cannot offload at the moment: {error}.")
            except NoExecutor as error:
                refusal = unavailable(f"No executor took the request: {error}.", error.retry_after_s)
                doubted = error.doubted
            can_offload = False
        if here is None:
            assert refusal is not None
            try:
                raise refusal
            finally:
                del refusal  # it holds this frame, which must not hold it
        if refusal is not None:
            log.info("served here after all", request=record.id, reason=str(refusal))
            record.reason = Reason.NEXT.value
            here = self._predict_here(here.backend, request)  # time has passed
        try:
            answer, inspector = await self._serve(stack, backends, request, record, here, is_last=not can_offload)
        except (NotAdmitted, BackendsFailed) as error:
            if can_offload:
                log.info("offloaded after all", request=record.id, reason=str(error))
                with suppress(CannotAfford, TooManyPayments, NoExecutor):
                    part = await self._offload(stack, request, record, None)
                    self.counters.offloaded += 1
                    return part
            return describe_failure(error)
        self.counters.local += 1
        if doubted is not None:
            self.originator.note_own_answer(doubted, answer.status)
        return answer, inspector

    async def _ask_for_rest(
        self,
        whole: Request,
        record: RequestRecord,
        cut: list[ScheduledBackend | bytes | None],
        stack: AsyncExitStack,
        request: Request,
        written: int,
    ) -> Part | None:
        """Ask for the rest of the answer to ``whole``, of which ``written`` completion bytes have come, by ``request``.

        A backend of this node is asked, or else another node, but none that was ``cut`` before. None: nobody gives it.
        """
        is_here = record.executor is None
        cut.append(record.backend if is_here else record.executor)
        ignored = request.rules.ignore.union(each for each in cut if isinstance(each, bytes))
        request = replace(request, rules=replace(request.rules, ignore=ignored))
        model, rules = request.model, request.rules
        spent = 0 if is_here else self.originator.compute_price(whole, written)
        most = spent + self.originator.compute_price(request, request.max_completion_bytes)
        can_offload = self.providers.can_offload(request) and (rules.max_price is None or most <= rules.max_price)
        backends = find_continuing(self.providers.find_backends(model, rules), request, cut)
        part: Part | None = None
        if backends:
            with suppress(NotAdmitted, BackendsFailed):
                here = self._predict_here(backends[0], request)
                part = await self._serve(stack, backends, request, record, here, is_last=not can_offload)
                record.executor = None
        if part is None and can_offload:
            with suppress(CannotAfford, TooManyPayments, NoExecutor):
                part = await self._offload(stack, request, record, None)
        if part is not None:
            record.reason, record.prediction = Reason.CONTINUED.value, None
            self.counters.continued += 1
        return part

    def _blame(self, record: RequestRecord) -> None:
        """Another node has begun an answer again, of which it was asked for the rest, or repeated what there was."""
        if record.executor is not None:
            self.originator.scores.note_failed(record.executor, record.model, trio.current_time())

    def _wants_offload(self, here: OwnPrediction, request: Request, record: RequestRecord) -> bool:
        """Whether the policy offloads a request, given what is expected here and there.

        That is decided when it arrives: one that waits in the queue here stays here. While blocks are overdue, what is
        expected to be answered here before another node can be paid stays here too, whatever the policy says.
        """
        expected, here_s = here.expected, here.score
        found = self.originator.preview(request, expected)
        stays: Decision | None = None
        if expected.kept_by == self.originator.predictor.me and (found is None or is_kept(here_s, found[0].score)):
            stays = Decision.SERVE
        elif found is not None and found[1] is Reason.CONVERSATION and is_kept(found[0].score, here_s):
            stays = Decision.OFFLOAD
        unpaid_s = self.originator.predict_payment_wait()
        there_s = None if found is None else found[0].score + unpaid_s
        load = replace(
            here.backend.get_load_snapshot(request.model),
            wait_s=predict_wait(here.prediction.speed, expected.usual_output),
            here_s=here_s,
            there_s=there_s,
            price=self.originator.compute_expected_price(request, expected),
            conversation=stays,
        )
        record.load = load
        if unpaid_s and there_s is not None and here_s < math.inf and (self.originator.is_stalled or here_s <= there_s):
            record.reason = Reason.UNPAID.value
            return False
        record.reason = (Reason.CONVERSATION if stays is Decision.SERVE else Reason.POLICY).value
        return self.policy.decide_request(load, self.runtime.random) is Decision.OFFLOAD

    def _predict_here(self, backend: ScheduledBackend, request: Request) -> OwnPrediction:
        """What is expected of this node for a request that came now."""
        return predict_own(self.originator.predictor, backend, request, trio.current_time())

    async def _offload(
        self, stack: AsyncExitStack, request: Request, record: RequestRecord, backend: ScheduledBackend | None
    ) -> tuple[Answer, AnswerInspector]:
        """Offload a request, that ``backend`` could take as well.

        Raises:
            CannotAfford, TooManyPayments, NoExecutor: see :meth:`Originator.complete`.
        """

        def predict_here() -> float:
            return math.inf if backend is None else self._predict_here(backend, request).score

        def note_left(attempt: OffloadAttempt) -> None:
            since = attempt.working_since
            if since is not None:
                record.note_left(Work(since, attempt.terms.prediction))

        record.work = None
        offload = self.originator.complete(
            request, has_backend=backend is not None, predict_here=predict_here, note_left=note_left
        )
        attempt = await stack.enter_async_context(offload)
        terms = attempt.terms
        record.executor, record.attempt, record.hold_id = terms.executor, terms.number, attempt.hold_id
        record.reason, record.prediction, record.predicted_at = terms.reason.value, terms.prediction, attempt.begun_at
        record.number_formats = terms.prediction.speed.number_formats
        return attempt.answer, attempt.inspector

    async def _serve(
        self,
        stack: AsyncExitStack,
        backends: Sequence[ScheduledBackend],
        request: Request,
        record: RequestRecord,
        here: OwnPrediction,
        *,
        is_last: bool,
    ) -> tuple[Answer, AnswerInspector]:
        """Serve a request here, by the first of ``backends`` that delivers. ``is_last``: no other node can be asked.

        ``here`` is what is expected of the first of them.

        Raises:
            NotAdmitted: it gets no slot, or not in time.
            BackendsFailed: no backend delivers.
        """
        record.prediction = here.prediction
        record.predicted_at = slot_at = here.predicted_at

        def note_slot() -> None:
            nonlocal slot_at
            slot_at = trio.current_time()
            record.work = Work(slot_at, here.prediction)

        def note_failure() -> None:
            record.work = None

        demand = self._make_demand(request, record, here.predict_service())
        largest, shows_queue = here.expected.largest.output, backends[0].shows_queue
        patience_s = compute_patience(request, here.prediction, largest, shows_queue=shows_queue)
        withhold = not request.wants_usage
        tries = Tries(request, request.body, demand, patience_s, is_last=is_last, withhold_usage=withhold)
        begun = await ask_backends(stack, backends, tries, note_slot, note_failure)
        backend, answer = begun.backend, begun.answer
        record.number_formats = backend.get_number_formats(request.model)
        record.backend = backend
        if backend is not backends[0]:
            record.prediction, record.reason = None, Reason.NEXT.value
        timer = backend.meter.start_timer(
            request.model, len(request.body), slot_at, is_stream=begun.is_streamed, prefixes=request.prefixes
        )
        length = self.originator.predictor.watch_length(request)
        if not begun.inspector.is_stream:
            return answer.with_body(WholeBody(inspect_whole(begun, timer, length))), begun.inspector
        body = await stack.enter_async_context(aclosing(inspect_answer(begun, timer, length)))
        return answer.with_body(body), begun.inspector

    def _make_demand(self, request: Request, record: RequestRecord, predicted_s: float) -> Demand:
        """What a request asks of admission: it must get its slot so early that its answer begins in time."""
        rest = record.started + request.timeout_s - trio.current_time()
        if not request.stream:
            rest -= predicted_s
        max_wait_s = max(0.0, min(self.policy.parameters.max_wait_s, rest))
        return Demand(Origin.OWN, request.model, predicted_s, max_wait_s, request.key.encode())


async def _watch(whole: ContinuedAnswer, record: RequestRecord) -> AsyncGenerator[bytes, None]:
    """The body of a stream, while the record notes when it began and the inspector that it broke off."""
    try:
        async with aclosing(whole.read()) as body:
            async for chunk in body:
                now = trio.current_time()
                if record.first_byte is None:
                    record.first_byte = now
                yield chunk
                record.unread_s += trio.current_time() - now
    except BackendError as error:
        whole.inspector.error = whole.inspector.error or str(error)
        raise
