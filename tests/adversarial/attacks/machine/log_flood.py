"""A stranger sends forged announcements as fast as they are read, to fill the disk with lines of the log."""

from __future__ import annotations

import logging
from dataclasses import replace

import trio

from p2p.limits.peer_score import PEER_THRESHOLD, PeerScores
from p2p.network import Misbehaviour, NetworkError
from p2p.peers.announcement import Announcement, PeerLoad
from p2p.peers.anti_entropy import AgedAnnouncement, SyncFrame
from p2p.simulation.runtime import run_simulation
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.discovery_world import Node, Stranger, world

SECONDS = 60
ANNOUNCEMENTS_PER_S = 200


class _Lines(logging.Handler):
    """Counts the lines that a node would write."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def _ban(node: Node) -> None:
    """Have ``node`` disconnect those whose score is too high, as it does on a real network."""
    scores = PeerScores(PEER_THRESHOLD)

    def report(peer: bytes, misbehaviour: Misbehaviour) -> None:
        if scores.report(peer, misbehaviour, trio.current_time()):
            node.network.hub.kill(peer, 0.0)

    node.network.report_misbehaviour = report  # type: ignore[method-assign]


async def _flood() -> tuple[int, int]:
    """Returns how many announcements were sent and how many lines they made."""
    async with world(2) as w:
        await w.until_agreed(10)
        victim, stranger, sent = w.nodes[1], Stranger(w, 500), 0
        _ban(victim)
        await stranger.connect(victim)
        template = Announcement(bytes(32), 1, 1, False, (), (), (), PeerLoad(), 1_000, bytes(64))
        package, lines = logging.getLogger("p2p"), _Lines()
        before, level = logging.root.manager.disable, package.level
        logging.disable(logging.NOTSET)
        package.setLevel(logging.INFO)
        package.addHandler(lines)
        try:
            for second in range(SECONDS):
                numbers = range(second * ANNOUNCEMENTS_PER_S, (second + 1) * ANNOUNCEMENTS_PER_S)
                forged = (
                    replace(template, peer=w.key(1 + number % 999).public_key, sequence=1 + number)
                    for number in numbers
                )
                frame = SyncFrame(announcements=tuple(AgedAnnouncement(one.encode(), 0) for one in forged))
                sent += len(frame.announcements)
                try:
                    await stranger.say(victim, frame)
                except NetworkError:
                    if stranger.me not in victim.network.peers():
                        break
                await trio.sleep(1)
        finally:
            package.removeHandler(lines)
            package.setLevel(level)
            logging.disable(before)
    return sent, lines.count


def run() -> Outcome:
    sent, lines = run_simulation(1, _flood)
    assert sent >= ANNOUNCEMENTS_PER_S
    return Outcome(0, lines, lines, f"cut off after {sent:,} announcements", "lines of the log")


ATTACK = Attack(
    "a flood of forged announcements fills the log",
    before=Outcome(0, 12_000, 12_000, "12,000 announcements in 60 s, not cut off", "lines of the log"),
    run=run,
    accepted="a line for each frame until the peer is banned",
)
