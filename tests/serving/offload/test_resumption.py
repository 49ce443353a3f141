"""Answers whose connection breaks in the middle go on where they were, once, and are paid once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Capture, Dispute, Release, Transfer, compute_hold_id
from p2p.network import NetworkError
from serving.accounting.receipts import sign_receipt
from serving.offload.executor.session import MAX_RESUMPTIONS_ALLOWED
from serving.offload.protocol import (
    OFFLOAD_PROTOCOL,
    Accepted,
    Completed,
    Declined,
    KeepAlive,
    Message,
    Payment,
    Receipt,
    ResponseChunk,
    ResponseHead,
    Resume,
    encode_message,
)
from serving.offload.settings import ExecutorSettings, OriginatorSettings
from serving.openai.requests import HELD_BYTES_PER_TOKEN
from tests.support.market.offers_by_hand import make_hold, receive, send_offer, sign_hold_by_hand
from tests.support.market.scripted_backend import compute_stream, compute_text, compute_whole, make_token
from tests.support.market_world import (
    MODEL,
    Member,
    Options,
    Result,
    World,
    ask,
    get_cancelled,
    get_name,
    get_script,
    make_body,
    make_request,
    simulate,
)
from tests.support.seeds import list_seeds
from tests.support.waiting import eventually

TOKENS = 200
"""Of an answer, twenty a second."""


async def answer_while(world: World, disturb: Callable[[Member], Awaitable[None]], stream: bool = True) -> Result:
    """What a user gets from the executor drawn first while something happens to it."""
    first = world.drawn()[0]
    get_script(first).tokens = TOKENS
    results: list[Result] = []

    async def run() -> None:
        results.append(await ask(world.gateway, make_request(stream=stream, max_tokens=TOKENS)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await disturb(first)
    return results[0]


async def lose(world: World, member: Member) -> None:
    """Break the connection between the gateway and ``member``; either may make a new one."""
    assert world.members[0].network is not None
    await world.members[0].network.disconnect(member.public_key)


async def cut_off(world: World, member: Member, seconds: float) -> None:
    """Break the connection, and let no node make a new one for a while."""
    world.hub.partition([[member.public_key]])
    await trio.sleep(seconds)
    world.hub.heal()


def check_whole(world: World, result: Result, executor: Member) -> None:
    """AssertionError unless the answer is whole, came from one execution, and is paid for once."""
    assert result.broken is None and result.error is None
    assert result.body == compute_stream(get_name(executor), get_script(executor))
    assert executor.backend is not None and executor.backend.requests == 1
    (item,) = world.captured
    assert item.delivery.usage.completion_bytes == len(compute_text(get_name(executor), TOKENS)) and item.receipt
    assert world.operations(Dispute) == []


@pytest.mark.parametrize("after", [1.5, 5.0, 10.4])
def test_an_answer_goes_on_after_its_connection_broke(after: float) -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]

        async def disturb(first: Member) -> None:
            await trio.sleep(after)
            await lose(world, first)

        result = await answer_while(world, disturb)
        await world.settle()
        check_whole(world, result, first)

    simulate(play)


@pytest.mark.parametrize("seed", list_seeds(3, 8))
def test_it_may_break_again_and_again_at_any_moment(seed: int) -> None:
    random = Random(seed)

    async def play(world: World) -> None:
        first = world.drawn()[0]

        async def disturb(first: Member) -> None:
            await trio.sleep(1.5)
            for _ in range(MAX_RESUMPTIONS_ALLOWED):
                await trio.sleep(random.uniform(0.0, 3.2))
                if random.random() < 0.3:
                    await cut_off(world, first, random.uniform(0.1, 6.0))
                else:
                    await lose(world, first)

        result = await answer_while(world, disturb)
        await world.settle()
        check_whole(world, result, first)

    simulate(play, Options(seed=seed))


def test_the_backend_goes_on_and_its_slot_is_free_while_the_originator_cannot_be_reached() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]

        async def disturb(first: Member) -> None:
            await trio.sleep(2.0)
            world.hub.partition([[first.public_key]])
            await trio.sleep(15.0)
            assert first.backend is not None and (first.backend.running, first.backend.completed) == (0, 1)
            assert first.node.backend_pool.admissions[0].running == 0
            await trio.sleep(15.0)
            world.hub.heal()

        begun = trio.current_time()
        result = await answer_while(world, disturb)
        assert 32.0 < trio.current_time() - begun < 38.0  # the rest, of 8 s, came at once
        await world.settle()
        check_whole(world, result, first)

    simulate(play)


def test_an_answer_that_outgrows_the_buffer_ends_while_its_originator_is_away() -> None:
    async def play(world: World) -> None:
        async def disturb(first: Member) -> None:
            await trio.sleep(2.0)
            world.hub.partition([[first.public_key]])
            await eventually(lambda: get_cancelled(first) == 1, 5.0)
            await eventually(lambda: not first.node.executor._sessions, 5.0)
            world.hub.heal()

        result = await answer_while(world, disturb)
        assert result.broken is not None
        await world.settle(700)
        assert all(item.delivery.usage.completion_bytes < 60 * len("m1-00 ") for item in world.captured)

    settings = ExecutorSettings(buffer_bytes=2_000)
    simulate(play, Options(executor=settings, parameters={"capture_grace_ms": 5_000}))


def test_an_executor_that_is_cut_off_before_the_payment_is_final_waits_for_both() -> None:
    async def play(world: World) -> None:
        transfer = await world.gateway.wallet.submit(lambda nonce: Transfer(nonce, world.members[1].public_key, 1))
        await world.gateway.engine.wait_final(transfer.id, 10)  # the next block comes 4 s later
        first = world.drawn()[0]
        first.node.payments.payee.history.note_payment(world.members[0].public_key, 100 * CREDIT)

        async def disturb(first: Member) -> None:
            executor = first.node.executor
            await eventually(lambda: any(execution._position for execution in executor._sessions.values()))
            await trio.sleep(0.2)
            (execution,) = executor._sessions.values()
            hold = execution._payment.hold
            assert hold is not None and first.node.engine._store.find_operation(hold.id) is None
            await cut_off(world, first, 15.0)

        result = await answer_while(world, disturb)
        await world.settle()
        check_whole(world, result, first)

    simulate(play, Options(spacing=4.0))


def test_one_that_does_not_come_back_ends_the_answer_with_an_error() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]

        async def disturb(first: Member) -> None:
            await trio.sleep(3.0)
            await cut_off(world, first, 100.0)

        begun = trio.current_time()
        result = await answer_while(world, disturb)
        assert result.broken is not None and "broke off" in str(result.broken)
        assert result.body.startswith(make_token(get_name(first), 0))
        assert trio.current_time() - begun >= 100.0  # the partition's length; the error came before
        assert not first.node.executor._sessions
        await world.settle(700)

    simulate(play, Options(parameters={"capture_grace_ms": 5_000}))


def test_one_that_said_goodbye_is_not_waited_for() -> None:
    async def play(world: World) -> None:
        async def disturb(first: Member) -> None:
            await trio.sleep(3.0)
            await first.node.discovery.leave()
            await world.kill(first.number)

        begun = trio.current_time()
        result = await answer_while(world, disturb)
        assert result.broken is not None
        assert trio.current_time() - begun < 10.0 < OriginatorSettings().resume_s

    simulate(play)


def test_what_is_not_streamed_goes_to_another_executor_at_once() -> None:
    """The user has seen nothing of it."""

    async def play(world: World) -> None:
        second = world.drawn()[1]

        async def disturb(first: Member) -> None:
            await trio.sleep(3.0)
            await lose(world, first)

        begun = trio.current_time()
        result = await answer_while(world, disturb, stream=False)
        assert result.body == compute_whole(get_name(second), get_script(second))
        assert trio.current_time() - begun < 15.0

    simulate(play)


def test_a_user_who_leaves_meanwhile_pays_for_what_was_delivered() -> None:
    async def play(world: World) -> None:
        first = world.drawn()[0]
        get_script(first).tokens = TOKENS
        with trio.move_on_after(4.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, world.gateway, make_request(max_tokens=TOKENS))
                await trio.sleep(3.0)
                world.hub.partition([[first.public_key]])
                await trio.sleep_forever()
        world.hub.heal()
        await eventually(lambda: not first.node.executor._sessions, 2 * ExecutorSettings().resume_timeout_s)
        await world.settle(150)
        (item,) = world.captured
        assert 0 < item.delivery.usage.completion_bytes < len(compute_text(get_name(first), TOKENS))

    simulate(play, Options(parameters={"capture_grace_ms": 5_000}))


# By hand, over a connection of the gateway's.


class Payer:
    """An originator without manners: member 0, beside its own node."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = world.gateway
        self.executor = world.drawn()[0]
        get_script(self.executor).tokens = TOKENS
        body = make_body(stream=True, max_tokens=TOKENS)
        amount = self.node.payments.payer.compute_price(MODEL, len(body), TOKENS * HELD_BYTES_PER_TOKEN)
        self.body, self.salt = body, bytes(16)
        self.hold = make_hold(world, 0, body, bytes(16), amount=amount)
        self.received = b""

    @property
    def hold_id(self) -> bytes:
        return compute_hold_id(self.node.key.public_key, self.hold)

    async def begin(self) -> None:
        """Offer, pay, read the first part, and lose the connection."""
        async with self.node.streams.open(self.executor.public_key, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, self.hold, self.body, self.salt), Accepted)
            signed = sign_hold_by_hand(self.world.members[0], self.hold)
            await exchange.send(encode_message(Payment(signed)))
            await self.node.engine.submit(signed)
            message: Message = KeepAlive(False)
            while isinstance(message, KeepAlive | ResponseHead):
                message = await receive(exchange)
            assert isinstance(message, ResponseChunk)
            self.received = message.data
            await lose(self.world, self.executor)
        await self.reconnect()

    async def reconnect(self) -> None:
        self.world.hub.connect_all()
        await trio.sleep(0.1)

    async def resume(self, received: int, hold: bytes | None = None) -> Message:
        """Come back, read one message, and lose the connection again."""
        async with self.node.streams.open(self.executor.public_key, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(encode_message(Resume(self.hold_id if hold is None else hold, received)))
            message = await receive(exchange)
            if not isinstance(message, Declined):
                await lose(self.world, self.executor)
        await self.reconnect()
        return message

    async def finish(self, received: int) -> bytes:
        """Come back, read to the end, and sign the receipt. Returns what was read."""
        data = b""
        async with self.node.streams.open(self.executor.public_key, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(encode_message(Resume(self.hold_id, received)))
            while not isinstance(message := await receive(exchange), Completed):
                assert isinstance(message, ResponseChunk)
                data += message.data
            signature = sign_receipt(self.node.key, self.node.engine.genesis.chain_id, message.delivery)
            await exchange.send(encode_message(Receipt(signature)), end=True)
        return data


def test_any_part_of_an_answer_may_be_asked_for_again() -> None:
    async def play(world: World) -> None:
        payer = Payer(world)
        await payer.begin()
        for received in (len(payer.received), 1):
            message = await payer.resume(received)
            assert isinstance(message, ResponseChunk)
            whole = compute_stream(get_name(payer.executor), get_script(payer.executor))
            assert whole[received:].startswith(message.data)
        assert await payer.finish(5) == whole[5:]
        await world.settle()
        assert len(world.captured) == 1

    simulate(play)


def test_only_the_payer_can_resume_an_answer_and_only_one_that_is_there() -> None:
    async def play(world: World) -> None:
        payer = Payer(world)
        await payer.begin()
        assert isinstance(await payer.resume(1, bytes(32)), Declined)
        thief = next(
            m for m in world.members if m.public_key not in (payer.executor.public_key, payer.node.key.public_key)
        )
        async with thief.node.streams.open(payer.executor.public_key, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(encode_message(Resume(payer.hold_id, 1)))
            assert isinstance(await receive(exchange), Declined)
        with pytest.raises(NetworkError, match="cannot be resumed"):  # more than was ever sent
            await payer.resume(10**6)
        await payer.finish(len(payer.received))
        await world.settle()
        assert isinstance(await payer.resume(1), Declined)  # it is over
        assert len(world.captured) == 1 and world.operations(Release) == []

    simulate(play)


def test_an_answer_is_not_resumed_for_ever() -> None:
    async def play(world: World) -> None:
        payer = Payer(world)
        await payer.begin()
        for _ in range(MAX_RESUMPTIONS_ALLOWED):
            assert isinstance(await payer.resume(1), ResponseChunk)
        with pytest.raises(NetworkError, match="cannot be resumed"):
            await payer.resume(1)
        await world.settle(200)
        assert len(world.operations(Capture)) == 1
        assert world.account(payer.executor.number).available > 1_000 * CREDIT

    simulate(play, Options(parameters={"capture_grace_ms": 5_000}))


def test_one_that_is_away_too_long_in_all_finds_the_answer_gone() -> None:
    async def play(world: World) -> None:
        payer = Payer(world)
        await payer.begin()
        await trio.sleep(40.0)
        assert isinstance(await payer.resume(1), ResponseChunk)
        await trio.sleep(40.0)  # each time is short enough, both together are not
        assert isinstance(await payer.resume(1), Declined)
        await world.settle(200)
        assert len(world.operations(Capture)) == 1

    simulate(play, Options(parameters={"capture_grace_ms": 5_000}))
