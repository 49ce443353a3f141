"""Circuits: connections to a peer through a relay that both can reach (circuit relay v2, the two ends).

A *relay* joins two streams, one from the node that dials and one to the node that is dialled, and passes on bytes. Over
these bytes the two ends run the same Noise handshake as over TCP. So a relay can cut a circuit, but neither read it nor
impersonate an end. The result is an ordinary connection of the swarm.

A *reservation* makes a relay accept circuits to a node, as long as that node stays connected to it; and only for nodes
with a reservation a relay dials other peers. :mod:`p2p.nat.relay_server` is the other side.

Source: the libp2p specification "Circuit Relay v2". Reservation vouchers are not used. The library's own implementation
loses circuits, believes forged requests and never cuts idle circuits.
"""

from __future__ import annotations

from typing import Any

import trio
from libp2p.connection_types import ConnectionType
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from multiaddr import Multiaddr

from chain.crypto import format_address
from p2p.addresses import CIRCUIT
from p2p.length_prefixed import MessageStream
from p2p.network import Network, NetworkError, RawStream
from p2p.peer_id import peer_id_of, public_key_of

HOP = "/libp2p/circuit/relay/0.2.0/hop"
"""Name of the protocol between a node and a relay."""
STOP = "/libp2p/circuit/relay/0.2.0/stop"
"""Name of the protocol between a relay and the peer at the end of a circuit."""

RELAY_REQUEST_TIMEOUT_S = 10.0
"""Time for a request that a relay answers at once, and its answer."""
CIRCUIT_TIMEOUT_S = 25.0
"""Time to open a circuit: the relay may have to dial, and the peer has to accept."""
MIN_TTL_S = 60.0
"""Shortest time for which a reservation is taken to hold: the clock of the relay may be wrong."""
MAX_TTL_S = 3600.0
"""Longest time for which a reservation is taken to hold."""


class CircuitEnd(ReadWriteCloser):
    """One end of a circuit, as the library takes it in place of a TCP connection."""

    def __init__(self, stream: MessageStream) -> None:
        self._stream = stream
        self._reading = trio.CancelScope()
        self._buffer = b""
        self._closed = False

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes, at most ``n``; none once the circuit has ended."""
        if not self._buffer and not self._closed:
            try:
                self._reading = trio.CancelScope()  # closing this end must wake a reader
                with self._reading:
                    self._buffer = await self._stream.receive()
            except NetworkError as error:
                raise ConnectionClosedError(str(error)) from error
        data, self._buffer = self._buffer[:n], b"" if n is None else self._buffer[n:]
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.stream.send(data)
        except NetworkError as error:
            raise ConnectionClosedError(str(error)) from error

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._reading.cancel()
            await self._stream.stream.close()

    def get_remote_address(self) -> None:
        """None: only the relay knows the address of the peer."""

    def as_connection(self, initiator: bool, relay: bytes) -> RawConnection:
        """The connection that the library upgrades with Noise and Yamux."""
        address = Multiaddr(f"/p2p/{format_address(relay)}{CIRCUIT}")
        return RawConnection(self, initiator, ConnectionType.RELAYED, [address])


async def reserve(network: Network, relay: bytes, now: int) -> float:
    """Ask ``relay``, which is connected, for a reservation. Returns how many seconds it holds.

    ``now`` is wall time in ms, to which the relay's answer refers.

    Raises:
        NetworkError: it does not answer, or refuses.
    """
    stream = MessageStream(await network.open_stream(relay, HOP))
    try:
        answer = await _ask(stream, pb.HopMessage(type=pb.HopMessage.RESERVE), RELAY_REQUEST_TIMEOUT_S)
        await stream.stream.close()
    except BaseException:
        await _abandon(stream)
        raise
    return min(max(answer.reservation.expire - now / 1000, MIN_TTL_S), MAX_TTL_S)


async def open_circuit(network: Network, relay: bytes, peer: bytes) -> CircuitEnd:
    """Have ``relay``, which is connected, join this node with ``peer``.

    Raises:
        NetworkError: it does not answer, refuses, or cannot reach the peer.
    """
    stream = MessageStream(await network.open_stream(relay, HOP))
    try:
        request = pb.HopMessage(type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=peer_id_of(peer).to_bytes()))
        await _ask(stream, request, CIRCUIT_TIMEOUT_S)
    except BaseException:
        await _abandon(stream)
        raise
    return CircuitEnd(stream)


async def accept_circuit(raw: RawStream) -> CircuitEnd:
    """Accept a circuit that a relay opens on a stream of :data:`STOP`.

    The peer that the relay names at the other end does not matter: the handshake will prove it.

    Raises:
        NetworkError: the stream broke, or the relay asked for no circuit.
    """
    stream = MessageStream(raw)
    with trio.move_on_after(RELAY_REQUEST_TIMEOUT_S):
        request = await stream.receive_message(pb.StopMessage)
        if request.type != pb.StopMessage.CONNECT:
            await stream.send_message(pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.UNEXPECTED_MESSAGE))
            raise NetworkError("a relay sent something else than a circuit")
        await stream.send_message(pb.StopMessage(type=pb.StopMessage.STATUS, status=pb.OK))
        return CircuitEnd(stream)
    raise NetworkError("a relay opened no circuit")


def get_target(request: pb.HopMessage) -> bytes | None:
    """The peer that a CONNECT asks for."""
    return public_key_of(request.peer.id)


async def _ask(stream: MessageStream, request: pb.HopMessage, seconds: float) -> pb.HopMessage:
    with trio.move_on_after(seconds):
        await stream.send_message(request)
        answer = await stream.receive_message(pb.HopMessage)
        if answer.type != pb.HopMessage.STATUS or answer.status != pb.OK:
            raise NetworkError(f"the relay {format_address(stream.peer)} refuses: {describe(answer.status)}")
        return answer
    raise NetworkError(f"the relay {format_address(stream.peer)} did not answer within {seconds:g} s")


def describe(status: Any) -> str:
    """A status as the specification names it."""
    try:
        return str(pb.Status.Name(status)).lower().replace("_", " ")
    except ValueError:
        return f"status {status}"


async def _abandon(stream: MessageStream) -> None:
    with trio.CancelScope(shield=True):
        await stream.stream.reset()
