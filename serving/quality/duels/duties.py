"""What a node has to do in the duels that it is drawn for. Pure.

Everything follows from the open duels of the last final state and from the table: which operation is to be submitted,
which text to ask for, when to ask the backend (:mod:`serving.quality.duels.turns`). The table holds only commitments
that the ledger may enforce: the answer of a challenger, and the ballot of a judge with its salt. They are in the table
before the ledger sees the commitment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from chain.crypto import hash_bytes
from chain.parameters.parameters import Parameters
from chain.state.duel_records import ANSWER, REVEAL, Duel, JudgeSeat
from chain.transition.duels.duties import find_seat
from chain.types.duels import (
    ABSTAIN,
    BALLOT_SALT_BYTES,
    DRAW,
    A,
    B,
    DeclaredJudge,
    DuelAnswer,
    DuelBallot,
    DuelCommit,
    DuelReveal,
    compute_ballot_commitment,
)
from serving.quality.duels.table import DuelTable
from serving.quality.duels.texts import Text, TextKind, compute_limit, get_digest, get_holders, list_kinds
from serving.quality.duels.turns import DueText, Fetch, Submit, Turn, Turns, get_fetch_ms, is_ending


class Role(Enum):
    """What an account is in a duel."""

    EXECUTOR = "executor"
    ORIGINATOR = "originator"
    CHALLENGER = "challenger"
    JUDGE = "judge"


def find_role(duel: Duel, public_key: bytes) -> Role | None:
    """The role of an account in a duel. No account has two. None: no role, or a challenger that was replaced."""
    if public_key == duel.executor:
        return Role.EXECUTOR
    if public_key == duel.payer:
        return Role.ORIGINATOR
    if public_key == duel.challenger:
        return Role.CHALLENGER
    return Role.JUDGE if find_seat(duel, public_key) is not None else None


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """Have a backend answer a request, in at most ``limit`` bytes."""

    turn: Turn
    request: bytes
    limit: int


@dataclass(frozen=True, slots=True)
class CastBallot:
    """Have the judge compare the answers in the order of the seat.

    ``answer_a`` and ``answer_b`` are bodies; in a solo check there is only the first. ``declared`` is how this node
    judged when it was drawn. All random choices of the vote follow from ``entropy``, so that another account with the
    same judge can repeat it.
    """

    turn: Turn
    request: bytes
    answer_a: bytes
    answer_b: bytes | None
    declared: DeclaredJudge
    entropy: bytes


Effect = Submit | Fetch | AnswerRequest | CastBallot


class DuelDuties(Turns):
    """The duties of one node."""

    def __init__(
        self, public_key: bytes, parameters: Parameters, table: DuelTable, randbytes: Callable[[int], bytes]
    ) -> None:
        """``randbytes`` makes the salts of own ballots; it must not repeat itself."""
        super().__init__()
        self._me = public_key
        self._parameters = parameters
        self._table = table
        self._randbytes = randbytes
        self._height = 0
        self._duels: dict[bytes, Duel] = {}

    def update(self, duels: Mapping[bytes, Duel], height: int, chain_time: int, now: float) -> list[Effect]:
        """What to do now, given the open ``duels`` of the last final state, its ``height`` and ``chain_time`` (ms).

        ``now`` is in seconds of the node's monotonic clock.
        """
        self._height = height
        self._duels = {hold: duel for hold, duel in duels.items() if find_role(duel, self._me) is not None}
        turns = {_make_turn(hold, duel): duel for hold, duel in self._duels.items()}
        self._keep(turns.keys())
        effects: list[Effect] = []
        for turn, duel in sorted(turns.items(), key=lambda item: (item[0].ends_at, item[0].hold)):
            effects += self._take_turn(turn, duel, chain_time, now)
        return effects

    def find_text(self, hold: bytes, kind: TextKind) -> DueText | None:
        """See :meth:`serving.quality.duels.turns.Turns.find_text`."""
        duel = self._duels.get(hold)
        if duel is None:
            return None
        return DueText(get_digest(duel, kind), get_holders(duel, kind), compute_limit(self._parameters, duel, kind))

    # What arrives

    def take_answer(self, turn: Turn, answer: Text) -> None:
        """This node's backend has answered as the challenger. The answer is never replaced."""
        progress = self._progress.get(turn)
        if progress is None:
            return
        progress.under_way.discard(None)
        if self._table.get_answer_digest(turn.hold) is None and not self._table.put_answer(
            turn.hold, answer, self._height
        ):
            self._give_up(turn)

    def take_ballot(self, turn: Turn, ballot: DuelBallot) -> None:
        """This node's judge has given its ballot."""
        progress = self._progress.get(turn)
        if progress is not None:
            progress.under_way.discard(None)
            self._cast(turn, ballot)

    def note_failed(self, turn: Turn, now: float, *, is_final: bool) -> None:
        """See :meth:`serving.quality.duels.turns.Turns.note_failed`. A judge that will never have a ballot abstains."""
        is_under_way = turn in self._progress
        super().note_failed(turn, now, is_final=is_final)
        if is_under_way and is_final and turn.stage != ANSWER:
            self._cast(turn, DuelBallot(ABSTAIN))

    # Turns

    def _take_turn(self, turn: Turn, duel: Duel, chain_time: int, now: float) -> Iterator[Effect]:
        seat = find_seat(duel, self._me)
        if duel.stage == ANSWER and duel.challenger == self._me and duel.answer_digest is None:
            digest = self._table.get_answer_digest(turn.hold)
            if digest is not None:
                yield from self._submit(turn, DuelAnswer(turn.hold, digest), now)
            else:
                yield from self._answer(turn, duel, chain_time, now)
        elif seat is not None and seat.commitment is None and duel.stage == seat.commit_stage:
            kept = self._table.get_ballot(turn.hold, duel.is_accused)
            if kept is None:
                yield from self._judge(turn, duel, seat, chain_time, now)
                kept = self._table.get_ballot(turn.hold, duel.is_accused)
            if kept is not None:
                commitment = compute_ballot_commitment(turn.hold, self._me, kept.salt, kept.ballot)
                yield from self._submit(turn, DuelCommit(turn.hold, commitment), now)
        elif duel.stage == REVEAL and seat is not None and seat.commitment is not None and seat.ballot is None:
            kept = self._table.get_ballot(turn.hold, duel.is_accused)
            if kept is not None and seat.commitment == compute_ballot_commitment(
                turn.hold, self._me, kept.salt, kept.ballot
            ):
                yield from self._submit(turn, DuelReveal(turn.hold, kept.ballot, kept.salt), now)
        else:
            self._progress.pop(turn, None)

    def _answer(self, turn: Turn, duel: Duel, chain_time: int, now: float) -> Iterator[Effect]:
        """As the challenger: get the request, and answer it."""
        progress = self._begin(turn)
        if progress is None or progress.under_way or now < progress.not_before:
            return
        request = progress.texts.get(TextKind.REQUEST)
        if request is None:
            yield from self._fetch(turn, progress, TextKind.REQUEST, chain_time, self._get_length(duel))
        else:
            progress.under_way.add(None)
            yield AnswerRequest(turn, request.body, compute_limit(self._parameters, duel, TextKind.ANSWER))

    def _judge(self, turn: Turn, duel: Duel, seat: JudgeSeat, chain_time: int, now: float) -> Iterator[Effect]:
        """As a judge: get all texts, and compare. A text that does not come in time counts as missing."""
        if is_ending(turn, chain_time, self._get_length(duel)):
            self._cast(turn, DuelBallot(ABSTAIN))
            return
        progress = self._begin(turn)
        if progress is None or None in progress.under_way:
            return
        missing = [kind for kind in list_kinds(duel) if kind not in progress.texts]
        is_late = get_fetch_ms(turn, chain_time, self._get_length(duel)) <= 0
        if missing and is_late and progress.tried.issuperset(missing):
            self._cast(turn, make_missing(seat, missing))
        elif missing and now >= progress.not_before:
            for kind in missing:
                yield from self._fetch(turn, progress, kind, chain_time, self._get_length(duel))
        elif not missing and now >= progress.not_before:
            progress.under_way.add(None)
            yield _make_vote(turn, duel, seat, {kind: text.body for kind, text in progress.texts.items()})

    def _get_length(self, duel: Duel) -> int:
        """Milliseconds of the stage that a duel is in, at most."""
        duels = self._parameters.duels
        return duels.answer_ms if duel.stage == ANSWER else duels.commit_ms

    def _cast(self, turn: Turn, ballot: DuelBallot) -> None:
        """Settle on a ballot, once and for all."""
        if self._table.get_ballot(turn.hold, turn.is_accused) is None:
            salt = self._randbytes(BALLOT_SALT_BYTES)
            if not self._table.put_ballot(turn.hold, turn.is_accused, ballot, salt, self._height):
                self._give_up(turn)


def _make_turn(hold: bytes, duel: Duel) -> Turn:
    """The answer stage ends later for a challenger that replaces a silent one."""
    return Turn(hold, duel.stage, duel.is_accused, duel.ends_at)


def make_missing(seat: JudgeSeat, missing: list[TextKind]) -> DuelBallot:
    """The ballot of a judge that could not obtain some texts. A request that is missing is the executor's fault."""
    executor, challenger = (B, A) if seat.is_reversed else (A, B)
    lacks_executor = TextKind.REQUEST in missing or TextKind.RESPONSE in missing
    lacks_challenger = TextKind.ANSWER in missing
    return DuelBallot(DRAW, 0, executor * lacks_executor + challenger * lacks_challenger)


def _make_vote(turn: Turn, duel: Duel, seat: JudgeSeat, bodies: Mapping[TextKind, bytes]) -> CastBallot:
    """The texts in the order of a seat."""
    response, answer = bodies[TextKind.RESPONSE], bodies.get(TextKind.ANSWER)
    entropy = hash_bytes("ballot entropy", turn.hold, duel.answer_digest or b"", seat.voter)
    if answer is not None and seat.is_reversed:
        return CastBallot(turn, bodies[TextKind.REQUEST], answer, response, seat.judge, entropy)
    return CastBallot(turn, bodies[TextKind.REQUEST], response, answer, seat.judge, entropy)
