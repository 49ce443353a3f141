"""The dispatcher: serves a user's request on this node, offloads it, or refuses it.

The owner's policy chooses between serving and offloading. A request that cannot be offloaded is served here if a
backend has its model; one that gets no slot here in time, or that all backends here fail, is offloaded. Otherwise the
user gets the error of the backend, or is refused with one of this node. A stream that is cut after that is gone on with
by another backend or executor that can.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import structlog
import trio

from chain.crypto import format_address
from chain.parameters import CREDIT
from p2p.runtime import Runtime
from serving.accounting.hold_numbers import TooManyPayments
from serving.accounting.payer import CannotAfford
from serving.backends.backend import BackendError
from serving.failover.continued_answer import ContinuedAnswer, Part
from serving.failover.local import BackendsFailed, Tries, ask_backends, find_continuing, inspect_answer
from serving.failover.patience import compute_patience
from serving.keys.keyring import Charge, Keyring
from serving.keys.usage import Usage
from serving.offload.originator.attempt_terms import AttemptTerms
from serving.offload.originator.choice import Reason, is_kept
from serving.offload.originator.originator import Originator
from serving.offload.originator.refusal import NoExecutor
from serving.openai.answers import Answer, AnswerInspector
from serving.openai.errors import (
    ApiError,
    bad_gateway,
    bad_request,
    insufficient_quota,
    model_not_found,
    no_provider,
    too_many_requests,
    unavailable,
)
from serving.openai.nearest_names import find_nearest
from serving.openai.number_formats import NOT_KNOWN, NumberFormats
from serving.openai.provider_rules import ANYBODY, FIELD, FORMATS, ProviderRules
from serving.openai.requests import Request
from serving.scheduling.admission import Demand, NotAdmitted, Origin, QueueFull
from serving.scheduling.availability import AvailabilityGate
from serving.scheduling.backend_pool import BackendPool, ScheduledBackend
from serving.scheduling.own_prediction import OwnPrediction, predict_own
from serving.scheduling.policy import Decision, LoadSnapshot, Policy
from serving.scheduling.prediction import BYTES_PER_TOKEN, estimate_tokens, predict_wait
from serving.scheduling.predictor import Prediction

log = structlog.get_logger(__name__)

ENDING_RETRY_AFTER_S = 5.0
"""When a user may come again to a node that ends: by then another may have its place."""
MAX_LISTED_REQUESTS = 1024
"""Past requests that the admin listener lists."""
FORMAT_HEADERS = {
    b"x-wwwserve-quantization": "weights",
    b"x-wwwserve-activation-quantization": "activations",
    b"x-wwwserve-kv-cache-quantization": "cache",
}
"""By which an answer says in which number formats the model was served that gave it."""
MAX_LISTED_FORMATS = 8
"""Most combinations of number formats that an error lists."""


@dataclass(slots=True)
class RequestRecord:
    """What became of one request, for the owner's eyes. Times in seconds of the node's monotonic clock."""

    id: str
    model: str
    started: float
    executor: bytes | None = None
    """None: served here. Of an answer that was gone on with, whoever came last."""
    attempt: int = 0
    hold_id: bytes | None = None
    first_byte: float | None = None
    finished: float | None = None
    completion_tokens: int = 0
    is_estimated: bool = False
    """Whether ``completion_tokens`` were counted here, because the backend reported no usage."""
    is_stream: bool = False
    key: str = ""
    """The name of the API key that it came with, if there was one."""
    reason: str = ""
    """Why it was answered where it was."""
    load: LoadSnapshot | None = None
    """By what the policy decided whether to offload it; None if there was nothing to decide."""
    prediction: Prediction | None = None
    """What was expected of the node that answered."""
    predicted_at: float = 0.0
    """When the times of that count from."""
    unread_s: float = 0.0
    """Seconds in which the user did not take what was there."""
    number_formats: NumberFormats = NOT_KNOWN
    """Of the model that answered, by what its node says."""
    outcome: str = "running"
    """Then completed, error (a status other than 200), refused, failed or cancelled."""
    backend: ScheduledBackend | None = None
    """The one of this node that serves it."""

    @property
    def served_by(self) -> str:
        """The address of the executor, or ``local``."""
        return "local" if self.executor is None else format_address(self.executor)

    def compare(self) -> tuple[float | None, float | None]:
        """Measured by predicted time of the first token (of a stream) and of the whole answer; None: not known."""
        if self.outcome != "completed" or self.prediction is None or self.first_byte is None or self.finished is None:
            return None, None
        time, since = self.prediction.time, self.predicted_at
        first = (self.first_byte - since) / time.first_token if self.is_stream and time.first_token else None
        return first, (self.finished - since - self.unread_s) / time.total if time.total else None


def describe_request(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    """The headers by which an answer names its request and who served it."""
    name = record.id.encode()  # as OpenAI's clients read it, and as Anthropic's do
    headers = [(b"x-request-id", name), (b"request-id", name), (b"x-wwwserve-executor", record.served_by.encode())]
    for header, part in FORMAT_HEADERS.items():
        if classes := getattr(record.number_formats, part):
            headers.append((header, ", ".join(sorted(classes)).encode()))
    return headers


@dataclass(slots=True)
class Counters:
    """Requests by what became of them."""

    local: int = 0
    offloaded: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    completed: int = 0
    continued: int = 0
    """Times that another went on with an answer."""
    completion_tokens: int = 0
    offloaded_tokens: int = 0
    """Those of them that other nodes made."""


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

    def get_token_caps(self) -> tuple[int, Mapping[str, int]]:
        """Most completion tokens that an answer may have, and of those models that have a number of their own."""
        parameters = self.policy.parameters
        return parameters.max_tokens, {model: parameters.get_max_tokens(model) for model in parameters.models}

    @property
    def under_way(self) -> int:
        """Requests whose answers have not ended."""
        return sum(record.finished is None for record in self.records)

    def get_models(self) -> list[str]:
        """Every model that this node serves or can offload to others, sorted."""
        return sorted({*self.backend_pool.get_models(), *self.originator.get_models()})

    def choose_model(self, models: Sequence[str], rules: ProviderRules = ANYBODY) -> str:
        """The one of some models to use for a request that leaves it open: the least busy of those served here.

        If none is, the cheapest; of several the first.

        Raises:
            ApiError: 404, nobody whom the rules allow serves one of them.
        """
        backends = {model: self._find_backends(model, rules) for model in models}
        here = [model for model in models if _is_working(backends[model])]
        if here:
            return min(here, key=lambda model: backends[model][0].admission.utilization)
        there = [model for model in models if backends[model] or self.originator.has_executors(model, rules)]
        if not there:
            raise self._refuse_rules(models, rules)
        return min(there, key=self.originator.get_token_price)

    def _check_price(self, request: Request) -> None:
        """Refuse a request whose answer could cost more than its rules say.

        Raises:
            ApiError: 400; it could.
        """
        limit = request.rules.max_price
        if limit is None:
            return
        price = self.originator.compute_price(request, request.max_completion_bytes)
        if price > limit:
            message = f"The answer can cost {price / CREDIT:g} credits, more than 'provider.max_price'. "
            raise bad_request(message + "A lower max_tokens costs less.", param="provider.max_price")

    @asynccontextmanager
    async def complete(self, request: Request) -> AsyncIterator[tuple[Answer, RequestRecord]]:
        """Answer a request. Leaving the context early cancels the work wherever it is done.

        The body of the answer is what the user gets: without the usage that the user did not ask for, and an error if
        it breaks off or ends too early.

        Raises:
            ApiError: it cannot be answered.
        """
        if self.availability.is_ending:
            raise unavailable("This node is ending.", ENDING_RETRY_AFTER_S)
        number = self.runtime.random.getrandbits(64)
        name, now = f"req-{number:016x}", trio.current_time()
        record = RequestRecord(name, request.model, now, is_stream=request.stream, key=request.key)
        self.records.append(record)
        answer: Answer | None = None
        whole: ContinuedAnswer | None = None
        failure: BaseException | None = None
        charge: Charge | None = None
        try:
            self._check_price(request)
            charge = await self._reserve(request)
            with self.availability.own_use():
                async with AsyncExitStack() as stack:
                    begun = await self._begin(stack, request, record)
                    ask = partial(self._ask_for_rest, request, record, [])
                    whole = ContinuedAnswer(request, begun, stack, ask, partial(self._blame, record))
                    async with aclosing(_watch(whole, record)) as body:
                        answer = begun[0].with_body(body)
                        yield answer, record
        except BaseException as error:
            failure = error
            raise
        finally:
            record.finished = trio.current_time()
            inspector = None if whole is None else whole.inspector
            if answer is None or inspector is None:
                record.outcome = _get_refusal(failure)
            else:
                record.outcome = _get_outcome(answer.status, inspector, failure)
                record.completion_tokens = inspector.completion_tokens
                record.is_estimated = inspector.is_estimated
                self._note_measured(request, record, inspector)
            self._count(record)
            is_owed = answer is not None and answer.status == 200  # an error costs nothing, here as among nodes
            self._settle(charge, request, inspector if is_owed else None)

    async def _reserve(self, request: Request) -> Charge | None:
        """Reserve what a request can cost its API key at most.

        Raises:
            ApiError: the key may not make it.
        """
        if self.keys is None or not request.key:
            return None
        amount = self.originator.compute_price(request, request.max_completion_bytes)
        tokens = estimate_tokens(len(request.body)) + request.max_tokens
        return await self.keys.reserve(request.key, request.model, amount, tokens)

    def _settle(self, charge: Charge | None, request: Request, inspector: AnswerInspector | None) -> None:
        """Charge an API key for what its user got of an answer; nothing if none began.

        It costs the same wherever it was served. What failed attempts cost this node is not passed on.
        """
        if charge is None:
            return
        assert self.keys is not None
        if inspector is None:
            self.keys.settle(charge, Usage(requests=1), 0)
            return
        prompt, completion, tokens = len(request.body), inspector.completion_bytes, inspector.completion_tokens
        price = self.originator.compute_price(request, completion)
        self.keys.settle(charge, Usage(1, 0, prompt, completion, tokens, price), estimate_tokens(prompt) + tokens)

    def _count(self, record: RequestRecord) -> None:
        self.counters.completed += record.outcome == "completed"
        self.counters.failed += record.outcome == "failed"
        self.counters.refused += record.outcome == "refused"
        self.counters.cancelled += record.outcome == "cancelled"
        self.counters.completion_tokens += record.completion_tokens
        self.counters.offloaded_tokens += record.completion_tokens if record.executor is not None else 0

    def _note_measured(self, request: Request, record: RequestRecord, inspector: AnswerInspector) -> None:
        """Compare what an answer of this node's backend took with what was predicted, and learn from both.

        The originator does so of the answers of others.
        """
        if record.outcome != "completed" or record.executor is not None or record.prediction is None:
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
        rules, backends = request.rules, self._find_backends(request.model, request.rules)
        can_offload = not request.local_only and self.originator.has_executors(request.model, rules)
        if not backends and not can_offload:
            if rules is not ANYBODY and request.model in self.get_models():
                raise self._refuse_rules([request.model], rules)
            if self.backend_pool.is_configured(request.model):
                raise unavailable(f"The backend of '{request.model}' does not answer.")
            raise model_not_found(request.model, find_nearest(request.model, self.get_models()))
        refusal: ApiError | None = None
        doubted: AttemptTerms | None = None
        here = self._predict_here(backends[0], request) if backends else None
        works = _is_working(backends)
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
            raise refusal
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
            return _describe_failure(error)
        self.counters.local += 1
        if doubted is not None:
            self.originator.note_own_answer(doubted, answer.status)
        return answer, inspector

    def _find_backends(self, model: str, rules: ProviderRules) -> list[ScheduledBackend]:
        """The living backends of this node that may answer for a model, in the order in which to ask them."""
        backends = self.backend_pool.order(model) if rules.allows_here else []
        if not rules.has_formats:
            return backends
        return [each for each in backends if rules.allows_formats(each.get_number_formats(model))]

    def _refuse_rules(self, models: Sequence[str], rules: ProviderRules) -> ApiError:
        """The error of a request for one of some models, which are served, but not by whom the rules allow.

        It names the number formats in which they are, and the key that none of these suits, if that is one.
        """
        here = [each.get_number_formats(model) for model in models for each in self.backend_pool.order(model)]
        speeds = self.originator.find_speeds()
        found = dict.fromkeys([*here, *(speed.number_formats for model in models for speed in speeds.get(model, ()))])
        unmet = (
            f"{FIELD}.{key}"
            for key, part in FORMATS.items()
            if found and not any(rules.allows_part(part, getattr(formats, part)) for formats in found)
        )
        served = [formats.describe() for formats in found][:MAX_LISTED_FORMATS] if rules.has_formats else ()
        return no_provider(models[0] if len(models) == 1 else None, served, next(unmet, FIELD))

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
        can_offload = not request.local_only and self.originator.has_executors(model, rules)
        can_offload = can_offload and (rules.max_price is None or most <= rules.max_price)
        backends = find_continuing(self._find_backends(model, rules), request, cut)
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

        That is decided when it arrives: one that waits in the queue here stays here.
        """
        expected, here_s = here.expected, here.score
        found = self.originator.preview(request, expected)
        stays: Decision | None = None
        if expected.kept_by == self.originator.predictor.me and (found is None or is_kept(here_s, found[0].score)):
            stays = Decision.SERVE
        elif found is not None and found[1] is Reason.CONVERSATION and is_kept(found[0].score, here_s):
            stays = Decision.OFFLOAD
        load = replace(
            here.backend.get_load_snapshot(request.model),
            wait_s=predict_wait(here.prediction.speed, expected.usual_output),
            here_s=here_s,
            there_s=None if found is None else found[0].score,
            price=self.originator.compute_expected_price(request, expected),
            conversation=stays,
        )
        record.load = load
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

        offload = self.originator.complete(request, has_backend=backend is not None, predict_here=predict_here)
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

        demand = self._make_demand(request, record, here.predict_service())
        patience_s = compute_patience(request, here.prediction, here.expected.largest.output)
        withhold = not request.wants_usage
        tries = Tries(request, request.body, demand, patience_s, is_last=is_last, withhold_usage=withhold)
        begun = await stack.enter_async_context(ask_backends(backends, tries, note_slot))
        backend, answer = begun.backend, begun.answer
        record.number_formats = backend.get_number_formats(request.model)
        record.backend = backend
        if backend is not backends[0]:
            record.prediction, record.reason = None, Reason.NEXT.value
        prompt = estimate_tokens(len(request.body))
        timer = backend.meter.start_timer(request.model, prompt, slot_at, is_stream=answer.is_stream)
        length = self.originator.predictor.watch_length(request)
        body = await stack.enter_async_context(aclosing(inspect_answer(begun, timer, length)))
        return answer.with_body(body), begun.inspector

    def _make_demand(self, request: Request, record: RequestRecord, predicted_s: float) -> Demand:
        """What a request asks of admission: it must get its slot so early that its answer begins in time."""
        rest = record.started + request.timeout_s - trio.current_time()
        if not request.stream:
            rest -= predicted_s
        max_wait_s = max(0.0, min(self.policy.parameters.max_wait_s, rest))
        return Demand(Origin.OWN, request.model, predicted_s, max_wait_s, request.key.encode())


def _is_working(backends: Sequence[ScheduledBackend]) -> bool:
    """Whether one of some backends, in the order in which they are asked, is not known to be broken."""
    return bool(backends) and not backends[0].breaker.is_open(trio.current_time())


def _describe_failure(error: NotAdmitted | BackendsFailed) -> tuple[Answer, AnswerInspector]:
    """What the user gets of a request that no backend serves: the error of a backend as it came, if there is one.

    Raises:
        ApiError: there is none. 429 for a full queue, 503 for no slot in time, 502 for a backend that broke.
    """
    if isinstance(error, NotAdmitted):
        refuse = too_many_requests if isinstance(error, QueueFull) else unavailable
        raise refuse(f"This node is busy: {error}.", error.retry_after_s) from error
    if error.answer is None:
        raise bad_gateway(f"The backend failed: {error}.") from error
    return error.answer, AnswerInspector(stream=False)


def _get_refusal(failure: BaseException | None) -> str:
    """What became of a request that ``failure`` ended before its answer began."""
    if isinstance(failure, ApiError):
        return "refused"
    return "failed" if isinstance(failure, Exception) else "cancelled"


def _get_outcome(status: int, inspector: AnswerInspector, failure: BaseException | None) -> str:
    """What became of a request whose answer began; ``failure`` ended it, or the user left in order."""
    if inspector.error is not None:
        return "failed"
    if failure is None or inspector.is_over:  # a user who hangs up on the closing event has the whole answer
        return "completed" if status == 200 else "error"
    return "failed" if isinstance(failure, Exception) else "cancelled"


async def _watch(whole: ContinuedAnswer, record: RequestRecord) -> AsyncGenerator[bytes, None]:
    """The body of an answer, while the record notes when it began and the inspector that it broke off."""
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
