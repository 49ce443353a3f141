"""Double spending over real libp2p: the same credits promised twice, to different nodes at the same moment.

Two hosts that belong to no node, each connected to one node alone, gossip what contradicts: exactly one of each pair
becomes final, the same one everywhere, and no credit appears or vanishes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import trio

from chain.crypto import KeyPair
from chain.genesis import GenesisAccount
from chain.parameters.parameters import CREDIT
from chain.state.lottery import compute_lottery_seed
from chain.state.records import REPLAY_WINDOW_SIZE
from chain.state.state import compute_supply
from chain.transition.deposits import compute_hold_deposit
from chain.transition.fees import compute_fee
from chain.types.operations import Hold, Operation, SignedOperation, Transfer, compute_hold_id, sign_operation
from consensus.network.gossip import Batch, get_topic
from p2p.host.network import Libp2pNetwork
from p2p.runtime import RealRuntime
from tests.support.cluster import Cluster, run_cluster
from tests.support.fake_backend import MODEL
from tests.support.ledgers import Ledger, check_agreement, fetch, fetch_ledger
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.double_spend

Pair = tuple[SignedOperation, SignedOperation]

AGAIN = 0.5
"""Seconds after which both sides gossip their claim again: gossip is a hint, and this is the attack that it may be."""


EXECUTOR = KeyPair(b"an executor without a node".ljust(32))
"""The payee of the holds. It does not run, so that it refunds no hold for which no request comes."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    executor = GenesisAccount(EXECUTOR.public_key, 0, 1_000 * CREDIT, (MODEL,), None)
    with run_cluster(tmp_path / "cluster", users=10, accounts=[executor]) as cluster:
        yield cluster


def make_pairs(cluster: Cluster) -> list[Pair]:
    """Per user: two transfers of one nonce, or two holds of most of the balance under different numbers."""
    transfers, holds = cluster.users[:4], cluster.users[4:8]
    payees = cluster.nodes[0].key.public_key, cluster.nodes[1].key.public_key
    return [
        *(sign_pair(cluster, user, *(Transfer(0, payee, 700 * CREDIT) for payee in payees)) for user in transfers),
        *(sign_pair(cluster, user, *make_holds(cluster, user)) for user in holds),
    ]


def sign_pair(cluster: Cluster, user: KeyPair, one: Operation, other: Operation) -> Pair:
    chain_id = cluster.genesis.chain_id
    return sign_operation(user, chain_id, one), sign_operation(user, chain_id, other)


def make_holds(cluster: Cluster, user: KeyPair) -> Iterator[Hold]:
    """Two holds of most of a user's balance, under the first numbers with which the lottery draws the executor."""
    genesis = cluster.genesis
    table = genesis.state.serving_table(0)
    assert table is not None
    lottery, beacon = (
        table.lottery(MODEL),
        genesis.state.serving_periods.current.source,
    )  # of a period that does not end here
    found = 0
    for seq in range(REPLAY_WINDOW_SIZE):
        seed = compute_lottery_seed(beacon, user.public_key, seq)
        if found < 2 and lottery.get_executor(seed, user.public_key, 0) == EXECUTOR.public_key:
            found += 1
            yield Hold(EXECUTOR.public_key, 700 * CREDIT, 0, seq, 0, MODEL, bytes(32), 3_000_000)
    assert found == 2


async def spend(cluster: Cluster, pairs: list[Pair], directory: Path) -> None:
    """Gossip the two sides' claims to one node each, at the same moment, until one of each pair is final elsewhere."""
    runtime, topic = RealRuntime(), get_topic(cluster.genesis.chain_id, "ops")
    hosts = [Libp2pNetwork(KeyPair(runtime.random.randbytes(32)), (), runtime) for _ in range(2)]
    neighbours, witness = cluster.nodes[:2], cluster.nodes[3]

    async def publish(host: Libp2pNetwork, claims: Sequence[SignedOperation]) -> None:
        while True:
            await host.publish(topic, Batch(tuple(claim.encoded for claim in claims)).encode())
            await trio.sleep(AGAIN)

    async def publish_until_final(sides: Mapping[Libp2pNetwork, Sequence[SignedOperation]]) -> None:
        """Until one claim of each place in the batches is final."""
        async with trio.open_nursery() as nursery:
            for host, claims in sides.items():
                nursery.start_soon(publish, host, claims)
            with trio.fail_after(PATIENCE):
                while True:
                    ledger = await fetch(witness, cluster.genesis, directory)
                    if all(
                        any(claim.id in ledger.operations for claim in pair)
                        for pair in zip(*sides.values(), strict=True)
                    ):
                        break
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for host, node in zip(hosts, neighbours, strict=True):
            await nursery.start(host.run)
            await host.connect(node.key.public_key, [node.listen_address])
        # An operation without a rival shows that both sides are heard, so that the contest begins at the same moment.
        for host, user in zip(hosts, cluster.users[8:10], strict=True):
            claim = sign_operation(user, cluster.genesis.chain_id, Transfer(0, witness.key.public_key, 1))
            await publish_until_final({host: [claim]})
        await publish_until_final(dict(zip(hosts, zip(*pairs, strict=True), strict=True)))
        for host, node in zip(hosts, neighbours, strict=True):
            assert host.peers() <= {node.key.public_key}, "a host was to speak to one node alone"
        nursery.cancel_scope.cancel()


def test_of_two_claims_to_the_same_credits_one_becomes_final(cluster: Cluster, tmp_path: Path) -> None:
    pairs = make_pairs(cluster)
    trio.run(spend, cluster, pairs, tmp_path)
    # Some blocks more by every node, into which those who lost would go if they could.
    for node, other in zip(cluster.nodes, reversed(cluster.nodes), strict=True):
        height = node.transfer(other, 1)
    wait_until(lambda: all(node.height >= height for node in cluster.nodes), "not final everywhere")
    ledgers = [fetch_ledger(node, cluster.genesis, tmp_path) for node in cluster.nodes]
    check_agreement(ledgers)
    winners = [tuple(claim.id for pair in pairs for claim in pair if ledger.happened(claim)) for ledger in ledgers]
    assert len(set(winners)) == 1
    for ledger in ledgers:
        assert compute_supply(ledger.state) == cluster.genesis.supply
        for pair in pairs:
            check_spent_once(cluster, ledger, pair)


def check_spent_once(cluster: Cluster, ledger: Ledger, pair: Pair) -> None:
    """One of the two happened: the account has lost what it moved, and the fees of what is final, and no more.

    The other one may be final too, as one that failed: if a leader took both of two holds into its block.
    """
    (winner,) = (claim for claim in pair if ledger.happened(claim))
    account = ledger.state.account(winner.signer)
    fees = sum(compute_fee(cluster.genesis, claim) for claim in pair if claim.id in ledger.operations)
    if isinstance(winner.operation, Hold):  # the first of the account
        fees += cluster.genesis.parameters.entry_fee
    # A hold keeps a deposit, and one that came before one with a lower number another for that: the account's own both.
    is_hold = isinstance(winner.operation, Hold)
    held = 700 * CREDIT + compute_hold_deposit(cluster.genesis.parameters) if is_hold else 0
    assert account.available + account.deposit == (1_000 if is_hold else 300) * CREDIT - held - fees
    assert (account.nonce, account.held) == ((0, held) if is_hold else (1, 0))
    if isinstance(winner.operation, Hold):
        hold = ledger.state.hold(compute_hold_id(winner.signer, winner.operation))
        assert hold is not None and hold.payee == winner.operation.payee
