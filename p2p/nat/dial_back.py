"""Dial-back: a node finds out whether others can dial it, by having them try (after AutoNAT).

A node asks a few peers, its *dial-back servers*. A server makes a new TCP connection to the IP address that the request
came from, at a port that the request names, and checks by the Noise handshake that the same key answers there; the
connection that exists already proves nothing. A request names ports only, so that no node can make a server dial
another one. A request without ports asks only at which address and port the server sees the node.

A server in the same local network sees a node from inside of its NAT. Its report counts only if there is none from
outside.

Identities are free and any peer can connect. So only peers that this node has dialled itself are asked, and no two of
one subnet where there are several subnets. A node that has dialled no peer has no estimate, and announces what it
listens on.

Source: the libp2p specification "AutoNAT", whose protocol is not used: the library's implementation reuses the existing
connection, and so finds every node reachable.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import trio

from chain.codec import Bounds, Record
from chain.crypto import format_address
from chain.exceptions import CodecError
from p2p.addresses import Endpoint, format_endpoint, get_subnet, is_local
from p2p.length_prefixed import receive_record, send_record
from p2p.limits.rate_limit import Limiter, Rate
from p2p.limits.shared_slots import SharedSlots, get_slot_owner
from p2p.network import Network, NetworkError, RawStream
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

DIAL_BACK_PROTOCOL = "/wwwserve/reachability/1"
"""Name of the protocol; its number grows when a message changes."""
SERVERS_PER_ROUND = 3
"""Peers that are asked in a round."""
INTERVAL_S = 300.0
"""Mean time between rounds while the estimate is settled."""
UNSETTLED_INTERVAL_S = 15.0
"""Mean time between rounds while there is no estimate, or the last round spoke against it."""
ALONE_INTERVAL_S = 2.0
"""Time between checks for a first peer to ask."""
MAX_PORTS = 4
"""Ports in a request."""
REPORT_TIMEOUT_S = 30.0
"""Time for a report."""
DIAL_BACK_REQUEST_TIMEOUT_S = 5.0
"""Time that a request may take to arrive at a server."""
DIAL_BACK_RATE = Rate(items=0.1, size=1 << 20, burst=60.0)
"""Requests of one peer that a server serves."""
TOTAL_DIAL_BACK_RATE = Rate(items=2, size=1 << 20, burst=10.0)
"""Requests of all peers that a server serves."""
MAX_DIAL_BACKS = 8
"""Requests for which a server dials at a time, all ports of each at once; beyond, the address with most gives way."""


@dataclass(frozen=True, slots=True)
class DialBack(Record):
    """The request: which TCP ports to try, if any."""

    ports: Annotated[tuple[Annotated[int, Bounds(1, 65535)], ...], Bounds(0, MAX_PORTS)]


@dataclass(frozen=True, slots=True)
class DialBackReport(Record):
    """The answer: the IP address and port that the request came from, and at which of the ports its sender answered.

    No address: the server cannot tell.
    """

    host: Annotated[str, Bounds(0, 45)]
    port: Annotated[int, Bounds(0, 65535)]
    ports: Annotated[tuple[Annotated[int, Bounds(1, 65535)], ...], Bounds(0, MAX_PORTS)]


class DialBackNetwork(Network, Protocol):
    """A network that a dial-back server can work with."""

    def get_remote_endpoint(self, peer: bytes) -> Endpoint | None:
        """The IP address and port that a directly connected peer has; None if they are not known."""

    async def answers(self, peer: bytes, host: str, port: int) -> bool:
        """Whether ``peer`` answers at this address on a fresh connection, which is closed again."""


class ReachabilityEstimate:
    """What the reports of dial-back servers amount to. Pure.

    A first estimate takes a round in which two or more servers agree, or two rounds with one server each. Every change
    takes two rounds in a row with the same outcome. A server that saw the node at another address than most did does
    not count.
    """

    def __init__(self) -> None:
        self.value: bool | None = None
        """Whether others can dial this node; None: not known."""
        self.addresses: tuple[str, ...] = ()
        """Where servers outside of the local network reached it, as multiaddresses, the most frequent first."""
        self._last: bool | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there is an estimate and the last round did not speak against it."""
        return self.value is not None and self._last is self.value

    def note(self, reports: Sequence[DialBackReport]) -> bool:
        """Take in the reports of one round. Returns whether the estimate or the addresses changed."""
        outside = [report for report in reports if not is_local(report.host)]
        counted = _at_usual_host(outside or list(reports))
        reached = sum(bool(report.ports) for report in counted)
        if not counted or 2 * reached == len(counted):
            return False
        before = self.value, self.addresses
        outcome = 2 * reached > len(counted)
        agreed = len(counted) > 1 and reached in (0, len(counted))
        if outcome is self._last or (self.value is None and agreed):
            self.value = outcome
        self._last = outcome
        if self.value and outcome:
            seen = counted if outside else []
            found = Counter(format_endpoint(report.host, port) for report in seen for port in report.ports)
            self.addresses = tuple(sorted(found, key=lambda address: (-found[address], address)))[:MAX_PORTS]
        elif not self.value:
            self.addresses = ()
        return before != (self.value, self.addresses)


class Reachability:
    """Asks dial-back servers (:meth:`run`), and is one for other nodes (:meth:`serve`)."""

    def __init__(self, network: DialBackNetwork, runtime: Runtime) -> None:
        self.estimate = ReachabilityEstimate()
        self._network = network
        self._runtime = runtime
        self._limiter = Limiter(DIAL_BACK_RATE, TOTAL_DIAL_BACK_RATE)
        self._dialling: SharedSlots[trio.CancelScope] = SharedSlots(MAX_DIAL_BACKS)

    async def run(self, ports: Sequence[int]) -> None:
        """Keep the estimate up to date until cancelled. ``ports`` are those that this node listens on."""
        while True:
            servers = self.choose_servers()
            if not servers:
                await trio.sleep(ALONE_INTERVAL_S)
                continue
            reports: list[DialBackReport] = []
            async with trio.open_nursery() as nursery:
                for server in servers:
                    nursery.start_soon(self._collect, server, tuple(ports[:MAX_PORTS]), reports)
            if self.estimate.note(reports):
                known = {True: "can", False: "cannot", None: "may or may not"}[self.estimate.value]
                logger.info("others %s dial this node %s", known, " ".join(self.estimate.addresses))
            interval = INTERVAL_S if self.estimate.is_settled else UNSETTLED_INTERVAL_S
            await trio.sleep(interval * self._runtime.random.uniform(0.8, 1.2))

    def choose_servers(self) -> list[bytes]:
        """Some peers that this node dialled directly, from outside of the local network if there are any.

        One of each subnet; more of one only if there is no other.
        """
        dialled = [peer for peer in sorted(self._network.peers()) if self._network.is_outbound(peer)]
        hosts = {peer: host for peer in dialled if (host := self._network.get_remote_host(peer)) is not None}
        outside = {peer: host for peer, host in hosts.items() if not is_local(host)}
        usable = list((outside or hosts).items())
        self._runtime.random.shuffle(usable)
        by_subnet = {get_subnet(host): peer for peer, host in usable}
        servers = list(by_subnet.values()) if len(by_subnet) > 1 else [peer for peer, _ in usable]
        return servers[:SERVERS_PER_ROUND]

    async def _collect(self, server: bytes, ports: tuple[int, ...], reports: list[DialBackReport]) -> None:
        report = await self.ask(server, ports)
        if report is not None:
            reports.append(report)

    async def ask(self, server: bytes, ports: tuple[int, ...] = ()) -> DialBackReport | None:
        """The report of a directly connected peer; None if it sends none, or nothing usable."""
        try:
            with trio.fail_after(REPORT_TIMEOUT_S):
                stream = await self._network.open_stream(server, DIAL_BACK_PROTOCOL)
                try:
                    await send_record(stream, DialBack(ports))
                    report = DialBackReport.decode(await receive_record(stream))
                finally:
                    with trio.CancelScope(shield=True):
                        await stream.close()
            if report.host and set(report.ports) <= set(ports):
                ipaddress.ip_address(report.host)
                return report
        except (NetworkError, CodecError, ValueError, trio.TooSlowError) as error:
            logger.debug("%s sent no report: %s", format_address(server), error)
        return None

    async def serve(self, stream: RawStream) -> None:
        """Serve the request on ``stream``.

        Raises:
            NetworkError: the stream broke, or what came is no request.
        """
        try:
            with trio.fail_after(DIAL_BACK_REQUEST_TIMEOUT_S):
                request = DialBack.decode(await receive_record(stream))
        except (CodecError, trio.TooSlowError) as error:
            raise NetworkError(f"no request to be dialled: {error}") from None
        endpoint = self._network.get_remote_endpoint(stream.peer)
        if endpoint is None or not self._limiter.admit(stream.peer, 0, trio.current_time()):
            await send_record(stream, DialBackReport("", 0, ()))
            return
        reached = await self._dial_back(stream.peer, endpoint[0], request.ports)
        await send_record(stream, DialBackReport("", 0, ()) if reached is None else DialBackReport(*endpoint, reached))

    async def _dial_back(self, peer: bytes, host: str, ports: tuple[int, ...]) -> tuple[int, ...] | None:
        """The ports at which the peer answers; None if the dials were given up for those of others."""
        if not ports:
            return ()
        reached: set[int] = set()

        async def dial(port: int) -> None:
            if await self._network.answers(peer, host, port):
                reached.add(port)

        with trio.CancelScope() as scope:
            surplus = self._dialling.put(scope, get_slot_owner(self._network, peer))
            if surplus is not None:
                surplus.cancel()
            try:
                async with trio.open_nursery() as nursery:
                    for port in set(ports):
                        nursery.start_soon(dial, port)
            finally:
                self._dialling.discard(scope)
        return None if scope.cancelled_caught else tuple(port for port in dict.fromkeys(ports) if port in reached)


def _at_usual_host(reports: Sequence[DialBackReport]) -> list[DialBackReport]:
    """The reports that name the host named most often, among those of its version."""
    named = Counter(report.host for report in reports)
    most = {
        version: max(named[host] for host in named if _version(host) == version) for version in map(_version, named)
    }
    return [report for report in reports if named[report.host] == most[_version(report.host)]]


def _version(host: str) -> int:
    return ipaddress.ip_address(host).version
