"""Private nodes behind NATs serve, offload to one another and are paid, and come back when a path breaks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from itertools import combinations, permutations
from pathlib import Path

import httpx
import pytest

from chain.audit.sources import StoreSource
from p2p.host.transport.simultaneous_open import PUNCH_TIMEOUT_S
from p2p.host.workarounds.yamux import KEEPALIVE_INTERVAL_S
from tests.nat.box import TCP, NatType
from tests.nat.lab import open_lab
from tests.nat.nodes import Load, Network, PlacedNode, Settings, run_network
from tests.support.ledgers import check_agreement, read_ledger
from tests.support.waiting import PATIENCE, wait_until

TOKENS = 120
"""Of a long answer, ten a second."""

R, C, S = NatType.PORT_RESTRICTED, NatType.CONE, NatType.SYMMETRIC
MIXED = (R, C, S)
SAME = ((R, R), (C, C), (S, S))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All types in one network; in the long run also two of the same type."""
    if "network" in metafunc.fixturenames:
        combinations = [MIXED, *(SAME if metafunc.config.getoption("--long") else ())]
        metafunc.parametrize("network", combinations, indirect=True, scope="module", ids=" ".join)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Network]:
    def configure(network: Network, node: PlacedNode) -> Settings:
        node.command = [sys.executable, "-m", "tests.nat.tenacious"]
        return {}

    with open_lab() as lab, run_network(lab, tmp_path_factory.mktemp("network"), request.param, configure) as network:
        yield network


def is_passable(one: PlacedNode, other: PlacedNode) -> bool:
    """Whether two homes can meet: a symmetric NAT calls from an unknown port, which only a cone lets in."""
    types = {one.home.box.nat_type, other.home.box.nat_type}
    return S not in types or types == {S, C}


def is_connected(one: PlacedNode, other: PlacedNode) -> bool:
    """Whether there is an established TCP connection from one home to another, as the kernel of the first says."""
    assert one.process is not None
    rows = [line.split() for line in Path(f"/proc/{one.process.pid}/net/tcp").read_text().splitlines()[1:]]
    remote = {str(IPv4Address(bytes.fromhex(row[2].split(":")[0])[::-1])) for row in rows if row[3] == "01"}
    return not remote.isdisjoint(other.home.box.addresses)


def is_talking(one: PlacedNode, other: PlacedNode) -> bool:
    """Whether there is a connection between two homes: both send on it, if only to see whether it lives.

    What kernels still send on connections that are not used any more does not count.
    """

    def count(source: PlacedNode, target: PlacedNode) -> int:
        flows = source.home.box.flows.items()
        return sum(packets for flow, packets in flows if flow.outbound and flow.target[0] in target.home.box.addresses)

    before = count(one, other), count(other, one)
    time.sleep(2 * KEEPALIVE_INTERVAL_S)
    sent = count(one, other) > before[0] and count(other, one) > before[1]
    return sent and is_connected(one, other) and is_connected(other, one)


def wait_talking(one: PlacedNode, other: PlacedNode) -> None:
    """Wait until there is a connection between two homes; a punch that this machine was too slow for is repeated."""
    wait_until(lambda: is_talking(one, other), "no hole was punched", 2 * PATIENCE)


def wait_path(one: PlacedNode, other: PlacedNode, path: str) -> None:
    """Wait until one home reaches another by a path, as it says itself."""

    def is_reached() -> bool:
        try:
            return bool(one.ask("/network/ping", "POST", {"peer": other.address})["path"] == path)
        except httpx.HTTPStatusError:  # it has not answered in time
            return False

    wait_until(is_reached, f"it is not reached, {path}")


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long service takes to be back."""
    begun = time.monotonic()
    yield
    print(f"{what}: back after {time.monotonic() - begun:.1f} s")


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
        "private nodes do not know that others cannot dial them",
    )
    for public in (network.relay, network.entry):
        assert public.ask("/status")["listening"] == [public.multiaddress]


def test_private_nodes_meet_directly_where_their_nats_allow(network: Network) -> None:
    for one, other in combinations(network.private, 2):
        if is_passable(one, other):
            wait_talking(one, other)
    time.sleep(PUNCH_TIMEOUT_S)
    for one, other in combinations(network.private, 2):
        if is_passable(one, other):
            wait_path(one, other, "direct")
        else:
            assert not is_talking(one, other)
            wait_path(one, other, "relayed")
    public = {network.relay.host.address, network.entry.host.address}
    homes = {address for node in network.private for address in node.home.box.addresses}
    for node in network.private:
        heard = {flow.source[0] for flow in node.home.box.flows if flow.protocol == TCP and not flow.outbound}
        assert network.relay.host.address in heard <= public | homes


def test_the_address_of_a_home_changes(network: Network) -> None:
    """In the middle of answers, which are whole all the same."""
    for number, node in enumerate(network.private):
        other = network.private[number - 1]
        load = Load()
        load.start_until_served_by(network.entry, node, TOKENS)
        load.start_until_served_by(network.entry, other, TOKENS)
        node.home.box.change_address()
        with timed(f"the address of a home behind a {node.home.box.nat_type} NAT changed"):
            ids = network.ask_until_each_answered(network.entry, [node], tries=200)
            own = network.ask_until_each_answered(node, [other], tries=200)
            network.ask_until_each_answered(other, [node], tries=200)
        network.check_paid(network.entry, ids)
        network.check_paid(node, own)
        for answer in load.wait():
            answer.check(TOKENS)


def test_a_home_is_cut_off_and_comes_back(network: Network) -> None:
    """Both sides notice, though no packet tells them."""
    node, *others = network.private
    node.home.box.block()
    wait_until(
        lambda: (
            not any(public.has_peers([node]) for public in (network.relay, network.entry))
            and not any(peer["connected"] for peer in node.ask("/peers")["peers"])
        ),
        "a dead link was not noticed",
    )
    node.home.box.block(False)
    with timed("a home was cut off"):
        ids = network.ask_until_each_answered(network.entry, [node], tries=200)
        own = network.ask_until_each_answered(node, others[:1], tries=200)
    network.check_paid(network.entry, ids)
    network.check_paid(node, own)


def test_the_relay_dies_in_the_middle_of_answers_and_comes_back(network: Network) -> None:
    """Those who are not served through it do not even notice; the others' answers go on when it is back."""
    public, relayed = Load(), Load()
    pairs = [pair for pair in permutations(network.private, 2) if is_passable(*pair)]
    for one, other in pairs:
        wait_talking(one, other)
    for node in network.private:
        public.start_until_served_by(network.entry, node, TOKENS)
        relayed.start(node, TOKENS)
    direct = [Load() for _ in pairs]
    for (one, other), load in zip(pairs, direct, strict=True):
        load.start_until_served_by(one, other, TOKENS)
    network.relay.kill()
    for answer in public.wait():
        answer.check(TOKENS)
    for load in direct:
        load.wait_last().check(TOKENS)
    network.relay.start()
    for load in (relayed, *direct):
        for answer in load.wait():
            answer.check(TOKENS)
    with timed("the relay was restarted"):
        for node in network.private:
            others = [other for other in network.private if other is not node]
            ids = network.ask_until_each_answered(node, others, tries=200)
    network.check_paid(node, ids)


def test_all_ledgers_agree_in_the_end(network: Network) -> None:
    for node in network.nodes:
        assert node.stop() == 0
    ledgers = []
    for node in network.nodes:
        assert "Traceback" not in node.log
        with node.blocks() as blocks:
            ledgers.append(read_ledger(StoreSource(blocks._store)))
    check_agreement(ledgers)
