"""Executors that lie: whatever they claim, the user gets one right answer or an error, and the liar gains nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chain.crypto import KeyPair
from chain.exceptions import InvalidOperation
from chain.parameters.parameters import CREDIT
from chain.types.operations import (
    Capture,
    CaptureItem,
    Delivery,
    Dispute,
    Hold,
    Usage,
    compute_hold_id,
    sign_operation,
)
from p2p.network import NetworkError
from serving.offload.protocol import (
    Declined,
    Failed,
    KeepAlive,
    Receipt,
    ResponseChunk,
    ResponseHead,
)
from serving.offload.settings import OriginatorSettings
from serving.openai.errors import bad_gateway
from tests.support.market.cheating_executor import SALT, TOKEN_BYTES, TOKENS, Deal, Lie, capture_all, give_back, plant
from tests.support.market.offers_by_hand import receive
from tests.support.market.scripted_backend import compute_stream, compute_whole, make_token
from tests.support.market_world import DRAWN, MODEL, Member, Options, World, ask, make_request, simulate
from tests.support.openai_answers import make_usage
from tests.support.waiting import eventually

FAST = {"capture_grace_ms": 5_000}


# What can be found wrong at the end of an answer.


async def claims_another_answer(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(deal.make_completed(deal.make_delivery(b"another answer")))


async def asks_too_much(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(deal.make_completed(replace(deal.make_delivery(), amount=deal.offer.hold.amount)))


async def counts_one_byte_more(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(deal.make_completed(deal.make_delivery(count=TOKENS * TOKEN_BYTES + 1)))


async def counts_one_byte_more_for_the_right_price(deal: Deal) -> None:
    await deal.send_answer()
    delivery = deal.make_delivery(count=TOKENS * TOKEN_BYTES + 1)
    await deal.send(deal.make_completed(replace(delivery, amount=deal.make_delivery().amount)))


async def counts_one_byte_less(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(deal.make_completed(deal.make_delivery(count=TOKENS * TOKEN_BYTES - 1)))


async def counts_what_it_reports(deal: Deal) -> None:
    answer = b'{"choices":[],"usage":{"completion_tokens":9000}}'
    await deal.send_answer(answer)
    await deal.send(deal.make_completed(deal.make_delivery(answer, count=9000)))


async def names_another_hold(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(deal.make_completed(replace(deal.make_delivery(), hold=bytes(32))))


async def has_it_signed_by_another(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(deal.make_completed(deal.make_delivery(), KeyPair(bytes([99]) * 32)))


async def ends_without_a_claim(deal: Deal) -> None:
    await deal.send_answer()
    await deal.exchange.end()


async def aborts(deal: Deal) -> None:
    await deal.send_answer()
    await deal.exchange.abort("no")


async def fails_at_the_end(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(Failed("changed my mind"))


async def sends_garbage(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(b"\xff\xfe garbage")


async def sends_a_huge_frame(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send(b"x" * (1 << 20))


async def sends_the_head_twice(deal: Deal) -> None:
    await deal.send_answer()
    await deal.send_answer()


async def sends_half_of_it(deal: Deal) -> None:
    answer = deal.answer[: len(deal.answer) // 3]
    await deal.send_answer(answer)
    await deal.send(deal.make_completed(deal.make_delivery(answer, count=TOKEN_BYTES)))


async def sends_the_claim_of_another_deal(deal: Deal) -> None:
    await deal.send_answer()
    other = compute_hold_id(deal.exchange.peer, replace(deal.offer.hold, seq=deal.offer.hold.seq + 1))
    await deal.send(deal.make_completed(replace(deal.make_delivery(), hold=other)))


async def commits_to_another_salt(deal: Deal) -> None:
    await deal.send_answer(salt=bytes([1]) * 16)
    await deal.send(deal.make_completed(deal.make_delivery()))


async def stalls(deal: Deal) -> None:
    await deal.send_answer()
    await trio.sleep_forever()


async def only_shows_life(deal: Deal) -> None:
    await deal.send_answer()
    while True:
        await deal.send(KeepAlive(True))
        await trio.sleep(1)


LATE_LIES = [
    claims_another_answer,
    asks_too_much,
    counts_one_byte_more,
    counts_one_byte_more_for_the_right_price,
    counts_one_byte_less,
    names_another_hold,
    has_it_signed_by_another,
    ends_without_a_claim,
    aborts,
    fails_at_the_end,
    sends_garbage,
    sends_a_huge_frame,
    sends_the_head_twice,
    sends_half_of_it,
    sends_the_claim_of_another_deal,
    commits_to_another_salt,
    stalls,
    only_shows_life,
]


# What can be found wrong before there is any answer.


async def ends_at_once(deal: Deal) -> None:
    await deal.exchange.end()


async def claims_an_empty_answer(deal: Deal) -> None:
    await deal.send(ResponseHead(200, "text/event-stream", SALT), deal.make_completed(deal.make_delivery(b"", count=0)))


async def claims_without_a_head(deal: Deal) -> None:
    await deal.send(deal.make_completed(deal.make_delivery()))


async def declines_after_all(deal: Deal) -> None:
    await deal.send(Declined("too late", 0))


async def redirects(deal: Deal) -> None:
    refund = replace(deal.make_delivery(), amount=0)
    await deal.send(ResponseHead(302, "application/json", SALT), ResponseChunk(b"{}"), deal.make_completed(refund))


async def answers_an_error_of_its_own(deal: Deal) -> None:
    refund = replace(deal.make_delivery(), amount=0)
    await deal.send(ResponseHead(500, "application/json", SALT), ResponseChunk(b"{}"), deal.make_completed(refund))


async def injects_a_header(deal: Deal) -> None:
    await deal.send(ResponseHead(200, "text/event-stream\r\nset-cookie: a=b", SALT), ResponseChunk(deal.answer))
    await deal.send(deal.make_completed(deal.make_delivery()))


async def serves_a_page(deal: Deal) -> None:
    await deal.send(
        ResponseHead(200, "text/html", SALT), ResponseChunk(deal.answer), deal.make_completed(deal.make_delivery())
    )


async def asks_pay_for_an_error(deal: Deal) -> None:
    await deal.send(
        ResponseHead(400, "application/json", SALT),
        ResponseChunk(b"{}"),
        deal.make_completed(deal.make_delivery(b"{}", count=0)),  # no more than an answer without content costs
    )


async def queues_for_ever(deal: Deal) -> None:
    while True:
        await deal.send(KeepAlive(True))
        await trio.sleep(1)


async def works_for_ever(deal: Deal) -> None:
    while True:
        await deal.send(KeepAlive(False))
        await trio.sleep(1)


async def says_nothing(deal: Deal) -> None:
    await trio.sleep_forever()


async def _drip(deal: Deal, kind: str, piece: bytes) -> None:
    """Send a piece without content again and again, sooner than it would count as silence."""
    await deal.send(ResponseHead(200, kind, SALT))
    while True:
        await deal.send(ResponseChunk(piece))
        await trio.sleep(OriginatorSettings().stall_timeout_s - 1)


async def drips_empty_events(deal: Deal) -> None:
    await _drip(deal, "text/event-stream", b"\n\n")


async def drips_comments(deal: Deal) -> None:
    await _drip(deal, "text/event-stream", b": wait\n\n")


async def drips_an_event_without_end(deal: Deal) -> None:
    await _drip(deal, "text/event-stream", b": wait")


async def drips_roles(deal: Deal) -> None:
    await _drip(deal, "text/event-stream", b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n')


async def drips_spaces(deal: Deal) -> None:
    await _drip(deal, "application/json", b" ")


async def pads_at_length(deal: Deal) -> None:
    await deal.send(ResponseHead(200, "text/event-stream", SALT))
    while True:
        await deal.send(ResponseChunk(b":" + b"x" * 60_000 + b"\n\n"))


EARLY_LIES = [
    ends_at_once,
    claims_an_empty_answer,
    claims_without_a_head,
    declines_after_all,
    redirects,
    answers_an_error_of_its_own,
    injects_a_header,
    serves_a_page,
    asks_pay_for_an_error,
    queues_for_ever,
    works_for_ever,
    says_nothing,
    drips_empty_events,
    drips_comments,
    drips_an_event_without_end,
    drips_roles,
    pads_at_length,
]

SHORT = replace(DRAWN, hold_time_ms=310_000, max_hold_time_ms=310_000)


def check_gained_nothing(world: World, liar: Member) -> None:
    assert len(world.operations(Dispute)) == 1
    assert world.account(liar.number).available <= 1_000 * CREDIT
    assert world.state_node.engine.state.totals.treasury > 0


def run_lie(lie: Lie, stream: bool, is_seen: bool) -> None:
    """``is_seen``: the user has seen something of the answer when the lie comes out, so that it cannot be replaced."""

    async def play(world: World) -> None:
        liar, honest = world.drawn()
        deals = plant(world, liar, lie)
        result = await ask(world.gateway, make_request(stream=stream))
        (deal,) = deals
        assert honest.backend is not None
        if is_seen:
            assert result.broken is not None and result.executor == liar.public_key
            assert world.operations(Capture) == []
        else:
            script, name = honest.backend.script, honest.backend.name
            assert result.body == (compute_stream(name, script) if stream else compute_whole(name, script))
            assert result.executor == honest.public_key
        await capture_all(deal)
        liar.node.payments.payee._served.clear()
        await world.settle(60)
        check_gained_nothing(world, liar)

    simulate(play, Options(parameters=FAST, originator=SHORT))


@pytest.mark.parametrize("lie", LATE_LIES)
def test_a_lie_at_the_end_of_a_stream_is_an_error_and_earns_nothing(lie: Lie) -> None:
    run_lie(lie, stream=True, is_seen=True)


@pytest.mark.parametrize("lie", [*LATE_LIES, counts_what_it_reports, drips_spaces])
def test_a_lie_at_the_end_of_a_whole_answer_is_never_seen(lie: Lie) -> None:
    run_lie(lie, stream=False, is_seen=False)


@pytest.mark.parametrize("lie", EARLY_LIES)
def test_a_lie_at_the_beginning_is_never_seen(lie: Lie) -> None:
    run_lie(lie, stream=True, is_seen=False)


@pytest.mark.parametrize("lie", [ends_without_a_claim, aborts, sends_garbage])
def test_who_breaks_off_is_not_even_paid_for_what_it_delivered(lie: Lie) -> None:
    async def play(world: World) -> None:
        liar = world.drawn()[0]
        deals = plant(world, liar, lie)
        assert (await ask(world.gateway)).broken is not None
        await capture_all(deals[0], deals[0].make_delivery().amount)
        liar.node.payments.payee._served.clear()
        await world.settle(60)
        check_gained_nothing(world, liar)

    simulate(play, Options(parameters=FAST, originator=SHORT))


def test_an_error_that_is_passed_on_is_not_paid() -> None:
    """It is passed on since there is no second executor to deny it."""

    async def play(world: World) -> None:
        (liar,) = world.drawn()
        deals = plant(world, liar, asks_pay_for_an_error)
        await ask(world.gateway)
        await capture_all(deals[0], deals[0].make_delivery(b"{}", count=0).amount)
        liar.node.payments.payee._served.clear()
        await world.settle(60)
        check_gained_nothing(world, liar)

    simulate(play, Options(executors=1, parameters=FAST, originator=SHORT))


def test_an_answer_in_whose_place_another_was_taken_is_not_paid() -> None:
    token = make_token("liar-", 0)

    async def fails_with_its_first_content(deal: Deal) -> None:
        await deal.send_answer(token + bad_gateway("it broke off").event())
        await trio.sleep_forever()

    async def play(world: World) -> None:
        liar, honest = world.drawn()
        deals = plant(world, liar, fails_with_its_first_content)
        assert (await ask(world.gateway)).executor == honest.public_key
        await capture_all(deals[0], deals[0].make_delivery(token, TOKEN_BYTES).amount)
        liar.node.payments.payee._served.clear()
        await world.settle(60)
        check_gained_nothing(world, liar)

    simulate(play, Options(parameters=FAST, originator=SHORT))


@pytest.mark.parametrize("lie", [stalls, only_shows_life])
def test_who_pauses_for_too_long_is_paid_for_what_it_delivered(lie: Lie) -> None:
    async def play(world: World) -> None:
        liar = world.drawn()[0]
        before = world.account(liar.number).available
        deals = plant(world, liar, lie)
        assert (await ask(world.gateway)).broken is not None
        delivery = deals[0].make_delivery()
        await capture_all(deals[0], delivery.amount)
        liar.node.payments.payee._served.clear()
        await world.settle(60)
        assert world.operations(Dispute) == []
        assert 0 < world.account(liar.number).available - before < delivery.amount

    simulate(play, Options(parameters=FAST, originator=SHORT))


def test_who_declines_after_the_payment_is_not_even_paid_for_the_prompt() -> None:
    async def play(world: World) -> None:
        liar, honest = world.drawn()
        deals = plant(world, liar, declines_after_all)
        assert (await ask(world.gateway)).executor == honest.public_key
        await capture_all(deals[0], deals[0].make_delivery(count=0).amount)
        liar.node.payments.payee._served.clear()
        await world.settle(60)
        check_gained_nothing(world, liar)

    simulate(play, Options(parameters=FAST, originator=SHORT))


def test_one_that_answers_some_requests_and_says_of_others_that_they_are_queued_holds_none_for_ever() -> None:
    """It is seen to work, so it is waited for longer than one that only shows life. It is paid for what it answers."""

    async def play(world: World) -> None:
        liar = world.members[1]

        async def pick(deal: Deal) -> None:
            if len(deals) % 4 == 1:
                await queues_for_ever(deal)
            await deal.send_answer()
            await deal.send(deal.make_completed(deal.make_delivery()))

        deals, held = plant(world, liar, pick), list[float]()

        async def use() -> None:
            begun = trio.current_time()
            assert (await ask(world.gateway)).status == 200
            held.append(trio.current_time() - begun)

        async with trio.open_nursery() as users:
            for _ in range(40):
                users.start_soon(use)
                await trio.sleep(10)
        settings = OriginatorSettings()
        longest = max(held)
        assert settings.queue_timeout_s < longest < settings.max_queue_timeout_s + 10
        give_back(liar, deals)
        await world.settle(90)

    simulate(play, Options(parameters=FAST))


# Greed without a lie on the wire.


def test_capturing_more_than_was_delivered_to_a_user_who_left_is_disputed() -> None:
    async def dawdle(deal: Deal) -> None:
        await deal.send_answer(b"".join(make_token("liar-", number) for number in range(5)))
        await trio.sleep_forever()

    async def play(world: World) -> None:
        liar = world.drawn()[0]
        deals = plant(world, liar, dawdle)
        with trio.move_on_after(3):
            await ask(world.gateway)
        await capture_all(deals[0])
        liar.node.payments.payee._served.clear()
        await world.settle(60)
        check_gained_nothing(world, liar)

    simulate(play, Options(parameters=FAST))


@pytest.mark.parametrize("leaves", [False, True])
def test_capturing_the_price_of_the_prompt_before_any_content_is_disputed(leaves: bool) -> None:
    """While the executor shows signs of life and its user waits, and when the user leaves."""

    async def play(world: World) -> None:
        liar, honest = world.drawn()

        async def show_life(deal: Deal) -> None:
            await deal.send(ResponseHead(200, "text/event-stream", SALT))
            await capture_all(deal, deal.make_delivery(count=0).amount)
            while True:
                await deal.send(KeepAlive(queued=True))
                await trio.sleep(1)

        plant(world, liar, show_life)
        with trio.move_on_after(3 if leaves else 60):
            assert (await ask(world.gateway)).executor == honest.public_key
        liar.node.payments.payee._served.clear()
        await world.settle(60)
        check_gained_nothing(world, liar)

    simulate(play, Options(parameters=FAST))


def test_capturing_about_what_was_delivered_to_a_user_who_left_is_not_disputed() -> None:
    async def dawdle(deal: Deal) -> None:
        await deal.send_answer(b"".join(make_token("liar-", number) for number in range(5)))
        await trio.sleep_forever()

    async def play(world: World) -> None:
        member = world.drawn()[0]
        deals = plant(world, member, dawdle)
        with trio.move_on_after(3):
            await ask(world.gateway)
        three_more = deals[0].make_delivery(count=8 * TOKEN_BYTES).amount  # they were on their way
        await capture_all(deals[0], three_more)
        member.node.payments.payee._served.clear()
        await world.settle(60)
        assert world.operations(Dispute) == []
        assert world.account(member.number).available > 1_000 * CREDIT

    simulate(play, Options(parameters=FAST))


def test_a_receipt_is_good_for_its_own_delivery_alone() -> None:
    receipts: list[bytes] = []

    async def collect_receipt(deal: Deal) -> None:
        await deal.send_answer()
        await deal.send(deal.make_completed(deal.make_delivery()))
        receipt = await receive(deal.exchange)
        assert isinstance(receipt, Receipt)
        receipts.append(receipt.signature)

    async def play(world: World) -> None:
        liar = world.drawn()[0]
        deals = plant(world, liar, collect_receipt)
        while len(deals) < 2:  # the lottery draws the other one now and then
            assert (await ask(world.gateway, make_request(stream=False))).status == 200
        engine, chain_id = liar.node.engine, world.genesis.chain_id
        await eventually(lambda: all(engine.state.hold(deal.hold_id) for deal in deals))
        first, second = (deal.make_delivery() for deal in deals)
        for delivery in (second, replace(first, amount=first.amount - 1), replace(first, finish_reason="length")):
            stolen = Capture((CaptureItem(delivery, receipts[0]),))
            with pytest.raises(InvalidOperation):
                await engine.submit(sign_operation(liar.key, chain_id, stolen))
        good = sign_operation(liar.key, chain_id, Capture((CaptureItem(first, receipts[0]),)))
        await engine.submit(good)
        await engine.wait_final(good.id, 10)
        both = (CaptureItem(first, receipts[0]), CaptureItem(second, None))
        again = sign_operation(liar.key, chain_id, Capture(both))
        with pytest.raises(InvalidOperation):
            await engine.submit(again)
        give_back(liar, deals)
        await world.settle(60)
        assert world.operations(Dispute) == []

    simulate(play, Options(parameters=FAST))


def test_a_capture_of_a_strangers_hold_is_refused() -> None:
    async def play(world: World) -> None:
        first, second = world.drawn()
        assert first.backend is not None
        first.backend.script.first_delay = 5.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, world.gateway)
            await trio.sleep(2)
            (hold,) = world.operations(Hold)
            hold_id = compute_hold_id(world.members[0].public_key, hold)
            delivery = Delivery(hold_id, 1, bytes(32), Usage(0, 0), "stop")
            stolen = sign_operation(second.key, world.genesis.chain_id, Capture((CaptureItem(delivery, None),)))
            with pytest.raises(InvalidOperation):
                await second.node.engine.submit(stolen)
        await world.settle()

    simulate(play)


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.offload.originator.received_answer.MAX_ANSWER_BYTES", 200_000)
    sent = 0

    async def never_ends(deal: Deal) -> None:
        nonlocal sent
        await deal.send_answer(make_token("liar-", 0))
        while True:
            await deal.send(ResponseChunk(b"data: {}\n\n" * 1000))
            sent += 10_000

    async def play(world: World) -> None:
        liar = world.drawn()[0]
        deals = plant(world, liar, never_ends)
        result = await ask(world.gateway)
        assert result.broken is not None and len(result.body) <= 200_000
        await trio.sleep(5)
        assert sent < 2_000_000
        give_back(liar, deals)
        await world.settle(60)

    simulate(play)


def test_what_comes_after_the_closing_event_is_dropped() -> None:
    async def goes_on(deal: Deal) -> None:
        rest = (b":" + b"x" * 60_000 + b"\n\n") * 3 + b"\n\n" * 100 + make_token("liar-", 1)
        await deal.send_answer()
        for at in range(0, len(rest), 50_000):
            await deal.send_body(rest[at : at + 50_000])
        await deal.send(deal.make_completed(deal.make_delivery(deal.answer + rest)))
        await receive(deal.exchange)

    async def play(world: World) -> None:
        liar = world.drawn()[0]
        deals = plant(world, liar, goes_on)
        result = await ask(world.gateway)
        assert (result.body, result.broken) == (deals[0].answer, None)
        give_back(liar, deals)
        await world.settle(60)

    simulate(play)


def test_a_usage_event_alone_is_worth_nothing() -> None:
    async def boasts(deal: Deal) -> None:
        answer = make_usage(MODEL, 5_000) + b"data: [DONE]\n\n"
        await deal.send_answer(answer)
        await deal.send(deal.make_completed(deal.make_delivery(answer, count=5_000)))

    async def play(world: World) -> None:
        liar = world.drawn()[0]
        deals = plant(world, liar, boasts)
        result = await ask(world.gateway, make_request(max_tokens=4096))
        assert deals and result.executor != liar.public_key
        give_back(liar, deals)
        await world.settle(60)
        assert world.account(liar.number).available <= 1_000 * CREDIT

    simulate(play)


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_a_liar_that_hangs_up_in_every_way_leaves_no_handler_behind(seconds: float) -> None:
    async def hangs_up(deal: Deal) -> None:
        await trio.sleep(seconds)
        raise NetworkError("gone")

    async def play(world: World) -> None:
        liar, honest = world.drawn()
        deals = plant(world, liar, hangs_up)
        result = await ask(world.gateway)
        assert result.executor == honest.public_key
        give_back(liar, deals)
        await world.settle(60)

    simulate(play)
