"""What a node has to do in the duels that it is drawn for. Pure.

Everything follows from the open duels of the last final state and from the table: which operation is to be submitted,
which text to ask for, when to ask the backend. What is under way, or has arrived and is not used yet, is forgotten with
the node; after a restart it is begun again. Only what the ledger may already hold it to is in the table, and is there
before the ledger sees it: the answer that a challenger has committed to, the ballot of a judge with its salt.

A *turn* is one stage of one duel, with the same parties. What arrives for a turn that is over is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from chain.crypto import hash_bytes
from chain.parameters import Parameters
from chain.state.duel_records import ANSWER, COMMIT, REVEAL, Duel, JudgeSeat
from chain.transition.duels.duties import find_seat
from chain.types.duels import (
    BALLOT_SALT_BYTES,
    DRAW,
    A,
    B,
    DeclaredJudge,
    DuelAnswer,
    DuelBallot,
    DuelCommit,
    DuelOperation,
    DuelReveal,
    compute_ballot_commitment,
)
from serving.quality.duels.table import DuelTable
from serving.quality.duels.texts import Text, TextKind, compute_limit, get_digest, get_holders, list_kinds

MAX_ACTIVE = 4
"""Turns for which texts are asked for or a backend works at a time; those whose stage ends first come first."""
SUBMIT_INTERVAL_S = 5.0
"""Seconds until an operation that is not in a final block is submitted again."""
RETRY_DELAY_S = 2.0
"""Seconds until what failed is tried again."""
FETCH_SHARE = 2
"""Divisor of a stage that gives the time in which texts are asked for: the rest is for answering or judging."""


class Role(Enum):
    """What an account is in a duel."""

    EXECUTOR = "executor"
    ORIGINATOR = "originator"
    CHALLENGER = "challenger"
    JUDGE = "judge"


def find_role(duel: Duel, public_key: bytes) -> Role | None:
    """What an account is in a duel: never two things at a time. None: nothing, or a challenger that was replaced."""
    if public_key == duel.executor:
        return Role.EXECUTOR
    if public_key == duel.payer:
        return Role.ORIGINATOR
    if public_key == duel.challenger:
        return Role.CHALLENGER
    return Role.JUDGE if find_seat(duel, public_key) is not None else None


@dataclass(frozen=True, slots=True)
class Turn:
    """One stage of a duel, as far as this node's duty in it goes."""

    hold: bytes
    stage: int
    is_accused: bool
    ends_at: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Submit an operation, once the table is on the disk."""

    operation: DuelOperation


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask the ``holders``, one after another, for a text of at most ``limit`` bytes, within ``seconds`` in all."""

    turn: Turn
    kind: TextKind
    holders: tuple[bytes, ...]
    limit: int
    seconds: float


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
    judged when it was drawn. From ``entropy`` follows all that is drawn for the vote, so that another account with the
    same judge can ask for it again.
    """

    turn: Turn
    request: bytes
    answer_a: bytes
    answer_b: bytes | None
    declared: DeclaredJudge
    entropy: bytes


Effect = Submit | Fetch | AnswerRequest | CastBallot


@dataclass(slots=True)
class _Progress:
    """How far a turn has come. Times in seconds of the node's monotonic clock."""

    texts: dict[TextKind, Text] = field(default_factory=dict)
    under_way: set[TextKind | None] = field(default_factory=set)
    """Texts being asked for; None: the backend is being asked."""
    tried: set[TextKind] = field(default_factory=set)
    """Texts that were asked for in vain."""
    not_before: float = float("-inf")


class DuelDuties:
    """The duties of one node."""

    def __init__(
        self, public_key: bytes, parameters: Parameters, table: DuelTable, randbytes: Callable[[int], bytes]
    ) -> None:
        """``randbytes`` makes the salts of own ballots; it must not repeat itself."""
        self._me = public_key
        self._parameters = parameters
        self._table = table
        self._randbytes = randbytes
        self._height = 0
        self._duels: dict[bytes, Duel] = {}
        self._progress: dict[Turn, _Progress] = {}
        self._given_up: set[Turn] = set()
        """Turns in which the judge abstains, or the table has no room."""
        self._submitted: dict[tuple[Turn, type[DuelOperation]], float] = {}

    @property
    def active(self) -> int:
        """Turns for which texts are held or something is under way."""
        return len(self._progress)

    def update(self, duels: Mapping[bytes, Duel], height: int, chain_time: int, now: float) -> list[Effect]:
        """What to do now, by the open ``duels`` of the last final state, at its ``height`` and ``chain_time`` (ms).

        ``now`` is in seconds of the node's monotonic clock.
        """
        self._height = height
        self._duels = {hold: duel for hold, duel in duels.items() if find_role(duel, self._me) is not None}
        turns = {_make_turn(hold, duel): duel for hold, duel in self._duels.items()}
        self._progress = {turn: progress for turn, progress in self._progress.items() if turn in turns}
        self._given_up &= turns.keys()
        self._submitted = {key: at for key, at in self._submitted.items() if key[0] in turns}
        effects: list[Effect] = []
        for turn, duel in sorted(turns.items(), key=lambda item: (item[0].ends_at, item[0].hold)):
            effects += self._take_turn(turn, duel, chain_time, now)
        return effects

    # What arrives

    def take_text(self, turn: Turn, kind: TextKind, text: Text) -> bool:
        """A text has come. Returns whether it is the one that the ledger has the digest of; any other is dropped."""
        duel, progress = self._duels.get(turn.hold), self._progress.get(turn)
        if duel is None or progress is None:
            return True  # the turn is over, and the text no matter any more
        if text.digest != get_digest(duel, kind) or len(text.body) > compute_limit(self._parameters, duel, kind):
            return False
        progress.texts[kind] = text
        progress.under_way.discard(kind)
        return True

    def note_not_obtained(self, turn: Turn, kind: TextKind, now: float) -> None:
        """None of the holders gave a text."""
        progress = self._progress.get(turn)
        if progress is not None:
            progress.under_way.discard(kind)
            progress.tried.add(kind)
            progress.not_before = now + RETRY_DELAY_S

    def take_answer(self, turn: Turn, answer: Text) -> None:
        """This node's backend has answered as the challenger: from now on this is its answer, whatever comes."""
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
        """The backend gave no answer, or no ballot. Unless that ``is_final`` it is asked again in a while."""
        progress = self._progress.get(turn)
        if progress is not None:
            progress.under_way.discard(None)
            progress.not_before = now + RETRY_DELAY_S
            if is_final:
                self._give_up(turn)

    # Turns

    def _take_turn(self, turn: Turn, duel: Duel, chain_time: int, now: float) -> Iterator[Effect]:
        seat = find_seat(duel, self._me)
        if duel.stage == ANSWER and duel.challenger == self._me and duel.answer_digest is None:
            digest = self._table.get_answer_digest(turn.hold)
            if digest is not None:
                yield from self._submit(turn, DuelAnswer(turn.hold, digest), now)
            else:
                yield from self._answer(turn, duel, chain_time, now)
        elif duel.stage == COMMIT and seat is not None and seat.commitment is None:
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

    def _submit(self, turn: Turn, operation: DuelOperation, now: float) -> Iterator[Effect]:
        self._progress.pop(turn, None)
        key = turn, type(operation)
        if now - self._submitted.get(key, float("-inf")) >= SUBMIT_INTERVAL_S:
            self._submitted[key] = now
            yield Submit(operation)

    def _give_up(self, turn: Turn) -> None:
        """Do nothing more in a turn."""
        self._progress.pop(turn, None)
        self._given_up.add(turn)

    def _begin(self, turn: Turn) -> _Progress | None:
        """The progress of a turn; None if it is given up, or too many others are under way."""
        progress = self._progress.get(turn)
        if progress is None and turn not in self._given_up and len(self._progress) < MAX_ACTIVE:
            progress = self._progress[turn] = _Progress()
        return progress

    def _answer(self, turn: Turn, duel: Duel, chain_time: int, now: float) -> Iterator[Effect]:
        """As the challenger: get the request, and answer it."""
        progress = self._begin(turn)
        if progress is None or progress.under_way or now < progress.not_before:
            return
        request = progress.texts.get(TextKind.REQUEST)
        if request is None:
            yield self._fetch(turn, duel, progress, TextKind.REQUEST, chain_time)
        else:
            progress.under_way.add(None)
            yield AnswerRequest(turn, request.body, compute_limit(self._parameters, duel, TextKind.ANSWER))

    def _judge(self, turn: Turn, duel: Duel, seat: JudgeSeat, chain_time: int, now: float) -> Iterator[Effect]:
        """As a judge: get all texts, and compare. What cannot be had in time is missing."""
        progress = self._begin(turn)
        if progress is None or None in progress.under_way:
            return
        missing = [kind for kind in list_kinds(duel) if kind not in progress.texts]
        is_late = self._get_fetch_ms(duel, chain_time) <= 0
        if missing and is_late and progress.tried.issuperset(missing):
            self._cast(turn, make_missing(seat, missing))
        elif missing and now >= progress.not_before:
            for kind in missing:
                if kind not in progress.under_way:
                    yield self._fetch(turn, duel, progress, kind, chain_time)
        elif not missing and now >= progress.not_before:
            progress.under_way.add(None)
            yield _make_vote(turn, duel, seat, {kind: text.body for kind, text in progress.texts.items()})

    def _get_fetch_ms(self, duel: Duel, chain_time: int) -> int:
        """Milliseconds that are left for asking for texts; 0 or less once the rest of the stage is needed for work."""
        duels = self._parameters.duels
        length = duels.answer_ms if duel.stage == ANSWER else duels.commit_ms
        return duel.ends_at - chain_time - (length - length // FETCH_SHARE)

    def _fetch(self, turn: Turn, duel: Duel, progress: _Progress, kind: TextKind, chain_time: int) -> Fetch:
        """Ask for a text, and be told in time if it does not come: who comes late has half of what is left."""
        progress.under_way.add(kind)
        left = self._get_fetch_ms(duel, chain_time)
        left = left if left > 0 else max(0, duel.ends_at - chain_time) // FETCH_SHARE
        return Fetch(turn, kind, get_holders(duel, kind), compute_limit(self._parameters, duel, kind), left / 1000)

    def _cast(self, turn: Turn, ballot: DuelBallot) -> None:
        """Settle on a ballot, once and for all."""
        if self._table.get_ballot(turn.hold, turn.is_accused) is None:
            salt = self._randbytes(BALLOT_SALT_BYTES)
            if not self._table.put_ballot(turn.hold, turn.is_accused, ballot, salt, self._height):
                self._give_up(turn)


def _make_turn(hold: bytes, duel: Duel) -> Turn:
    """A challenger that follows a silent one has a later end of the stage."""
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
    entropy = hash_bytes("ballot entropy", turn.hold, duel.answer_digest or b"", seat.public_key)
    if answer is not None and seat.is_reversed:
        return CastBallot(turn, bodies[TextKind.REQUEST], answer, response, seat.judge, entropy)
    return CastBallot(turn, bodies[TextKind.REQUEST], response, answer, seat.judge, entropy)
