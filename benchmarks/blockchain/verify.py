"""How fast ``chain verify`` audits a chain, in operations per second, against the raw rate of signature checks.

A chain of transfers, made and certified by four keys as a network would, is audited from an export file with one
thread per core. The reference is PyNaCl verifying as many signatures with the same threads, and nothing else. Both are
measured in turn, several times; the figures are medians.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from benchmarks.pictures import Chart, Series
from benchmarks.report import Figure, Option, Run
from chain import crypto
from chain.audit.audit import audit_chain
from chain.audit.export import ExportSource, ExportWriter
from chain.audit.report import Report
from chain.crypto import KeyPair
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.state.beacon import make_hash_chain
from chain.transition.block import build_block
from chain.transition.epochs import Epoch, get_next_epoch
from chain.types.blocks import Block, Header
from chain.types.operations import SignedOperation, Transfer, sign_operation
from chain.types.votes import Certificate, VoteKind, make_certificate, sign_vote

ACCOUNTS = 256
OPERATIONS_PER_BLOCK = 500
BATCH_SIGNATURES = 64
"""Signatures that a thread checks at a time in the reference."""


class ChainMaker:
    """Makes a valid chain of full blocks; ``seed`` decides its keys."""

    def __init__(self, seed: int) -> None:
        def make_key(kind: str, number: int) -> KeyPair:
            return KeyPair(crypto.hash_bytes("benchmark", f"{kind}/{seed}/{number}".encode()))

        self._keys = [make_key("validator", number) for number in range(4)]
        self._users = [make_key("user", number) for number in range(ACCOUNTS)]
        parameters, beacon = Parameters(), bytes(32)
        accounts = [make_validator(key, beacon, parameters, 0, 1_000 * CREDIT) for key in self._keys]
        accounts += [GenesisAccount(key.public_key, 1_000 * CREDIT, 0, (), None) for key in self._users]
        self.genesis: Genesis = make_genesis("benchmark", 1, beacon, accounts, parameters)
        self._nonces = [0] * ACCOUNTS

    def make(self, length: int) -> Iterator[tuple[Block, Certificate]]:
        """``length`` blocks, each with its finality certificate."""
        genesis = self.genesis
        by_key = {key.public_key: key for key in self._keys}
        header, state, certificate = genesis.header, genesis.state, None
        for height in range(1, length + 1):
            epoch = get_next_epoch(genesis, state)
            view = 1 if epoch.number != header.epoch or height == 1 else header.view + 1
            leader = by_key[epoch.compute_leader(view)]
            validator = state.validator_record(leader.public_key)
            assert validator is not None
            hash_chain = make_hash_chain(leader, genesis.beacon, 0, genesis.parameters.epoch_heights)
            block, transition, _ = build_block(
                genesis,
                leader,
                header,
                state,
                self._operations(height),
                view=view,
                timestamp=header.timestamp + 250,
                reveal=hash_chain.find_reveal(validator.commitment) or b"",
                parent_certificate=certificate,
                nullifications=(),
            )
            header, state = block.header, transition.state
            certificate = self._certify(header, epoch)
            yield block, certificate

    def _operations(self, height: int) -> Iterator[SignedOperation]:
        for index in range(OPERATIONS_PER_BLOCK):
            user = (height * OPERATIONS_PER_BLOCK + index) % ACCOUNTS
            recipient = self._users[(user + 1) % ACCOUNTS].public_key
            transfer = Transfer(self._nonces[user], recipient, 1)
            self._nonces[user] += 1
            yield sign_operation(self._users[user], self.genesis.chain_id, transfer)

    def _certify(self, header: Header, epoch: Epoch) -> Certificate:
        """Signed by three of the four in turn, so that none is jailed for being away."""
        signers = [key for number, key in enumerate(self._keys) if number != header.height % 4]
        votes = [
            sign_vote(key, self.genesis.chain_id, VoteKind.FINALIZE, header.epoch, header.view, header.id)
            for key in signers
        ]
        return make_certificate(votes, epoch.validators)


def measure_signatures(count: int, threads: int) -> float:
    """Signatures that PyNaCl verifies per second, on ``threads`` threads."""
    key = KeyPair(bytes(32))
    message = bytes(120)
    claim = crypto.SignatureCheck(
        key.public_key, "operation", bytes(32), message, key.sign("operation", bytes(32), message)
    )
    batches = [[claim] * BATCH_SIGNATURES for _ in range(count // BATCH_SIGNATURES)]
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        assert all(pool.map(crypto.verify_all, batches))
        return BATCH_SIGNATURES * len(batches) / (time.perf_counter() - started)


def measure_audit(path: Path, threads: int) -> tuple[Report, float]:
    """Audit an export: what was found, and the seconds that it took."""
    source = ExportSource(path)
    started = time.perf_counter()
    report = audit_chain(source, threads=threads)
    elapsed = time.perf_counter() - started
    source.close()
    assert report.ok, report.fault
    return report, elapsed


def measure(seed: int, blocks: int, rounds: int) -> tuple[list[Figure], list[Chart]]:
    """Audit a chain of ``blocks`` blocks ``rounds`` times."""
    threads = os.cpu_count() or 1
    maker = ChainMaker(seed)
    audited, signed, read, raw = [], [], [], []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chain.export"
        with ExportWriter(path, maker.genesis) as writer:
            for block, certificate in maker.make(blocks):
                writer.add(block.encoded, certificate.encode())
        for _ in range(rounds):
            report, elapsed = measure_audit(path, threads)
            audited.append(report.operations / elapsed)
            signed.append(report.signatures / elapsed)
            read.append(path.stat().st_size / elapsed / 1e6)
            raw.append(measure_signatures(report.signatures, threads))
    reference, against = median(raw), f"PyNaCl alone, {threads} threads"
    figures = [
        Figure("operations audited", median(audited), "/s", reference, against, headline="`chain verify`, operations"),
        Figure("signatures audited", median(signed), "/s", reference, against),
        Figure("bytes audited", median(read), "MB/s"),
    ]
    bars = Series("per second", (), (median(audited), median(signed), reference))
    chart = Chart(
        "Audit of a chain", "", "per second", (bars,), ("operations\naudited", "signatures\naudited", "PyNaCl\nalone")
    )
    return figures, [chart]


def main() -> None:
    """Command line."""
    run = Run(
        "verify",
        __doc__,
        Option("blocks", 60, 10, f"blocks of {OPERATIONS_PER_BLOCK} operations"),
        Option("rounds", 5, 3, "audits"),
    )
    run.finish(*measure(run.seed, run.values["blocks"], run.values["rounds"]))


if __name__ == "__main__":
    main()
