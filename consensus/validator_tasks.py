"""What a node does for a validator by itself, so that its owner need not watch it.

A validator commits to another hash chain before the one in use runs out, and unjails itself once its term is over. Its
log warns while it votes for too few blocks. Any node with an account reports equivocation: two votes of one validator
that exclude each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from chain import crypto
from chain.exceptions import InvalidOperation
from chain.genesis import Genesis
from chain.state.beacon import make_hash_chain
from chain.state.state import StateReader
from chain.transition.validators.jailing import get_standing
from chain.types.operations import Evidence, NoncedOperation, Recommit, SignedOperation, Unjail, sign_operation
from chain.types.votes import Vote
from consensus.engine import Engine
from p2p.runtime import Runtime

logger = structlog.get_logger(__name__)

RESERVE_EPOCHS = 3
"""Epochs for which a hash chain must last at the worst; a new one takes two epochs to come into force."""
RETRY_BLOCKS = 16
"""Final blocks after which an operation of a validator that got lost on the way is asked for again."""
MAX_REPORTED = 64
"""Validators that are reported at the same time."""
REPORT_INTERVAL_S = 60.0
"""Seconds after which evidence is submitted again: this node may be behind, or unable to pay the fee."""
MAX_REPORT_DELAY_S = 2.0
"""Seconds, drawn at random, before evidence is submitted, so that not all nodes pay for one reward."""

WARNING_SHARE = 0.75
"""Part of a span's blocks: a validator that voted for fewer is warned, long before it can be jailed."""
WARNING_BLOCKS = 16
"""Counted blocks of a span before which there is no warning."""

Submit = Callable[[Callable[[int], NoncedOperation]], Awaitable[SignedOperation]]
"""Signs and submits the operation made with the account's next nonce."""


def get_due_operation(
    genesis: Genesis, state: StateReader, key: crypto.KeyPair
) -> Callable[[int], NoncedOperation] | None:
    """What the validator ``key`` should do next, given its nonce; None if all is well."""
    validator = state.validator_record(key.public_key)
    if validator is None or not validator.is_enrolled:
        return None
    if validator.jailed_until:
        is_free = state.beacon.epoch >= validator.jailed_until
        has_bond = state.account(key.public_key).own_bond >= genesis.parameters.min_validator_bond
        return Unjail if is_free and has_bond else None
    heights, number = genesis.parameters.epoch_heights, validator.hash_chain + 1
    left = make_hash_chain(key, genesis.beacon, validator.hash_chain, heights).count_reveals(validator.commitment)
    if validator.next_epoch or left >= RESERVE_EPOCHS * heights:
        return None
    commitment = make_hash_chain(key, genesis.beacon, number, heights).commitment
    return lambda nonce: Recommit(nonce, commitment, number)


class ValidatorTasks:
    """Runs beside the engine of a node, validator or not: any account can submit evidence."""

    def __init__(self, key: crypto.KeyPair, engine: Engine, submit: Submit, runtime: Runtime) -> None:
        self._key = key
        self._engine = engine
        self._submit = submit
        self._runtime = runtime
        self._reported: set[bytes] = set()
        self._has_warned = False

    async def run(self) -> None:
        """Look after every final block, and after every conflict, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_conflicts)
            await self._follow_registry()

    async def _follow_registry(self) -> None:
        engine, next_at, asked = self._engine, 0, b""
        async for final in engine.subscribe_final():
            height = final.block.header.height
            self._warn_of_absence()
            due = None if engine.is_behind else get_due_operation(engine.genesis, engine.state, self._key)
            if due is None or height < next_at or engine.is_pending(asked):
                continue
            next_at = height + RETRY_BLOCKS
            if asked and engine.is_final(
                asked
            ):  # it failed: retry at most once per epoch, since each attempt costs a fee
                next_at, asked = height + engine.genesis.parameters.epoch_heights, b""
                continue
            try:
                operation = await self._submit(due)
                asked = operation.id
                logger.info("validator operation sent", operation=type(operation.operation).__name__.lower())
            except InvalidOperation as error:
                logger.warning("validator operation refused", reason=str(error))

    def _warn_of_absence(self) -> None:
        """Log once that this validator votes for too few blocks, and once that it has made up for it."""
        engine = self._engine
        standing = None if engine.is_behind else get_standing(engine.state, self._key.public_key)
        if standing is None or standing.blocks < WARNING_BLOCKS or self._has_warned == (standing.share < WARNING_SHARE):
            return
        self._has_warned = not self._has_warned
        if self._has_warned:
            logger.warning(
                "this validator misses too many blocks: if that goes on, it is jailed",
                votes=standing.votes, blocks=standing.blocks, needed=standing.needed,
                to_do="keep the node running and connected, and its clock right",
            )  # fmt: skip
        else:
            logger.info("this validator votes for enough blocks again", votes=standing.votes, blocks=standing.blocks)

    async def _watch_conflicts(self) -> None:
        async with trio.open_nursery() as nursery:
            async for first, second in self._engine.subscribe_conflicts():
                if first.signer not in self._reported and len(self._reported) < MAX_REPORTED:
                    self._reported.add(first.signer)
                    nursery.start_soon(self._report_until_slashed, first, second)

    async def _report_until_slashed(self, first: Vote, second: Vote) -> None:
        """Submit evidence again and again until its signer is slashed, or cannot be any more."""
        engine, delay = self._engine, MAX_REPORT_DELAY_S * self._runtime.random.random()
        while True:
            await trio.sleep(delay)
            delay = REPORT_INTERVAL_S
            validator, account, epoch = (
                engine.state.validator_record(first.signer),
                engine.state.account(first.signer),
                engine.epoch,
            )
            is_old = epoch > first.epoch + engine.genesis.parameters.unbonding_epochs
            if (
                validator is None
                or is_old
                or first.epoch < validator.clean_from
                or not account.bonded + len(account.unbonding)
            ):
                break
            await self._report(first, second)
        self._reported.discard(first.signer)

    async def _report(self, first: Vote, second: Vote) -> None:
        earlier, later = sorted((first, second), key=Vote.encode)
        operation = sign_operation(self._key, self._engine.genesis.chain_id, Evidence(earlier, later))
        try:
            await self._engine.submit(operation)
        except InvalidOperation as error:  # another node was faster
            logger.debug("evidence refused", signer=crypto.format_address(first.signer), reason=str(error))
