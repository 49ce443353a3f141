"""How fast ``chain verify`` audits a chain, in operations per second, against the raw rate of signature checks.

A chain of transfers, made and certified by four keys as a network would, is audited from an export file with one
thread per core. The reference is PyNaCl verifying as many signatures with the same threads, and nothing else.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.report import Claim, parse_options, report
from chain import crypto
from chain.audit.audit import verify_chain
from chain.audit.export import ExportSource, export_chain
from chain.crypto import KeyPair
from chain.genesis import CREDIT, Genesis, GenesisAccount, Parameters, make_genesis, make_validator
from chain.state.beacon import make_onion
from chain.state.state import State
from chain.transition.block import build_block
from chain.transition.epochs import Epoch, get_next_epoch
from chain.types.blocks import Header
from chain.types.operations import SignedOperation, Transfer, sign_operation
from chain.types.votes import Certificate, VoteKind, make_certificate, sign_vote

ACCOUNTS = 256
OPERATIONS_PER_BLOCK = 500


class MadeChain:
    """A valid chain of ``length`` full blocks, as a source of an export."""

    def __init__(self, length: int) -> None:
        self.height = length
        self._keys = [KeyPair(crypto.hash_bytes("benchmark", bytes([number]))) for number in range(4)]
        self._users = [KeyPair(crypto.hash_bytes("user", number.to_bytes(4, "big"))) for number in range(ACCOUNTS)]
        parameters, beacon = Parameters(), bytes(32)
        accounts = [make_validator(key, beacon, parameters, 0, 1_000 * CREDIT) for key in self._keys]
        accounts += [GenesisAccount(key.public_key, 1_000 * CREDIT, 0, (), None) for key in self._users]
        self.genesis: Genesis = make_genesis("benchmark", 1, beacon, accounts, parameters)
        self._nonces = [0] * ACCOUNTS

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """See :class:`chain.audit.audit.Source`."""
        genesis = self.genesis
        by_key = {key.public_key: key for key in self._keys}
        header, state, certificate = genesis.header, genesis.state, None
        for height in range(1, self.height + 1):
            epoch = get_next_epoch(genesis, state)
            view = 1 if epoch.number != header.epoch or height == 1 else header.view + 1
            leader = by_key[epoch.compute_leader(view)]
            duty = state.duty(leader.public_key)
            assert duty is not None
            onion = make_onion(leader, genesis.beacon, 0, genesis.parameters.epoch_heights)
            block, transition, _ = build_block(
                genesis,
                leader,
                header,
                state,
                self._operations(height),
                view=view,
                timestamp=header.timestamp + 250,
                reveal=onion.find_reveal(duty.tip) or b"",
                parent_certificate=certificate,
                nullifications=(),
            )
            header, state = block.header, transition.state
            certificate = self._certify(header, epoch)
            yield block.encoded, certificate.encode()

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

    def check(self, state: State, header: Header) -> None:
        """See :class:`chain.audit.audit.Source`."""


def measure_signatures(count: int, threads: int) -> float:
    """Signatures that PyNaCl verifies per second, on ``threads`` threads."""
    key = KeyPair(bytes(32))
    message = bytes(120)
    claim = crypto.Claim(key.public_key, "operation", bytes(32), message, key.sign("operation", bytes(32), message))
    chunks = [[claim] * 64 for _ in range(count // 64)]
    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        assert all(pool.map(crypto.verify_all, chunks))
        return 64 * len(chunks) / (time.perf_counter() - started)


def main() -> None:
    """Command line."""
    options = parse_options(__doc__)
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chain.export"
        export_chain(MadeChain(10 if options.quick else 60), path)
        started = time.perf_counter()
        outcome = verify_chain(ExportSource(path), threads=threads)
        elapsed = time.perf_counter() - started
        size = path.stat().st_size
    assert outcome.ok, outcome.fault
    raw = measure_signatures(6_400 if options.quick else 32_000, threads)
    claims = [
        Claim("operations audited", outcome.operations / elapsed, "per s", raw, "raw PyNaCl verify, same threads"),
        Claim("signatures audited", outcome.signatures / elapsed, "per s", raw, "raw PyNaCl verify, same threads"),
        Claim("bytes audited", size / elapsed / 1e6, "MB/s"),
    ]
    report("verify", claims, options.json)


if __name__ == "__main__":
    main()
