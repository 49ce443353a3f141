"""The originator: offloads requests of this node's users, and pays for them.

Candidates come in the order of the executor lottery. Those that are not present, or that cannot take the request, are
skipped; those with a bad score are asked last. Of the first few of the others the one with the least predicted time is
asked first (``choice``), by what they announce and what this node has measured of them (``predictor``). A candidate
that fails is replaced by the next until a byte of a streamed answer has gone to the user: another executor's text would
contradict it, and only the rest of it can be asked for (``serving.failover.continued_answer``). So is one that answers
with a client error, until a second executor does too. Where the owner wants it, the next is asked beside one that is
late (``hedging``).
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
from chain.parameters import CREDIT, Price
from chain.state.lottery import ServingTable, compute_lottery_seed
from p2p.network import NetworkError
from p2p.peers.announcement import PeerLoad
from serving.accounting.hold_numbers import TooManyPayments
from serving.accounting.payer import CannotAfford
from serving.backends.backend import BackendError
from serving.failover.rules import CLIENT_ERRORS, Outcome, judge_status
from serving.offload.context import OffloadContext
from serving.offload.originator.attempt import OffloadAttempt
from serving.offload.originator.attempt_terms import AttemptFailed, AttemptTerms, Outrun, Stalled
from serving.offload.originator.choice import Candidate, Reason, RequestsSent, order_candidates
from serving.offload.originator.decoding_share import DecodingShare
from serving.offload.originator.dialer import ExecutorDialer
from serving.offload.originator.executor_scores import ExecutorScores, Rank
from serving.offload.originator.hedged_request import HedgedRequest
from serving.offload.originator.hedging import HedgeBudget, HedgeCounts, Race
from serving.offload.originator.refusal import ClientErrors, make_refusal
from serving.offload.originator.silence import Silences
from serving.offload.settings import OriginatorSettings
from serving.openai.provider_rules import ANYBODY, FASTEST, ProviderRules
from serving.openai.requests import Request
from serving.scheduling.announced_load import read_model_load
from serving.scheduling.prediction import BYTES_PER_TOKEN, UNKNOWN_SPEED, ServiceSpeed
from serving.scheduling.predictor import Expected, Prediction, Predictor, is_able

log = structlog.get_logger(__name__)

NO_LOAD = PeerLoad()
"""What a peer that announced nothing says of its load."""


class Originator:
    """Offloads requests of this node."""

    def __init__(
        self, context: OffloadContext, dialer: ExecutorDialer, settings: OriginatorSettings | None = None
    ) -> None:
        self._context = context
        self._dialer = dialer
        self._settings = settings or OriginatorSettings()
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

    def _get_table(self) -> ServingTable | None:
        """The executors of this serving period; None if there are none, or if this node offloads nothing."""
        if not self._settings.enabled:
            return None
        return self._context.engine.state.serving_table(self._context.first_round)

    def has_executors(self, model: str, rules: ProviderRules = ANYBODY) -> bool:
        """Whether another node stands behind ``model`` in this serving period, one that ``rules`` allow."""
        table = self._get_table()
        me = self._context.key.public_key
        return table is not None and any(
            model in entry.models and entry.public_key != me and self._is_allowed(entry.public_key, model, rules)
            for entry in table.entries
        )

    def _is_allowed(self, executor: bytes, model: str, rules: ProviderRules) -> bool:
        """Whether a node may answer, with the number formats that it announces."""
        if not rules.allows(executor):
            return False
        return not rules.has_formats or rules.allows_formats(self._read_load(executor, model)[1].number_formats)

    def get_models(self) -> set[str]:
        """Every model that a node stands behind in this serving period."""
        table = self._get_table()
        return {model for entry in table.entries for model in entry.models} if table is not None else set()

    def find_speeds(self) -> dict[str, list[ServiceSpeed]]:
        """What the other executors of each model announce of it, of those that are present."""
        table = self._get_table()
        me, found = self._context.key.public_key, dict[str, list[ServiceSpeed]]()
        for entry in table.entries if table is not None else ():
            for model in entry.models:
                if entry.public_key != me and self._is_present(entry.public_key, model):
                    found.setdefault(model, []).append(self._read_load(entry.public_key, model)[1])
        return found

    def get_price(self, model: str) -> Price:
        """What an offloaded request to a model costs."""
        return self._context.engine.genesis.parameters.get_price(model)

    def preview(self, request: Request, expected: Expected) -> tuple[Prediction, Reason] | None:
        """Whom :meth:`complete` would ask first now, if it did not explore; None if nobody."""
        payer = self._context.payments.payer
        try:
            seq = payer.next_seq
        except TooManyPayments:
            return None
        amount = payer.compute_price(request.model, len(request.body), request.max_completion_bytes)
        order = self._order(request, expected, self._context.first_round, seq, amount, explores=False)
        return (order[0][0].prediction, order[0][1]) if order else None

    def compute_price(self, request: Request, completion_bytes: int) -> int:
        """Price of an answer of ``completion_bytes``, in micro-credits."""
        return self._context.payments.payer.compute_price(request.model, len(request.body), completion_bytes)

    def get_token_price(self, model: str) -> int:
        """What a thousand bytes of an answer cost, and as many of a request, in micro-credits."""
        return self._context.payments.payer.compute_price(model, 1_000, 1_000)

    def compute_expected_price(self, request: Request, expected: Expected) -> float:
        """What an offloaded answer is likely to cost, in credits."""
        size = round(expected.size.output * request.choices * BYTES_PER_TOKEN)
        price = self._context.payments.payer.compute_price(request.model, len(request.body), size)
        return price / CREDIT

    @asynccontextmanager
    async def complete(
        self, request: Request, *, has_backend: bool = False, predict_here: Callable[[], float] = lambda: math.inf
    ) -> AsyncIterator[OffloadAttempt]:
        """Offload a request, and yield the attempt whose answer has begun. Leaving early cancels the executor's work.

        A client error is yielded once a second executor has answered with one, or if none is in reach, now or (by its
        own word) soon. ``has_backend``: this node has a backend of the model that can confirm a client error, and
        ``predict_here`` is the score of this node for the request at any time.

        Raises:
            CannotAfford: this node cannot pay for it.
            TooManyPayments: too many of its payments are on their way.
            NoExecutor: no candidate takes it.
        """
        payer = self._context.payments.payer
        amount = payer.compute_price(request.model, len(request.body), request.max_completion_bytes)
        payer.check_affordable(amount)
        failures: list[AttemptFailed] = []
        doubted: OffloadAttempt | None = None
        async with AsyncExitStack() as stack:
            begin = partial(self._begin, stack)
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
        raise refusal

    def note_own_answer(self, doubted: AttemptTerms, status: int) -> None:
        """This node's backend has answered a request with ``status`` to which an executor gave a client error."""
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

        The loads of that moment decide about each: an attempt may have waited in a queue in vain. Where the first was
        expected to be sooner than this node, those that no longer are end it; not where True is sent, for a hedge. Once
        the serving period has ended, the candidates are drawn anew. ``stack`` returns the hold numbers.

        Raises:
            TooManyPayments: no hold number is free.
        """
        payer, asked = self._context.payments.payer, set[bytes]()
        most = min(self._settings.attempts, self._context.engine.genesis.parameters.max_attempts)
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
                if is_first:
                    was_sooner = prediction.score < here_s
                elif was_sooner and prediction.score >= here_s and not is_hedge:
                    return  # time has passed: what is left is no better than this node
                asked.add(executor)
                # The last one is waited for as long as the settings say: late is better than never.
                is_last = len(asked) == most or len(left) == 1
                is_patient = is_last or not request.stream
                within_s = None if is_patient else self.predictor.bound_first_token(prediction)
                is_hedged = self._settings.hedging and not is_last
                late_s = self.predictor.find_late(prediction, request, trio.current_time()) if is_hedged else None
                number, why = candidate.number, reason if is_first else Reason.NEXT
                is_hedge = yield AttemptTerms(
                    request, amount, first_round, seq, number, executor, prediction, why, within_s, late_s, is_last
                )

    def _find_hedge(self, choosing: Generator[AttemptTerms, bool | None, None], amount: int) -> AttemptTerms | None:
        """Whom to ask as well, where the first content of one that was asked is late; None: nobody.

        The account must cover a second hold: one that is offered and not paid would count against this node.
        """
        if not self._hedge_budget.has_room:
            return None
        try:
            self._context.payments.payer.check_affordable(amount)
            return replace(choosing.send(True), reason=Reason.HEDGED, late_after_s=None)
        except (CannotAfford, TooManyPayments, StopIteration):
            return None

    async def _begin(
        self, stack: AsyncExitStack, terms: AttemptTerms, race: Race, is_late: trio.Event
    ) -> OffloadAttempt:
        """Make an attempt until its answer begins; what it holds ends with ``stack``.

        Raises:
            AttemptFailed, CannotAfford, Outrun: see :meth:`_attempt`.
        """
        self._hedge_budget.note_attempt(is_hedge=terms.reason is Reason.HEDGED)
        return await stack.enter_async_context(self._attempt(terms, race, is_late))

    def _order(
        self, request: Request, expected: Expected, first_round: int, seq: int, amount: int, *, explores: bool = True
    ) -> list[tuple[Candidate, Reason]]:
        """The candidates for a hold of ``amount`` that can take a request, in the order in which to ask them."""
        settings, rules, now = self._settings, request.rules, trio.current_time()
        explores = explores and rules.sort not in FASTEST
        candidates = []
        for number, executor in self._draw(request.model, first_round, seq, amount):
            load, speed = self._read_load(executor, request.model)
            is_allowed = rules.allows(executor) and rules.allows_formats(speed.number_formats)
            if is_allowed and is_able(speed, expected.largest, request.features):
                unannounced = self._sent.count(executor, request.model, load)
                prediction = self.predictor.predict(executor, request, expected, speed, now, unannounced)
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

    def _read_load(self, executor: bytes, model: str) -> tuple[PeerLoad, ServiceSpeed]:
        """What an executor announces of itself, and of a model."""
        announcement = self._dialer.find(executor)
        if announcement is None:
            return NO_LOAD, UNKNOWN_SPEED
        load = announcement.load.find(model)
        return announcement.load, UNKNOWN_SPEED if load is None else read_model_load(load)

    def _draw(self, model: str, first_round: int, seq: int, amount: int = 0) -> list[tuple[int, bytes]]:
        """Positions and keys of the candidates for a hold of ``amount`` that are in reach, as they were drawn."""
        engine, me = self._context.engine, self._context.key.public_key
        table, source = engine.state.serving_table(first_round), engine.state.serving_periods.get_source(first_round)
        if table is None or source is None:
            return []
        seed = compute_lottery_seed(source, me, seq)
        numbers = range(engine.genesis.parameters.max_attempts)
        order = zip(numbers, table.lottery(model).order(seed, me), strict=False)
        return [
            (number, executor)
            for number, executor in order
            if self._is_present(executor, model) and self._is_covered(executor, amount)
        ]

    def _is_present(self, executor: bytes, model: str) -> bool:
        """Whether a peer is present and, by its announcement, its backend of ``model`` alive."""
        announcement = self._dialer.find(executor)
        return announcement is not None and model in announcement.models

    def _is_covered(self, executor: bytes, amount: int) -> bool:
        """Whether the bond of an executor covers a hold of ``amount``: it declines dearer ones."""
        engine = self._context.engine
        account = engine.state.account(executor)
        return engine.genesis.parameters.bond_per_hold * amount <= account.bonded - account.locked

    @asynccontextmanager
    async def _attempt(self, terms: AttemptTerms, race: Race, is_late: trio.Event) -> AsyncIterator[OffloadAttempt]:
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
            load, _ = self._read_load(terms.executor, model)
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
                if attempt.is_overdue:
                    attempt.note_overdue()
                    self.scores.note_failed(terms.executor, model, trio.current_time(), trio.current_time() - begun_at)
                    self.predictor.note_late(terms.prediction)
                raise
            except AttemptFailed as failure:
                if failure.retry_after_s:
                    self.scores.note_declined(terms.executor, model, trio.current_time(), failure.retry_after_s)
                raise
            except (NetworkError, CodecError, trio.TooSlowError, BackendError) as error:
                attempt.reject()
                now = trio.current_time()
                # One that was seen to work meanwhile is busier than was thought. One that was not may never answer.
                is_busy = attempt.is_waiting and self._silences.get_content_at(terms.executor, model) > begun_at
                self.scores.note_failed(terms.executor, model, now, 0.0 if is_busy else now - begun_at)
                if isinstance(error, Stalled) and terms.first_token_within_s is not None:
                    self.predictor.note_late(terms.prediction)
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

    def _give_up(self, executor: bytes, model: str) -> None:
        """An executor has fallen silent: nothing is waited for there that another could answer."""
        log.info("an executor has fallen silent", executor=format_address(executor), model=model)
        for attempt in self._waiting.get((executor, model), {}):
            attempt.give_up()
