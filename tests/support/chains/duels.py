"""Duels as they stand in the state, for tests that need no chain."""

from __future__ import annotations

from typing import Any

from chain.crypto import hash_bytes
from chain.state.duel_records import ANSWER, Duel, JudgeSeat
from chain.state.state import StateReader
from chain.types.duels import DeclaredJudge
from chain.types.operations import compute_digest

MODEL = "test-model"
SALT = b"s" * 16
JUDGE = DeclaredJudge("judge", hash_bytes("test prompt"), is_weak=False)


def make_account(number: int) -> bytes:
    """A public key that nobody has."""
    return hash_bytes("test account", bytes([number]))


PAYER, EXECUTOR, CHALLENGER, FIRST_JUDGE, STRANGER = map(make_account, range(5))


def make_seats(count: int = 3, first: int = 3) -> tuple[JudgeSeat, ...]:
    """Seats of judges from account ``first`` on; every second one is reversed."""
    return tuple(JudgeSeat(make_account(number), JUDGE, bool(number % 2)) for number in range(first, first + count))


def make_duel(request: bytes = b"request", response: bytes = b"response", **fields: Any) -> Duel:
    """A duel about two bodies whose digests are salted with :data:`SALT`."""
    values = {
        "payer": PAYER,
        "executor": EXECUTOR,
        "model": MODEL,
        "amount": 10_000,
        "rate": 50,
        "request_digest": compute_digest(SALT, request),
        "response_digest": compute_digest(SALT, response),
        "stage": ANSWER,
        "ends_at": 100_000,
        "challenger": CHALLENGER,
        "answer_digest": None,
        "silent": (),
        "seats": make_seats(),
        "locked": 0,
        "reserved": 0,
    }
    return Duel(**{**values, **fields})


class DuelState(StateReader):
    """A state with nothing but duels in it."""

    def __init__(self, duels: dict[bytes, Duel]) -> None:
        self.duels = duels

    def duel(self, hold_id: bytes) -> Duel | None:
        return self.duels.get(hold_id)
