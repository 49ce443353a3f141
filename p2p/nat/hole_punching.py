"""Hole punching: two nodes behind NATs that have a circuit make themselves a direct connection.

A NAT lets in who was called from inside. Most give a local port one and the same external port, whomever it calls
(RFC 4787: endpoint-independent mapping); so a node learns from any peer outside, a *server*, by which port it would be
seen when it called from the port of their connection. Two nodes that tell each other and then call at the same moment,
each from that port, find the way open. NATs with another port for each destination (*symmetric* ones) cannot be passed
like this, and the circuit stays. It is no matter of trust: whoever answers has to prove the peer's key.

The node that dialled the circuit is the initiator, of the exchange on it and of the handshake on the connection to be:

    responder -> initiator    where the responder is seen; nothing if it does not want to
    initiator -> responder    where the initiator is seen, at once, which gives the responder the round-trip time
    responder -> initiator    the same observed again: go

The initiator dials when the last message arrives, the responder half a round trip after it has sent it. Both also
listen on their port meanwhile: which of the two connects does not matter, and a NAT that lets in anybody must not make
the host behind it refuse who is early.

What the other side says is hostile until proven otherwise. It can make this node send a few packets to an address that
it names: therefore only to public ones and ports that belong to no system service, a bounded number a punch, and few
punches. At 0.2 of them a second nobody who is called in vain can be brought to ban this node (:mod:`p2p.peer_score`).
"""

from __future__ import annotations

import ipaddress
import logging
import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import trio

from chain.codec import Bounds, Record
from chain.crypto import format_address
from chain.exceptions import CodecError
from p2p.addresses import Endpoint, is_local
from p2p.nat.dial_back import Reachability, receive_record, send_record
from p2p.network import Network, NetworkError, RawStream
from p2p.rate_limit import Limiter, Rate
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

PROTOCOL = "/wwwserve/punch/1"
ANSWER_TIMEOUT_S = 15.0
"""Seconds for one message of the other side: it may have to ask servers first."""
MAX_ROUND_TRIP_S = 2.0
"""Longest round-trip time that is believed, in seconds."""
BACK_OFF, MAX_BACK_OFF = 600.0, 3600.0
"""Seconds before a punch that failed is tried again: the first time, and at most. Mostly the NAT will not change."""
POSTPONED = 15.0
"""The first time for one that came to no dial; at most BACK_OFF."""
MAX_AT_ONCE = 8
"""Punches under way, on either side of them."""
PEER_RATE = Rate(items=1 / 30, size=math.inf, burst=60.0)
TOTAL_RATE = Rate(items=0.1, size=math.inf, burst=80.0)
"""Punches a second that this node takes part in: with one peer, and with all (:mod:`p2p.rate_limit` may double
this)."""
MIN_PORT = 1024
MAX_REMEMBERED_PEERS = 1024
"""Peers of which failures are remembered."""


@dataclass(frozen=True, slots=True)
class ObservedAddress(Record):
    """Where a node is seen from outside; nowhere, without an address."""

    host: Annotated[str, Bounds(0, 45)] = ""
    port: Annotated[int, Bounds(0, 65535)] = 0


def is_dialable(observed: ObservedAddress, mine: ObservedAddress) -> bool:
    """Whether to dial where a peer claims to be: a public address of the same kind as ours, and not our own.

    Two nodes behind one NAT do not meet outside of it; their claims would lead to the NAT itself.
    """
    try:
        address, own = ipaddress.ip_address(observed.host), ipaddress.ip_address(mine.host)
    except ValueError:
        return False
    if str(address) != observed.host or address.version != own.version or address == own or observed.port < MIN_PORT:
        return False
    if isinstance(address, ipaddress.IPv6Address):  # others embed addresses of IPv4, or have a scope
        return address in _GLOBAL_IPV6 and address.sixtofour is None and address.teredo is None
    is_reserved = address.is_multicast or address.is_reserved or address.is_unspecified or address in _THIS_NETWORK
    return not is_reserved and not is_local(observed.host)


_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


@dataclass(slots=True)
class _Attempts:
    """What is remembered about one peer."""

    failures: int = 0
    postponements: int = 0
    not_before: float = 0.0


class PunchSchedule:
    """When to try whom again. Pure: times are passed in (seconds of one monotonic clock)."""

    def __init__(self) -> None:
        self._peers: dict[bytes, _Attempts] = {}

    def get_delay(self, peer: bytes, now: float) -> float:
        """Seconds to wait before ``peer`` may be tried."""
        known = self._peers.get(peer)
        return 0.0 if known is None else max(0.0, known.not_before - now)

    def note(self, peer: bytes, outcome: bool | None, now: float) -> None:
        """Take in how a punch went; None: nobody dialled."""
        known = self._peers.pop(peer, None) or _Attempts()
        if outcome:
            return
        if outcome is None:
            delay = min(POSTPONED * 2.0**known.postponements, BACK_OFF)
            known.postponements = min(known.postponements + 1, 16)
        else:
            delay = min(BACK_OFF * 2.0**known.failures, MAX_BACK_OFF)
            known.failures = min(known.failures + 1, 16)
        known.not_before = now + delay
        self._peers[peer] = known  # at the end: the one that was noted longest ago is forgotten first
        if len(self._peers) > MAX_REMEMBERED_PEERS:
            del self._peers[next(iter(self._peers))]


class PunchNetwork(Network, Protocol):
    """What punching needs besides the network."""

    def share_port(self, peer: bytes) -> Endpoint | None:
        """The local address of the connection that this node dialled to ``peer``, ready for others to use its port."""

    async def open_simultaneously(self, peer: bytes, local: Endpoint, remote: Endpoint, initiator: bool) -> bool:
        """Have a connection from ``local`` to ``remote``, where ``peer`` does the same at this moment.

        Returns whether there is one. Never raises.
        """


class HolePuncher:
    """Punches holes for the node, as initiator (:meth:`run`) and as responder (:meth:`serve`)."""

    def __init__(self, network: PunchNetwork, reachability: Reachability, runtime: Runtime) -> None:
        self.schedule = PunchSchedule()
        self._network = network
        self._reachability = reachability
        self._runtime = runtime
        self._limiter = Limiter(PEER_RATE, TOTAL_RATE)
        self._upgrading: set[bytes] = set()
        self._under_way: dict[tuple[bytes, bool], Endpoint | None] = {}  # with whom, who began (me: True), local port

    async def run(self, peer: bytes) -> None:
        """Try until there is a better connection to ``peer`` than through a relay, or none at all. Never raises."""
        if peer in self._upgrading:
            return
        self._upgrading.add(peer)
        try:
            while self._network.is_relayed(peer):
                delay = self.schedule.get_delay(peer, trio.current_time())
                if delay:
                    await trio.sleep(delay * self._runtime.random.uniform(1.0, 1.2))
                    continue
                outcome = await self._initiate(peer)
                self.schedule.note(peer, outcome, trio.current_time())
                if outcome is not None:
                    result = "there is a direct connection to" if outcome else "no hole could be punched to"
                    logger.info("%s %s", result, format_address(peer))
        finally:
            self._upgrading.discard(peer)

    async def _initiate(self, peer: bytes) -> bool | None:
        """One punch. Returns whether it worked; None if it came to no dial."""
        if (peer, False) in self._under_way or not self._admits(peer):
            return None
        self._under_way[peer, True] = None
        try:
            found = await self._observe(peer, True)
            if found is None:
                return None
            local, mine = found
            with trio.fail_after(2 * ANSWER_TIMEOUT_S):
                stream = await self._network.open_stream(peer, PROTOCOL)
                try:
                    theirs = ObservedAddress.decode(await receive_record(stream))
                    if not is_dialable(theirs, mine):
                        return None
                    await send_record(stream, mine)
                    if ObservedAddress.decode(await receive_record(stream)) != theirs:
                        return None
                finally:
                    with trio.CancelScope(shield=True):
                        await stream.close()
            return await self._network.open_simultaneously(peer, local, (theirs.host, theirs.port), True)
        except (NetworkError, CodecError, trio.TooSlowError) as error:
            logger.debug("no punch with %s: %s", format_address(peer), error)
            return None
        finally:
            del self._under_way[peer, True]

    async def serve(self, stream: RawStream) -> None:
        """Respond to whoever opened ``stream``.

        Raises:
            NetworkError: the stream broke, or what came belongs to no punch.
        """
        peer = stream.peer
        if not self._wants(peer):
            await send_record(stream, ObservedAddress())
            return
        self._under_way[peer, False] = None
        try:
            found = await self._observe(peer, False)
            if found is None:
                await send_record(stream, ObservedAddress())
                return
            local, mine = found
            with trio.fail_after(ANSWER_TIMEOUT_S):
                await send_record(stream, mine)
                sent_at = trio.current_time()
                theirs = ObservedAddress.decode(await receive_record(stream))
                round_trip = min(trio.current_time() - sent_at, MAX_ROUND_TRIP_S)
                if not is_dialable(theirs, mine):
                    raise NetworkError(f"{theirs.host}:{theirs.port} is nothing to be dialled")
                await send_record(stream, mine)
                await stream.close()
            await trio.sleep(round_trip / 2)
            await self._network.open_simultaneously(peer, local, (theirs.host, theirs.port), False)
        except (CodecError, trio.TooSlowError) as error:
            raise NetworkError(f"no punch: {error}") from None
        finally:
            del self._under_way[peer, False]

    def _wants(self, peer: bytes) -> bool:
        """Whether to respond. Of two nodes that begin at once the one with the smaller key goes on."""
        is_mine = (peer, True) in self._under_way and self._network.me < peer
        if is_mine or (peer, False) in self._under_way or not self._network.is_relayed(peer):
            return False
        return self._admits(peer)

    def _admits(self, peer: bytes) -> bool:
        return len(self._under_way) < MAX_AT_ONCE and self._limiter.admit(peer, 0, trio.current_time())

    async def _observe(self, peer: bytes, is_mine: bool) -> tuple[Endpoint, ObservedAddress] | None:
        """A local address, and where a server sees what comes from it; None if there is no server outside.

        No two punches at a time use one port: who comes to it would be taken for the wrong peer.
        """
        for server in self._reachability.choose_servers():
            local = None if server == peer else self._network.share_port(server)
            if local is None or local in [used for (other, _), used in self._under_way.items() if other != peer]:
                continue
            self._under_way[peer, is_mine] = local
            report = await self._reachability.ask(server)
            if report is not None and report.port >= MIN_PORT and not is_local(report.host):
                return local, ObservedAddress(report.host, report.port)
        return None
