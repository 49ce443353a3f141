"""The originator: offloads requests of this node's users, and pays for them.

Candidates come in the order of the executor lottery. Those that are not present, or that cannot take the request, are
skipped; those with a bad score are asked last. Of the first few of the others, the one with the least predicted time is
asked first (``choice``), by their announcements and by what this node has measured of them (``predictor``). A candidate
that fails is replaced by the next, until a byte of a streamed answer has gone to the user. After that another
executor's text would contradict it, and only the rest can be asked for (``serving.failover.continued_answer``). A
candidate that answers with a client error is replaced too, unless a second executor does the same. If the owner wants
it, the next is asked beside one that is late (``hedging``).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial

import structlog
import trio

from chain.crypto import format_address
from chain.exceptions import CodecError
from chain.parameters.parameters import CREDIT, Price
from p2p.network import NetworkError
from serving.accounting.hold_numbers import TooManyPayments
from serving.accounting.payer import CannotAfford
from serving.backends.backend import BackendError
from serving.failover.rules import CLIENT_ERRORS, Outcome, judge_status
from serving.offload.context import OffloadContext
from serving.offload.originator.attempt import OffloadAttempt
from serving.offload.originator.attempt_terms import AttemptFailed, AttemptTerms, Outrun, SaidFailed, Stalled
from serving.offload.originator.choice import Candidate, Reason, RequestsSent, order_candidates
from serving.offload.originator.decoding_share import DecodingShare
from serving.offload.originator.dialer import ExecutorDialer
from serving.offload.originator.directory import ExecutorDirectory
from serving.offload.originator.executor_scores import ExecutorScores, Rank
from serving.offload.originator.hedged_request import HedgedRequest
from serving.offload.originator.hedging import HedgeBudget, HedgeCounts, Race
from serving.offload.originator.hold_time import compute_hold_time
from serving.offload.originator.refusal import ClientErrors, make_refusal
from serving.offload.originator.silence import Silences
from serving.offload.settings import OriginatorSettings
from serving.openai.provider_rules import ANYBODY, FASTEST
from serving.openai.requests import Request
from serving.prediction.predicted_time import BYTES_PER_TOKEN
from serving.prediction.predictor import Expected, Prediction, Predictor, is_able

log = structlog.get_logger(__name__)

NUMBER_WAIT_S = 1.0
"""Time for which a request waits for a hold number: blocks that free some come more often."""
NoteLeft = Callable[[OffloadAttempt], None]
"""Called with an attempt that ends before its answer has begun, because the user leaves or another attempt was
first."""


class Originator:
    """Offloads requests of this node."""

    def __init__(
        self, context: OffloadContext, dialer: ExecutorDialer, settings: OriginatorSettings | None = None
    ) -> None:
        self._context = context
        self._dialer = dialer
        self._settings = settings or OriginatorSettings()
        self.directory = ExecutorDirectory(context, dialer, is_enabled=self._settings.enabled)
        self.scores = ExecutorScores()
        self.predictor = Predictor(
            context.key.public_key,
            context.runtime.random,
            corrects=self._settings.corrects,
            has_affinity=self._settings.keeps_conversations,
        )
        self._sent = RequestsSent()
        self.client_errors = ClientErrors()
        self.hedges = HedgeCounts()
        self._hedge_budget = HedgeBudget()
        self._decoding = DecodingShare()
        self._silences = Silences()
        self._waiting: dict[tuple[bytes, str], dict[OffloadAttempt, None]] = {}
        """Attempts whose answers have not begun, by executor and model."""

    def predict_payment_wait(self) -> float:
        """Seconds for which a payment is expected to wait because blocks are overdue; 0 while they come in time."""
        return self._context.payments.payer.predict_wait()

    @property
    def is_stalled(self) -> bool:
        """Whether the ledger is stalled, as this node sees it: nobody can be paid."""
        return self._context.engine.is_stalled

    def get_price(self, model: str) -> Price:
        """What an offloaded request to a model costs."""
        return self._context.engine.genesis.parameters.get_price(model)

    def preview(self, request: Request, expected: Expected) -> tuple[Prediction, Reason] | None:
        """The node that has the conversation, if :meth:`complete` would ask it now, or else the best of the choice.

        It may not be the one that is asked first, since newcomers are tried first. Predictions for them are guesses,
        which must not decide between this node and a known one. None if there is nobody.
        """
        payer = self._context.payments.payer
        try:
            seq = payer.next_seq
        except TooManyPayments:
            return None
        amount = payer.compute_price(request.model, len(request.body), request.max_completion_bytes)
        order = self._order(request, expected, self.directory.first_round, seq, amount, explores=False)
        if not order:
            return None
        first, reason = order[0]
        if reason is not Reason.CONVERSATION:
            choice = (each for each, _ in order[: max(1, self._settings.choices)] if each.rank == first.rank)
            first = min(choice, key=lambda each: each.prediction.score)
        return first.prediction, reason

    def compute_price(self, request: Request, completion_bytes: int) -> int:
        """Price of an answer of ``completion_bytes``, in micro-credits."""
        return self._context.payments.payer.compute_price(request.model, len(request.body), completion_bytes)

    def get_token_price(self, model: str) -> int:
        """The costs of a thousand bytes of an answer, and of a thousand bytes of a request, in micro-credits."""
        return self._context.payments.payer.compute_price(model, 1_000, 1_000)

    def compute_expected_price(self, request: Request, expected: Expected) -> float:
        """What an offloaded answer is likely to cost, in credits."""
        size = round(expected.size.output * request.choices * BYTES_PER_TOKEN)
        price = self._context.payments.payer.compute_price(request.model, len(request.body), size)
        return price / CREDIT

    @asynccontextmanager
    async def complete(
        self,
        request: Request,
        *,
        has_backend: bool = False,
        predict_here: Callable[[], float] = lambda: math.inf,
        note_left: NoteLeft = lambda attempt: None,
    ) -> AsyncIterator[OffloadAttempt]:
        """Offload a request, and yield the attempt whose answer has begun. Leaving early cancels the executor's work.

        A client error is yielded once a second executor has answered with one, or if none is in reach, now or (by its
        own word) soon. ``has_backend``: this node has a backend of the model that can confirm a client error.
        ``predict_here`` returns the present score of this node for the request.

        Raises:
            CannotAfford: this node cannot pay for it.
            TooManyPayments: too many of its payments are on their way.
            NoExecutor: no candidate takes it.
        """
        payer = self._context.payments.payer
        amount = payer.compute_price(request.model, len(request.body), request.max_completion_bytes)
        payer.check_affordable(amount)
        await payer.wait_for_number(NUMBER_WAIT_S)
        failures: list[AttemptFailed] = []
        doubted: OffloadAttempt | None = None
        async with AsyncExitStack() as stack:
            begin = partial(self._begin, stack, note_left)
            choosing = self._choose(request, amount, stack, predict_here)
            for terms in choosing:
                asked = HedgedRequest(begin, self.hedges)
                try:
                    if doubted is not None:
                        payer.check_affordable(amount)  # the first hold is not back yet
                    await asked.ask(terms, partial(self._find_hedge, choosing, amount))
                except CannotAfford:
                    if doubted is None:
                        raise
                    break
                failures += asked.failures
                for attempt in asked.begun:
                    executor = attempt.terms.executor
                    if judge_status(attempt.answer.status, attempt.error_body) is Outcome.FILTERED:
                        log.info("a content filter has the last word", executor=format_address(executor))
                        self.scores.note_filtered(executor, request.model, trio.current_time())
                    elif attempt.answer.status in CLIENT_ERRORS:
                        if doubted is None:
                            doubted = attempt
                            continue
                        self.client_errors.shared += 1
                        attempt, doubted = doubted, None
                    try:
                        yield attempt
                    finally:
                        self._note_outcome(attempt, doubted)
                    return
            refusal = make_refusal(failures, doubted)
            if doubted is not None and not refusal.retry_after_s and not has_backend:
                log.info("a client error is passed on unconfirmed", executor=format_address(doubted.terms.executor))
                self.client_errors.unconfirmed += 1
                yield doubted
                return
        try:
            raise refusal
        finally:
            del refusal  # it holds this frame, which must not hold it

    def note_own_answer(self, doubted: AttemptTerms, status: int) -> None:
        """This node's backend has answered with ``status`` a request to which an executor gave a client error."""
        if status == 200:
            self._note_unshared(doubted)
        elif status in CLIENT_ERRORS:
            self.client_errors.shared += 1

    def _note_outcome(self, attempt: OffloadAttempt, doubted: OffloadAttempt | None) -> None:
        """Score the executor of an attempt that has ended, and the one whose client error it may not have shared."""
        executor, model, now = attempt.terms.executor, attempt.terms.request.model, trio.current_time()
        if attempt.has_stalled:
            self.scores.note_stalled(executor, model, now, attempt.owed)
        elif attempt.has_failed:
            self.scores.note_failed(executor, model, now)
        elif attempt.is_over and attempt.answer.status == 200:
            self.scores.note_delivered(executor, model, now, attempt.owed)
            self._note_measured(attempt)
            if doubted is not None:
                self._note_unshared(doubted.terms)
        elif attempt.answer.status == 200:
            self._note_left(attempt)

    def _note_left(self, attempt: OffloadAttempt) -> None:
        """The user left before the end of the answer."""
        terms, now = attempt.terms, trio.current_time()
        tokens = attempt.inspector.completion_bytes / BYTES_PER_TOKEN / terms.request.choices
        if not terms.request.stream:  # of which nothing can be seen before its end
            tokens = terms.request.max_tokens / terms.request.choices
        self.predictor.note_unfinished(
            terms.prediction, now, tokens, attempt.first_token_s, attempt.compute_waited(now)
        )

    def _note_measured(self, attempt: OffloadAttempt) -> None:
        """Compare what a whole answer took with what was predicted, and learn from both."""
        terms, inspector = attempt.terms, attempt.inspector
        tokens = inspector.completion_bytes / BYTES_PER_TOKEN / terms.request.choices
        total_s = None if attempt.ended_at is None else attempt.ended_at - attempt.begun_at - attempt.unread_s
        first_s, was_queued = attempt.first_token_s, attempt.was_queued
        self.predictor.note(terms.prediction, trio.current_time(), tokens, first_s, total_s, was_queued=was_queued)
        attempt.length.end(inspector.completion_bytes, is_cut_off=inspector.finish_reason == "length")
        self.predictor.note_answered(terms.executor, terms.request)

    def _note_unshared(self, terms: AttemptTerms) -> None:
        log.info("a client error was not shared", executor=format_address(terms.executor))
        self.client_errors.unshared += 1
        self.scores.note_unshared_error(terms.executor, terms.request.model, trio.current_time())

    def _choose(
        self, request: Request, amount: int, stack: AsyncExitStack, predict_here: Callable[[], float]
    ) -> Generator[AttemptTerms, bool | None, None]:
        """The attempts to make, one after the other, each with a candidate that was not asked before.

        Each is chosen by the loads of its moment: the attempt before may have waited in a queue in vain. If the first
        was expected to be sooner than this node, the attempts end when no candidate is any more, unless True was sent,
        for a hedge. When the serving period has ended, the candidates are drawn anew. ``stack`` returns the hold
        numbers.

        Raises:
            TooManyPayments: no hold number is free.
        """
        payer, asked = self._context.payments.payer, set[bytes]()
        parameters = self._context.engine.genesis.parameters
        most = min(self._settings.attempts, parameters.max_attempts)
        has_ended, was_sooner = True, False
        is_hedge: bool | None = None
        while has_ended:
            first_round, seq, has_ended = self._context.first_round, payer.take_seq(), False
            stack.callback(payer.give_back, seq)
            while len(asked) < most:
                expected, is_first = self.predictor.expect(request), not asked
                order = self._order(request, expected, first_round, seq, amount, explores=is_first)
                left = [each for each in order if each[0].executor not in asked]
                has_ended = first_round != self._context.first_round
                if has_ended or not left:
                    break
                candidate, reason = left[0]
                executor, prediction, here_s = candidate.executor, candidate.prediction, predict_here()
                unpaid_s = self.predict_payment_wait()
                there_s = prediction.score + unpaid_s
                if is_first:
                    was_sooner = there_s < here_s
                elif (was_sooner or unpaid_s) and there_s >= here_s and not is_hedge:
                    return  # time has passed: what is left is no better than this node
                asked.add(executor)
                # For the last one the longer waits of the settings apply: late is better than never.
                is_last = len(asked) == most or len(left) == 1
                is_patient = is_last or not request.stream
                within_s = None if is_patient else self.predictor.bound_first_token(prediction)
                is_hedged = self._settings.hedging and not is_last
                late_s = self.predictor.find_late(prediction, request, trio.current_time()) if is_hedged else None
                number, why = candidate.number, reason if is_first else Reason.NEXT
                longest_s = self.predictor.predict_longest(prediction, request, trio.current_time())
                hold_time_ms = compute_hold_time(self._settings, longest_s, parameters.max_hold_time_ms)
                is_measured = self.predictor.has_measured(prediction)
                is_hedge = yield AttemptTerms(
                    request,
                    amount,
                    first_round,
                    seq,
                    number,
                    executor,
                    prediction,
                    hold_time_ms,
                    why,
                    within_s,
                    late_s,
                    is_last,
                    longest_s if is_measured else None,
                )

    def _find_hedge(self, choosing: Generator[AttemptTerms, bool | None, None], amount: int) -> AttemptTerms | None:
        """The terms for a second executor, when the first content of another is late; None: nobody.

        The account must cover a second hold: an offer that is accepted and not paid would count against this node.
        """
        if not self._hedge_budget.has_room:
            return None
        try:
            self._context.payments.payer.check_affordable(amount)
            return replace(choosing.send(True), reason=Reason.HEDGED, late_after_s=None)
        except (CannotAfford, TooManyPayments, StopIteration):
            return None

    async def _begin(
        self,
        stack: AsyncExitStack,
        note_left: NoteLeft,
        terms: AttemptTerms,
        race: Race,
        is_late: trio.Event,
    ) -> OffloadAttempt:
        """Make an attempt until its answer begins; what it holds ends with ``stack``.

        Raises:
            AttemptFailed, CannotAfford, Outrun: see :meth:`_attempt`.
        """
        self._hedge_budget.note_attempt(is_hedge=terms.reason is Reason.HEDGED)
        return await stack.enter_async_context(self._attempt(terms, race, is_late, note_left))

    def _order(
        self, request: Request, expected: Expected, first_round: int, seq: int, amount: int, *, explores: bool = True
    ) -> list[tuple[Candidate, Reason]]:
        """The candidates for a hold of ``amount`` that can take a request, in the order in which to ask them."""
        settings, rules, now = self._settings, request.rules, trio.current_time()
        explores, is_open = explores and rules.sort not in FASTEST, rules is ANYBODY
        candidates = []
        for number, executor, load, speed in self.directory.draw(request.model, first_round, seq, amount):
            is_allowed = is_open or (rules.allows(executor) and rules.allows_formats(speed.number_formats))
            if is_allowed and is_able(speed, expected.largest, request.features):
                unannounced = self._sent.count(executor, request.model, load)
                ahead = self._count_unread(executor, request.model)
                prediction = self.predictor.predict(executor, request, expected, speed, now, unannounced, ahead)
                rank = self.scores.rank(executor, request.model, now)
                if rank is Rank.GOOD and self._silences.is_silent(executor, request.model, now):
                    rank = Rank.WAITING
                candidates.append(Candidate(number, executor, rank, prediction))
        return order_candidates(
            candidates,
            settings.choices,
            expected.kept_by,
            settings.exploration if explores else 0.0,
            self._context.runtime.random if explores else None,
        )

    @asynccontextmanager
    async def _attempt(
        self, terms: AttemptTerms, race: Race, is_late: trio.Event, note_left: NoteLeft
    ) -> AsyncIterator[OffloadAttempt]:
        """Offer to one candidate and wait until its answer begins (a stream) or is whole (any other).

        Raises:
            AttemptFailed: it declined, failed or fell silent before that.
            CannotAfford: this node cannot pay for it.
            Outrun: another attempt at the request was first.
        """
        model, begun_at = terms.request.model, trio.current_time()
        async with AsyncExitStack() as stack:
            attempt = OffloadAttempt(
                self._context,
                self._dialer,
                self._settings,
                self._decoding,
                self._silences,
                partial(self._give_up, terms.executor, model),
                terms,
                self.predictor.watch_length(terms.request),
                race,
                is_late,
                stack,
            )
            stack.callback(attempt.keep_texts)
            load, _ = self.directory.read_load(terms.executor, model)
            stack.enter_context(self._sent.sending(terms.executor, model, load))
            self.scores.note_asked(terms.executor, model, trio.current_time())
            try:
                await self._dialer.connect(terms.executor, self._settings.accept_timeout_s)
            except (NetworkError, trio.TooSlowError) as error:
                attempt.reject()
                self.scores.note_unreachable(terms.executor, model, trio.current_time())
                raise AttemptFailed(str(error) or "no connection in time") from error
            try:
                with self._listed(attempt):
                    await attempt.begin()
            except (trio.Cancelled, Outrun):
                self._note_left(attempt)
                note_left(attempt)
                if attempt.is_overdue:
                    now = trio.current_time()
                    attempt.note_overdue()
                    self.scores.note_failed(terms.executor, model, now, now - begun_at)
                    self.predictor.note_late(terms.prediction, begun_at, now)
                raise
            except AttemptFailed as failure:
                if failure.retry_after_s:
                    self.scores.note_declined(terms.executor, model, trio.current_time(), failure.retry_after_s)
                raise
            except (NetworkError, CodecError, trio.TooSlowError, BackendError) as error:
                attempt.reject()
                now = trio.current_time()
                # An executor that was seen to work meanwhile is only busier than predicted. Any other may never answer.
                is_queued = attempt.is_waiting
                is_busy = is_queued and self._silences.get_content_at(terms.executor, model) > begun_at
                waited_s = 0.0 if is_busy else now - begun_at
                user = terms.request.key if isinstance(error, SaidFailed) else ""
                self.scores.note_failed(terms.executor, model, now, waited_s, is_queued=is_queued, user=user)
                if isinstance(error, Stalled) and terms.first_token_within_s is not None:
                    self.predictor.note_late(terms.prediction, begun_at, now)
                raise AttemptFailed(str(error) or "no answer in time", is_queued=attempt.is_queued) from error
            yield attempt
            if not attempt.is_over:
                await attempt.exchange.abort("the answer is no longer wanted")

    @contextmanager
    def _listed(self, attempt: OffloadAttempt) -> Iterator[None]:
        """Have an attempt given up within the context if its executor falls silent."""
        key = attempt.terms.executor, attempt.terms.request.model
        waiting = self._waiting.setdefault(key, {})
        waiting[attempt] = None
        try:
            yield
        finally:
            del waiting[attempt]
            if not waiting:
                self._waiting.pop(key, None)

    def _count_unread(self, executor: bytes, model: str) -> int:
        """Tokens of prompts that this node has sent to an executor, and that are not read yet.

        Only streams count: with other answers it cannot be seen when the prompt is read.
        """
        waiting = self._waiting.get((executor, model), {})
        return sum(each.terms.prediction.unread_tokens for each in waiting if each.terms.request.stream)

    def _give_up(self, executor: bytes, model: str) -> None:
        """An executor has fallen silent: give up the attempts there that another could answer."""
        log.info("an executor has fallen silent", executor=format_address(executor), model=model)
        for attempt in self._waiting.get((executor, model), {}):
            attempt.give_up()
