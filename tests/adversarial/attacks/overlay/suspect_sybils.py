"""Keys that cost nothing suspect a living peer after each of its announcements: how long is it taken for dead?"""

from __future__ import annotations

import trio

from p2p.peers.announcement import Announcement, PeerLoad, sign_announcement
from p2p.peers.anti_entropy import AgedAnnouncement, SyncFrame
from p2p.peers.failure_detector import CONFIRMATIONS, OBSERVER_MIN_AGE_S
from p2p.peers.suspect_message import sign_suspect_message
from p2p.simulation.runtime import SimulatedRuntime, run_simulation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.discovery_world import CHAIN, Stranger, world

NODES, SYBILS = 18, 45
SECONDS = 60


async def suspect() -> tuple[int, int]:
    """Percent of the time for which the victim is absent from the tables of nodes without a connection to it, and how
    many suspect messages there were."""
    async with world(NODES) as w:
        await w.until_agreed(60)
        sybils = [w.key(10_000 + number) for number in range(SYBILS)]
        speakers = [Stranger(w, 5_000 + number) for number in range(CONFIRMATIONS)]
        for number, speaker in enumerate(speakers):
            await speaker.connect(w.nodes[number + 1])
        now = SimulatedRuntime.EPOCH_MS + round(trio.current_time() * 1000)
        for start in range(0, SYBILS, 30):
            announced = [
                Announcement(key.public_key, now, now, False, (), (), (), PeerLoad(), 7_200_000, bytes(64))
                for key in sybils[start : start + 30]
            ]
            signed = [
                AgedAnnouncement(sign_announcement(key, CHAIN, one).encode(), 0)
                for key, one in zip(sybils[start:], announced, strict=False)
            ]
            await speakers[0].say(w.nodes[1], SyncFrame(announcements=tuple(signed)))
            await trio.sleep(1.0)
        await trio.sleep(OBSERVER_MIN_AGE_S + 10)
        victim = w.nodes[-1]
        sent, about = 0, None
        absences: list[bool] = []
        end = trio.current_time() + SECONDS
        while trio.current_time() < end:
            announcement = victim.discovery._announcer.announced
            assert announcement is not None
            if about != announcement.sequence and sent + CONFIRMATIONS <= SYBILS:
                about = announcement.sequence
                keys = sybils[sent : sent + CONFIRMATIONS]
                messages = tuple(sign_suspect_message(key, CHAIN, announcement).encode() for key in keys)
                sent += CONFIRMATIONS
                await trio.sleep(0.7)
                for number, speaker in enumerate(speakers):
                    await speaker.say(w.nodes[number + 1], SyncFrame(suspects=messages))
            others = [node for node in w.nodes[:-1] if victim.me not in node.network.peers()]
            absences += [victim.me not in node.present() for node in others]
            await trio.sleep(0.25)
    assert absences
    return round(100 * sum(absences) / len(absences)), sent


def run() -> Outcome:
    absent, sent = run_simulation(1, suspect)
    assert sent >= 5 * CONFIRMATIONS, "the victim has refuted often"
    return Outcome(0, absent, absent, f"{sent} suspect messages about one peer in {SECONDS} s", "% of the time dead")


ATTACK = Attack(
    "keys without stake suspect a living peer",
    Outcome(0, 59, 59, "99 messages in 90 s, about a peer with any stake", "% of the time dead"),
    run,
)
