"""The texts of a duel or of a check: which there are, who has them, how long they can be, and who may have them when.
Pure.

A text is a body as it went over the wire, with the salt of its digest. The ledger has the digests, so the receiver
checks a text against them, and it does not matter who has sent it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from chain.parameters.parameters import Parameters
from chain.state.check_records import CHECK_COMMIT, CheckerSeat, ModelCheck
from chain.state.duel_records import ANSWER, Duel
from chain.transition.duels.duties import find_seat
from chain.types.operations import compute_digest
from serving.offload.protocol import MAX_ANSWER_BYTES, MAX_REQUEST_BYTES
from serving.quality.same_model.transcript import MAX_TRANSCRIPT_BYTES

FRAMING_BYTES = 2 << 20
"""Bytes of an answer that are allowed whatever was paid: the events around short pieces."""
FRAMING_FACTOR = 4096
"""Further bytes of an answer for each completion byte that was paid: with many log-probabilities there are some
2,000."""


class TextKind(IntEnum):
    """A text of a duel, by the digest of the ledger that it has."""

    REQUEST = 1
    """``request_digest``"""
    RESPONSE = 2
    """The executor's answer: ``response_digest``"""
    ANSWER = 3
    """The challenger's answer: ``answer_digest``"""
    TRANSCRIPT = 4
    """What the executor's backend reported beside its answer: ``transcript_digest`` of a check"""


@dataclass(frozen=True, slots=True)
class Text:
    """A body with the salt of its digest. :meth:`make` computes the digest, which takes a moment for a long one."""

    salt: bytes
    body: bytes
    digest: bytes

    @classmethod
    def make(cls, salt: bytes, body: bytes) -> Text:
        return cls(salt, body, compute_digest(salt, body))


def get_digest(duel: Duel, kind: TextKind) -> bytes | None:
    """The digest that the ledger has of a text; None as long as there is none."""
    return {
        TextKind.REQUEST: duel.request_digest,
        TextKind.RESPONSE: duel.response_digest,
        TextKind.ANSWER: duel.answer_digest,
    }.get(kind)


def get_holders(duel: Duel, kind: TextKind) -> tuple[bytes, ...]:
    """The accounts that have a text, in the order in which to ask them."""
    if kind is TextKind.ANSWER:
        return () if duel.challenger is None else (duel.challenger,)
    return () if kind is TextKind.TRANSCRIPT else (duel.executor, duel.payer)


def list_kinds(duel: Duel) -> tuple[TextKind, ...]:
    """What a judge of a duel has to read."""
    answers = (TextKind.RESPONSE,) if duel.challenger is None else (TextKind.RESPONSE, TextKind.ANSWER)
    return TextKind.REQUEST, *answers


def find_refusal(duel: Duel | None, holder: bytes, peer: bytes, kind: TextKind) -> str | None:
    """Why ``holder`` must not give a text to ``peer`` now; None if it must.

    The challenger gets the request in the answer stage. Judges get texts only once the challenger has committed to its
    answer: otherwise it could get the executor's answer from them, and copy it. Accounts that repeat a vote get the
    texts in their own stage.
    """
    if duel is None:
        return "there is no such duel"
    if holder not in get_holders(duel, kind):
        return "this node does not have that text"
    if duel.stage == ANSWER and peer == duel.challenger and kind is TextKind.REQUEST:
        return None
    seat = find_seat(duel, peer)
    if seat is not None and duel.stage == seat.commit_stage:
        return None
    return "this text is not for you, or not yet"


# Checks


def get_check_digest(check: ModelCheck, kind: TextKind) -> bytes | None:
    """The digest that the ledger has of a text; None if there is none."""
    return {
        TextKind.REQUEST: check.request_digest,
        TextKind.RESPONSE: check.response_digest,
        TextKind.TRANSCRIPT: check.transcript_digest,
    }.get(kind)


def get_check_holders(check: ModelCheck, kind: TextKind) -> tuple[bytes, ...]:
    """The accounts that have a text, in the order in which to ask them."""
    if kind is TextKind.ANSWER:
        return ()
    return (check.executor,) if kind is TextKind.TRANSCRIPT else (check.executor, check.payer)


def find_check_refusal(check: ModelCheck, duel: Duel | None, holder: bytes, peer: bytes, kind: TextKind) -> str | None:
    """Why ``holder`` must not give a text to the checker ``peer`` now; None if it must.

    A checker that has yet to answer the same request as challenger of a ``duel`` gets nothing until then: it could copy
    the answer.
    """
    if holder not in get_check_holders(check, kind):
        return "this node does not have that text"
    if duel is not None and duel.stage == ANSWER and peer == duel.challenger:
        return "answer the request first"
    if check.stage == CHECK_COMMIT and find_checker(check, peer) is not None:
        return None
    return "this text is not for you, or not yet"


def find_checker(check: ModelCheck, public_key: bytes) -> CheckerSeat | None:
    """The seat of an account in a check."""
    return next((seat for seat in check.seats if seat.public_key == public_key), None)


# Lengths


def compute_limit(parameters: Parameters, duel: Duel, kind: TextKind) -> int:
    """The longest body of a text, in bytes, given what was captured for the executor's answer.

    A challenger's answer is cut there.
    """
    return compute_text_limit(parameters, duel.model, duel.amount, kind)


def compute_text_limit(parameters: Parameters, model: str, amount: int, kind: TextKind) -> int:
    """The longest body of a text, in bytes, if ``amount`` micro-credits were captured for the answer."""
    if kind is TextKind.TRANSCRIPT:
        return MAX_TRANSCRIPT_BYTES
    price = parameters.get_price(model)
    paid = max(0, amount - price.per_request)
    if kind is TextKind.REQUEST:
        return min(MAX_REQUEST_BYTES, paid // price.per_prompt_byte if price.per_prompt_byte else MAX_REQUEST_BYTES)
    content = paid // price.per_completion_byte if price.per_completion_byte else MAX_ANSWER_BYTES
    return min(MAX_ANSWER_BYTES, FRAMING_BYTES + FRAMING_FACTOR * content)
