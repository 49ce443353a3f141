"""The audit: re-check a whole chain from genesis, trusting nothing but the genesis itself.

Every encoding, hash, signature, certificate, lottery draw and transition is checked again by the code that the nodes
run, and the conservation of credits after every block. A chain comes from a :class:`Source`: a data directory, an
export file, or another node. Signatures are verified by worker threads while this one executes the blocks before them.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from chain import crypto
from chain.blocks import MAX_BLOCK, Block, Header
from chain.blockstore import BlockStore, load_stored_genesis
from chain.epochs import get_validators
from chain.exceptions import CodecError, InvalidBlock, InvalidCertificate, LedgerError, StoreError
from chain.genesis import Genesis
from chain.operations import Hold
from chain.state import State, compute_supply
from chain.store import Store
from chain.transition import apply_block, check_header, get_claims
from chain.validators import compute_smallest_blocking_group
from chain.votes import Certificate, VoteKind

LOOKAHEAD = 32
"""Blocks whose signatures may be in the workers' hands at once."""

SUPPLY_INTERVAL = 100
"""The sum over all accounts is taken every so many blocks and at the end; it costs a walk over the whole state."""


class Source(Protocol):
    """Where a chain to be audited comes from."""

    genesis: Genesis
    height: int
    """Height of its last block."""

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The encoded block and finality certificate (None where there is none) of each height from 1 on."""

    def check(self, state: State, header: Header) -> None:
        """Compare what the source says about the end of the chain with the replayed state.

        Raises:
            StoreError: they differ.
        """


class StoreSource:
    """The chain in a store."""

    def __init__(self, store: Store) -> None:
        self.genesis = load_stored_genesis(store)
        self._blocks = BlockStore(store, self.genesis)
        self.height = self._blocks.height

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        for height in range(1, self.height + 1):
            raw = self._blocks.raw_block(height)
            if raw is None:
                raise StoreError(f"block {height} is missing from the database")
            block = Block.decode(raw)
            if self._blocks.height_of_block(block.id) != height:
                raise StoreError(f"the index of block {height} is damaged")
            for index, operation in enumerate(block.body.operations):
                if self._blocks.find_operation(operation.id) != (height, index):
                    raise StoreError(f"the index of operation {index} of block {height} is damaged")
            yield raw, self._blocks.raw_certificate(height)

    def check(self, state: State, header: Header) -> None:
        if self._blocks.stored_state() != {leaf.key: leaf.encoded for leaf in state.entries()}:
            raise StoreError(f"the state on disk is not the one after block {header.height}")


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing wrong with a chain: where, in which field, and why."""

    height: int
    field: str
    reason: str


@dataclass(slots=True)
class PayerDraws:
    """How a payer used the lottery: its holds, and the draws it skipped to make them."""

    holds: int = 0
    skipped: int = 0


@dataclass(slots=True)
class Report:
    """What an audit found. ``fault`` is None when everything holds.

    ``smallest_certificate`` is the smallest share of stake that made a block final (0 to 1) at ``smallest_height``;
    ``blocking_group`` of ``validators`` together hold a third and could halt the chain.
    """

    name: str
    chain_id: bytes
    height: int = 0
    block_id: bytes = b""
    state_root: bytes = b""
    operations: int = 0
    signatures: int = 0
    epochs: int = 0
    smallest_certificate: float = 1.0
    smallest_height: int = 0
    validators: int = 0
    blocking_group: int = 0
    supply: int = 0
    treasury: int = 0
    payers: dict[bytes, PayerDraws] = field(default_factory=dict)
    fault: Fault | None = None

    @property
    def ok(self) -> bool:
        return self.fault is None


@dataclass(slots=True)
class _Pending:
    """A decoded block whose signatures are being checked."""

    block: Block
    certificate: Certificate | None
    checks: list[tuple[list[tuple[str, crypto.Claim]], Future[bool]]]


def verify_chain(
    source: Source, on_progress: Callable[[int], None] = lambda height: None, threads: int | None = None
) -> Report:
    """Audit the chain of ``source`` from genesis to its last block.

    Faults are reported, not raised: the report names the first. ``threads`` verify signatures (default: one per core).
    """
    genesis = source.genesis
    report = Report(genesis.name, genesis.chain_id, validators=len(genesis.validators))
    stakes = [validator.stake for validator in genesis.validators]
    report.blocking_group = compute_smallest_blocking_group(stakes)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        audit = _Audit(source, report, pool, on_progress)
        try:
            audit.run()
        except InvalidBlock as error:
            report.fault = Fault(audit.at, error.field, error.reason)
        except CodecError as error:
            report.fault = Fault(audit.at, "encoding", str(error))
        except LedgerError as error:
            report.fault = Fault(audit.at, "database", str(error))
        finally:
            pool.shutdown(cancel_futures=True)
    return report


class _Audit:
    """One pass over a chain; ``at`` is the height being looked at when something raises."""

    def __init__(
        self, source: Source, report: Report, pool: ThreadPoolExecutor, on_progress: Callable[[int], None]
    ) -> None:
        self._source = source
        self._genesis = source.genesis
        self._report = report
        self._pool = pool
        self._on_progress = on_progress
        self._header = source.genesis.header
        self._state = source.genesis.state
        self._final = 0
        self._attempts: dict[tuple[bytes, int], int] = {}
        self.at = 0

    def run(self) -> None:
        self._genesis.check()
        pending: deque[_Pending] = deque()
        fetched = self._genesis.header
        for raw_block, raw_certificate in self._source.entries():
            self.at = fetched.height + 1
            try:
                pending.append(self._begin(fetched, raw_block, raw_certificate))
            except LedgerError:
                self._drain(pending, 0)  # an earlier fault is the first fault
                self.at = fetched.height + 1
                raise
            fetched = pending[-1].block.header
            self._drain(pending, LOOKAHEAD)
        self._drain(pending, 0)
        self.at = self._header.height
        if self._header.height != self._source.height:
            raise StoreError(f"ends at block {self._header.height}, not at {self._source.height}")
        if self._final != self._header.height:
            self.at = self._final + 1
            raise InvalidCertificate(f"no finality certificate covers the blocks after {self._final}", "finality")
        self._check_supply()
        self._source.check(self._state, self._header)

    def _begin(self, parent: Header, raw_block: bytes, raw_certificate: bytes | None) -> _Pending:
        """Decode a block and hand its signatures to the workers."""
        block = Block.decode(raw_block, MAX_BLOCK)
        check_header(self._genesis, parent, block.header)
        claims = get_claims(self._genesis, parent, block)
        certificate = None
        if raw_certificate is not None:
            certificate = Certificate.decode(raw_certificate)
            validators = get_validators(self._genesis, block.header.epoch)
            expected = (VoteKind.FINALIZE, block.header.epoch, block.id)
            if (certificate.kind, certificate.epoch, certificate.block_id) != expected:
                raise InvalidCertificate("is not a finality certificate of this block", "finality")
            claims += [("finality", claim) for claim in certificate.claims(self._genesis.chain_id, validators)]
        chunks = [claims[start : start + 64] for start in range(0, len(claims), 64)]
        checks = [(chunk, self._pool.submit(crypto.verify_all, [claim for _, claim in chunk])) for chunk in chunks]
        return _Pending(block, certificate, checks)

    def _drain(self, pending: deque[_Pending], limit: int) -> None:
        while len(pending) > limit:
            self._finish(pending.popleft())

    def _finish(self, entry: _Pending) -> None:
        """Wait for a block's signatures and execute it."""
        block, report = entry.block, self._report
        self.at = block.height
        for chunk, check in entry.checks:
            if not check.result():
                bad = next(name for name, claim in chunk if not crypto.verify_all([claim]))
                raise InvalidBlock(bad, "the signature does not hold")
            report.signatures += len(chunk)
        transition = apply_block(self._genesis, self._header, self._state, block)
        self._header, self._state = block.header, transition.state
        if transition.state.totals.supply != self._genesis.supply:
            raise InvalidBlock("supply", f"is {transition.state.totals.supply}, genesis has {self._genesis.supply}")
        if block.height % SUPPLY_INTERVAL == 0:
            self._check_supply()
        if entry.certificate is not None:
            self._count_certificate(block, entry.certificate)
        self._count_draws(block)
        report.height, report.block_id, report.state_root = block.height, block.id, block.header.state_root
        report.operations += len(block.body.operations)
        report.epochs = block.header.epoch + 1
        report.treasury, report.supply = transition.state.totals.treasury, transition.state.totals.supply
        self._on_progress(block.height)

    def _check_supply(self) -> None:
        total = compute_supply(self._state)
        if total != self._state.totals.supply:
            raise InvalidBlock("supply", f"all credit adds up to {total}, not to {self._state.totals.supply}")

    def _count_certificate(self, block: Block, certificate: Certificate) -> None:
        validators = get_validators(self._genesis, block.header.epoch)
        stake = validators.get_stake(validators[position].public_key for position in certificate.signers)
        share = stake / validators.total_stake
        if share < self._report.smallest_certificate or not self._report.smallest_height:
            self._report.smallest_certificate, self._report.smallest_height = share, block.height
        self._final = block.height

    def _count_draws(self, block: Block) -> None:
        for signed in block.body.operations:
            operation = signed.operation
            if not isinstance(operation, Hold):
                continue
            draws = self._report.payers.setdefault(signed.signer, PayerDraws())
            draws.holds += 1
            # Attempts below this one that were neither held before nor counted as skipped yet.
            seen = self._attempts.get((signed.signer, operation.seq), 0)
            draws.skipped += max(0, operation.attempt - seen)
            self._attempts[signed.signer, operation.seq] = max(seen, operation.attempt + 1)
