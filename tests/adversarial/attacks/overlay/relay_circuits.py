"""Peers of one address hold all circuits of a relay, and open each anew before it may be cut."""

from __future__ import annotations

import random

from p2p.nat.relay_server import SETTLING_S, RelayLimits, RelayTable
from tests.adversarial.attacks.table import Attack, Outcome

SOURCES, TARGETS, CLIENTS = 4, 16, 40
SECONDS = 600
REFRESH_S = round(SETTLING_S) - 5
ADDRESS = b"198.51.100.7"


def run() -> Outcome:
    """Each second a peer of an address of its own asks for a circuit to a client, and holds it for 20 s."""
    relay, chance = RelayTable(RelayLimits()), random.Random(1)
    targets = [b"target %d" % number for number in range(TARGETS)]
    clients = [b"client %d" % number for number in range(CLIENTS)]
    assert all(relay.reserve(peer, 0.0, ADDRESS) for peer in targets)
    assert all(relay.reserve(peer, 0.0, peer) for peer in clients)
    pairs = [(b"source %d" % number, target) for number in range(SOURCES) for target in targets]
    refused = 0
    for pair in pairs:
        assert relay.open(*pair, 0.0, ADDRESS) is not None
    for second in range(1, SECONDS):
        for number, pair in enumerate(pairs):
            if (second + number) % REFRESH_S == 0:
                relay.open(*pair, float(second), ADDRESS)
        circuit = relay.open(b"peer %d" % second, chance.choice(clients), float(second), b"address %d" % second)
        refused += circuit is None
        for circuit in relay.circuits:
            if circuit.owner.startswith(b"address") and second - circuit.since >= 20:
                relay.close(circuit)
    return Outcome(0, refused, refused, f"of {SECONDS - 1} circuits that others asked for", "circuits refused")


ATTACK = Attack(
    "circuits of one address, opened anew before they may be cut",
    Outcome(0, 599, 599, "all, for 20 keys and a request a second", "circuits refused"),
    run,
)
