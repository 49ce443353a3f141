"""Ledgers and vote journals of nodes under test: audited, replayed, and compared."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import trio

from chain.audit.audit import audit_chain
from chain.audit.export import ExportSource
from chain.audit.sources import ChainSource
from chain.crypto import KeyPair
from chain.genesis import Genesis
from chain.state.state import State
from chain.transition.block import apply_block
from chain.types.blocks import Block, Header
from chain.types.operations import Capture, Delivery, SignedOperation
from chain.types.votes import Vote
from consensus.sync.download import download_chain
from consensus.voting.journal import Journal
from p2p.host.network import Libp2pNetwork
from p2p.network import NetworkError
from p2p.runtime import RealRuntime
from tests.support.agreement.checkers import VoteChecker
from tests.support.cluster import Cluster, ClusterNode
from tests.support.waiting import ATTEMPTS


@dataclass
class Ledger:
    """What a chain says from genesis to ``head``."""

    head: Header
    state: State
    blocks: dict[int, Header]
    operations: dict[bytes, tuple[SignedOperation, str | None]]
    """By id: the operation, and why it failed although its fee was paid, or None."""
    deliveries: dict[bytes, list[Delivery]]
    """What was captured, by hold."""

    def happened(self, operation: SignedOperation) -> bool:
        """Whether it is final and did what it says."""
        return operation.id in self.operations and self.operations[operation.id][1] is None


async def fetch(node: ClusterNode, genesis: Genesis, directory: Path) -> Ledger:
    """The ledger of a running node, fetched from it over libp2p; again, if it or this process was too slow."""
    runtime = RealRuntime()
    for number in range(1, ATTEMPTS + 1):
        file = directory / f"{runtime.random.getrandbits(64):016x}.export"
        network = Libp2pNetwork(KeyPair(runtime.random.randbytes(32)), (), runtime)
        try:
            await download_chain(network, genesis, node.key.public_key, node.listen_address, file)
            break
        except* NetworkError:
            if number == ATTEMPTS:
                raise
    return read_ledger(ExportSource(file))


def fetch_ledger(node: ClusterNode, genesis: Genesis, directory: Path) -> Ledger:
    """As :func:`fetch`, for tests that are not asynchronous."""
    return trio.run(fetch, node, genesis, directory)


def read_ledger(source: ChainSource) -> Ledger:
    """Audit a chain (which includes that no credit appeared or vanished) and replay it."""
    report = audit_chain(source)
    assert report.fault is None, report.fault
    genesis = source.genesis
    ledger = Ledger(genesis.header, genesis.state, {}, {}, {})
    for raw, _ in source.entries():
        block = Block.decode(raw)
        transition = apply_block(genesis, ledger.head, ledger.state, block)
        ledger.head, ledger.state = block.header, transition.state
        ledger.blocks[block.height] = block.header
        for signed, failure in zip(block.body.operations, transition.failures, strict=True):
            assert signed.id not in ledger.operations, "an operation is on the ledger twice"
            ledger.operations[signed.id] = signed, failure
            if isinstance(signed.operation, Capture):
                for item in signed.operation.items:
                    ledger.deliveries.setdefault(item.delivery.hold, []).append(item.delivery)
    return ledger


def check_agreement(ledgers: list[Ledger]) -> None:
    """Block id and state root are the same at every height that all have."""
    lowest = min(ledger.head.height for ledger in ledgers)
    assert lowest > 0
    for height in range(1, lowest + 1):
        assert len({(ledger.blocks[height].id, ledger.blocks[height].state_root) for ledger in ledgers}) == 1


def read_votes(cluster: Cluster, node: ClusterNode, directory: Path) -> list[Vote]:
    """Every vote that a node, running or not, ever signed (or since it lost some): those in a copy of its journal."""
    copy = Path(shutil.copy(node.directory / "votes.journal", directory / "votes.journal"))
    journal = Journal.open(copy, cluster.genesis.chain_id, node.key.public_key)
    epochs = range(max(int(other.ask("/status")["epoch"]) for other in cluster.nodes if other.is_running) + 2)
    votes = [vote for epoch in epochs for vote in journal.votes(epoch)]
    assert len(votes) == journal.length - journal.start.first
    assert all(vote.is_valid(cluster.genesis.chain_id) for vote in votes)
    journal.close()
    return votes


def check_votes(cluster: Cluster, directory: Path) -> None:
    """No validator ever signed two votes that contradict each other."""
    checker = VoteChecker()
    for node in cluster.nodes:
        for vote in read_votes(cluster, node, directory):
            checker.on_durable(vote)
            checker.on_sent(vote)
    assert {signer for signer, _, _ in checker.votes} == {node.key.public_key for node in cluster.nodes}
    assert checker.violations == []


def find_changes(before: State, after: State) -> set[bytes]:
    """The keys under which two states differ."""
    old, new = ({leaf.key: leaf.encoded for leaf in state.entries()} for state in (before, after))
    return {key for key in {*old, *new} if old.get(key) != new.get(key)}
