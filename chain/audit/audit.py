"""The audit: re-check a whole chain from genesis, trusting nothing but the genesis itself and perhaps a checkpoint.

Every encoding, hash, signature, certificate, lottery draw and transition is checked again by the code that the nodes
run. In addition, the audit checks that no credit is made or lost: in every block over its changes, and at both ends
over all accounts. A chain comes from a :class:`ChainSource`: a data directory, an export file, or another node.
Whatever else a source says (indexes, the state at the end) is compared with the replay. Signatures are verified by
worker threads while this one executes the blocks before them.

A chain whose first blocks are not there begins with a state that others computed. The validators of every epoch since
genesis vouch for it, if all of these epochs' ends are there; or a checkpoint does, a block that the auditor trusts, if
it is among the blocks or epoch ends that are there. With neither, all of it may be invented, however consistent it is,
and the audit says so (:attr:`Report.doubt`).

Not checked, because a chain cannot show it: whether its timestamps were true, whether it is the only one that its
validators signed, and whether there are later blocks.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from chain import crypto
from chain.audit.draws import DrawStatistics
from chain.audit.report import Fault, Report, Restarted
from chain.audit.sources import ChainSource
from chain.exceptions import CodecError, GenesisError, InvalidBlock, InvalidCertificate, LedgerError, StoreError
from chain.light.client import Checkpoint, LightClient, is_too_old
from chain.state.keys import ACCOUNT_PREFIX
from chain.state.state import State, compute_supply
from chain.transition.block import Transition, apply_block, check_finality, check_header, get_signature_checks
from chain.transition.epochs import get_epoch, get_next_epoch
from chain.transition.restart import get_block_epoch
from chain.types.blocks import MAX_BLOCK_BYTES, Block, Header
from chain.types.operations import Register
from chain.types.validators import compute_smallest_blocking_group
from chain.types.votes import Certificate

LOOKAHEAD_BLOCKS = 32
"""Blocks whose signatures may be in the workers' hands at once."""


@dataclass(slots=True)
class _Pending:
    """A decoded block whose signatures are being checked."""

    block: Block
    certificate: Certificate | None
    results: list[tuple[list[tuple[str, crypto.SignatureCheck]], Future[bool]]]


def audit_chain(
    source: ChainSource,
    on_progress: Callable[[int], None] = lambda height: None,
    threads: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> Report:
    """Audit the chain of ``source`` from genesis, or from its base, to its last block.

    Faults are reported, not raised: the report names the first. ``threads`` verify signatures (default: one per core).
    ``checkpoint`` is a block that the caller trusts: another one in its place is a fault, none a reason for doubt.
    """
    genesis = source.genesis
    report = Report(genesis.name, genesis.chain_id)
    try:
        genesis.check()
    except GenesisError as error:
        report.fault = Fault(0, "genesis", str(error))
        return report
    report.supply = genesis.supply
    report.block_id, report.state_root = genesis.header.id, genesis.state.root
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        audit = _Audit(source, report, pool, on_progress, checkpoint)
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
        self,
        source: ChainSource,
        report: Report,
        pool: ThreadPoolExecutor,
        on_progress: Callable[[int], None],
        checkpoint: Checkpoint | None,
    ) -> None:
        self._source = source
        self._genesis = source.genesis
        self._report = report
        self._pool = pool
        self._on_progress = on_progress
        self._checkpoint = checkpoint
        self._trusted: Header | None = None
        """That of the checkpoint, once it was met."""
        self._header = source.base
        self._state = source.genesis.state
        self._light: LightClient | None = None
        self._last_headers: dict[int, Header] = {source.base.height: source.base}
        """The last header of each epoch, by height."""
        self._epoch = get_next_epoch(self._genesis, self._state)
        self._final = source.base.height
        self._supply = source.genesis.supply
        self._draws = DrawStatistics(self._genesis.parameters, self._state, report.payers)
        self.at = 0

    def run(self) -> None:
        if self._header.height:
            self._begin_at_base()
        pending: deque[_Pending] = deque()
        fetched = self._header
        entries = self._source.entries()
        fault: LedgerError | None = None
        while True:
            if get_epoch(self._genesis.parameters, fetched.height + 1) != self._epoch.number:
                self._drain(pending, 0)  # who votes in the next epoch is in the state after this one
                self._epoch = get_next_epoch(self._genesis, self._state)
            try:
                entry = next(entries, None)
                if entry is None:
                    break
                block = Block.decode(entry[0], MAX_BLOCK_BYTES)
            except LedgerError as error:
                fault = error
                break
            if block.body.removed:
                self._drain(pending, 0)
                self._note_restart(block)
            try:
                pending.append(self._begin(fetched, block, entry[1]))
                fetched = block.header
            except LedgerError as error:
                fault = error
                break
            self._drain(pending, LOOKAHEAD_BLOCKS)
        self._drain(pending, 0)  # an earlier fault is the first fault
        if fault is not None:
            self.at = fetched.height + 1
            raise fault
        self.at = self._header.height
        if self._header.height != self._source.height:
            raise StoreError(f"ends at block {self._header.height}, not at {self._source.height}")
        if self._final != self._header.height:
            self.at = self._final + 1
            raise InvalidCertificate(f"no finality certificate covers the blocks after {self._final}", "finality")
        self._check_supply()
        validators = get_next_epoch(self._genesis, self._state).validators
        self._report.validators = len(validators)
        self._report.blocking_group = compute_smallest_blocking_group([each.stake for each in validators])
        self._follow_ends(self._header.height)
        self.at = self._header.height
        self._source.check(self._state, self._header)
        self._report.doubt = self._find_doubt()
        self._draws.compare_with_chance()

    def _begin_at_base(self) -> None:
        """Take the state at the base, after what shows that this is a block of the chain."""
        base, report = self._header, self._report
        self._follow_ends(base.height)
        self.at = base.height
        if self._light is None or self._light.header != base:
            raise StoreError("the block that the chain begins after is not the end of an epoch")
        self._state = self._source.read_base()
        if self._state.root != base.state_root:
            raise StoreError("the state that the chain begins with is not the one after that block")
        self._epoch = get_next_epoch(self._genesis, self._state)
        self._draws = DrawStatistics(self._genesis.parameters, self._state, report.payers)
        self._supply = self._state.totals.supply
        self._check_grants(base.epoch + 1)
        self._check_supply()
        report.base_height, report.base_id = base.height, base.id
        report.height, report.block_id, report.state_root = base.height, base.id, base.state_root
        report.treasury, report.supply = self._state.totals.treasury, self._supply

    def _check_grants(self, epochs: int) -> None:
        """Check that the credit added since genesis is no more than ``epochs`` epochs of grants."""
        parameters, added = self._genesis.parameters, self._supply - self._genesis.supply
        grant = parameters.register_grant
        if not 0 <= added <= grant * parameters.register_cap * epochs or (grant and added % grant):
            raise InvalidBlock("supply", f"is {self._supply}, which no grants in {epochs} epochs can have made it")

    def _meet(self, header: Header) -> None:
        """Note the checkpoint when it comes.

        Raises:
            InvalidBlock: another block stands in its place.
        """
        if self._checkpoint is None or header.height != self._checkpoint.height:
            return
        if self._checkpoint.is_contradicted_by(header):
            raise InvalidBlock("checkpoint", f"this is block {header.id.hex()}, not the checkpoint {self._checkpoint}")
        self._trusted, self._report.checkpoint = header, self._checkpoint

    def _find_doubt(self) -> str | None:
        """Why all this need not be the true chain though nothing in it is wrong; None if there is no reason."""
        base, checkpoint = self._source.base, self._checkpoint
        if checkpoint is not None and self._trusted is None:
            if checkpoint.height > self._header.height:
                return f"the chain ends at block {self._header.height}, before the checkpoint {checkpoint}"
            return (
                f"the checkpoint {checkpoint} is not among the blocks and epoch ends that are here; name one from "
                f"block {base.height} on"
            )
        if self._report.is_proven:
            return None
        if self._trusted is None:
            return (
                f"block {base.height}, with which this chain begins, may be invented: its blocks and the ends "
                "of the first epochs are not here. Name a block that a node you trust reports (`wwwserve status` and "
                "`chain checkpoint` print one): --checkpoint HEIGHT:BLOCKID; or audit the chain of an archive, which "
                "has all blocks"
            )
        if is_too_old(self._genesis, self._trusted, base.epoch):
            age, limit = base.epoch - self._trusted.epoch, self._genesis.parameters.unbonding_epochs
            return (
                f"the checkpoint {checkpoint} is too old, {age} epochs before block {base.height}, with which this "
                f"chain begins: after {limit} its validators may have left with their stake; name a later one"
            )
        return None

    def _follow_ends(self, height: int) -> None:
        """Check the ends of epochs up to a height, each by the validators that the one before names."""
        for end in self._source.light_client_updates():
            self.at = end.header.height
            if self.at > height:
                break
            if self._light is None:
                trusted = end.header if end.header.epoch else self._genesis.header
                self._light = LightClient(self._genesis, trusted, is_audit=True)
                self._report.is_proven = not trusted.height
            elif self.at <= self._light.header.height:
                continue
            if self._last_headers.get(self.at, end.header) != end.header:
                raise StoreError(f"the end on record for epoch {end.header.epoch} is another block")
            self._light.add(end)
            self._meet(end.header)
            self._report.restarts += [
                Restarted(restart.height, restart.id, None, None, is_accepted=True)  # or it would not lead on
                for restart in end.restarts
                if restart.height <= self._source.base.height
            ]

    def _note_restart(self, block: Block) -> None:
        """Go over to the committee that a restart leaves, with which share of the one before."""
        before = self._epoch.validators
        self._epoch = get_block_epoch(self._genesis, self._state, block.body)
        share = self._epoch.validators.total_stake / before.total_stake
        is_accepted = block.id in self._genesis.restarts
        self._report.restarts.append(Restarted(block.height, block.id, len(block.body.removed), share, is_accepted))

    def _begin(self, parent: Header, block: Block, raw_certificate: bytes | None) -> _Pending:
        """Hand a block's signatures to the workers."""
        check_header(self._genesis, self._epoch, parent, block.header)
        self._meet(block.header)
        checks = get_signature_checks(self._genesis, self._epoch, parent, block)
        certificate = None
        if raw_certificate is not None:
            try:
                certificate = Certificate.decode(raw_certificate)
                check_finality(self._genesis, block.header, certificate)
                signed = certificate.signature_checks(self._genesis.chain_id, self._epoch.validators)
                checks += [("finality", check) for check in signed]
            except CodecError as error:
                raise InvalidCertificate(f"is malformed: {error}", "finality") from error
            except InvalidCertificate as error:
                raise InvalidCertificate(error.reason, "finality") from error
        chunks = [checks[start : start + 64] for start in range(0, len(checks), 64)]
        results = [(chunk, self._pool.submit(crypto.verify_all, [check for _, check in chunk])) for chunk in chunks]
        return _Pending(block, certificate, results)

    def _drain(self, pending: deque[_Pending], limit: int) -> None:
        while len(pending) > limit:
            self._finish(pending.popleft())

    def _finish(self, entry: _Pending) -> None:
        """Wait for a block's signatures and execute it."""
        block, report = entry.block, self._report
        self.at = block.height
        for chunk, result in entry.results:
            if not result.result():
                bad = next(name for name, check in chunk if not crypto.verify_all([check]))
                raise InvalidBlock(bad, "the signature does not hold")
            report.signatures += len(chunk)
        before = self._state
        transition = apply_block(self._genesis, self._header, before, block)
        moved = _sum_changes(before, transition)
        self._draws.add(before, block)
        report.duels.add(transition.duel_events)
        report.checks.add(transition.check_events)
        self._header, self._state = block.header, transition.state
        if block.height == self._epoch.last_height:
            self._last_headers[block.height] = block.header
        granted = self._count_grants(block, transition)
        self._supply += granted
        if transition.state.totals.supply != self._supply:
            raise InvalidBlock("supply", f"is {transition.state.totals.supply}, not {self._supply}")
        if moved != granted:
            raise InvalidBlock("supply", f"all credit grows by {moved}, of which {granted} was granted")
        if transition.state.totals.reserved > transition.state.totals.treasury:
            raise InvalidBlock("supply", "duels and checks are promised more than the treasury has")
        self._source.check_block(block, before, transition)
        if entry.certificate is not None:
            self._count_certificate(block, entry.certificate)
        report.height, report.block_id, report.state_root = block.height, block.id, block.header.state_root
        report.operations += len(block.body.operations)
        report.epochs = block.header.epoch + 1
        report.treasury, report.supply = transition.state.totals.treasury, transition.state.totals.supply
        self._on_progress(block.height)

    def _count_grants(self, block: Block, transition: Transition) -> int:
        """The credit that the block granted to newcomers: the only credit that does not come from genesis."""
        granted = sum(
            isinstance(signed.operation, Register) and failure is None
            for signed, failure in zip(block.body.operations, transition.failures, strict=True)
        )
        return granted * self._genesis.parameters.register_grant

    def _check_supply(self) -> None:
        total = compute_supply(self._state)
        if total != self._state.totals.supply:
            raise InvalidBlock("supply", f"all credit adds up to {total}, not to {self._state.totals.supply}")

    def _count_certificate(self, block: Block, certificate: Certificate) -> None:
        validators = self._epoch.validators
        stake = validators.get_stake(validators[position].public_key for position in certificate.signers)
        share = stake / validators.total_stake
        smallest = self._report.smallest_certificate
        if smallest is None or share < smallest:
            self._report.smallest_certificate, self._report.smallest_height = share, block.height
        self._final = block.height


def _sum_changes(before: State, transition: Transition) -> int:
    """By how much the credit of all accounts and the treasury grew, as the changed entries say."""
    after = transition.state
    grown = after.totals.treasury - before.totals.treasury
    for key in transition.changes:
        if key[:1] == ACCOUNT_PREFIX:
            grown += after.account(key[1:]).total - before.account(key[1:]).total
    return grown
