"""Registering a new account: a search for a proof of work, in slices between which the node does other work."""

from __future__ import annotations

from itertools import count, islice

import structlog

from chain.crypto import KeyPair
from chain.exceptions import InvalidOperation
from chain.transition.validators.registration import (
    NO_NEWCOMER,
    compute_challenge,
    count_registrations_left,
    is_newcomer,
    mine,
)
from chain.types.operations import Register, SignedOperation, sign_operation
from consensus.engine import Engine
from p2p.runtime import Runtime

log = structlog.get_logger(__name__)

SLICE_TRIES = 8
"""Salts tried in one slice: some tenths of a second in a thread."""


async def register(engine: Engine, key: KeyPair, models: tuple[str, ...], runtime: Runtime) -> SignedOperation:
    """Find a proof for ``key``, sign and submit the registration. Takes 2**difficulty tries on average.

    Raises:
        InvalidOperation: the chain grants nothing, or not to this account, or not any more in this epoch.
    """
    genesis = engine.genesis
    difficulty = genesis.parameters.register_difficulty
    while True:
        state = engine.state
        if not genesis.parameters.register_grant:
            raise InvalidOperation("this chain grants nothing to newcomers")
        if not is_newcomer(state.account(key.public_key)):
            raise InvalidOperation(NO_NEWCOMER)
        if not count_registrations_left(state, genesis):
            raise InvalidOperation("the newcomers of this epoch are all registered; try again in the next")
        beacon = state.beacon
        challenge = compute_challenge(genesis, beacon.previous, key.public_key)
        for start in count(0, SLICE_TRIES):
            found = await runtime.run_sync(_try, challenge, difficulty, start)
            if found is not None:
                operation = sign_operation(key, genesis.chain_id, Register(beacon.epoch, found, models))
                await engine.submit(operation)
                return operation
            if engine.state.beacon.epoch > beacon.epoch:  # a proof of the epoch before would soon be worth nothing
                log.info("registration starts again in another epoch", epoch=engine.state.beacon.epoch, tries=start)
                break


def _try(challenge: bytes, difficulty: int, start: int) -> bytes | None:
    """A proof among the salts from ``start`` on, if there is one in this slice."""
    return next((salt for salt in islice(mine(challenge, difficulty, start), SLICE_TRIES) if salt is not None), None)
