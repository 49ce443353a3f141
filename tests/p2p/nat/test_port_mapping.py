"""Port forwarding: what the gateway is asked, renewals, and the end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from p2p.nat.port_mapping import LEASE_S, RENEWAL_S, PortForwarding
from p2p.simulation.runtime import SimulatedRuntime


class FakeRouter:
    """A gateway that forwards even ports only, and fails when told to."""

    lanaddr = "192.168.1.2"

    def __init__(self) -> None:
        self.forwarded: dict[int, tuple[str, int, int]] = {}
        self.is_there = True
        self.requests = 0

    def discover(self) -> int:
        return 1

    def selectigd(self) -> str:
        if not self.is_there:
            raise Exception("No UPnP device discovered")
        return "http://192.168.1.1/"

    def addportmapping(
        self, outside: int, protocol: str, host: str, inside: int, purpose: str, remote: str, lease: int, /
    ) -> bool:
        assert (protocol, remote) == ("TCP", "")
        self.requests += 1
        if outside % 2 == 0:
            self.forwarded[outside] = (host, inside, lease)
        return outside % 2 == 0

    def deleteportmapping(self, outside: int, protocol: str, remote: str, /) -> bool:
        return self.forwarded.pop(outside, None) is not None


@pytest.mark.trio
async def test_ports_are_forwarded_renewed_and_given_back(autojump_clock: trio.testing.MockClock) -> None:
    gateway = FakeRouter()
    forwarding = PortForwarding(SimulatedRuntime(1), lambda: gateway)
    async with trio.open_nursery() as nursery:
        await nursery.start(forwarding.run, [4002, 4003])
        assert forwarding.forwarded == (4002,)
        assert gateway.forwarded == {4002: ("192.168.1.2", 4002, LEASE_S)}
        gateway.forwarded.clear()  # it was switched off and on
        await trio.sleep(RENEWAL_S + 1)
        assert 4002 in gateway.forwarded and RENEWAL_S < LEASE_S
        nursery.cancel_scope.cancel()
    assert gateway.forwarded == {} and forwarding.forwarded == ()


@pytest.mark.trio
async def test_a_network_without_a_router_is_asked_again_later(autojump_clock: trio.testing.MockClock) -> None:
    gateway = FakeRouter()
    gateway.is_there = False
    forwarding = PortForwarding(SimulatedRuntime(1), lambda: gateway)
    async with trio.open_nursery() as nursery:
        await nursery.start(forwarding.run, [4002])
        assert forwarding.forwarded == () and gateway.requests == 0
        gateway.is_there = True
        await trio.sleep(RENEWAL_S + 1)
        assert forwarding.forwarded == (4002,)
        gateway.is_there = False  # gone before the end
        nursery.cancel_scope.cancel()
    assert forwarding.forwarded == ()
