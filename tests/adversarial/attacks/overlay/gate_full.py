"""Peers with the least bond that counts fill all inbound connections of a node."""

from __future__ import annotations

import math

from chain.parameters.parameters import Parameters
from p2p.host.connection_gater import ConnectionGater, ConnectionLimits, InboundConnection
from p2p.limits.rate_limit import Rate
from tests.adversarial.attacks.table import Attack, Outcome

SYBILS, MORE_SYBILS, NEWCOMERS = 1000, 400, 200


def _enter(gater: ConnectionGater, host: str, peer: bytes, now: float) -> InboundConnection:
    connection = gater.on_accept(host, now)
    assert connection is not None
    gater.on_secured(connection, peer)
    return connection


def run() -> Outcome:
    """Sybils come first, from few addresses; then newcomers, from one each; then more Sybils."""
    bonds: dict[bytes, int] = {}
    limits = ConnectionLimits(max_per_address=math.ceil(1e9), arrivals=Rate(1e6, math.inf, 1e6))
    gater = ConnectionGater(limits, lambda peer: bonds.get(peer, 0), secret=b"secret")
    least = Parameters().min_service_bond
    for number in range(SYBILS):
        bonds[peer := b"sybil %d" % number] = least
        _enter(gater, f"203.0.{number // 64}.7", peer, 0.0)
    newcomers = [_enter(gater, f"198.51.100.{number}", b"newcomer %d" % number, 1.0) for number in range(NEWCOMERS)]
    for number in range(SYBILS, SYBILS + MORE_SYBILS):
        bonds[peer := b"sybil %d" % number] = least
        _enter(gater, f"203.0.{number // 64}.7", peer, 2.0)
    turned_away = sum(newcomer.evicted for newcomer in newcomers)
    assert gater.secured <= limits.max_connections
    return Outcome(0, turned_away, turned_away, f"{gater.secured:,} connections in all", "newcomers turned away")


ATTACK = Attack(
    "peers with a bond fill the inbound connections",
    before=Outcome(0, 200, 200, "1,400 connections, of 1,000 allowed", "newcomers turned away"),
    run=run,
)
