"""Hole punching between two homes, with hosts that have nothing else to do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from p2p.addresses import format_circuit_address
from p2p.host.network import Libp2pNetwork
from p2p.nat import hole_punching
from p2p.nat.relay_server import RelayLimits
from p2p.runtime import RealRuntime
from tests.nat.box import TCP, NatType
from tests.nat.hosts import PlacedNetwork, placed
from tests.nat.lab import Home, Host, Lab, open_lab
from tests.nat.tenacious import AFTER_FAILURE
from tests.support.hosts import ECHO, be_patient, echo, echoes
from tests.support.keys import make_key
from tests.support.waiting import wait_until

R, C, S = NatType.PORT_RESTRICTED, NatType.CONE, NatType.SYMMETRIC
LISTEN = ["/ip4/0.0.0.0/tcp/4001"]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have hosts wait for each other, and soon punch again: this machine may stand still for one punch."""
    be_patient(monkeypatch)
    monkeypatch.setattr(hole_punching, "FAILURE_BACKOFF", AFTER_FAILURE)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def server(lab: Lab) -> Host:
    return lab.add_host("server")


@pytest.fixture(scope="module")
def homes(lab: Lab) -> dict[tuple[NatType, int], Home]:
    return {(kind, number): lab.add_home(f"{kind}{number}", kind) for kind in NatType for number in (1, 2)}


def make_private(number: int) -> Libp2pNetwork:
    made = Libp2pNetwork(make_key(number), LISTEN, RealRuntime(), public=False, hole_punching=True)
    made.handle(ECHO, echo)
    return made


def is_direct(one: PlacedNetwork, other: PlacedNetwork) -> bool:
    async def look() -> bool:
        return not one.network.is_relayed(other.network.me)

    return one.call(look)


@pytest.mark.parametrize(
    ("one", "other", "works"),
    [
        *((one, other, True) for one in (R, C) for other in (R, C)),
        *((one, other, False) for one, other in ((S, R), (R, S), (S, S))),
        *((one, other, True) for one, other in ((S, C), (C, S))),
    ],
)
def test_two_homes_meet_where_nats_allow(
    server: Host, homes: dict[tuple[NatType, int], Home], one: NatType, other: NatType, works: bool
) -> None:
    first, second = homes[one, 1], homes[other, 2]
    relay = Libp2pNetwork(make_key(1), LISTEN, RealRuntime(), public=True, relay=RelayLimits())
    with placed((server, relay), (first, make_private(2)), (second, make_private(3))) as (public, a, b):
        address = f"/ip4/{server.address}/tcp/4001"
        for node in (a, b):
            node.call(lambda node=node: node.network.connect(relay.me, [address]))
        b.call(lambda: b.network.reserve(relay.me))
        begun = time.monotonic()
        a.call(lambda: a.network.connect(b.network.me, [format_circuit_address(relay.me, address)]))
        through_relay = time.monotonic() - begun
        assert a.call(lambda: echoes(a.network, b.network))
        if not works:
            time.sleep(10)
            assert not is_direct(a, b) and not is_direct(b, a)
            assert a.call(lambda: echoes(a.network, b.network)) and b.call(lambda: echoes(b.network, a.network))
            return
        wait_until(lambda: is_direct(a, b) and is_direct(b, a), "no hole was punched")
        print(f"{one} to {other}: circuit after {through_relay:.2f} s, direct after {time.monotonic() - begun:.2f} s")
        assert any(flow.protocol == TCP and flow.target[0] == second.box.address for flow in first.box.flows)
        public.close()
        wait_until(lambda: relay.me not in a.network.peers() | b.network.peers(), "the relay is still there")
        assert a.call(lambda: echoes(a.network, b.network)) and b.call(lambda: echoes(b.network, a.network))
