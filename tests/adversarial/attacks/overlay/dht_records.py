"""Keys behind one address fill the records of the rendezvous key, each with an address that it does not have."""

from __future__ import annotations

from p2p.addresses import get_subnet
from p2p.dht.kademlia import PeerInfo, get_provider_key
from p2p.dht.provider_store import ProviderStore
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_peer

HONEST, STRANGERS = 30, 62
KEY = get_provider_key(bytes(32))


def run() -> Outcome:
    store = ProviderStore(KEY)

    def add(number: int, claimed: str, connection: str) -> bytes:
        peer = make_peer(number)
        store.add(KEY, PeerInfo(peer, (f"/ip4/{claimed}/tcp/4001",)), 0.0, get_subnet(connection))
        return peer

    honest = [add(number, f"{20 + number}.1.0.1", f"{20 + number}.1.0.1") for number in range(HONEST)]
    for number in range(STRANGERS):
        add(1000 + number, f"{60 + number}.7.0.1", "198.51.100.7")
    kept = {info.peer for info in store.find(KEY, 1.0)}
    lost = sum(peer not in kept for peer in honest)
    return Outcome(0, lost, lost, f"of {HONEST}, to {STRANGERS} keys of one address", "records displaced")


ATTACK = Attack(
    "records of providers that claim addresses everywhere",
    Outcome(0, 30, 30, "all of 30, for 2.9 KB", "records displaced"),
    run,
)
