"""The relay: passes on bytes between two peers that cannot connect directly (circuit relay v2, the middle).

:class:`RelayTable` decides. It is pure: times are passed in (seconds of one monotonic clock). :class:`RelayServer` does
what it says. The bytes are encrypted end to end: a relay knows which peers talk, when and how much.

A client with a reservation can be reached through the relay by every peer, and can reach every peer through it, even
peers without a reservation. The relay connects to those as it would for itself, at addresses that it knows and that the
client cannot choose. That is how a node that dials only its relays takes part.

Reservations, circuits and bytes are bounded for each peer and for each IP address. A circuit that carries much is
slowed down, not cut. A circuit ends with either of its streams, when it is silent for :data:`CIRCUIT_IDLE_TIMEOUT_S`,
and after :data:`MAX_DURATION_S`. When there is no room for another, the address with most circuits loses its least used
one. A circuit that is not :data:`SETTLING_S` old is spared, unless that address has more than its share of them.

Source: the libp2p specification "Circuit Relay v2".
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb

from chain.crypto import format_address
from p2p.length_prefixed import MessageStream
from p2p.limits.rate_limit import Limiter, Rate
from p2p.nat.relay_client import CIRCUIT_TIMEOUT_S, RELAY_REQUEST_TIMEOUT_S, STOP, describe, get_target
from p2p.network import Network, NetworkError, RawStream
from p2p.peer_id import peer_id_of
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

RESERVATION_TTL_S = 3600.0
"""Time that a reservation holds; a new request renews it."""
MAX_DURATION_S = 6 * 3600.0
"""Longest time that a circuit lasts."""
CIRCUIT_IDLE_TIMEOUT_S = 60.0
"""Silence after which a circuit is cut: living ends ping each other more often."""
MAX_BYTES_PER_S = 16 << 20
"""Bytes that all circuits together may carry in a second."""
MAX_PEERS_TO_DIAL_OUT = 500
"""With this many connections a relay dials no further peers for its clients."""
SETTLING_S = 60.0
"""Age below which a circuit is not cut to make room, unless its owner has more than a fair share of circuits."""
REQUEST_RATE = Rate(items=2, size=1 << 20, burst=15.0)
"""Requests of one peer."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How many reservations and circuits a relay has at a time. No peer gets more than a share of them."""

    max_reservations: int = 256
    max_circuits: int = 64
    bytes_per_second: int = MAX_BYTES_PER_S

    @property
    def max_circuits_per_peer(self) -> int:
        """Most circuits with one peer at either end."""
        return max(2, self.max_circuits // 4)

    @property
    def max_reservations_per_address(self) -> int:
        """Reservations that peers of one address may hold together."""
        return max(4, self.max_reservations // 16)


@dataclass(slots=True, eq=False)
class Circuit:
    """One circuit, from the peer that dialled (``source``) to ``target``. Cancelling ``scope`` cuts it."""

    source: bytes
    target: bytes
    heard: float
    """When bytes last arrived."""
    quota_key: bytes = b""
    """What the source counts against, by its IP address; empty if that is not known."""
    since: float = 0.0
    carried: int = 0
    """Bytes so far."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def owner(self) -> bytes:
        """What the circuit counts against when there are too many."""
        return self.quota_key or self.source

    def get_use(self, now: float) -> float:
        """Mean bytes a second since it began."""
        return self.carried / max(now - self.since, 1.0)


class RelayTable:
    """The reservations and circuits, and whether there is room for another."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self._reservations: dict[bytes, tuple[float, bytes]] = {}  # until when, and the quota key
        self._circuits: dict[tuple[bytes, bytes], Circuit] = {}
        self._per_peer: Counter[bytes] = Counter()
        self._busy_until: dict[bytes, float] = {}

    @property
    def circuits(self) -> list[Circuit]:
        """The circuits at present."""
        return list(self._circuits.values())

    def reserve(self, peer: bytes, now: float, quota_key: bytes = b"") -> bool:
        """Give ``peer`` a reservation, or renew its own. Returns whether there was room."""
        for held, (expiry, _) in list(self._reservations.items()):
            if expiry <= now:
                del self._reservations[held]
        if peer not in self._reservations:
            here = sum(other == quota_key for _, other in self._reservations.values()) if quota_key else 0
            if (
                here >= self.limits.max_reservations_per_address
                or len(self._reservations) >= self.limits.max_reservations
            ):
                return False
        self._reservations[peer] = now + RESERVATION_TTL_S, quota_key
        return True

    def has_reservation(self, peer: bytes, now: float) -> bool:
        return self._reservations.get(peer, (now, b""))[0] > now

    def release(self, peer: bytes) -> None:
        """Note that ``peer`` is not connected any more, which ends its reservation."""
        self._reservations.pop(peer, None)

    def open(self, source: bytes, target: bytes, now: float, quota_key: bytes = b"") -> Circuit | None:
        """Add a circuit that ``source`` asks for, if there is room or another one can be cut; None if not.

        A second circuit between the same peers in the same direction replaces the first, which must be dead, and is as
        old.
        """
        former = self._circuits.get((source, target))
        if former is not None:
            self._cut(former)
        share = self.limits.max_circuits_per_peer
        if self._per_peer[source] >= share:
            return None
        circuit = Circuit(source, target, now, quota_key, now if former is None else former.since)
        if self._per_peer[target] >= share:
            there = [other for other in self._circuits.values() if target in (other.source, other.target)]
            if not self._make_room(there, circuit, now):
                return None
        if len(self._circuits) >= self.limits.max_circuits and not self._make_room(self.circuits, circuit, now):
            return None
        self._circuits[source, target] = circuit
        self._per_peer.update((source, target))
        return circuit

    def _make_room(self, circuits: Sequence[Circuit], newcomer: Circuit, now: float) -> bool:
        """Cut one of ``circuits``: the least used one of the owner with most. Returns whether there was one to cut.

        If the owner of the new circuit would have most, one of its own circuits is cut. Only an owner with more than
        its share loses a circuit that has not settled.
        """
        crowd = Counter(circuit.owner for circuit in circuits)
        most = max(crowd.values())
        owners = {newcomer.owner} if crowd[newcomer.owner] >= most else {one for one in crowd if crowd[one] == most}
        share = max(1, len(circuits) // len(crowd.keys() | {newcomer.owner}))
        theirs = [one for one in circuits if one.owner in owners and (most > share or now - one.since >= SETTLING_S)]
        if not theirs:
            return False
        self._cut(min(theirs, key=lambda circuit: circuit.get_use(now)))
        return True

    def _cut(self, circuit: Circuit) -> None:
        circuit.scope.cancel()
        self.close(circuit)

    def close(self, circuit: Circuit) -> None:
        """Remove a circuit that has ended; nothing happens if it was replaced or removed before."""
        if self._circuits.get((circuit.source, circuit.target)) is circuit:
            del self._circuits[circuit.source, circuit.target]
            for peer in (circuit.source, circuit.target):
                self._per_peer[peer] -= 1
                if not self._per_peer[peer]:
                    del self._per_peer[peer]
            if not self._per_peer[circuit.source]:
                self._busy_until.pop(circuit.source, None)

    def spend(self, peer: bytes, size: int, now: float) -> float:
        """Charge ``size`` bytes to ``peer``. Returns how many seconds to wait before passing them on.

        The rate is divided evenly among the peers that are using it at this moment.
        """
        begins = max(self._busy_until.get(peer, now), now)
        busy = sum(until > now for other, until in self._busy_until.items() if other != peer) + 1
        self._busy_until[peer] = begins + size * busy / self.limits.bytes_per_second
        return begins - now


class RelayServer:
    """Serves the requests of :data:`p2p.nat.relay_client.HOP`.

    ``get_addresses(peer)`` gives the addresses at which a peer may be dialled for a client, and ``get_quota_key(peer)``
    what a client counts against, by its IP address.
    """

    def __init__(
        self,
        network: Network,
        runtime: Runtime,
        limits: RelayLimits,
        get_addresses: Callable[[bytes], Sequence[str]],
        get_quota_key: Callable[[bytes], bytes],
    ) -> None:
        self.table = RelayTable(limits)
        self._network = network
        self._runtime = runtime
        self._get_addresses = get_addresses
        self._get_quota_key = get_quota_key
        self._limiter = Limiter(REQUEST_RATE)

    async def serve(self, raw: RawStream) -> None:
        """Answer one request; a circuit lives as long as this call.

        Raises:
            NetworkError: the stream broke, or what came is no request.
        """
        stream = MessageStream(raw)
        request = None
        with trio.move_on_after(RELAY_REQUEST_TIMEOUT_S):
            request = await stream.receive_message(pb.HopMessage)
        if request is None:
            raise NetworkError("no request came")
        if self._network.is_relayed(raw.peer):  # a chain of relays would have no end
            await _answer(stream, pb.PERMISSION_DENIED)
        elif not self._limiter.admit(raw.peer, 0, trio.current_time()):
            await _answer(stream, pb.RESOURCE_LIMIT_EXCEEDED)
        elif request.type == pb.HopMessage.RESERVE:
            await self._reserve(stream)
        elif request.type == pb.HopMessage.CONNECT:
            await self._connect(stream, get_target(request))
        else:
            await _answer(stream, pb.UNEXPECTED_MESSAGE)

    async def _reserve(self, stream: MessageStream) -> None:
        """Reserve for the peer that the connection authenticates; a peer named in the request is ignored."""
        if self._network.can_be_dialled() is False:  # a client could not be reached through it
            await _answer(stream, pb.PERMISSION_DENIED)
            return
        if not self.table.reserve(stream.peer, trio.current_time(), self._get_quota_key(stream.peer)):
            await _answer(stream, pb.RESERVATION_REFUSED)
            return
        expiry = pb.Reservation(expire=round(self._runtime.now() / 1000 + RESERVATION_TTL_S))
        await stream.send_message(
            pb.HopMessage(type=pb.HopMessage.STATUS, status=pb.OK, reservation=expiry, limit=_limit())
        )

    async def _connect(self, stream: MessageStream, target: bytes | None) -> None:
        if target is None or target in (stream.peer, self._network.me):
            await _answer(stream, pb.MALFORMED_MESSAGE)
            return
        if not await self._is_served(stream.peer, target):
            await _answer(stream, pb.NO_RESERVATION)
            return
        circuit = self.table.open(stream.peer, target, trio.current_time(), self._get_quota_key(stream.peer))
        if circuit is None:
            await _answer(stream, pb.RESOURCE_LIMIT_EXCEEDED)
            return
        onward = None
        try:
            with circuit.scope:
                onward = await self._open_stop_stream(target, stream.peer)
                await _answer(stream, pb.OK)
                await self._join(circuit, stream, onward)
        except NetworkError as error:
            logger.debug("no circuit from %s to %s: %s", stream.peer.hex(), target.hex(), error)
            if onward is None:
                await _answer(stream, pb.CONNECTION_FAILED)
        finally:
            self.table.close(circuit)
            with trio.CancelScope(shield=True):
                # Orderly where it can be, so that the last bytes arrive; a circuit that broke is reset.
                for end in (stream, onward):
                    if end is not None:
                        await end.stream.close()

    async def _is_served(self, source: bytes, target: bytes) -> bool:
        """Whether there may be a circuit: the target has a reservation, or the source has and the target is there."""
        now = trio.current_time()
        if target in self._network.peers() and self.table.has_reservation(target, now):
            return True
        if not self.table.has_reservation(source, now):
            return False
        peers = self._network.peers()
        if target not in peers and len(peers) < MAX_PEERS_TO_DIAL_OUT:
            try:
                with trio.move_on_after(CIRCUIT_TIMEOUT_S / 2):
                    await self._network.connect(target, self._get_addresses(target))
            except NetworkError as error:
                logger.debug("%s is not reached for a circuit: %s", format_address(target), error)
        return target in self._network.peers()

    async def _open_stop_stream(self, target: bytes, source: bytes) -> MessageStream:
        """A stream to ``target`` on which it has agreed to the circuit.

        Raises:
            NetworkError: it has not.
        """
        stream = MessageStream(await self._network.open_stream(target, STOP))
        peer = pb.PeerId(id=peer_id_of(source).to_bytes())
        try:
            with trio.fail_after(RELAY_REQUEST_TIMEOUT_S):
                await stream.send_message(pb.StopMessage(type=pb.StopMessage.CONNECT, peer=peer, limit=_limit()))
                answer = await stream.receive_message(pb.StopMessage)
            if answer.type != pb.StopMessage.STATUS or answer.status != pb.OK:
                raise NetworkError(f"{format_address(target)} refuses the circuit: {describe(answer.status)}")
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await stream.stream.reset()
            if isinstance(error, trio.TooSlowError):
                raise NetworkError(f"{format_address(target)} does not answer") from None
            raise
        return stream

    async def _join(self, circuit: Circuit, one: MessageStream, other: MessageStream) -> None:
        """Pass on bytes both ways until either stream ends, the circuit is silent, or its time is up."""
        broken = False
        with trio.move_on_after(MAX_DURATION_S):
            async with trio.open_nursery() as nursery:

                async def pass_on(source: MessageStream, target: MessageStream) -> None:
                    nonlocal broken
                    try:
                        await self._pass_on(circuit, source, target)
                    except NetworkError:
                        broken = True
                    nursery.cancel_scope.cancel()

                nursery.start_soon(pass_on, one, other)
                nursery.start_soon(pass_on, other, one)
                while (left := circuit.heard + CIRCUIT_IDLE_TIMEOUT_S - trio.current_time()) > 0:
                    await trio.sleep(left)
                nursery.cancel_scope.cancel()
        if broken:
            await one.stream.reset()
            await other.stream.reset()

    async def _pass_on(self, circuit: Circuit, source: MessageStream, target: MessageStream) -> None:
        while data := await source.receive():
            circuit.heard = trio.current_time()
            circuit.carried += len(data)
            await trio.sleep(self.table.spend(circuit.source, len(data), trio.current_time()))
            await target.stream.send(data)


def _limit() -> pb.Limit:
    """The limits told to both ends. There is no limit of bytes: a circuit is slowed down instead."""
    return pb.Limit(duration=round(MAX_DURATION_S), data=0)


async def _answer(stream: MessageStream, status: pb.Status.ValueType) -> None:
    await stream.send_message(pb.HopMessage(type=pb.HopMessage.STATUS, status=status))
