"""Invented peers announce an address behind the victim's firewall, and one of a bystander, for the victim to dial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import trio

from p2p.peers.announcement import Announcement, PeerLoad, sign_announcement
from p2p.peers.anti_entropy import AgedAnnouncement, SyncFrame
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.discovery_world import CHAIN, Stranger, world

SECONDS = 20
PEERS = 5
INSIDE, BYSTANDER = "/ip4/127.0.0.1/tcp/5432", "/ip4/45.200.0.1/tcp/80"


async def _attack() -> Counter[str]:
    """Returns how often each address was dialled."""
    dials: Counter[str] = Counter()
    async with world(0) as w:
        w.bootstrap = []
        victim = w.start(1, address="/ip4/45.1.0.1/tcp/1")
        await trio.sleep(1)
        connect = victim.network.connect

        async def count(peer: bytes, addresses: Sequence[str]) -> None:
            dials.update(addresses)
            await connect(peer, addresses)

        victim.network.connect = count  # type: ignore[method-assign]
        stranger = Stranger(w, 500)
        await stranger.connect(victim)
        now = SimulatedRuntime.EPOCH_MS + round(trio.current_time() * 1000)
        template = Announcement(bytes(32), now, now, False, (), (), (), PeerLoad(), 600_000, bytes(64))
        keys = [w.key(1_000 + number) for number in range(PEERS)]
        invented = [
            sign_announcement(key, CHAIN, replace(template, peer=key.public_key, addresses=(INSIDE, BYSTANDER)))
            for key in keys
        ]
        await stranger.say(
            victim, SyncFrame(announcements=tuple(AgedAnnouncement(one.encode(), 0) for one in invented))
        )
        assert len(victim.present()) >= PEERS
        await trio.sleep(SECONDS)
    return dials


def run() -> Outcome:
    dials = run_simulation(1, _attack)
    assert dials[BYSTANDER]
    detail = f"inside never; the bystander {dials[BYSTANDER]} times in {SECONDS} s"
    return Outcome(0, dials[INSIDE], dials[INSIDE], detail, "dials")


ATTACK = Attack(
    "a stranger has the victim dial its own loopback",
    before=Outcome(0, 20, 20, "20 times in 20 s", "dials"),
    run=run,
)
