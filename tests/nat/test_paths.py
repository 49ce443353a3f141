"""Private nodes behind NATs serve, offload to one another and are paid, and come back when a path breaks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chain.verify import StoreSource
from tests.nat.box import NatType
from tests.nat.lab import open_lab
from tests.nat.nodes import Load, Network, PlacedNode, run_network
from tests.processes.cluster import wait_until
from tests.processes.ledgers import check_agreement, read_ledger

RECOVERY = 60.0
"""Seconds within which service is back."""
TOKENS = 40
"""Of a long answer, ten a second."""

MIXED = (NatType.PORT_RESTRICTED, NatType.CONE, NatType.SYMMETRIC)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    with open_lab() as lab, run_network(lab, tmp_path_factory.mktemp("network"), MIXED) as network:
        yield network


@contextmanager
def in_time(what: str) -> Iterator[None]:
    """AssertionError if what is inside takes longer than RECOVERY."""
    begun = time.monotonic()
    yield
    passed = time.monotonic() - begun
    print(f"{what}: back after {passed:.1f} s")
    assert passed <= RECOVERY, f"{what}: service was back after {passed:.1f} s"


def test_users_of_a_public_node_are_answered_by_every_private_node(network: Network) -> None:
    ids = network.ask_until_each_answered(network.entry, network.private)
    network.check_paid(network.entry, ids)


def test_private_nodes_offload_to_private_nodes_behind_other_nats(network: Network) -> None:
    ids = {
        node.address: network.ask_until_each_answered(node, [other for other in network.private if other is not node])
        for node in network.private
    }
    for node in network.private:
        network.check_paid(node, ids[node.address])


def test_private_nodes_find_out_that_they_are(network: Network) -> None:
    wait_until(
        lambda: not any(node.ask("/status")["listening"] for node in network.private),
        "private nodes do not know that nobody can dial them",
    )
    for public in (network.relay, network.entry):
        assert public.ask("/status")["listening"] == [public.multiaddress]


@pytest.mark.parametrize("number", range(len(MIXED)), ids=MIXED)
def test_the_address_of_a_home_changes(network: Network, number: int) -> None:
    """In the middle of answers: streams to others go on, those to this node end in an answer or an error."""
    node = network.private[number]
    load = Load()
    for _ in range(4):
        load.start(network.entry, TOKENS)
    node.home.box.change_address()
    with in_time(f"the address of a home behind a {node.home.box.nat_type} NAT changed"):
        ids = network.ask_until_each_answered(network.entry, [node], tries=200)
        network.wait_connected(timeout=RECOVERY)
    check_load(load, may_break=node)
    network.check_paid(network.entry, ids)


def test_the_relay_dies_in_the_middle_of_answers_and_comes_back(network: Network) -> None:
    """Requests of the public node's users do not even notice; nobody waits for ever."""
    public, private = Load(), Load()
    for _ in range(3):
        public.start(network.entry, TOKENS)
    for node in network.private:
        private.start(node, TOKENS)
    network.relay.kill()
    for answer in public.wait():
        answer.check(TOKENS)
    for answer in private.wait():
        assert answer.is_whole != bool(answer.error), answer
    network.relay.start()
    with in_time("the relay was restarted"):
        network.wait_connected(timeout=RECOVERY)
        for node in network.private:
            others = [other for other in network.private if other is not node]
            network.check_paid(node, network.ask_until_each_answered(node, others[:1], tries=200))


def check_load(load: Load, may_break: PlacedNode) -> None:
    """Everybody has a whole answer, or a clear error in the middle of one by ``may_break``."""
    for answer in load.wait():
        if answer.error:
            assert answer.executor == may_break.address and "broke off" in answer.error, answer
        else:
            answer.check(TOKENS)


def test_all_ledgers_agree_in_the_end(network: Network) -> None:
    for node in network.nodes:
        assert node.stop() == 0
    ledgers = []
    for node in network.nodes:
        assert "Traceback" not in node.log
        with node.blocks() as blocks:
            ledgers.append(read_ledger(StoreSource(blocks._store)))
    check_agreement(ledgers)
