"""Which of the first two candidates is asked first: what counts is what this node has seen of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import trio

from p2p.peers.announcement import Announcement
from tests.support.market_world import MODEL, Options, World, simulate

NUMBERS = 300


def announce(world: World, loads: dict[bytes, int]) -> None:
    """Have the gateway believe that its peers announce ``loads``, in permille."""
    originator = world.gateway.originator
    find = originator._dialer.find

    def find_loaded(peer: bytes) -> Announcement | None:
        announcement = find(peer)
        if announcement is None or peer not in loads:
            return announcement
        return replace(announcement, load=replace(announcement.load, utilization=loads[peer]))

    originator._dialer = replace(originator._dialer, find=find_loaded)


def count_firsts(world: World) -> Counter[bytes]:
    """How often each executor is asked first."""
    originator = world.gateway.originator
    first_round = originator._context.first_round
    return Counter(originator._draw(MODEL, first_round, seq)[0][1] for seq in range(NUMBERS))


def test_announcing_a_low_load_wins_no_request() -> None:
    async def play(world: World) -> None:
        executors = [member.public_key for member in world.members[1:]]
        announce(world, dict.fromkeys(executors, 500))
        before = count_firsts(world)
        assert sum(before.values()) == NUMBERS and len(before) == 4
        announce(world, {executors[0]: 0})
        assert count_firsts(world) == before

    simulate(play, Options(executors=4))


def test_one_that_announces_to_be_full_is_asked_second() -> None:
    async def play(world: World) -> None:
        full, other = [member.public_key for member in world.members[1:]]
        announce(world, {full: 1000, other: 999})
        assert count_firsts(world) == {other: NUMBERS}

    simulate(play)


def test_one_whose_streams_were_seen_to_begin_much_sooner_is_asked_first() -> None:
    async def play(world: World) -> None:
        quick, other = [member.public_key for member in world.members[1:]]
        before = count_firsts(world)
        for times, is_quicker in (((0.6, 1.0), False), ((0.1, 0.4), False), ((0.4, 1.0), True)):
            scores = world.gateway.originator.scores
            scores._scores.clear()
            for executor, seconds in zip((quick, other), times, strict=True):
                for _ in range(3):
                    scores.note_delivered(executor, MODEL, trio.current_time(), seconds)
            assert count_firsts(world) == ({quick: NUMBERS} if is_quicker else before)

    simulate(play)
