"""Discovery in simulated networks: join, leave, crash, restart, replay, partition, many nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2p.coarse_clock import STEP_MS
from p2p.discovery.announcer import ANNOUNCE_INTERVAL_S, MISSED_ANNOUNCEMENTS
from p2p.discovery.peer_store import PeerStore
from p2p.discovery.plumtree import PLUMTREE_PROTOCOL
from p2p.discovery.prober import RETURN_DELAY_S
from p2p.network import NetworkError
from p2p.peers.announcement import ACCEPTANCE_S, Announcement, ModelLoad, PeerLoad, sign_announcement
from p2p.peers.anti_entropy import AgedAnnouncement, SyncFrame
from p2p.peers.failure_detector import SUSPICION_TIMEOUT_S
from p2p.peers.table import ChangeKind, PeerState
from p2p.simulation.network import SimulatedNetwork
from p2p.simulation.runtime import SimulatedClock, SimulatedRuntime
from p2p.streams.exchange import Exchange
from p2p.streams.exchanges import Streams
from tests.support.discovery_world import CHAIN, Node, World, world

EXPIRY = MISSED_ANNOUNCEMENTS * ANNOUNCE_INTERVAL_S
pytestmark = pytest.mark.trio


async def test_a_join_is_seen_by_all_within_seconds(simulated_clock: SimulatedClock) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        newcomer = w.start(4, models=["tiny"])
        await w.until_agreed(3)
        assert all((ChangeKind.JOINED, newcomer.me) in node.seen() for node in w.nodes[:4])
        announcement = w.nodes[1].discovery.find(newcomer.me)
        assert announcement is not None
        assert (announcement.models, announcement.addresses) == (("tiny",), newcomer.network.listen_addresses)
        await trio.sleep(60)
        assert w.agreed()
        assert all(len(node.network.peers()) == 4 for node in w.nodes)


async def test_discovery_works_without_gossip(simulated_clock: SimulatedClock) -> None:
    async with world(6, loss=1.0) as w:
        await w.until_agreed(30)
        await trio.sleep(200)
        assert w.agreed()


async def test_a_graceful_leave_is_seen_at_once_and_as_such(simulated_clock: SimulatedClock) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        leaver = w.nodes.pop()
        await leaver.discovery.leave()
        assert leaver.left.is_set()
        await w.until_agreed(1)
        w.hub.kill(leaver.me)
        await trio.sleep(60)
        for node in w.nodes:
            assert [kind for kind, peer in node.seen() if peer == leaver.me][-1] is ChangeKind.LEFT
            assert node.discovery.table.state(leaver.me) is PeerState.LEFT


async def test_a_crash_is_noticed_by_its_neighbours_within_seconds(simulated_clock: SimulatedClock) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        await trio.sleep(5)
        assert all(len(node.network.peers()) == 3 for node in w.nodes)
        victim = w.nodes[-1]
        w.crash(victim)
        await w.until_agreed(8)
        for node in w.nodes:
            assert [kind for kind, peer in node.seen() if peer == victim.me][-1] is ChangeKind.CRASHED


async def test_a_lost_connection_alone_is_no_crash(simulated_clock: SimulatedClock) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        await trio.sleep(5)
        a, b = w.nodes[1:3]
        await a.network.disconnect(b.me)
        await trio.sleep(5)
        assert b.me in a.network.peers()
        assert a.discovery.table.state(b.me) is b.discovery.table.state(a.me) is PeerState.ONLINE
        assert all(kind is not ChangeKind.CRASHED for node in w.nodes for kind, _ in node.seen())


async def test_a_node_that_cannot_be_dialled_takes_part_and_is_missed(
    simulated_clock: SimulatedClock,
) -> None:
    async with world(3) as w:
        hidden = w.start(3, listen=False)
        await w.until_agreed(15)
        announcement = w.nodes[0].discovery.find(hidden.me)
        assert announcement is not None
        assert announcement.addresses == ()
        await trio.sleep(5)
        w.crash(hidden)
        await trio.sleep(5)
        assert w.nodes[0].discovery.table.state(hidden.me) is PeerState.SUSPECT
        await w.until_agreed(RETURN_DELAY_S + SUSPICION_TIMEOUT_S + 5)
        assert w.nodes[0].seen()[-1] == (ChangeKind.CRASHED, hidden.me)


@pytest.mark.parametrize("away", [0.1, 20.0, 100.0])
async def test_a_restart_with_the_same_key_is_back_within_seconds(simulated_clock: SimulatedClock, away: float) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        old = w.nodes[0].discovery.find(w.nodes[3].me)
        w.crash(w.nodes[3])
        await trio.sleep(away)
        again = w.start(3)
        await trio.sleep(3)
        await w.until_agreed(5)
        new = w.nodes[0].discovery.find(again.me)
        assert old is not None
        assert new is not None
        assert new.incarnation > old.incarnation
        await trio.sleep(60)
        assert w.agreed()


async def restart(w: World, node: Node, says_goodbye: bool, **options: object) -> Node:
    """The node ends, and begins again with the same key a moment later."""
    number = w.nodes.index(node)
    if says_goodbye:
        await node.discovery.leave()
    w.crash(node)
    await trio.sleep(0.5)
    return w.start(number, **options)


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_announcements_do_not_tell_the_clock_and_a_restart_outdoes_those_before(
    simulated_clock: SimulatedClock, tmp_path: Path, caplog: pytest.LogCaptureFixture, says_goodbye: bool
) -> None:
    """The next run knows the incarnation of the last one."""
    async with world(3) as w:
        node = w.start(3, skew=12_345, store=PeerStore(tmp_path / "peers.db"))
        await w.until_agreed(10)
        incarnation = 0
        for _ in range(4):
            sequences = set()
            for _ in range(3):
                known = w.nodes[0].discovery.find(node.me)
                assert known is not None
                sequences.add(known.sequence)
                await trio.sleep(1.5 * ANNOUNCE_INTERVAL_S)
            assert len(sequences) > 1 and all(sequence % STEP_MS < 1_100 for sequence in sequences)
            assert incarnation < known.incarnation and known.incarnation % STEP_MS < 1_010
            incarnation = known.incarnation
            node = await restart(w, node, says_goodbye, skew=12_345, store=PeerStore(tmp_path / "peers.db"))
            await w.until_agreed(10)
        assert "newer than its own" not in caplog.text


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_a_node_that_has_lost_its_data_directory_outdoes_its_earlier_life(
    simulated_clock: SimulatedClock, says_goodbye: bool
) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        await trio.sleep(40)
        old = w.nodes[0].discovery.find(w.nodes[3].me)
        node = await restart(w, w.nodes[3], says_goodbye)
        await trio.sleep(5)
        await w.until_agreed(5)
        new = w.nodes[0].discovery.find(node.me)
        assert old is not None and new is not None and new.incarnation > old.incarnation


async def test_an_incarnation_from_a_time_when_the_clock_was_wrong_is_not_gone_on_from(
    simulated_clock: SimulatedClock, tmp_path: Path
) -> None:
    store = PeerStore(tmp_path / "peers.db")
    store.incarnation = SimulatedRuntime.EPOCH_MS + 10 * 365 * 24 * 3_600_000
    store.save([], SimulatedRuntime.EPOCH_MS)
    async with world(3) as w:
        w.start(3, store=PeerStore(store.path))
        await w.until_agreed(10)


async def test_a_restart_with_a_clock_gone_back_outdoes_its_earlier_life(simulated_clock: SimulatedClock) -> None:
    async with world(4) as w:
        await w.until_agreed(10)
        w.crash(w.nodes[3])
        await trio.sleep(20)
        w.start(3, skew=-60_000)
        await w.until_agreed(10)


async def only_listen(exchange: Exchange) -> None:
    while await exchange.receive() is not None:
        pass


@pytest.mark.parametrize("tenths", [3, pytest.param(13, marks=pytest.mark.long)])
async def test_replayed_announcements_do_not_resurrect(simulated_clock: SimulatedClock, tenths: int) -> None:
    """Neither while they would be accepted, nor in the long run, later: ``tenths`` are of that time."""
    async with world(4) as w:
        attacker = SimulatedNetwork(w.hub, w.key(99).public_key)
        streams = Streams(attacker)
        streams.handle(PLUMTREE_PROTOCOL, only_listen)  # or the others would ask for a session every second
        w.nursery.start_soon(streams.run)
        await w.until_agreed(10)
        await trio.sleep(5)
        for node in w.nodes[:3]:
            await attacker.connect(node.me, node.network.listen_addresses)
        captured = [w.nodes[0].discovery.find(node.me) for node in w.nodes[2:]]
        leaver = w.nodes[2]
        await leaver.discovery.leave()
        w.crash(leaver)
        w.crash(w.nodes[2])
        await w.until_agreed(10)
        for node in w.nodes:
            node.seen()
        for _ in range(tenths):
            await trio.sleep(ACCEPTANCE_S / 10)
            for announcement in captured:
                assert announcement is not None
                raw = announcement.encode()
                for node in w.nodes:
                    async with streams.open(node.me, "/wwwserve/views/3") as exchange:
                        await exchange.send(SyncFrame(announcements=(AgedAnnouncement(raw, 0),)).encode(), end=True)
                        await exchange.receive()  # it is told of the goodbye, if anything
            assert w.agreed()
        assert all(kind is ChangeKind.UPDATED for node in w.nodes for kind, _ in node.seen())


@pytest.mark.parametrize("skew", [-10_800_000, 10_800_000])
async def test_a_node_whose_clock_is_far_off_is_not_listed(simulated_clock: SimulatedClock, skew: int) -> None:
    async with world(3) as w:
        await w.until_agreed(10)
        odd = w.start(3, skew=skew)
        w.nodes.remove(odd)
        await trio.sleep(60)
        assert w.agreed()
        assert odd.present() == set()


async def test_forged_announcements_are_refused(simulated_clock: SimulatedClock) -> None:
    async with world(2) as w:
        await w.until_agreed(10)
        attacker = SimulatedNetwork(w.hub, w.key(99).public_key)
        streams = Streams(attacker)
        w.nursery.start_soon(streams.run)
        target, victim = w.nodes
        await attacker.connect(target.me, target.network.listen_addresses)
        genuine = target.discovery.find(victim.me)
        assert genuine is not None
        forged = [
            replace(genuine, leaving=True).encode(),
            replace(sign_announcement(w.key(99), CHAIN, genuine), sequence=genuine.sequence + 1).encode(),
            sign_announcement(w.key(99), b"x" * 32, replace(genuine, peer=attacker.me)).encode(),
            b"garbage",
        ]
        for raw in forged:
            with pytest.raises(NetworkError):
                async with streams.open(target.me, "/wwwserve/views/3") as exchange:
                    await exchange.send(SyncFrame(announcements=(AgedAnnouncement(raw, 0),)).encode(), end=True)
                    await exchange.receive()
        await trio.sleep(5)
        assert w.agreed()


async def test_a_partition_is_noticed_and_heals(simulated_clock: SimulatedClock) -> None:
    async with world(8) as w:
        await w.until_agreed(15)
        halves = [[node.me for node in w.nodes[:4]], [node.me for node in w.nodes[4:]]]
        w.hub.partition(halves, notice=2.0)
        await trio.sleep(EXPIRY + 15)
        for half, nodes in zip(halves, (w.nodes[:4], w.nodes[4:]), strict=True):
            assert all(node.present() == set(half) - {node.me} for node in nodes)
        await trio.sleep(120)
        w.hub.heal()
        await w.until_agreed(40)


def busy(running: int, waiting: int = 0, rate: int = 0) -> PeerLoad:
    return PeerLoad((ModelLoad("small", running, waiting, 10, rate),))


async def test_changes_are_announced_soon_but_not_too_often(simulated_clock: SimulatedClock) -> None:
    async with world(2) as w:
        await w.until_agreed(10)
        await trio.sleep(30)
        reader, writer = w.nodes

        def known() -> Announcement:
            announcement = reader.discovery.find(writer.me)
            assert announcement is not None
            return announcement

        writer.discovery.update(models=["tiny", "small"])
        await trio.sleep(2)
        assert known().models == ("tiny", "small")
        writer.discovery.update(load=busy(1))
        await trio.sleep(2)
        assert known().load == busy(1)

        reader.seen()
        for step in range(100):
            writer.discovery.update(load=busy(2, rate=step % 2))
            await trio.sleep(0.1)
        assert len(reader.seen()) <= 2
        assert known().load.models[0].running == 2
        for step in range(100):
            writer.discovery.update(load=busy(2, step % 2))
            await trio.sleep(0.1)
        assert len(reader.seen()) <= 11


@pytest.mark.parametrize("count", [24, pytest.param(50, marks=pytest.mark.long)])
async def test_many_nodes_converge_and_stay(simulated_clock: SimulatedClock, count: int) -> None:
    async with world(count, loss=0.2) as w:
        await w.until_agreed(30)
        for victim in w.nodes[10:15]:
            w.crash(victim)
        newcomer = w.start(60)
        await w.until_agreed(EXPIRY + 15)
        assert newcomer.present() == {node.me for node in w.nodes} - {newcomer.me}
        degrees = [len(node.network.peers()) for node in w.nodes]
        assert min(degrees) >= 8


TRACE = """
import trio
from p2p.simulation.runtime import run_simulation
from tests.p2p.discovery.test_service import world
async def main():
    async with world(10, loss=0.2) as w:
        await trio.sleep(15)
        w.crash(w.nodes[5])
        await trio.sleep(15)
        for node in w.nodes:
            while node.events.statistics().current_buffer_used:
                change = node.events.receive_nowait()
                print(node.me.hex()[:8], change.kind.value, change.peer.hex()[:8], change.announcement.sequence)
            print(sorted(peer.hex()[:8] for peer in node.network.peers()))
run_simulation(0, main)
"""


@pytest.mark.long  # the trace of a whole market shows it too (test_market_simulation)
async def test_the_trace_depends_on_the_seed_alone() -> None:
    traces = {
        subprocess.run(
            [sys.executable, "-c", TRACE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(traces) == 1
    assert traces.pop().count("joined") >= 81
