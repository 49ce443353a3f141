"""Checks of the model as they stand in the state, for tests that need no chain."""

from __future__ import annotations

from typing import Any

from chain.state.check_records import CHECK_COMMIT, CheckerSeat, ModelCheck
from chain.types.operations import compute_digest
from tests.support.chains.duels import EXECUTOR, MODEL, PAYER, SALT, make_account

CHECKER, SECOND_CHECKER, THIRD_CHECKER = map(make_account, range(10, 13))
SEED = bytes(range(32))


def make_check(
    request: bytes = b"request", response: bytes = b"response", transcript: bytes | None = b"transcript", **fields: Any
) -> ModelCheck:
    """A check about bodies whose digests are salted with :data:`tests.support.chains.duels.SALT`."""
    values = {
        "payer": PAYER,
        "executor": EXECUTOR,
        "model": MODEL,
        "identity": bytes(32),
        "amount": 10_000,
        "request_digest": compute_digest(SALT, request),
        "response_digest": compute_digest(SALT, response),
        "transcript_digest": None if transcript is None else compute_digest(SALT, transcript),
        "seed": SEED,
        "stage": CHECK_COMMIT,
        "ends_at": 100_000,
        "seats": tuple(map(CheckerSeat, (CHECKER, SECOND_CHECKER, THIRD_CHECKER))),
        "locked": 0,
        "reserved": 0,
    }
    return ModelCheck(**{**values, **fields})
