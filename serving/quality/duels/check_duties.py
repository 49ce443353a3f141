"""What a node has to do in the checks that it is drawn for. Pure.

As with duels (:mod:`serving.quality.duels.duties`), everything follows from the open checks of the last final state and
from the table: a checker gets request, answer and transcript, has its backend score the transcript, commits to its
report and reveals it. The report with its salt is in the table before the ledger sees the commitment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from chain.parameters.parameters import Parameters
from chain.state.check_records import CHECK_COMMIT, ModelCheck
from chain.types.checks import (
    ABSTAINED,
    NO_TRANSCRIPT,
    REPORT_SALT_BYTES,
    CheckCommit,
    CheckReport,
    CheckReveal,
    compute_report_commitment,
)
from serving.quality.duels.table import DuelTable
from serving.quality.duels.texts import TextKind, compute_text_limit, find_checker, get_check_digest, get_check_holders
from serving.quality.duels.turns import DueText, Fetch, Progress, Submit, Turn, Turns, get_fetch_ms, is_ending


@dataclass(frozen=True, slots=True)
class ScoreTranscript:
    """Have a backend with the identity score a transcript, at the positions that the seed of the check draws.

    ``request``, ``answer`` and ``transcript`` are bodies; there is no transcript if the executor committed to none.
    """

    turn: Turn
    check: ModelCheck
    request: bytes
    answer: bytes
    transcript: bytes | None


CheckEffect = Submit | Fetch | ScoreTranscript


def list_check_kinds(check: ModelCheck) -> tuple[TextKind, ...]:
    """What a checker has to obtain."""
    transcript = () if check.transcript_digest is None else (TextKind.TRANSCRIPT,)
    return TextKind.REQUEST, TextKind.RESPONSE, *transcript


class CheckDuties(Turns):
    """The duties of one node as a checker."""

    def __init__(
        self, public_key: bytes, parameters: Parameters, table: DuelTable, randbytes: Callable[[int], bytes]
    ) -> None:
        """``randbytes`` makes the salts of own reports; it must not repeat itself."""
        super().__init__()
        self._me = public_key
        self._parameters = parameters
        self._table = table
        self._randbytes = randbytes
        self._height = 0
        self._checks: dict[bytes, ModelCheck] = {}

    def update(self, checks: Mapping[bytes, ModelCheck], height: int, chain_time: int, now: float) -> list[CheckEffect]:
        """What to do now, given the open ``checks`` of the last final state, its ``height`` and ``chain_time`` (ms).

        ``now`` is in seconds of the node's monotonic clock.
        """
        self._height = height
        self._checks = {hold: check for hold, check in checks.items() if find_checker(check, self._me) is not None}
        turns = {Turn(hold, check.stage, False, check.ends_at): check for hold, check in self._checks.items()}
        self._keep(turns.keys())
        effects: list[CheckEffect] = []
        for turn, check in sorted(turns.items(), key=lambda item: (item[0].ends_at, item[0].hold)):
            effects += self._take_turn(turn, check, chain_time, now)
        return effects

    def find_text(self, hold: bytes, kind: TextKind) -> DueText | None:
        """See :meth:`serving.quality.duels.turns.Turns.find_text`."""
        check = self._checks.get(hold)
        if check is None:
            return None
        limit = compute_text_limit(self._parameters, check.model, check.amount, kind)
        return DueText(get_check_digest(check, kind), get_check_holders(check, kind), limit)

    def take_report(self, turn: Turn, report: CheckReport) -> None:
        """This node's backend has scored the transcript, or has found that there is nothing to score."""
        progress = self._progress.get(turn)
        if progress is not None:
            progress.under_way.discard(None)
            self._settle_on(turn, report)

    # Turns

    def _take_turn(self, turn: Turn, check: ModelCheck, chain_time: int, now: float) -> Iterator[CheckEffect]:
        seat = find_checker(check, self._me)
        assert seat is not None
        if check.stage == CHECK_COMMIT and seat.commitment is None:
            if self._table.get_report(turn.hold) is None:
                yield from self._check(turn, check, chain_time, now)
            kept = self._table.get_report(turn.hold)
            if kept is not None:
                commitment = compute_report_commitment(turn.hold, self._me, kept.salt, kept.report)
                yield from self._submit(turn, CheckCommit(turn.hold, commitment), now)
        elif check.stage != CHECK_COMMIT and seat.commitment is not None and seat.report is None:
            kept = self._table.get_report(turn.hold)
            if kept is not None and seat.commitment == compute_report_commitment(
                turn.hold, self._me, kept.salt, kept.report
            ):
                yield from self._submit(turn, CheckReveal(turn.hold, kept.report, kept.salt), now)
        else:
            self._progress.pop(turn, None)

    def _check(self, turn: Turn, check: ModelCheck, chain_time: int, now: float) -> Iterator[CheckEffect]:
        """Get all texts, and have the transcript scored. A text that does not come in time counts as missing."""
        progress = self._begin(turn)
        if progress is None:
            return
        length = self._parameters.checks.commit_ms
        missing = [kind for kind in list_check_kinds(check) if kind not in progress.texts]
        is_late = get_fetch_ms(turn, chain_time, length) <= 0
        if missing and is_late and progress.tried.issuperset(missing):
            self._settle_on(turn, CheckReport(NO_TRANSCRIPT))
        elif not missing and is_ending(turn, chain_time, length):
            self._settle_on(turn, CheckReport(ABSTAINED))
        elif None in progress.under_way or now < progress.not_before:
            return
        elif missing:
            for kind in missing:
                yield from self._fetch(turn, progress, kind, chain_time, length)
        else:
            progress.under_way.add(None)
            yield _make_score(turn, check, progress)

    def _settle_on(self, turn: Turn, report: CheckReport) -> None:
        """Settle on a report, once and for all."""
        if self._table.get_report(turn.hold) is None:
            salt = self._randbytes(REPORT_SALT_BYTES)
            if not self._table.put_report(turn.hold, report, salt, self._height):
                self._give_up(turn)


def _make_score(turn: Turn, check: ModelCheck, progress: Progress) -> ScoreTranscript:
    bodies = progress.texts
    transcript = bodies.get(TextKind.TRANSCRIPT)
    return ScoreTranscript(
        turn,
        check,
        bodies[TextKind.REQUEST].body,
        bodies[TextKind.RESPONSE].body,
        None if transcript is None else transcript.body,
    )
