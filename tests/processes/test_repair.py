"""A validator whose disk was damaged: it sets aside what is broken, fetches the chain, waits, and votes again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from chain.genesis import load_genesis
from chain.keyfile import load_identity
from consensus.voting.disk import DataDisk, open_storage
from consensus.voting.journal import RECORD_BYTES, Journal
from tests.support.cluster import SHORT_EPOCHS, Cluster, ClusterNode, run_cluster
from tests.support.commands import run_here
from tests.support.ledgers import check_agreement, check_votes, fetch_ledger, read_votes
from tests.support.waiting import wait_until


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with run_cluster(tmp_path / "cluster", parameters=SHORT_EPOCHS) as cluster:
        yield cluster


def read_start(cluster: Cluster, node: ClusterNode, directory: Path) -> bytes:
    """The memo that a validator waits for, from a copy of its journal."""
    copy = directory / "journal"
    copy.write_bytes((node.directory / "votes.journal").read_bytes())
    journal = Journal.open(copy, cluster.genesis.chain_id, node.key.public_key)
    journal.close()
    return journal.start.nonce


@pytest.mark.long  # that each kind of damage is repaired shows tests/adversarial/crashes/test_damage.py
def test_a_damaged_disk_repairs_itself(cluster: Cluster, tmp_path: Path) -> None:
    victim, *others = reversed(cluster.nodes)
    length = cluster.genesis.parameters.epoch_heights
    for _ in range(2 * length):  # of epoch 0 alone it could not be told that the victim waits for another
        others[0].transfer(others[1], 1)
        if max((vote.epoch for vote in read_votes(cluster, victim, tmp_path)), default=0) > 0:
            break
    victim.kill()
    forgotten = read_votes(cluster, victim, tmp_path)
    assert max(vote.epoch for vote in forgotten) > 0
    flip(victim.directory / "votes.journal", RECORD_BYTES + 7)
    (victim.directory / "chain" / "CURRENT").unlink()
    victim.start()
    cluster.wait_ready()
    kept = {path.name.split(".damaged-")[0] for path in victim.directory.glob("*.damaged-*")}
    assert kept == {"chain", "votes.journal"}
    assert "the chain database is damaged" in victim.log and "the vote journal is damaged" in victim.log

    waited, spent = 0, 0  # it may have seen its operation become final before the test looks
    while not (votes := read_votes(cluster, victim, tmp_path)):
        epoch = int(others[0].ask("/status")["epoch"])
        if read_start(cluster, victim, tmp_path):
            waited = max(waited, epoch)
        others[0].transfer(others[1], 1)
        spent += 1
        assert spent < 3 * length, "it does not vote any more"
    assert min(vote.epoch for vote in votes) > max(waited, *(vote.epoch for vote in forgotten))
    height = victim.transfer(others[0], 1)
    wait_until(lambda: all(node.height >= height for node in cluster.nodes), "not final everywhere")
    check_agreement([fetch_ledger(node, cluster.genesis, tmp_path) for node in cluster.nodes])
    check_votes(cluster, tmp_path)


def test_a_new_validator_votes_at_once(tmp_path: Path) -> None:
    """``init`` begins the journal that a key must come with."""
    home = tmp_path / "node"
    run_here("init", "-d", home, "--new-chain", "mine")
    genesis, key = load_genesis(home / "genesis.json"), load_identity(home / "key", None)
    opened = open_storage(DataDisk(home, lambda: 0), genesis, key, Random(1), votes=True)
    assert opened.vote_store is not None and opened.vote_store.lockout.may_vote(0)
    opened.close()
    (home / "votes.journal").unlink()
    opened = open_storage(DataDisk(home, lambda: 0), genesis, key, Random(1), votes=True)
    assert opened.vote_store is not None and opened.vote_store.lockout.is_locked
    opened.close()
