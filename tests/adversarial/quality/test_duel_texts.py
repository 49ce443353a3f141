"""Peers without manners in duels: who asks for texts that are not for it, or too early, or all the time, and who hands
over what nobody has asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from _pytest.mark import ParameterSet

from chain.state.duel_records import ANSWER, COMMIT, Duel
from chain.transition.duels.events import DuelSettled
from chain.transition.duels.verdict import DuelVerdict
from p2p.network import NetworkError
from p2p.streams.exchange import Exchange
from serving.offload.protocol import CHUNK_BYTES, MAX_ANSWER_BYTES
from serving.quality.duels.handover import MAX_HANDOVERS, REQUEST_RATE
from serving.quality.duels.protocol import DUEL_PROTOCOL, MAX_DUEL_MESSAGE_BYTES, TextHead, TextRequest
from serving.quality.duels.texts import TextKind
from tests.support.chains.duels import SALT
from tests.support.market.duel_world import DuelOptions, Witness, find_open_duel, get_runner, list_duels, simulate_duels
from tests.support.market_world import World, get_script
from tests.support.waiting import eventually

REQUEST, RESPONSE, OWN = TextKind.REQUEST, TextKind.RESPONSE, TextKind.ANSWER
HONEST = {DuelVerdict.EXECUTOR_WON, DuelVerdict.EXECUTOR_LOST}


async def ask_for(world: World, asker: int, holder: bytes, hold: bytes, kind: TextKind) -> TextHead | None:
    """What a member is told when it asks for a text; None if it is told nothing."""
    try:
        with trio.fail_after(10):
            async with world.members[asker].node.streams.open(holder, DUEL_PROTOCOL) as exchange:
                await exchange.send(TextRequest(hold, int(kind)).encode(), end=True)
                return TextHead.decode(await exchange.receive() or b"", MAX_DUEL_MESSAGE_BYTES)
    except NetworkError:
        return None


def is_refused(head: TextHead | None) -> bool:
    return head is not None and head.salt is None and head.size == 0 and bool(head.refusal)


def is_given(head: TextHead | None) -> bool:
    return head is not None and head.salt is not None and head.size > 0


async def settle(world: World, witness: Witness, hold: bytes) -> DuelSettled:
    await eventually(lambda: any(event.hold == hold for event in witness.settled), 300)
    return next(event for event in witness.settled if event.hold == hold)


async def wait_for_stage(world: World, hold: bytes, stage: int) -> None:
    """Until a duel is in a stage, and all members have seen that block."""
    await eventually(lambda: list_duels(world)[hold].stage == stage, 60)
    await trio.sleep(1)


def simulate_from(stage: int, play: Callable[[World, Witness, bytes, Duel], Awaitable[None]], padding: int = 0) -> None:
    """Run ``play`` once a duel about an answer to member 1 is in a stage; member 0 is in no duel.

    Each event of an answer has ``padding`` bytes more than its text takes.
    """

    async def begin(world: World, witness: Witness) -> None:
        for member in world.members[2:]:
            get_script(member).padding = padding
        hold, duel = await find_open_duel(world, stage, payer=1, with_challenger=True, slow_judges=True)
        await play(world, witness, hold, duel)

    simulate_duels(begin, DuelOptions(gateways=(0, 1)))


def test_a_stranger_gets_no_text_from_anybody() -> None:
    async def play(world: World, witness: Witness, hold: bytes, duel: Duel) -> None:
        assert duel.challenger is not None
        for stage in (ANSWER, COMMIT):
            await wait_for_stage(world, hold, stage)
            for holder in (duel.executor, duel.payer, duel.challenger, duel.seats[0].public_key):
                for kind in (REQUEST, RESPONSE, OWN):
                    assert is_refused(await ask_for(world, 0, holder, hold, kind))
        assert list_duels(world)[hold].stage == COMMIT
        runners = [get_runner(member) for member in world.members]
        assert sum(runner.server.refused for runner in runners) >= 24
        assert (await settle(world, witness, hold)).verdict in HONEST

    simulate_from(ANSWER, play)


def test_a_judge_gets_no_text_before_the_challenger_has_committed_to_its_answer() -> None:
    async def play(world: World, witness: Witness, hold: bytes, duel: Duel) -> None:
        assert duel.challenger is not None
        judge = world.find(duel.seats[0].public_key)
        for holder in (duel.executor, duel.payer, duel.challenger):
            for kind in (REQUEST, RESPONSE, OWN):
                assert is_refused(await ask_for(world, judge, holder, hold, kind))
        await wait_for_stage(world, hold, COMMIT)
        for kind in (REQUEST, RESPONSE):
            assert is_given(await ask_for(world, judge, duel.executor, hold, kind))
        assert is_given(await ask_for(world, judge, duel.challenger, hold, OWN))

    simulate_from(ANSWER, play)


def test_the_challenger_gets_the_request_and_never_the_executors_answer() -> None:
    async def play(world: World, witness: Witness, hold: bytes, duel: Duel) -> None:
        assert duel.challenger is not None
        challenger = world.find(duel.challenger)
        for holder in (duel.executor, duel.payer):
            assert is_given(await ask_for(world, challenger, holder, hold, REQUEST))
            assert is_refused(await ask_for(world, challenger, holder, hold, RESPONSE))
        await wait_for_stage(world, hold, COMMIT)
        for kind in (REQUEST, RESPONSE, OWN):
            assert is_refused(await ask_for(world, challenger, duel.executor, hold, kind))

    simulate_from(ANSWER, play)


def test_who_asks_without_end_is_not_answered() -> None:
    async def play(world: World, witness: Witness, hold: bytes, duel: Duel) -> None:
        asked = 10 * int(REQUEST_RATE.burst * REQUEST_RATE.items)
        started = trio.current_time()
        told = [await ask_for(world, 0, duel.executor, hold, RESPONSE) for _ in range(asked)]
        answered = sum(message is not None for message in told)
        most = REQUEST_RATE.items * (REQUEST_RATE.burst + trio.current_time() - started)
        assert 0 < answered <= most + 1 < asked
        assert (await settle(world, witness, hold)).verdict in HONEST, "others are answered"

    simulate_from(COMMIT, play)


# Who hands over something else

Handler = Callable[[Exchange], Awaitable[None]]


async def hand_over_another_text(exchange: Exchange) -> None:
    body = b'{"choices":[{"message":{"content":"q99-0 the very best"}}]}'
    await exchange.receive()
    await exchange.send(TextHead(SALT, len(body)).encode())
    await exchange.send(body)


async def hand_over_too_much(exchange: Exchange) -> None:
    await exchange.receive()
    await exchange.send(TextHead(SALT, MAX_ANSWER_BYTES).encode())
    for _ in range(MAX_ANSWER_BYTES // CHUNK_BYTES):
        await exchange.send(bytes(CHUNK_BYTES))


async def hand_over_more_than_announced(exchange: Exchange) -> None:
    await exchange.receive()
    await exchange.send(TextHead(SALT, 10).encode())
    for _ in range(100):
        await exchange.send(bytes(CHUNK_BYTES))


async def hand_over_nothing(exchange: Exchange) -> None:
    await exchange.receive()
    await exchange.send(TextHead(SALT, 1_000).encode())
    await trio.sleep_forever()


async def hand_over_garbage(exchange: Exchange) -> None:
    await exchange.receive()
    await exchange.send(bytes(500))


CHEATS = [
    hand_over_another_text,
    hand_over_too_much,
    hand_over_more_than_announced,
    hand_over_nothing,
    hand_over_garbage,
]


def choose(*short: Handler) -> list[ParameterSet]:
    """All ways to cheat; those that are not named are left to the long run. Each is in the short run of some test."""
    return [pytest.param(cheat, marks=[] if cheat in short else [pytest.mark.long]) for cheat in CHEATS]


@pytest.mark.parametrize(
    "cheat", choose(hand_over_another_text, hand_over_too_much, hand_over_garbage), ids=lambda cheat: cheat.__name__
)
def test_a_challenger_that_hands_over_something_else_has_handed_over_nothing(cheat: Handler) -> None:
    async def play(world: World, witness: Witness, hold: bytes, duel: Duel) -> None:
        assert duel.challenger is not None
        world.members[world.find(duel.challenger)].node.streams.handle(DUEL_PROTOCOL, cheat)
        event = await settle(world, witness, hold)
        assert event.verdict is DuelVerdict.CHALLENGER_MISSING
        assert [move.amount < 0 for move in event.movements if move.public_key == duel.challenger] == [True]

    simulate_from(ANSWER, play)


@pytest.mark.parametrize(
    "cheat", choose(hand_over_more_than_announced, hand_over_nothing), ids=lambda cheat: cheat.__name__
)
def test_what_an_executor_does_not_hand_over_comes_from_the_originator(cheat: Handler) -> None:
    async def play(world: World, witness: Witness, hold: bytes, duel: Duel) -> None:
        world.members[world.find(duel.executor)].node.streams.handle(DUEL_PROTOCOL, cheat)
        assert (await settle(world, witness, hold)).verdict in HONEST

    simulate_from(ANSWER, play)


def test_an_executor_and_an_originator_that_hand_over_another_answer_have_handed_over_none() -> None:
    async def play(world: World, witness: Witness, hold: bytes, duel: Duel) -> None:
        for holder in (duel.executor, duel.payer):
            world.members[world.find(holder)].node.streams.handle(DUEL_PROTOCOL, hand_over_another_text)
        event = await settle(world, witness, hold)
        assert event.verdict is DuelVerdict.EXECUTOR_MISSING or event.duel.silent

    simulate_from(ANSWER, play)


def test_a_judge_that_takes_its_texts_slowly_keeps_no_other_from_them() -> None:
    async def play(world: World, witness: Witness, hold: bytes, duel: Duel) -> None:
        slow = world.members[world.find(duel.seats[0].public_key)].node
        async with trio.open_nursery() as nursery:

            async def ask_and_wait(holder: bytes) -> None:
                with suppress(NetworkError):
                    async with slow.streams.open(holder, DUEL_PROTOCOL) as exchange:
                        await exchange.send(TextRequest(hold, int(RESPONSE)).encode())
                        await trio.sleep_forever()

            for holder in (duel.executor, duel.payer):
                for _ in range(MAX_HANDOVERS):
                    nursery.start_soon(ask_and_wait, holder)
            await trio.sleep(1)
            other = world.find(duel.seats[1].public_key)
            assert is_given(await ask_for(world, other, duel.executor, hold, RESPONSE))
            assert (await settle(world, witness, hold)).verdict in HONEST
            nursery.cancel_scope.cancel()

    simulate_from(COMMIT, play, padding=100_000)
