"""Floods of connections and broken handshakes: the node answers honest peers all along, and nothing of it stays."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio

from p2p.network import NetworkError
from tests.adversarial.overlay.attackers import (
    Peer,
    attack,
    attacking,
    connect,
    get_muxer,
    hung_up,
    open_socket,
    shake_hands,
)
from tests.adversarial.overlay.victim import Victim
from tests.support.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("sources")]


@pytest.mark.long
async def test_two_thousand_connections_one_after_the_other(victim: Victim) -> None:
    async with attack(victim):
        for _ in range(2000):
            stream = await open_socket(victim, "127.0.1.1")
            await stream.aclose()
        await eventually(lambda: sum(victim.read()["refusals"].values()) >= 2000, message="all were looked at")
    refusals = victim.read()["refusals"]
    assert refusals["rate"] + refusals["banned"] > 1500


async def test_handshakes_one_after_the_other(victim: Victim, is_long: bool) -> None:
    """Each under a new key, and each gone again at once; in turn from more addresses than their rate would stop."""
    done = 0
    async with attack(victim):
        for number in range(2000 if is_long else 120):
            with suppress(Exception):  # whatever the library raises when the victim hangs up
                stream = await shake_hands(10_000 + number, victim, f"127.0.7.{number % 40 + 1}")
                await stream.aclose()
                done += 1
    assert done > (1000 if is_long else 90)


@pytest.mark.long
async def test_five_hundred_at_the_same_time(victim: Victim, is_long: bool) -> None:
    """Sockets on which nothing comes, and every third (in the long form, every one) a peer that shakes hands."""
    before, inside = victim.read()["refusals"], 0
    at_a_time = trio.CapacityLimiter(32)  # more handshakes than that keep the attackers' own process busy
    async with attack(victim), trio.open_nursery() as nursery:

        async def come_and_stay(source: str) -> None:
            # Those for which the kernel has no room are never told so, and would read for ever.
            with suppress(OSError), trio.move_on_after(5):
                async with await open_socket(victim, source) as stream:
                    await hung_up(stream)

        async def shake_hands_and_stay(number: int) -> None:
            nonlocal inside
            with suppress(Exception):  # whatever the library raises when the victim hangs up
                async with at_a_time:
                    stream = await shake_hands(20_000 + number, victim, f"127.0.8.{number % 20 + 1}")
                inside += 1
                with trio.move_on_after(8):
                    await hung_up(stream)
                await stream.aclose()

        for number in range(500):
            if is_long or number % 3 == 0:
                nursery.start_soon(shake_hands_and_stay, number)
            else:
                nursery.start_soon(come_and_stay, "127.0.1.2")
    after = victim.read()["refusals"]
    assert inside > (400 if is_long else 50)
    assert is_long or sum(after.values()) - sum(before.values()) >= 128


async def test_half_open_connections_from_many_addresses(victim: Victim, is_long: bool) -> None:
    """Far more than there is room for, each address below its own limits."""
    async with attack(victim) as watch, trio.open_nursery() as nursery:

        async def come_and_stay(source: str) -> None:
            with suppress(OSError), trio.move_on_after(8):
                async with await open_socket(victim, source) as stream:
                    await hung_up(stream)

        turn = 0
        with trio.fail_after(PATIENCE):  # a busy machine may need more turns before the room is used up
            while turn < (10 if is_long else 6) or not victim.read()["refusals"]["half_open"]:
                for number in range(40):
                    nursery.start_soon(come_and_stay, f"127.0.2.{number + 1}")
                seen, turn = watch.reconnected, turn + 1
                await eventually(lambda seen=seen: watch.reconnected > seen)  # type: ignore[misc]
                assert victim.read()["half_open"] <= 128, turn


@pytest.mark.long
async def test_a_byte_a_second_in_the_handshake(victim: Victim) -> None:
    hung_up = 0
    async with attack(victim), trio.open_nursery() as nursery:

        async def dribble(source: str) -> None:
            nonlocal hung_up
            stream = await open_socket(victim, source)
            async with stream:
                with suppress(trio.BrokenResourceError), trio.fail_after(PATIENCE):
                    for byte in b"\x13/multistream/1.0.0\n" * 10:
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(1)
                hung_up += 1

        for number in range(30):
            nursery.start_soon(dribble, f"127.0.3.{number // 5 + 1}")
    assert hung_up == 30


async def test_garbage_in_place_of_handshakes(victim: Victim) -> None:
    before = victim.read()["refusals"]["failed"]
    payloads = (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4096, b"\x13/multistream/1.0.0\n" + b"\xff" * 64)
    async with attack(victim), trio.open_nursery() as nursery:

        async def send(payload: bytes, source: str) -> None:
            with trio.fail_after(PATIENCE):
                async with await open_socket(victim, source) as stream:
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(payload)
                    await hung_up(stream)

        for number in range(40):
            nursery.start_soon(send, payloads[number % 3], f"127.0.4.{number // 10 + 1}")
    assert victim.read()["refusals"]["failed"] >= before + 40


async def test_garbage_after_the_handshakes(victim: Victim) -> None:
    async with attack(victim), trio.open_nursery() as nursery:

        async def send(number: int) -> None:
            async with attacking(1000 + number, victim, f"127.0.5.{number // 5 + 1}") as peer:
                with suppress(Exception):  # whatever the library raises when it is cut off
                    await get_muxer(peer).secured_conn.write(b"\xff" * 5000)
                await eventually(lambda: not peer.connected, message="it was not cut off")

        for number in range(15):
            nursery.start_soon(send, number)


@pytest.mark.long
async def test_an_address_that_only_fails_is_banned_and_comes_back(victim: Victim) -> None:
    source, before = "127.0.6.1", victim.read()["banned_addresses"]
    async with attack(victim):
        while victim.read()["banned_addresses"] == before:
            async with await open_socket(victim, source) as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b"\xff" * 64)
                with trio.fail_after(PATIENCE):
                    await hung_up(stream)
        peer = Peer(1100)
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.run)
            with pytest.raises(NetworkError):
                await connect(peer.network, victim, source)

            async def comes_in() -> bool:
                with suppress(NetworkError):
                    await connect(peer.network, victim, source)
                return peer.connected

            with trio.fail_after(victim.ban + PATIENCE):
                while not await comes_in():
                    await trio.sleep(0.5)
            await peer.ask()
            nursery.cancel_scope.cancel()
