"""How operations that others send get into the mempool: decoded within bounds, each signature checked once.

A newcomer's proof of work (:mod:`chain.transition.validators.registration`) takes a hundred times as long to check as a
signature, and costs nothing to make up. So proofs wait in a queue of their own, behind which nothing else waits. Only a
few a second get into it: one rate for neighbours with a stake and one for all others, each divided among the neighbours
that bring them. A refused operation comes again: a node repeats its operations until they are final.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
import trio

from chain import crypto
from chain.crypto import verify_all
from chain.exceptions import CodecError, InvalidOperation, InvalidSignature
from chain.genesis import Genesis
from chain.state.state import State
from chain.transition.validators.registration import has_valid_proof_of_work
from chain.types.operations import MAX_CAPTURE_BYTES, Register, SignedOperation
from consensus.mempool.pool import AlreadyKnown, Mempool
from consensus.network.gossip import Batch, SeenCache
from consensus.verifier import SignatureVerifier
from p2p.limits.rate_limit import Limiter, Rate
from p2p.runtime import Runtime

logger = structlog.get_logger(__name__)

YIELD_OPERATIONS = 64
"""Operations of a batch that are looked at together, before other tasks get a turn."""
MAX_BAD_OPERATIONS = 65_536
"""Operations remembered whose signature or proof does not hold."""
STAKED_PROOF_RATE = Rate(2, math.inf, 2.0)
"""Proofs a second that are checked for a neighbour with stake, and up to twice for all of these together."""
STRANGER_PROOF_RATE = Rate(1, math.inf, 2.0)
"""Proofs a second that are checked for a neighbour without stake, and up to twice for all of these together."""
MAX_QUEUED_PROOFS = 16
"""Proofs that may wait to be checked."""


class OperationIngress:
    """Takes batches of operations. ``get_state`` returns the last final state.

    ``wake`` is called when there may be more work for a block, ``punish`` with the sender of a proof that does not
    hold.
    """

    def __init__(
        self,
        genesis: Genesis,
        mempool: Mempool,
        runtime: Runtime,
        get_state: Callable[[], State],
        wake: Callable[[], None],
        punish: Callable[[bytes], None],
        verifier: SignatureVerifier,
    ) -> None:
        self._genesis = genesis
        self._mempool = mempool
        self._runtime = runtime
        self._get_state = get_state
        self._wake = wake
        self._punish = punish
        self._verifier = verifier
        self._bad = SeenCache(MAX_BAD_OPERATIONS)
        self._verifying: set[bytes] = set()  # encoded operations whose signatures are being checked
        self._staked, self._strangers = (
            Limiter(STAKED_PROOF_RATE, STAKED_PROOF_RATE),
            Limiter(STRANGER_PROOF_RATE, STRANGER_PROOF_RATE),
        )
        self._proofs, self._waiting = trio.open_memory_channel[tuple[bytes, SignedOperation]](MAX_QUEUED_PROOFS)

    async def run(self) -> None:
        """Check proofs, one after the other, until cancelled."""
        async for sender, operation in self._waiting:
            if operation.encoded in self._bad or operation.id in self._mempool:
                continue
            verdict = await self._runtime.run_sync(self._check_proof, operation, self._get_state())
            if verdict is False:
                self._bad.add(operation.encoded)
                self._punish(sender)
                logger.debug("a proof of work does not hold", peer=crypto.format_address(sender))
            elif verdict:
                with suppress(InvalidOperation):
                    self._mempool.add(operation, trio.current_time(), is_proven=True)
                self._wake()

    async def take(self, sender: bytes, neighbour: bytes, payload: bytes) -> None:
        """Admit the operations of a batch that are new, acceptable and signed; ``neighbour`` brought it.

        Raises:
            LedgerError: one is malformed or forged; the rest of the batch was not looked at.
        """
        items = Batch.decode(payload).items
        refused: list[InvalidOperation] = []
        registrations: list[SignedOperation] = []
        try:
            for start in range(0, len(items), YIELD_OPERATIONS):
                await trio.lowlevel.checkpoint()
                fresh: list[SignedOperation] = []
                try:
                    for raw in items[start : start + YIELD_OPERATIONS]:
                        operation = self._look_at(raw, refused)
                        if operation is not None:
                            is_slow = isinstance(operation.operation, Register)
                            (registrations if is_slow else fresh).append(operation)
                finally:
                    await self._admit(fresh, refused)
            for operation in registrations:
                self._queue_proof(sender, neighbour, operation)
        finally:
            if refused:  # one line for all: a flood must not drown the log
                name, reason = crypto.format_address(sender), str(refused[-1])
                logger.debug("operations refused", peer=name, count=len(refused), last=reason)
            self._wake()

    def _look_at(self, raw: bytes, refused: list[InvalidOperation]) -> SignedOperation | None:
        """The operation, if it is new and acceptable."""
        if len(raw) > MAX_CAPTURE_BYTES:
            raise CodecError(f"an operation of {len(raw)} bytes")
        if raw in self._bad:
            raise InvalidSignature("the signature does not hold")
        operation = SignedOperation.decode(raw)
        try:
            self._mempool.check(operation)
        except AlreadyKnown:
            return None
        except InvalidOperation as error:
            refused.append(error)
            return None
        return operation

    def _queue_proof(self, sender: bytes, neighbour: bytes, operation: SignedOperation) -> None:
        bond = self._get_state().account(neighbour).own_bond
        is_staked = bond >= max(1, self._genesis.parameters.min_service_bond)
        if (self._staked if is_staked else self._strangers).admit(neighbour, 0, trio.current_time()):
            with suppress(trio.WouldBlock):
                self._proofs.send_nowait((sender, operation))

    def _check_proof(self, operation: SignedOperation, state: State) -> bool | None:
        """Whether a registration is signed and worked for. Blocks for as long as that takes.

        None if it would be looked at only in another state: kept until then, a flood of them would come to cost much
        at once.
        """
        if not verify_all([operation.signature_check(self._genesis.chain_id)]):
            return False
        return has_valid_proof_of_work(self._genesis, state, operation)

    async def _admit(self, operations: Sequence[SignedOperation], refused: list[InvalidOperation]) -> None:
        """Add operations to the mempool, after their signatures were checked: once, whichever way they come."""
        fresh = list({o.encoded: o for o in operations if o.encoded not in self._verifying}.values())
        unknown = [operation for operation in fresh if not self._mempool.is_verified(operation)]
        names = [operation.encoded for operation in unknown]
        self._verifying.update(names)
        try:
            verdicts = await self._verifier.check(self._verify_each, unknown)
        finally:
            self._verifying.difference_update(names)
        forged = {name for name, is_signed in zip(names, verdicts, strict=True) if not is_signed}
        fault: InvalidSignature | None = None
        for operation in fresh:
            try:
                if operation.encoded in forged:
                    raise InvalidSignature("the signature does not hold")
                self._mempool.add(operation, trio.current_time())
            except InvalidSignature as error:
                self._bad.add(operation.encoded)
                fault = error
            except InvalidOperation as error:
                refused.append(error)
        if fault is not None:
            raise fault

    async def is_signed(self, operation: SignedOperation) -> bool:
        """Whether the signature of an operation holds."""
        if self._mempool.is_verified(operation):
            return True
        return (await self._verifier.check(self._verify_each, [operation]))[0]

    def _verify_each(self, verify: crypto.Verify, operations: list[SignedOperation]) -> list[bool]:
        """Whether the signature of each holds. Those that came in a block meanwhile are not checked again. Blocks while
        checking."""
        return [
            self._mempool.is_verified(operation) or verify([operation.signature_check(self._genesis.chain_id)])
            for operation in operations
        ]
