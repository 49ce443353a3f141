"""What gives an anonymous node away: every packet that leaves it and everything that it tells is looked through.

Three private nodes take part in one network through a run with churn: two are anonymous, one of these behind a proxy,
and the third is the control, which the same search has to catch. ``relay`` is the only peer that they know at first,
and ``entry`` a stranger to them, whose address they learn.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio

from chain.audit.sources import StoreSource
from chain.crypto import KeyPair
from consensus.voting.disk import JOURNAL_FILE
from consensus.voting.journal import Journal
from p2p.addresses import format_circuit_address
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL as VIEWS
from p2p.host.network import Libp2pNetwork
from p2p.network import NetworkError
from p2p.runtime import RealRuntime
from tests.nat.box import TCP, UDP, Endpoint, Flow, NatType
from tests.nat.lab import Host, Lab, open_lab
from tests.nat.leaks import find_leaks, find_strays
from tests.nat.nodes import OFFLOADS, PEER_PORT, Network, PlacedNode, Settings, run_network
from tests.support.cluster import ENVIRONMENT, ROOT
from tests.support.ledgers import check_agreement, read_ledger
from tests.support.waiting import PATIENCE, wait_until

ANONYMOUS, PROXIED, CONTROL = range(3)
"""Numbers of the private nodes."""
NATS = NatType.PORT_RESTRICTED, NatType.SYMMETRIC, NatType.CONE
PROXY_PORT = 1080
REVEALING = (
    *("/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/ipfs/kad/1.0.0", "/libp2p/dcutr", "/libp2p/autonat/1.0.0"),
    *("/libp2p/circuit/relay/0.2.0/hop", "/wwwserve/reachability/1", "/wwwserve/punch/1"),
)
"""Protocols that tell where a node is, or have it dial."""
PROBE_PATIENCE = 2.0
"""Seconds for an answer to a question that makes no sense."""
CHURN, LONG_CHURN = 60.0, 600.0
"""Seconds."""

hidden = pytest.mark.parametrize("number", [ANONYMOUS, PROXIED], ids=["anonymous", "proxied"])


@dataclass
class Evidence:
    """What is known of a private node when all is over."""

    addresses: list[str]
    """Those that it had: its own ones, and those of its box."""
    allowed: Endpoint
    """Where an anonymous node in its place may connect to."""
    flows: list[Flow]
    sent: bytes
    """The payloads of all its packets."""
    told: bytes
    """The same before encryption."""
    entries: list[dict[str, Any]]
    """What the others list it as."""
    earned: int
    votes: int
    """How often it voted on blocks."""
    spoken: set[str]
    """The protocols of :data:`REVEALING`, and one other, that it speaks with strangers."""


@dataclass
class Run:
    """One run of the network."""

    relay: PlacedNode
    private: list[Evidence]
    asked_proxy: set[Endpoint]
    ledger: bytes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Run]:
    directory = tmp_path_factory.mktemp("anonymity")
    seconds = LONG_CHURN if request.config.getoption("--long") else CHURN
    with open_lab() as lab, run_proxy(lab, directory / "asked") as proxy:

        def configure(network: Network, node: PlacedNode) -> Settings:
            if node not in network.private:
                return {"policy": OFFLOADS} if node is network.entry else {}
            node.command = [sys.executable, "-m", "tests.nat.tapped", str(node.directory / "told")]
            node.home.box.record()
            settings: Settings = {"bootstrap": [network.relay.multiaddress]}
            if node is network.private[PROXIED]:
                node.options = ["--anonymous", "--socks5", f"{proxy.address}:{PROXY_PORT}"]
            if node is network.private[ANONYMOUS]:
                settings |= {"anonymous": True, "listen": []}
            return settings

        with run_network(lab, directory, NATS, configure) as network:
            churn(network, seconds)
            private = [collect(network, node, proxy) for node in network.private]
            for node in network.nodes:
                assert node.stop() == 0
                assert "Traceback" not in node.log
        asked = {
            place for line in (directory / "asked").read_text().splitlines()[1:] for place in ast.literal_eval(line)
        }
        yield Run(network.relay, private, asked, read_raw_ledger(network))


@contextmanager
def run_proxy(lab: Lab, output: Path) -> Iterator[Host]:
    """A machine with a SOCKS5 proxy, which notes in a file what it was asked for."""
    host = lab.add_host("proxy")
    with output.open("wb") as file, host.namespace:
        command = [sys.executable, "-m", "tests.nat.proxy", host.address, str(PROXY_PORT)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, cwd=ROOT, env=ENVIRONMENT)
    try:
        wait_until(lambda: output.read_text().startswith("listening\n"), "the proxy does not start")
        yield host
    finally:
        process.kill()
        process.wait()


def churn(network: Network, seconds: float) -> None:
    """Have everybody go, come back and move, again and again, and everybody serve in between."""
    anonymous, proxied, control = network.private

    def restart(node: PlacedNode) -> None:
        node.kill()
        node.start()

    events: list[Callable[[], object]] = [
        lambda: None,
        lambda: restart(network.relay),
        anonymous.home.box.change_address,
        proxied.home.box.change_address,
        lambda: restart(control),
        lambda: restart(network.entry),
    ]
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        for event in events:
            event()
            network.wait_connected()
            ids = network.ask_until_each_answered(network.entry, network.private, tries=200)
            network.check_paid(network.entry, ids)
            for node in (anonymous, proxied):
                others = [other for other in network.private if other is not node]
                network.ask_until_each_answered(node, others, tries=200)


def probe(network: Network, node: PlacedNode) -> set[str]:
    """Have a stranger ask a node whatever can be asked; the answers are among what it tells.

    Returns the protocols that it speaks.
    """

    async def ask_everything() -> set[str]:
        runtime = RealRuntime()
        stranger = Libp2pNetwork(KeyPair(runtime.random.randbytes(32)), (), runtime)
        relay = network.relay
        spoken: set[str] = set()
        async with trio.open_nursery() as nursery:
            await nursery.start(stranger.run)
            circuit = format_circuit_address(relay.key.public_key, relay.listen_address)

            async def ask_for(protocol: str) -> None:
                await stranger.connect(relay.key.public_key, [relay.listen_address])
                await stranger.connect(node.key.public_key, [circuit])
                stream = await stranger.open_stream(node.key.public_key, protocol)
                spoken.add(protocol)
                with trio.move_on_after(PROBE_PATIENCE):
                    await stream.send(b"\0")
                    while await stream.receive():
                        pass

            with trio.fail_after(2 * PATIENCE):
                while VIEWS not in spoken:  # which every node speaks; this machine may stand still for one try
                    with suppress(NetworkError):
                        await ask_for(VIEWS)
            for protocol in REVEALING:
                with suppress(NetworkError):
                    await ask_for(protocol)
            nursery.cancel_scope.cancel()
        return spoken

    with network.entry.host.namespace:
        return trio.run(ask_everything)


def collect(network: Network, node: PlacedNode, proxy: Host) -> Evidence:
    home = node.home

    def find_entries() -> list[dict[str, Any]]:
        others = [other for other in network.nodes if other is not node]
        entries = [entry for other in others for entry in other.ask("/peers")["peers"]]
        return [entry for entry in entries if entry["address"] == node.address]

    if node is not network.private[CONTROL]:
        is_known: list[tuple[list[str], list[str]]] = [([], [network.relay.multiaddress])] * 4
        wait_until(
            lambda: [(entry["addresses"], entry["relays"]) for entry in find_entries()] == is_known,
            "the others do not know it by its relay alone",
        )
    is_proxied = node is network.private[PROXIED]
    spoken = probe(network, node)  # before what it tells is read
    return Evidence(
        addresses=[home.address, home.address6, *home.box.addresses],
        allowed=(proxy.address, PROXY_PORT) if is_proxied else (network.relay.host.address, PEER_PORT),
        flows=list(home.box.flows),
        sent=home.box.recorded,
        told=(node.directory / "told").read_bytes(),
        entries=find_entries(),
        earned=node.ask("/wallet")["earned"],
        votes=count_votes(network, node),
        spoken=spoken,
    )


def count_votes(network: Network, node: PlacedNode) -> int:
    """How many votes are in a copy of its journal."""
    copy = shutil.copy(node.directory / JOURNAL_FILE, node.directory / "copy")
    journal = Journal.open(Path(copy), network.genesis.chain_id, node.key.public_key)
    try:
        return journal.length - journal.start.first
    finally:
        journal.close()


def read_raw_ledger(network: Network) -> bytes:
    """All blocks of the chain that all nodes have."""
    raw, ledgers = b"", []
    for node in network.nodes:
        with node.blocks() as blocks:
            source = StoreSource(blocks._store)
            ledgers.append(read_ledger(source))
            raw += b"".join(block for block, _ in source.entries())
    check_agreement(ledgers)
    return raw


@hidden
def test_no_packet_goes_anywhere_else(run: Run, number: int) -> None:
    evidence = run.private[number]
    assert any(flow.target == evidence.allowed for flow in evidence.flows)
    assert find_strays(evidence.flows, {evidence.allowed}) == []


def test_the_proxy_was_asked_for_the_relay_alone(run: Run) -> None:
    assert run.asked_proxy == {(run.relay.host.address, PEER_PORT)}


@hidden
def test_nothing_that_it_sends_names_an_address_of_its_own(run: Run, number: int) -> None:
    evidence = run.private[number]
    assert len(evidence.told) > 100_000 and len(evidence.sent) > len(evidence.told) / 2
    assert find_leaks(evidence.told, evidence.addresses) == []
    assert find_leaks(evidence.sent, evidence.addresses) == []
    assert find_leaks(run.ledger, evidence.addresses) == []


@hidden
def test_the_others_know_it_by_its_relay_alone(run: Run, number: int) -> None:
    places = [(entry["addresses"], entry["relays"]) for entry in run.private[number].entries]
    assert places == [([], [run.relay.multiaddress])] * 4


@hidden
def test_it_served_was_paid_and_voted(run: Run, number: int) -> None:
    assert run.private[number].earned > 0
    assert run.private[number].votes > 20


@hidden
def test_it_does_not_answer_what_could_give_it_away(run: Run, number: int) -> None:
    assert run.private[number].spoken == {VIEWS}


def test_the_control_is_caught(run: Run) -> None:
    control = run.private[CONTROL]
    assert find_strays(control.flows, {control.allowed})
    assert find_leaks(control.told, control.addresses)
    assert control.spoken > {VIEWS}


# The search itself.


@pytest.mark.parametrize("address", ["192.168.77.23", "fd5a:b1c3:77d9:1::23"])
def test_addresses_are_found_in_every_spelling(address: str) -> None:
    parsed = ip_address(address)
    noise = os.urandom(1000)
    assert find_leaks(noise, [address]) == []
    spellings = [str(parsed), str(int(parsed)), parsed.packed.hex(), parsed.packed.hex().upper(), parsed.exploded]
    for spelling in spellings:
        assert find_leaks(noise + spelling.encode() + noise, [address]), spelling
    prefix = b"\x04" if parsed.version == 4 else b"\x29"
    assert find_leaks(noise + prefix + parsed.packed + noise, [address])
    assert find_leaks((noise + parsed.packed) * 2, [address])


def test_packets_that_go_astray_are_found() -> None:
    here, there = ("192.168.77.23", 4000), ("203.0.113.10", 4001)
    fine = [
        Flow(True, TCP, here, there),
        Flow(False, TCP, ("8.8.8.8", 4001), here),
        Flow(True, 58, ("fe80::1", 0), ("ff02::16", 0)),
    ]
    astray = [
        Flow(True, TCP, here, ("203.0.113.10", 4002)),
        Flow(True, TCP, here, ("203.0.113.11", 4001)),
        Flow(True, UDP, here, ("1.1.1.1", 53)),
        Flow(True, UDP, ("fe80::1", 5353), ("ff02::fb", 5353)),
        Flow(True, 1, (here[0], 0), ("203.0.113.11", 0)),
    ]
    assert find_strays(fine + astray, {there}) == astray
