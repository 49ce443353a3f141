"""What an executor's bond covers: dearer requests are declined, and not even offered."""

from __future__ import annotations

import pytest
import trio

from chain.parameters.parameters import CREDIT
from chain.types.operations import Hold
from serving.offload.executor.executor import BUSY_RETRY_MS
from serving.offload.protocol import OFFLOAD_PROTOCOL, Accepted, Completed, Declined, Message, Payment, encode_message
from serving.scheduling.policy import PolicyParameters
from tests.support.market.cheating_payer import SALT, CheatingPayer, read_answer
from tests.support.market.offers_by_hand import send_offer
from tests.support.market.scripted_backend import compute_text
from tests.support.market_world import Options, World, ask, get_name, get_script, make_request, simulate
from tests.support.waiting import eventually

REQUEST = make_request()
BODY = REQUEST.body
FAST = {"capture_grace_ms": 5_000}


PRICE = 1_000 + 3 * len(BODY) + 5 * REQUEST.max_completion_bytes
"""The most that a request may cost, in micro-credits."""


async def offer(payer: CheatingPayer, seq: int) -> Message:
    """The answer to an offer that is not paid."""
    hold = payer.make_hold(seq, BODY, PRICE)
    async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
        return await send_offer(exchange, hold, BODY, SALT)


@pytest.mark.parametrize("times", [1, 3])
def test_requests_at_once_need_a_bond_for_each(times: int) -> None:
    async def play(world: World) -> None:
        world.introduce(paid=2 * PRICE)
        payer = CheatingPayer.of_gateway(world)
        get_script(world.members[1]).tokens = 400  # 20 s
        answers: list[Message | None] = []

        async def take(seq: int) -> None:
            answers.append(await payer.take(payer.make_hold(seq, BODY, 2 * PRICE), BODY))

        async with trio.open_nursery() as nursery:
            for seq in range(2):
                nursery.start_soon(take, seq)
                await trio.sleep(1.0)
            declined = await offer(payer, 2)
            assert isinstance(declined, Declined) and declined.retry_after == BUSY_RETRY_MS
            assert f"needs a bond of {times * PRICE} micro-credits, {times * PRICE - 1} are free" in declined.reason
        assert [type(answer) for answer in answers] == [Completed] * 2
        await eventually(lambda: world.members[1].node.payments.payee.compute_free_bond() >= bonded, 60)
        assert isinstance(await offer(payer, 2), Accepted)

    bonded = times * 3 * PRICE - 1
    simulate(play, Options(executors=1, bonded={1: bonded}, parameters={**FAST, "bond_per_hold": times}))


def test_a_request_dearer_than_the_whole_bond_is_declined_for_good() -> None:
    async def play(world: World) -> None:
        declined = await offer(CheatingPayer.of_gateway(world), 0)
        assert isinstance(declined, Declined) and declined.retry_after == 0
        assert f"needs a bond of {PRICE} micro-credits, {PRICE - 1} are free" in declined.reason

    simulate(play, Options(executors=1, bonded={1: PRICE - 1}))


def test_a_hold_of_more_than_the_request_costs_needs_no_more_bond() -> None:
    """Or one large offer would keep all others from the executor."""

    async def play(world: World) -> None:
        world.introduce(paid=PRICE)
        payer = CheatingPayer.of_gateway(world)
        assert isinstance(await payer.take(payer.make_hold(0, BODY, 5 * PRICE), BODY), Completed)

    simulate(play, Options(executors=1, bonded={1: PRICE}))


def test_an_executor_whose_bond_is_too_small_is_passed_over() -> None:
    async def play(world: World) -> None:
        while world.drawn()[0].number != 1:
            world.gateway.payments.payer.take_seq()
        result = await ask(world.gateway)
        assert result.status == 200 and result.executor == world.members[2].public_key
        await world.settle()
        assert [hold.attempt for hold in world.operations(Hold)] == [1]
        assert world.members[1].node.executor.declined == 0

    simulate(play, Options(bonded={1: PRICE - 1}))


def test_without_an_executor_whose_bond_is_large_enough_the_user_hears_so() -> None:
    async def play(world: World) -> None:
        result = await ask(world.gateway)
        assert result.error is not None and result.error.status == 503
        assert "whose bond covers the request" in result.error.message

    simulate(play, Options(bonded={1: PRICE - 1, 2: PRICE - 1}))


def test_what_payers_have_not_paid_before_takes_a_quarter_of_the_bond() -> None:
    async def play(world: World) -> None:
        get_script(world.members[1]).tokens = 400  # 20 s
        payers = [await CheatingPayer.join(world, number, CREDIT) for number in range(3)]

        async def take(payer: CheatingPayer) -> None:
            assert isinstance(await payer.take(payer.make_hold(0, BODY, PRICE), BODY), Completed)

        async with trio.open_nursery() as nursery:
            for payer in payers[:2]:
                nursery.start_soon(take, payer)
                await trio.sleep(1.0)
            declined = await offer(payers[2], 0)
            assert isinstance(declined, Declined) and declined.retry_after == BUSY_RETRY_MS
            history = world.members[1].node.payments.payee.history
            history.note_payment(payers[2].key.public_key, PRICE - 1)
            assert isinstance(await offer(payers[2], 0), Declined)
            history.note_payment(payers[2].key.public_key, 1)
            assert isinstance(await offer(payers[2], 0), Accepted)

    simulate(play, Options(executors=1, bonded={1: 4 * 2 * PRICE}))


def test_an_answer_that_is_done_is_backed_by_what_it_costs() -> None:
    async def play(world: World) -> None:
        payee = world.members[1].node.payments.payee
        payer, whole = await CheatingPayer.join(world, 1, CREDIT), payee.compute_free_bond()
        hold = payer.make_hold(0, BODY, PRICE)
        async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
            assert payee.compute_free_bond() == whole - PRICE
            await exchange.send(encode_message(Payment(payer.sign(hold))))
            assert isinstance((await read_answer(exchange))[1], Completed)
            content = len(compute_text(get_name(world.members[1]), 6))
            assert payee.compute_free_bond() == whole - (1_000 + 3 * len(BODY) + 5 * content)  # and no receipt yet

    simulate(play, Options(executors=1))


@pytest.mark.parametrize("choices", [1, 2])
def test_a_request_for_more_tokens_than_an_executor_serves_is_declined(choices: int) -> None:
    async def play(world: World) -> None:
        payer = CheatingPayer.of_gateway(world)
        for seq, tokens in enumerate((50, 51)):
            body = make_request(max_tokens=tokens, n=choices).body
            hold = payer.make_hold(seq, body, 2 * PRICE)
            async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
                answer = await send_offer(exchange, hold, body, SALT)
            assert isinstance(answer, Accepted if tokens == 50 else Declined)

    simulate(play, Options(executors=1, policy=PolicyParameters(accept_frequency=1.0, max_tokens=50)))
