"""Outbound connections: every way to a peer, in turn, until one leads to it.

Direct addresses come first, then circuits through relays. Addresses may come from strangers, so an attempt at each has
a deadline, and the handshake proves who answers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

import trio
from multiaddr import Multiaddr

from chain.crypto import format_address
from p2p.addresses import Endpoint, format_endpoint, parse_circuit_address
from p2p.closing import CLOSE_TIMEOUT_S, root_cause, shielded
from p2p.host.circuits import Circuits
from p2p.host.connection_gater import ConnectionGater
from p2p.host.connections import Connections
from p2p.host.lifetime import Lifetime
from p2p.host.transport.socks5 import PROXY_TIMEOUT_S
from p2p.host.transport.tcp import DialRules, GuardedTCP
from p2p.nat.relay_client import CIRCUIT_TIMEOUT_S, open_circuit
from p2p.network import Network, NetworkError
from p2p.peer_id import peer_id_of
from p2p.runtime import Runtime

logger = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 5.0
"""Time for one address: TCP, Noise and Yamux."""
DIRECT_HEAD_START_S = 4.0
"""Time for all direct addresses together, if there are circuits to try after them."""


@dataclass(frozen=True, slots=True)
class _Path:
    """One way to a peer: how to try it, what to call it in an error, and the time that it may take."""

    attempt: Callable[[], Awaitable[None]]
    name: str
    timeout_s: float
    is_direct: bool


class Dialer:
    """Dials peers by the rules. ``on_circuit(peer)`` is called when a circuit to ``peer`` has been made."""

    def __init__(
        self,
        network: Network,
        lifetime: Lifetime,
        connections: Connections,
        circuits: Circuits,
        gater: ConnectionGater,
        rules: DialRules,
        runtime: Runtime,
        on_circuit: Callable[[bytes], None],
    ) -> None:
        self._network = network
        self._lifetime = lifetime
        self._connections = connections
        self._circuits = circuits
        self._gater = gater
        self._rules = rules
        self._runtime = runtime
        self._on_circuit = on_circuit
        self._locks: WeakValueDictionary[bytes, trio.Lock] = WeakValueDictionary()

    async def connect(self, peer: bytes, addresses: Sequence[str]) -> None:
        """See :meth:`p2p.network.Network.connect`."""
        if peer == self._network.me:
            raise NetworkError("a node does not dial itself")
        swarm = self._lifetime.swarm
        if self._gater.peers.is_banned(peer, trio.current_time()):
            raise NetworkError(f"{format_address(peer)} broke the rules and is banned for a while")
        if peer in swarm.refused:
            raise NetworkError(f"{format_address(peer)} is on the other side of a partition")
        failures: list[str] = []
        async with self._locks.setdefault(peer, trio.Lock()):
            for path in self._get_paths(peer, addresses):
                if peer in self._connections.peers and not (path.is_direct and self._connections.is_relayed(peer)):
                    break
                try:
                    with trio.fail_after(path.timeout_s):
                        await path.attempt()
                    if path.is_direct:
                        self._connections.note_dialled(peer, path.name)
                except trio.TooSlowError:
                    failures.append(f"{path.name}: no answer within {path.timeout_s:g} s")
                except Exception as error:
                    failures.append(f"{path.name}: {root_cause(error)}")
        if peer not in self._connections.peers:
            raise NetworkError(f"cannot reach {format_address(peer)}: {'; '.join(failures) or 'no address is known'}")

    def _get_paths(self, peer: bytes, addresses: Sequence[str]) -> Iterator[_Path]:
        """The ways to ``peer``, direct ones first."""
        direct, relays = self._sort_addresses(peer, addresses)
        if self._rules.is_restricted:  # its relays reach for it what it may not dial
            held = (relay for relay in self._circuits.get_relays() if relay != peer)
            relays |= {relay: relays.get(relay, []) for relay in held}
        timeout = DIAL_TIMEOUT_S if self._rules.proxy is None else PROXY_TIMEOUT_S
        # Direct addresses behind a NAT answer nothing: they get less time where there is another way.
        shared = min(timeout, DIRECT_HEAD_START_S / max(1, len(direct)))
        for target in direct:
            attempt = partial(self._lifetime.swarm.dial, peer_id_of(peer), target)
            yield _Path(attempt, str(target), shared if relays and self._rules.proxy is None else timeout, True)
        # Relays that are connected first; otherwise in random order, since one of them may hang.
        for relay in sorted(
            relays, key=lambda relay: (relay not in self._connections.peers, self._runtime.random.random())
        ):
            attempt = partial(self._dial_circuit, relay, relays[relay], peer)
            yield _Path(attempt, f"through the relay {format_address(relay)}", timeout + CIRCUIT_TIMEOUT_S, False)

    def _sort_addresses(self, peer: bytes, addresses: Sequence[str]) -> tuple[list[Multiaddr], dict[bytes, list[str]]]:
        """The direct addresses that may be dialled, and the relays with theirs."""
        direct: list[Multiaddr] = []
        relays: dict[bytes, list[str]] = {}
        for address in addresses:
            try:
                circuit = parse_circuit_address(address)
                target = Multiaddr(address if circuit is None else circuit[1])
            except ValueError as error:  # strangers announce what they like
                logger.debug("address of %s: %s", format_address(peer), error)
                continue
            if not self._rules.allows(target):
                continue
            if circuit is None:
                direct.append(target)
            elif circuit[0] not in (peer, self._network.me):
                relays.setdefault(circuit[0], []).append(circuit[1])
        return direct, relays

    async def _dial_circuit(self, relay: bytes, addresses: Sequence[str], peer: bytes) -> None:
        if relay not in self._connections.peers:
            await self.connect(relay, addresses)
        end = await open_circuit(self._network, relay, peer)
        await self._lifetime.swarm.upgrade_outbound_raw_conn(end.as_connection(True, relay), peer_id_of(peer))
        self._on_circuit(peer)

    async def answers(self, peer: bytes, host: str, port: int) -> bool:
        """See :meth:`p2p.nat.dial_back.DialBackNetwork.answers`."""
        swarm = self._lifetime.swarm
        address = Multiaddr(format_endpoint(host, port))
        transport = swarm.transport_manager.transport_for_dialing(address)
        with trio.move_on_after(DIAL_TIMEOUT_S):
            try:
                assert transport is not None
                raw = await transport.dial(address)
                try:
                    await swarm.upgrader.upgrade_security(raw, True, peer_id_of(peer))
                    return True
                finally:
                    with shielded(CLOSE_TIMEOUT_S):
                        await raw.close()
            except Exception as error:
                logger.debug("%s does not answer at %s: %r", format_address(peer), address, error)
        return False

    async def open_simultaneously(self, peer: bytes, local: Endpoint, remote: Endpoint, initiator: bool) -> bool:
        """See :meth:`p2p.nat.hole_punching.PunchNetwork.open_simultaneously`.

        The gater sees the connection at the responder, like any other inbound one.
        """
        if self._lifetime.running is None:
            return False
        swarm = self._lifetime.swarm
        transport = next(one for one in swarm.transport_manager.get_transports() if isinstance(one, GuardedTCP))
        try:
            raw = await transport.open_simultaneously(local, remote, initiator)
            if not initiator:
                self._lifetime.start_soon(swarm.serve, raw, None)
                return True
            try:
                with trio.fail_after(DIAL_TIMEOUT_S):
                    await swarm.upgrade_outbound_raw_conn(raw, peer_id_of(peer))
                    return True
            except BaseException:
                with shielded(CLOSE_TIMEOUT_S):
                    await raw.close()
                raise
        except Exception as error:
            logger.debug("no hole to %s: %r", format_address(peer), error)
        return False
