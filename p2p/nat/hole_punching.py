"""Hole punching: two nodes behind NATs that have a circuit make a direct connection (after DCUtR).

A NAT lets in packets from an address that a host behind it has called. Most NATs give a local port the same external
port for every destination (RFC 4787: endpoint-independent mapping). So any dial-back server outside tells a node the
port at which calls from its own port of their connection are seen. Two nodes tell each other this *observed address*,
and then dial at the same moment, each from that port. NATs with another port for each destination (*symmetric* ones)
cannot be passed so, and the circuit stays. No trust is needed: the handshake proves the peer's key.

The node that dialled the circuit is the initiator, both of the exchange on the circuit and of the handshake:

    responder -> initiator    the responder's observed address; an empty one to refuse
    initiator -> responder    the initiator's observed address, at once: the responder measures the round-trip time
    responder -> initiator    its observed address again: go

The initiator dials when the last message arrives, the responder half a round trip after it has sent it. Both also
listen on their port meanwhile: which of the two connects does not matter, and a host behind a NAT that lets in every
packet must not refuse an early one.

A peer can lie. It can make this node send a few packets to an address that it names: so only to public addresses and no
system ports, a bounded number for each punch, and few punches. At :data:`TOTAL_PUNCH_RATE` the node that is called in
vain does not ban this one (:mod:`p2p.limits.peer_score`).

Source: the libp2p specification "Direct Connection Upgrade through Relay" (DCUtR), whose protocol is not used: its
timing comes to the same, but its addresses come from identify, which tells peers all listen addresses.
"""

from __future__ import annotations

import ipaddress
import logging
import math
from dataclasses import dataclass
from typing import Annotated, Protocol

import trio

from chain.codec import Bounds, Record
from chain.collections import BoundedDict
from chain.crypto import format_address
from chain.exceptions import CodecError
from p2p.addresses import Endpoint, is_local
from p2p.backoff import Backoff
from p2p.length_prefixed import receive_record, send_record
from p2p.limits.rate_limit import Limiter, Rate
from p2p.nat.dial_back import Reachability
from p2p.network import Network, NetworkError, RawStream
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

PUNCH_PROTOCOL = "/wwwserve/punch/1"
"""Name of the protocol; its number grows when a message changes."""
PUNCH_MESSAGE_TIMEOUT_S = 15.0
"""Time for one message of the other side: it may have to ask dial-back servers first."""
MAX_ROUND_TRIP_S = 2.0
"""Longest round-trip time that is believed."""
FAILURE_BACKOFF = Backoff(600.0, 3600.0)
"""Delays before a punch that failed is tried again. Mostly the NAT will not change."""
POSTPONEMENT_BACKOFF = Backoff(15.0, 600.0)
"""Delays before a punch that came to no dial is tried again."""
MAX_CONCURRENT = 8
"""Punches under way, as initiator or as responder."""
PUNCH_RATE = Rate(items=1 / 30, size=math.inf, burst=60.0)
"""Punches with one peer."""
TOTAL_PUNCH_RATE = Rate(items=0.1, size=math.inf, burst=80.0)
"""Punches with all peers (:mod:`p2p.limits.rate_limit` may double this)."""
MIN_PORT = 1024
"""Lowest port that is dialled."""
MAX_REMEMBERED_PEERS = 1024
"""Peers whose failures are remembered."""


@dataclass(frozen=True, slots=True)
class ObservedAddress(Record):
    """The address and port at which a node is seen from outside; an empty address refuses a punch."""

    host: Annotated[str, Bounds(0, 45)] = ""
    port: Annotated[int, Bounds(0, 65535)] = 0


def is_dialable(observed: ObservedAddress, mine: ObservedAddress) -> bool:
    """Whether to dial the address that a peer claims: a public one of the same version as ours, and not our own.

    Two nodes behind one NAT cannot meet outside of it: the addresses would lead to the NAT itself.
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
    """When to try a peer again. Pure: times are passed in (seconds of one monotonic clock)."""

    def __init__(self) -> None:
        self._peers: BoundedDict[bytes, _Attempts] = BoundedDict(MAX_REMEMBERED_PEERS)

    def get_delay(self, peer: bytes, now: float) -> float:
        """Seconds to wait before ``peer`` may be tried."""
        known = self._peers.get(peer)
        return 0.0 if known is None else max(0.0, known.not_before - now)

    def note(self, peer: bytes, outcome: bool | None, now: float) -> None:
        """Note whether a punch worked; None: it came to no dial."""
        known = self._peers.pop(peer, None) or _Attempts()
        if outcome:
            return
        if outcome is None:
            delay = POSTPONEMENT_BACKOFF.get_delay(known.postponements)
            known.postponements += 1
        else:
            delay = FAILURE_BACKOFF.get_delay(known.failures)
            known.failures += 1
        known.not_before = now + delay
        self._peers[peer] = known


class PunchNetwork(Network, Protocol):
    """A network that can punch holes."""

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
        self._limiter = Limiter(PUNCH_RATE, TOTAL_PUNCH_RATE)
        self._upgrading: set[bytes] = set()
        # By peer and whether this node has begun: the local address that is used, once it is known.
        self._under_way: dict[tuple[bytes, bool], Endpoint | None] = {}

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
            with trio.fail_after(2 * PUNCH_MESSAGE_TIMEOUT_S):
                stream = await self._network.open_stream(peer, PUNCH_PROTOCOL)
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
        """Respond to the initiator that opened ``stream``.

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
            with trio.fail_after(PUNCH_MESSAGE_TIMEOUT_S):
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
        """Whether to respond. Of two nodes that begin at once the one with the smaller key goes on as initiator."""
        is_mine = (peer, True) in self._under_way and self._network.me < peer
        if is_mine or (peer, False) in self._under_way or not self._network.is_relayed(peer):
            return False
        return self._admits(peer)

    def _admits(self, peer: bytes) -> bool:
        return len(self._under_way) < MAX_CONCURRENT and self._limiter.admit(peer, 0, trio.current_time())

    async def _observe(self, peer: bytes, is_mine: bool) -> tuple[Endpoint, ObservedAddress] | None:
        """A local address, and the address at which a server outside observes it; None if there is no such server.

        No two punches at a time use one port: a connection to it would be taken for one of the wrong peer.
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
