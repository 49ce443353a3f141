"""The duel runner: carries out what :mod:`~serving.quality.duels.duties` and :mod:`~serving.quality.duels.check_duties`
say, and keeps the table on the disk.

It reads the open duels and checks of the last final state after every final block. It delays no request: a thread
writes texts to the disk in the background, and backends are asked in slots that no request needs.
"""

from __future__ import annotations

from contextlib import suppress

import structlog
import trio

from chain.crypto import KeyPair, format_address
from chain.exceptions import StoreError
from chain.state.check_records import CHECK_STAGES, ModelCheck
from chain.state.duel_records import STAGES, Duel
from chain.transition.checks.events import CheckEvent, CheckSettled
from chain.transition.duels.events import DuelEvent, DuelOpened, DuelSettled
from chain.types.checks import ABSTAINED, CheckReport
from chain.types.duels import DuelBallot
from consensus.engine import Engine
from p2p.runtime import Runtime
from serving.accounting.submitter import Submitter
from serving.offload.originator.dialer import ExecutorDialer
from serving.offload.protocol import DIGEST_SALT_BYTES
from serving.quality.duels.backend_work import DuelJudge, WorkFailed, answer_request
from serving.quality.duels.check_duties import CheckDuties, CheckEffect, ScoreTranscript
from serving.quality.duels.check_history import CheckLog, find_check_role
from serving.quality.duels.check_work import score_transcript
from serving.quality.duels.duties import AnswerRequest, CastBallot, DuelDuties, Effect, find_role
from serving.quality.duels.handover import TextClient, TextServer
from serving.quality.duels.history import DuelLog
from serving.quality.duels.identities import Identities
from serving.quality.duels.table import DuelTable
from serving.quality.duels.texts import Text
from serving.quality.duels.turns import Fetch, Submit, Turn, Turns
from serving.scheduling.backend_pool import BackendPool

log = structlog.get_logger(__name__)

WORK_INTERVAL_S = 1.0
"""Seconds between looks at the duties while nothing happens."""
SAVE_INTERVAL_S = 1.0
"""Seconds between writes of the table."""
SWEEP_HEIGHTS = 8
"""Blocks between searches for texts that no duel can ask for any more."""


class DuelRunner:
    """The part that one node takes in duels and checks. ``judge`` is None if it does not judge."""

    def __init__(
        self,
        key: KeyPair,
        engine: Engine,
        runtime: Runtime,
        dialer: ExecutorDialer,
        pool: BackendPool,
        table: DuelTable,
        identities: Identities,
        judge: DuelJudge | None = None,
    ) -> None:
        self.table = table
        self.log = DuelLog(key.public_key)
        self.check_log = CheckLog(key.public_key)
        self.judge = judge
        self.abstentions = 0
        self.check_abstentions = 0
        self._me = key.public_key
        self._engine = engine
        self._runtime = runtime
        self._pool = pool
        self._identities = identities
        self._submitter = Submitter(key, engine)
        parameters = engine.genesis.parameters
        self._duties = DuelDuties(key.public_key, parameters, table, runtime.random.randbytes)
        self._check_duties = CheckDuties(key.public_key, parameters, table, runtime.random.randbytes)
        self.server = TextServer(key.public_key, engine, table, runtime)
        self._client = TextClient(dialer, runtime)
        self._holds: set[bytes] = set()
        """Duels that this node may have a duty in."""
        self._check_holds: set[bytes] = set()
        """Checks that it may have one in."""
        self._height = -1
        """That of the last final block whose events were seen."""
        self._swept_at = 0
        self._changed = trio.Event()
        self._saving = trio.Lock()

    @property
    def active(self) -> int:
        """Duels and checks for which texts are asked for or a backend works."""
        return self._duties.active + self._check_duties.active

    async def run(self) -> None:
        """Take part until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                nursery.start_soon(self._work, nursery)
                nursery.start_soon(self._save_at_intervals)
        finally:
            with suppress(StoreError):
                self.table.write(self.table.get_unsaved())

    # The ledger

    async def _follow(self) -> None:
        async with self._engine.subscribe_final() as blocks:
            self._take_up_open()
            async for final in blocks:
                height = final.block.height
                if height > self._height + 1:  # blocks were missed: a snapshot came, or this task was too slow
                    self._take_up_open()
                elif height > self._height:
                    self._height = height
                    for event in final.duel_events:
                        self._note(event)
                    for found in final.check_events:
                        self._note_check(found)
                self._changed.set()

    def _take_up_open(self) -> None:
        """Take up the duels and checks that are open in the last final state."""
        self._height = self._engine.header.height
        for leaf in self._engine.state.entries():
            hold = leaf.key[1:]
            if isinstance(leaf.record, Duel):
                self.log.note_open(hold, leaf.record)
                self._take_up(hold, leaf.record)
            elif isinstance(leaf.record, ModelCheck):
                self.check_log.note_open(hold, leaf.record)
                self._take_up_check(hold, leaf.record)
        self._changed.set()

    def _take_up(self, hold: bytes, duel: Duel) -> None:
        if find_role(duel, self._me) is not None:
            self._holds.add(hold)
            self.table.note_drawn(hold)

    def _note(self, event: DuelEvent) -> None:
        record = self.log.note(event)
        if record is None:
            return
        hold, role = event.hold.hex()[:16], record.role.value
        if isinstance(event, DuelSettled):
            log.info("duel settled", hold=hold, role=role, verdict=event.verdict.value, moved=record.moved)
            return
        self._take_up(event.hold, event.duel)
        challenger = None if event.duel.challenger is None else format_address(event.duel.challenger)
        log.info(
            "duel opened" if isinstance(event, DuelOpened) else "duel goes on",
            hold=hold,
            role=role,
            stage=STAGES[event.duel.stage],
            challenger=challenger,
        )

    def _take_up_check(self, hold: bytes, check: ModelCheck) -> None:
        if find_check_role(check, self._me) is not None:
            self._check_holds.add(hold)
            self.table.note_drawn(hold)

    def _note_check(self, event: CheckEvent) -> None:
        record = self.check_log.note(event)
        if record is None:
            return
        hold, role, check = event.hold.hex()[:16], record.role.value, event.check
        if not isinstance(event, CheckSettled):
            self._take_up_check(event.hold, check)
            log.info("check of a model opened", hold=hold, role=role, model=check.model)
            return
        outcome = event.finding.outcome.value
        log.info("check of a model settled", hold=hold, role=role, outcome=outcome, moved=record.moved)
        if event.is_substitution and check.executor == self._me:
            self._identities.withdraw(check.model)
            log.error("what this node serves was found to be another model than it declares", model=check.model)

    # The duties

    async def _work(self, nursery: trio.Nursery) -> None:
        while True:
            with trio.move_on_after(WORK_INTERVAL_S):
                await self._changed.wait()
            self._changed = trio.Event()
            await self._carry_out(self._find_effects(), nursery)

    def _find_effects(self) -> list[Effect | CheckEffect]:
        state, header = self._engine.state, self._engine.header
        duels = {hold: duel for hold in self._holds if (duel := state.duel(hold)) is not None}
        checks = {hold: check for hold in self._check_holds if (check := state.model_check(hold)) is not None}
        self._holds &= duels.keys()
        self._check_holds &= checks.keys()
        if header.height - self._swept_at >= SWEEP_HEIGHTS:
            self._swept_at = header.height
            self.table.sweep(
                lambda hold: state.duel(hold) is not None or state.model_check(hold) is not None,
                lambda hold: state.hold(hold) is not None,
                header.height,
                header.chain_time,
            )
        height, chain_time, now = header.height, header.chain_time, trio.current_time()
        return [
            *self._duties.update(duels, height, chain_time, now),
            *self._check_duties.update(checks, height, chain_time, now),
        ]

    async def _carry_out(self, effects: list[Effect | CheckEffect], nursery: trio.Nursery) -> None:
        for effect in effects:
            match effect:
                case Fetch():
                    nursery.start_soon(self._fetch, effect)
                case AnswerRequest():
                    nursery.start_soon(self._answer, effect)
                case CastBallot():
                    nursery.start_soon(self._vote, effect)
                case ScoreTranscript():
                    nursery.start_soon(self._score, effect)
        operations = [effect.operation for effect in effects if isinstance(effect, Submit)]
        # A commitment on the ledger can be kept only if this is on the disk before a crash.
        if operations and await self._save():
            for operation in operations:
                if await self._submitter.submit(operation):
                    log.info("duel operation submitted", hold=operation.hold.hex()[:16], kind=type(operation).__name__)

    def _get_rest(self, turn: Turn) -> float:
        """Seconds until a turn ends by chain time."""
        return max(0.0, (turn.ends_at - self._engine.chain_time()) / 1000)

    async def _fetch(self, effect: Fetch) -> None:
        turn, kind = effect.turn, effect.kind
        turns: Turns = self._check_duties if turn.stage in CHECK_STAGES else self._duties
        is_obtained = await self._client.fetch(effect, lambda text: turns.take_text(turn, kind, text))
        if not is_obtained:
            turns.note_not_obtained(turn, kind, trio.current_time())
        self._changed.set()

    async def _answer(self, effect: AnswerRequest) -> None:
        turn, body, reason, is_final = effect.turn, b"", "no answer in time", False
        with trio.move_on_after(self._get_rest(turn)):
            try:
                body = await answer_request(self._pool, effect.request, effect.limit)
            except WorkFailed as error:
                reason, is_final = str(error), error.is_final
        if body:
            salt = self._runtime.random.randbytes(DIGEST_SALT_BYTES)
            self._duties.take_answer(turn, await self._runtime.run_sync(Text.make, salt, body))
        else:
            log.info("no answer to the request of a duel", hold=turn.hold.hex()[:16], reason=reason)
            self._duties.note_failed(turn, trio.current_time(), is_final=is_final)
        self._changed.set()

    async def _vote(self, effect: CastBallot) -> None:
        turn, reason, is_final = effect.turn, "no ballot in time", False
        ballot: DuelBallot | None = None
        with trio.move_on_after(self._get_rest(turn)):
            try:
                if self.judge is None:
                    raise WorkFailed("this node does not judge any more", is_final=True)
                ballot = await self.judge.vote(
                    effect.declared, effect.request, effect.answer_a, effect.answer_b, effect.entropy
                )
            except WorkFailed as error:
                reason, is_final = str(error), error.is_final
        if ballot is not None:
            self._duties.take_ballot(turn, ballot)
        else:
            log.warning("no ballot on a duel", hold=turn.hold.hex()[:16], reason=reason)
            self.abstentions += is_final
            self._duties.note_failed(turn, trio.current_time(), is_final=is_final)
        self._changed.set()

    async def _score(self, effect: ScoreTranscript) -> None:
        turn, reason, is_final = effect.turn, "no report in time", False
        report: CheckReport | None = None
        with trio.move_on_after(self._get_rest(turn)):
            try:
                report = await score_transcript(self._pool, self._identities, self._runtime, effect)
            except WorkFailed as error:
                reason, is_final = str(error), error.is_final
        if report is None:
            log.warning("no report on a check of a model", hold=turn.hold.hex()[:16], reason=reason)
            self.check_abstentions += is_final
            report = CheckReport(ABSTAINED) if is_final else None
        if report is not None:
            self._check_duties.take_report(turn, report)
        else:
            self._check_duties.note_failed(turn, trio.current_time(), is_final=False)
        self._changed.set()

    # The disk

    async def _save_at_intervals(self) -> None:
        while True:
            await trio.sleep(SAVE_INTERVAL_S)
            await self._save()

    async def _save(self) -> bool:
        """Write what changed. Returns whether all of it is on the disk."""
        async with self._saving:
            changes = self.table.get_unsaved()
            if not changes:
                return True
            try:
                await self._runtime.run_sync(self.table.write, changes)
            except StoreError as error:
                log.error("the table of duels cannot be written", error=str(error))
                return False
            self.table.note_saved(changes)
            return True
