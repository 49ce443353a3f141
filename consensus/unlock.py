"""How a validator that may have forgotten votes gets leave to vote again: see :mod:`consensus.voting.lockout`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from chain import crypto
from chain.exceptions import CannotPay, InvalidOperation
from chain.genesis import Genesis
from chain.state.state import State
from chain.transition.fees import compute_fee
from chain.types.operations import SignedOperation, sign_operation
from consensus.mempool.pool import Mempool
from consensus.voting.vote_store import VoteStore

logger = structlog.get_logger(__name__)

RETRY_S = 2.0
"""Seconds after which a refused operation is made again."""


async def unlock_voting(
    genesis: Genesis,
    vote_store: VoteStore,
    mempool: Mempool,
    get_state: Callable[[], State],
    submit: Callable[[SignedOperation], Awaitable[None]],
) -> None:
    """Submit the operation that unlocks voting until it is final. Returns at once if voting is not locked."""
    key, pending, complaint = vote_store.key, b"", ""
    while vote_store.lockout.is_locked:
        state = get_state()
        if state.validator_record(key.public_key) is not None and pending not in mempool:
            operation = vote_store.lockout.make_unlock_operation(state.account(key.public_key).nonce)
            signed = sign_operation(key, genesis.chain_id, operation)
            try:
                await submit(signed)
                pending = signed.id
            except InvalidOperation as error:  # most likely the nonce: this node may be behind, or be paying
                if str(error) != complaint:
                    complaint = str(error)
                    if isinstance(error, CannotPay):  # an account that bonded everything waits for ever
                        advice = "send this account enough to pay the fee, or it never votes again"
                    else:
                        advice = "nothing: it asks again"
                    logger.warning(
                        "cannot yet ask for the operation that ends the wait",
                        reason=complaint, account=crypto.format_address(key.public_key), to_do=advice,
                        fee=compute_fee(genesis, signed),
                    )  # fmt: skip
        await trio.sleep(RETRY_S)
