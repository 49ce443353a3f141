"""Reachability: finding out whether others can dial this node, by having them try.

A node asks a few peers, its *servers*, to dial it back. A server makes a fresh TCP connection to the
address that the request came from, at a port that the request names, and checks by the Noise handshake that the same
key answers there; the connection that there is already proves nothing. A request can name ports only, so that nobody
can make a server dial anybody else. One that names none only asks at what address and port the server sees it.

A server in the same local network sees a node from the inside of its NAT. It counts only as long as there is none
outside.

Identities are free, and whoever wants to can connect, so only peers that this node has dialled itself are servers, no
two of one network (/16) where there are several. A node that has dialled nobody has no estimate, and stands by what it
listens on.
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
from p2p.network import Network, NetworkError, RawStream
from p2p.rate_limit import Limiter, Rate
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

PROTOCOL = "/wwwserve/reachability/1"
SERVERS_PER_ROUND = 3
"""Peers that are asked in a round."""
INTERVAL_S = 300.0
UNSETTLED_INTERVAL_S = 15.0
ALONE_INTERVAL_S = 2.0
"""Seconds between rounds: when the estimate stands, when it does not or the last round spoke against it, and between
looks for a first peer."""
MAX_PORTS = 4
ANSWER_TIMEOUT_S = 30.0
"""Seconds that a server may take: it tries the ports one after the other."""
REQUEST_TIMEOUT_S = 5.0
PEER_RATE = Rate(items=0.1, size=1 << 20, burst=60.0)
TOTAL_RATE = Rate(items=2, size=1 << 20, burst=10.0)
"""Requests a second that a server serves: of one peer, and of all."""
MAX_DIALS = 4
"""Dials that a server makes at a time."""

_MAX_MESSAGE_BYTES = 512


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
    """What a server needs besides the network."""

    def get_remote_endpoint(self, peer: bytes) -> Endpoint | None:
        """The IP address and port that a directly connected peer has; None if they are not known."""

    async def answers(self, peer: bytes, host: str, port: int) -> bool:
        """Whether ``peer`` answers at this address on a fresh connection, which is closed again."""


class ReachabilityEstimate:
    """What the reports of the servers amount to. Pure.

    A first estimate takes a round in which two or more servers agree, or two rounds of one; every other change takes
    two rounds in a row that say the same. A server that saw the node at another address than most did does not count.
    """

    def __init__(self) -> None:
        self.value: bool | None = None
        """Whether others can dial this node; None: not known."""
        self.addresses: tuple[str, ...] = ()
        """Where servers outside of the local network reached it, as multiaddresses, the most seen first."""
        self._last: bool | None = None

    @property
    def is_settled(self) -> bool:
        """Whether there is a estimate and the last round did not speak against it."""
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
            places = Counter(format_endpoint(report.host, port) for report in seen for port in report.ports)
            self.addresses = tuple(sorted(places, key=lambda place: (-places[place], place)))[:MAX_PORTS]
        elif not self.value:
            self.addresses = ()
        return before != (self.value, self.addresses)


class Reachability:
    """Asks for this node's estimate, and is a server for others. ``ports`` are those that it listens on."""

    def __init__(self, network: DialBackNetwork, runtime: Runtime) -> None:
        self.estimate = ReachabilityEstimate()
        self._network = network
        self._runtime = runtime
        self._limiter = Limiter(PEER_RATE, TOTAL_RATE)
        self._dials = trio.CapacityLimiter(MAX_DIALS)

    async def run(self, ports: Sequence[int]) -> None:
        """Keep the estimate up to date until cancelled."""
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

        One of each network; more of one only if there is no other.
        """
        dialled = [peer for peer in sorted(self._network.peers()) if self._network.is_outbound(peer)]
        hosts = {peer: host for peer in dialled if (host := self._network.get_remote_host(peer)) is not None}
        outside = {peer: host for peer, host in hosts.items() if not is_local(host)}
        candidates = list((outside or hosts).items())
        self._runtime.random.shuffle(candidates)
        apart = {get_subnet(host): peer for peer, host in candidates}
        servers = list(apart.values()) if len(apart) > 1 else [peer for peer, _ in candidates]
        return servers[:SERVERS_PER_ROUND]

    async def _collect(self, server: bytes, ports: tuple[int, ...], reports: list[DialBackReport]) -> None:
        report = await self.ask(server, ports)
        if report is not None:
            reports.append(report)

    async def ask(self, server: bytes, ports: tuple[int, ...] = ()) -> DialBackReport | None:
        """What a directly connected peer reports; None if it does not, or nothing of use."""
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                stream = await self._network.open_stream(server, PROTOCOL)
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
            logger.debug("%s is no server: %s", format_address(server), error)
        return None

    async def serve(self, stream: RawStream) -> None:
        """Be a server for whoever opened ``stream``.

        Raises:
            NetworkError: the stream broke, or what came is no request.
        """
        try:
            with trio.fail_after(REQUEST_TIMEOUT_S):
                request = DialBack.decode(await receive_record(stream))
        except (CodecError, trio.TooSlowError) as error:
            raise NetworkError(f"no request to be dialled: {error}") from None
        endpoint = self._network.get_remote_endpoint(stream.peer)
        if endpoint is None or not self._limiter.admit(stream.peer, 0, trio.current_time()):
            await send_record(stream, DialBackReport("", 0, ()))
            return
        reached: list[int] = []
        if request.ports:
            async with self._dials:
                for port in dict.fromkeys(request.ports):
                    if await self._network.answers(stream.peer, endpoint[0], port):
                        reached.append(port)
        await send_record(stream, DialBackReport(*endpoint, tuple(reached)))


def _at_usual_host(reports: Sequence[DialBackReport]) -> list[DialBackReport]:
    """The reports that name the host named most often, among those of its version."""
    named = Counter(report.host for report in reports)
    most = {
        version: max(named[host] for host in named if _version(host) == version) for version in map(_version, named)
    }
    return [report for report in reports if named[report.host] == most[_version(report.host)]]


def _version(host: str) -> int:
    return ipaddress.ip_address(host).version


async def send_record(stream: RawStream, record: Record) -> None:
    """Send one message: its length and the record."""
    data = record.encode()
    await stream.send(len(data).to_bytes(2, "big") + data)


async def receive_record(stream: RawStream) -> bytes:
    """The encoded record of one message, behind which nothing may come before it is answered.

    Raises:
        NetworkError: the stream ended, or the message is too long.
    """
    data = b""
    while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
        chunk = await stream.receive(_MAX_MESSAGE_BYTES)
        if not chunk or len(data) > _MAX_MESSAGE_BYTES:
            raise NetworkError("the message is cut short, or too long")
        data += chunk
    return data[2:]
