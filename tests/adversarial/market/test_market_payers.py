"""Payers that cheat: whatever they sign or do not sign, an executor works for nothing no longer than the grace time."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest
import trio

from chain.crypto import KeyPair
from chain.exceptions import InvalidOperation
from chain.parameters.parameters import CREDIT
from chain.types.operations import (
    Capture,
    Dispute,
    Hold,
    SignedOperation,
    Transfer,
    Usage,
    compute_digest,
    compute_hold_id,
    sign_operation,
)
from consensus.rebroadcast import SHARED_DELAY_S
from p2p.network import Misbehaviour, NetworkError
from p2p.simulation.network import SimulatedNetwork
from p2p.streams.exchange import Exchange
from serving.accounting.payment_history import FIRST_ALLOWANCE
from serving.accounting.receipts import sign_receipt
from serving.offload.executor.executor import DeclineReason
from serving.offload.executor.offer_rates import BURST_S, OFFERS_PER_ALLOWANCE
from serving.offload.protocol import (
    OFFLOAD_PROTOCOL,
    Accepted,
    Completed,
    Declined,
    Failed,
    KeepAlive,
    Message,
    Offer,
    Payment,
    Receipt,
    ResponseHead,
    encode_message,
    is_signed_delivery,
)
from serving.offload.settings import ExecutorSettings
from serving.openai.requests import CHAT_COMPLETIONS
from serving.scheduling.policy import PolicyParameters
from tests.support.market.cheating_payer import CheatingPayer, read_answer
from tests.support.market.offers_by_hand import make_hold, receive, send_offer, sign_hold_by_hand
from tests.support.market.scripted_backend import compute_stream
from tests.support.market_world import MODEL, Member, Options, World, make_body, make_request, simulate
from tests.support.waiting import eventually

SALT = bytes(16)
BODY = make_request().body
FAST = {"capture_grace_ms": 5_000}
LONG = 200_000
"""Tokens of a long answer."""
LONG_ANSWERS = PolicyParameters(accept_frequency=1.0, max_tokens=LONG)


def sign(world: World, hold: Hold, payer: int = 0) -> SignedOperation:
    return sign_hold_by_hand(world.members[payer], hold)


def get_executor(world: World, hold: Hold) -> Member:
    return next(member for member in world.members if member.public_key == hold.payee)


def check_idle(member: Member) -> None:
    assert member.backend is not None and member.backend.running == 0
    assert member.node.backend_pool.admissions[0].running == 0
    assert not member.node.payments.payee._served


def test_by_hand_an_honest_payer_is_served() -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, BODY, SALT)
        member = get_executor(world, hold)
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert await send_offer(exchange, hold, BODY, SALT) == Accepted(False)
            await exchange.send(encode_message(Payment(sign(world, hold))))
            head = await receive(exchange)
            answer, final = await read_answer(exchange)
            assert isinstance(head, ResponseHead) and member.backend is not None
            assert answer == compute_stream(member.backend.name, member.backend.script)
            assert isinstance(final, Completed) and is_signed_delivery(hold.payee, world.genesis.chain_id, final)
            assert final.delivery.response_digest == compute_digest(head.salt, answer)
            receipt = sign_receipt(world.members[0].key, world.genesis.chain_id, final.delivery)
            await exchange.send(encode_message(Receipt(receipt)), end=True)
        await world.settle()
        assert world.account(member.number).available > 1_000 * CREDIT

    simulate(play)


@pytest.mark.parametrize(
    ("terms", "reason", "kind"),
    [
        ({"attempt": 1, "payee": "first"}, "not drawn", DeclineReason.DRAW),
        ({"round": 7}, "not drawn", DeclineReason.DRAW),
        ({"payee": "gateway"}, "another node", DeclineReason.HOLD),
        ({"model": "other"}, "not drawn", DeclineReason.DRAW),
        ({"amount": 1_000 + 3 * len(BODY) + 5 * 8 * 100 - 1}, "does not cover", DeclineReason.HOLD),
        ({"amount": 2_000 * CREDIT}, "cannot pay", DeclineReason.UNPAID),
        ({"deadline": 0}, "deadline", DeclineReason.HOLD),
        ({"deadline": 200_000}, "deadline", DeclineReason.HOLD),
        ({"deadline": 4_000_000}, "deadline", DeclineReason.HOLD),
        ({"request_digest": bytes(32)}, "digest", DeclineReason.REQUEST),
    ],
    ids=str,
)
def test_unacceptable_terms_are_declined_at_once(terms: dict[str, Any], reason: str, kind: DeclineReason) -> None:
    async def play(world: World) -> None:
        good = make_hold(world, 0, BODY, SALT)
        keys = {"first": good.payee, "gateway": world.members[0].public_key}
        changes = {**terms, "payee": keys[terms["payee"]]} if "payee" in terms else terms
        hold = replace(good, **changes)
        async with world.gateway.streams.open(good.payee, OFFLOAD_PROTOCOL) as exchange:
            answer = await send_offer(exchange, hold, BODY, SALT)
        assert isinstance(answer, Declined) and reason in answer.reason
        member = get_executor(world, good)
        executor = member.node.executor
        assert executor.declines[kind] == executor.declined == executor.decision_times.count == 1
        check_idle(member)

    simulate(play)


def test_a_hold_number_far_ahead_is_declined() -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, BODY, SALT, seq=256)
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            answer = await send_offer(exchange, hold, BODY, SALT)
        assert isinstance(answer, Declined) and "number is used" in answer.reason

    simulate(play)


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize(
    ("available", "missing", "reason"),
    [(0, 0, "cannot pay"), (10 * CREDIT, 1, "does not cover")],
    ids=["nothing", "enough"],
)
def test_what_a_hold_cannot_pay_is_declined_before_the_body_is_read(
    size: int, available: int, missing: int, reason: str
) -> None:
    async def play(world: World) -> None:
        payer, victim = await CheatingPayer.join(world, 1, available), world.members[1]
        least = world.genesis.parameters.get_price(MODEL).compute(Usage(size, 1))
        hold = payer.make_hold(0, b"", least - missing, victim)
        async with payer.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, size, SALT, hold)))
            answer = await receive(exchange)  # no byte of the body was sent
        assert isinstance(answer, Declined) and reason in answer.reason

    simulate(play, Options(executors=1))


def test_a_stranger_that_makes_far_too_many_offers_is_blamed_and_others_are_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: Counter[bytes] = Counter()

    def report(network: SimulatedNetwork, peer: bytes, misbehaviour: Misbehaviour) -> None:
        assert misbehaviour is Misbehaviour.RATE
        reported[peer] += 1

    monkeypatch.setattr(SimulatedNetwork, "report_misbehaviour", report)

    async def play(world: World) -> None:
        stranger, victim = await CheatingPayer.join(world, 1), world.members[1]
        rate = FIRST_ALLOWANCE * OFFERS_PER_ALLOWANCE
        started, heard, reset = trio.current_time(), 0, 0

        async def offer(seq: int) -> None:
            nonlocal heard, reset
            hold = stranger.make_hold(seq, BODY, 0, victim)
            try:
                async with stranger.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
                    await send_offer(exchange, hold, BODY, SALT)
                    heard += 1
            except NetworkError:
                reset += 1

        for _ in range(8):
            async with trio.open_nursery() as nursery:
                for seq in range(32):
                    nursery.start_soon(offer, seq)
        assert heard <= rate * (BURST_S + trio.current_time() - started) + 1
        assert reported.keys() == {stranger.key.public_key} and 0 < reported.total() < reset
        hold = make_hold(world, 0, BODY, SALT)
        assert isinstance(await CheatingPayer.of_gateway(world).take(hold, BODY), Completed)

    simulate(play, Options(executors=1))


def test_of_too_many_bodies_under_way_the_first_gives_way() -> None:
    async def play(world: World) -> None:
        victim = world.members[1]
        payers = [await CheatingPayer.join(world, number, CREDIT) for number in range(4)]
        answers: list[Message] = []

        async def withhold(payer: CheatingPayer) -> None:
            hold = payer.make_hold(0, BODY, payer.compute_price(BODY, 1000), victim)
            async with payer.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
                await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, 1_001, SALT, hold)))
                await exchange.send(bytes(1_000))
                answers.append(await receive(exchange))

        async with trio.open_nursery() as nursery:
            for payer in payers:
                nursery.start_soon(withhold, payer)
                await trio.sleep(0.5)
            assert answers == [Declined("busy", 1_000)] and victim.node.executor._bodies.size == 3_000
            hold = make_hold(world, 0, BODY, SALT)
            assert isinstance(await CheatingPayer.of_gateway(world).take(hold, BODY), Completed)
            nursery.cancel_scope.cancel()
        await trio.sleep(0.5)
        assert victim.node.executor._bodies.size == 0

    simulate(play, Options(executors=1, executor=ExecutorSettings(body_bytes=4_000)))


@pytest.mark.parametrize("resets", [True, False])
def test_a_body_that_does_not_come_is_an_offer_left_unpaid(resets: bool) -> None:
    async def play(world: World) -> None:
        victim = world.members[1]
        stranger = await CheatingPayer.join(world, 1, CREDIT)
        for seq in range(2):
            hold = stranger.make_hold(seq, BODY, stranger.compute_price(BODY, 1000), victim)
            async with stranger.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
                await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, len(BODY), SALT, hold)))
                await trio.sleep(1.0)
                if not resets:
                    with pytest.raises(NetworkError):
                        await receive(exchange)
            await trio.sleep(1.0)
        answer = await stranger.take(stranger.make_hold(2, BODY, 50_000, victim), BODY)
        assert isinstance(answer, Declined) and answer.reason == "you did not pay for what was accepted"

    simulate(play, Options(executors=1))


def test_an_unknown_path_is_declined() -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, BODY, SALT)
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(encode_message(Offer("/v1/files", len(BODY), SALT, hold)))
            answer = await receive(exchange)
        assert isinstance(answer, Declined) and "path" in answer.reason

    simulate(play)


@pytest.mark.parametrize("stream", [True, False])
def test_without_a_payment_there_is_no_answer(stream: bool) -> None:
    async def play(world: World) -> None:
        body = make_request(stream=stream).body
        hold = make_hold(world, 0, body, SALT)
        member = get_executor(world, hold)
        started = trio.current_time()
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, hold, body, SALT), Accepted)
            answer, end = await read_answer(exchange)
        assert answer == b"" and isinstance(end, Failed)
        assert trio.current_time() - started < 2.5
        check_idle(member)
        await world.settle()
        assert world.operations(Hold) == []

    simulate(play, Options(executor=ExecutorSettings(keep_alive_interval_s=0.7)))  # not when the payment is due


def test_a_payer_that_leaves_offers_unpaid_is_not_heard_for_a_while() -> None:
    async def play(world: World) -> None:
        payer, victim = await CheatingPayer.join(world, 1, CREDIT), world.members[1]

        async def offer(seq: int) -> Message:
            hold = payer.make_hold(seq, BODY, payer.compute_price(BODY, 100), victim)
            async with payer.streams.open(victim.public_key, OFFLOAD_PROTOCOL) as exchange:
                answer = await send_offer(exchange, hold, BODY, SALT)
                if isinstance(answer, Accepted):
                    await exchange.abort("never mind")
                return answer

        for seq in range(2):
            assert isinstance(await offer(seq), Accepted)
            await trio.sleep(0.1)
        declined = await offer(2)
        assert isinstance(declined, Declined) and "did not pay" in declined.reason
        assert 59_000 < declined.retry_after <= 60_000
        await trio.sleep(declined.retry_after / 1000)
        assert isinstance(await offer(3), Accepted)
        await trio.sleep(1)
        check_idle(victim)
        # Others are heard all the while.
        hold = make_hold(world, 0, BODY, SALT)
        assert isinstance(await CheatingPayer.of_gateway(world).take(hold, BODY), Completed)

    simulate(play)


def test_a_new_payer_has_two_offers_that_are_not_paid_at_a_time() -> None:
    async def play(world: World) -> None:
        payer, victim = CheatingPayer.of_gateway(world), world.members[1]
        amount = payer.compute_price(BODY, 100)

        async def is_accepted(exchange: Exchange, hold: Hold) -> bool:
            return isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)

        def open_exchange() -> AbstractAsyncContextManager[Exchange]:
            return payer.streams.open(victim.public_key, OFFLOAD_PROTOCOL)

        holds = [payer.make_hold(seq, BODY, amount, victim) for seq in range(4)]
        async with open_exchange() as first, open_exchange() as second, open_exchange() as third:
            assert await is_accepted(first, holds[0]) and await is_accepted(second, holds[1])
            assert not await is_accepted(third, holds[2])
            await first.send(encode_message(Payment(payer.sign(holds[0]))))
            await second.send(encode_message(Payment(payer.sign(holds[1]))))
            await world.gateway.engine.wait_final(payer.sign(holds[0]).id, 10.0)
            await trio.sleep(0.5)
            async with open_exchange() as fourth:
                assert await is_accepted(fourth, holds[3])
        await world.settle(60)

    simulate(play, Options(executors=1, parameters=FAST))


BAD_PAYMENTS = ["another key", "another signer", "another hold", "not a payment", "garbage", "ends", "another chain"]


@pytest.mark.parametrize("kind", BAD_PAYMENTS)
def test_a_wrong_payment_ends_it_without_an_answer(kind: str) -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, BODY, SALT)
        member = get_executor(world, hold)
        right = sign(world, hold)
        stranger = KeyPair(bytes([77]) * 32)
        frames: dict[str, Message | bytes] = {
            "another key": Payment(replace(right, signature=sign_operation(stranger, bytes(32), hold).signature)),
            "another signer": Payment(sign_operation(stranger, world.genesis.chain_id, hold)),
            "another hold": Payment(sign(world, replace(hold, amount=hold.amount - 1))),
            "not a payment": KeepAlive(False),
            "garbage": b"\x00garbage",
            "another chain": Payment(sign_operation(world.members[0].key, bytes(32), hold)),
        }
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
            if kind == "ends":
                await exchange.end()
            else:
                message = frames[kind]
                await exchange.send(message if isinstance(message, bytes) else encode_message(message))
            answer, end = await read_answer(exchange)
        assert answer == b"" and (isinstance(end, Failed) or kind == "ends")
        await trio.sleep(1)
        check_idle(member)
        await world.settle()
        assert world.operations(Hold) == [] and world.operations(Capture) == []

    simulate(play)


@pytest.mark.parametrize("spacing", [0.25, 5.0])
def test_one_hold_pays_for_one_answer(spacing: float) -> None:
    """However soon it becomes final: with 5 s between blocks that is long after the answer, if there is credit."""

    async def play(world: World) -> None:
        transfer = await world.gateway.wallet.submit(lambda nonce: Transfer(nonce, world.members[1].public_key, 1))
        await world.gateway.engine.wait_final(transfer.id, 10)
        hold = make_hold(world, 0, BODY, SALT)
        member = get_executor(world, hold)
        assert member.backend is not None
        member.node.payments.payee.history.note_payment(world.members[0].public_key, CREDIT)
        other = make_request(stream=False).body

        async def try_again(body: bytes) -> None:
            again = replace(hold, request_digest=compute_digest(SALT, body))
            async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
                answer = await send_offer(exchange, again, body, SALT)
                assert isinstance(answer, Declined) and "used" in answer.reason

        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
            await try_again(BODY)
            await try_again(other)
            await exchange.send(encode_message(Payment(sign(world, hold))))
            await try_again(BODY)
            _, final = await read_answer(exchange)
            assert isinstance(final, Completed)
            await try_again(other)
            receipt = sign_receipt(world.members[0].key, world.genesis.chain_id, final.delivery)
            await exchange.send(encode_message(Receipt(receipt)), end=True)
        await trio.sleep(SHARED_DELAY_S + 0.5)  # the executor waits for its payer to share it
        assert bool(world.operations(Hold)) == (spacing < 1)
        await try_again(BODY)
        await world.settle()
        await try_again(BODY)
        assert member.backend.requests == 1

    simulate(play, Options(spacing=spacing))


@pytest.mark.parametrize("receipt", ["none", "abort", "wrong", "garbage", "late"])
def test_who_withholds_the_receipt_pays_all_the_same(receipt: str) -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, BODY, SALT)
        member = get_executor(world, hold)
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            await send_offer(exchange, hold, BODY, SALT)
            await exchange.send(encode_message(Payment(sign(world, hold))))
            _, final = await read_answer(exchange)
            assert isinstance(final, Completed)
            wrong = replace(final.delivery, amount=0)
            match receipt:
                case "abort":
                    await exchange.abort("thanks")
                case "wrong":
                    signature = sign_receipt(world.members[0].key, world.genesis.chain_id, wrong)
                    await exchange.send(encode_message(Receipt(signature)))
                case "garbage":
                    await exchange.send(b"garbage")
                case "late":
                    await trio.sleep(12)
        await world.settle(60)
        check_idle(member)
        assert world.account(member.number).available > 1_000 * CREDIT
        (item,) = world.captured
        assert item.receipt is None

    simulate(play, Options(parameters=FAST))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("paid", [0, 10])
def test_nothing_leaves_before_the_payment_is_final_unless_ten_times_as_much_was_paid(stream: bool, paid: int) -> None:
    async def play(world: World) -> None:
        transfer = await world.gateway.wallet.submit(lambda nonce: Transfer(nonce, world.members[1].public_key, 1))
        await world.gateway.engine.wait_final(transfer.id, 10)  # the next block comes 5 s later
        body = make_request(stream=stream).body
        hold = make_hold(world, 0, body, SALT)
        member = get_executor(world, hold)
        for amount in (paid * hold.amount - 1, 1):
            member.node.payments.payee.history.note_payment(world.members[0].public_key, max(0, amount) if paid else 0)
        signed = sign(world, hold)
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, hold, body, SALT), Accepted)
            await exchange.send(encode_message(Payment(signed)))
            message: Message = KeepAlive(False)
            while isinstance(message, KeepAlive):
                message = await receive(exchange)
            assert isinstance(message, ResponseHead)
            assert member.node.engine.is_final(signed.id) == (not paid)
            assert member.backend is not None and member.backend.requests == 1  # it began at once
            _, end = await read_answer(exchange)
            assert isinstance(end, Completed)
        await world.settle(60)

    simulate(play, Options(spacing=5.0, parameters=FAST, executor=ExecutorSettings(keep_alive_interval_s=1.0)))


@pytest.mark.double_spend
def test_credits_spent_twice_at_once_buy_one_answer() -> None:
    amount = 1_000 + 3 * len(BODY) + 5 * 8 * 100

    async def play(world: World) -> None:
        for member in world.members[1:]:
            assert member.backend is not None
            member.backend.script.tokens = 600  # for 30 s, far longer than the grace time
        seqs = range(20)
        draws = [make_hold(world, 0, BODY, SALT, seq=seq) for seq in seqs]
        first = draws[0]
        second = next(hold for hold in draws if hold.payee != first.payee)
        ends: dict[bytes, tuple[bytes, Message | None, float]] = {}

        async def cheat(hold: Hold) -> None:
            async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
                assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
                await exchange.send(encode_message(Payment(sign(world, hold))))
                started = trio.current_time()
                answer, end = await read_answer(exchange)
                ends[hold.payee] = (answer, end, trio.current_time() - started)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cheat, first)
            nursery.start_soon(cheat, second)
        assert len(world.operations(Hold)) == 1
        finals = [payee for payee, (_, end, _) in ends.items() if isinstance(end, Completed)]
        failures = [payee for payee in ends if payee not in finals]
        assert len(finals) == 1 and len(failures) == 1
        answer, end, taken = ends[failures[0]]
        assert answer == b"" and isinstance(end, Failed) and taken < 9
        loser = next(member for member in world.members if member.public_key == failures[0])
        winner = next(member for member in world.members if member.public_key == finals[0])
        check_idle(loser)
        await trio.sleep(30)
        assert world.account(loser.number).available == 1_000 * CREDIT
        assert world.account(winner.number).available > 1_000 * CREDIT
        # The one that it deceived does not listen for a while; the other one does.
        for member, is_heard in ((loser, False), (winner, True)):
            hold = next(
                hold
                for hold in (make_hold(world, 0, BODY, SALT, seq=seq) for seq in range(20, 40))
                if hold.payee == member.public_key
            )
            async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
                declined = await send_offer(exchange, replace(hold, amount=0), BODY, SALT)
            assert isinstance(declined, Declined) and ("did not pay" in declined.reason) != is_heard
            assert (0 < declined.retry_after <= 60_000) != is_heard

    # Numbers cost nothing, or the deposit for those between would keep both holds out.
    simulate(play, Options(available={0: amount + 1_000}, parameters={**FAST, "unused_number_fee": 0}))


def test_a_payer_cannot_take_the_hold_back_while_it_is_served() -> None:
    # The shortest deadline that is accepted, and an answer that would take longer.
    settings = ExecutorSettings(min_hold_time_s=100.0, capture_time_s=60.0)

    async def play(world: World) -> None:
        deadline = world.gateway.engine.chain_time() + 110_000
        body = make_body(stream=True, max_tokens=LONG)
        hold = make_hold(world, 0, body, SALT, tokens=LONG, deadline=deadline)
        member = get_executor(world, hold)
        assert member.backend is not None
        member.backend.script.tokens = 10_000
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, hold, body, SALT), Accepted)
            await exchange.send(encode_message(Payment(sign(world, hold))))
            answer, end = await read_answer(exchange)
        assert answer and end is None
        await world.settle(60)
        assert world.account(member.number).available > 1_000 * CREDIT

    simulate(play, Options(executor=settings, parameters=FAST, policy=LONG_ANSWERS))


def test_a_payer_that_does_not_read_blocks_no_slot_for_long() -> None:
    async def play(world: World) -> None:
        body = make_body(stream=True, max_tokens=LONG)
        hold = make_hold(world, 0, body, SALT, tokens=LONG)
        member = get_executor(world, hold)
        assert member.backend is not None
        member.backend.script.tokens, member.backend.script.token_delay = 1_000_000, 0.001
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            assert isinstance(await send_offer(exchange, hold, body, SALT), Accepted)
            await exchange.send(encode_message(Payment(sign(world, hold))))
            await trio.sleep(20)
            assert member.backend.running == 1
            await trio.sleep(60)
            check_idle(member)
        await world.settle(60)
        assert world.account(member.number).available > 1_000 * CREDIT

    simulate(play, Options(parameters=FAST, policy=LONG_ANSWERS))


def test_a_body_that_does_not_come_is_waited_for_a_moment_only() -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, BODY, SALT, amount=CREDIT)
        member = get_executor(world, hold)
        started = trio.current_time()
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, 10_000, SALT, hold)))
            with pytest.raises(NetworkError, match="too slow"):
                while True:  # a drip of nothing
                    await exchange.send(b"")
                    await trio.sleep(0.5)
        assert 10 <= trio.current_time() - started < 11
        check_idle(member)

    simulate(play)


def test_a_body_longer_than_offered_is_refused() -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, BODY, SALT)
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(encode_message(Offer(CHAT_COMPLETIONS, 10, SALT, hold)))
            await exchange.send(b"x" * 11)
            with pytest.raises(NetworkError, match="not as long"):
                await receive(exchange)
        check_idle(get_executor(world, hold))

    simulate(play)


@pytest.mark.parametrize("frame", [b"", b"garbage", b"x" * (1 << 20), encode_message(KeepAlive(False))], ids=len)
def test_garbage_instead_of_an_offer_is_dropped(frame: bytes) -> None:
    async def play(world: World) -> None:
        async with world.gateway.streams.open(world.members[1].public_key, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(frame)
            with pytest.raises(NetworkError):
                await receive(exchange)
        async with world.gateway.streams.open(world.members[1].public_key, OFFLOAD_PROTOCOL) as exchange:
            await exchange.send(b"")
            with pytest.raises(NetworkError):
                await receive(exchange, 20)

    simulate(play)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (make_body(max_tokens=101), "does not cover"),
        (make_body(max_tokens=60, n=2), "does not cover"),
        (make_body(max_tokens=None), "does not cover"),
        (make_body(model="a better one"), "another model"),
        (b"{}", "not a request"),
        (b"\xff", "not a request"),
    ],
    ids=["a token more", "two choices", "no limit", "another model", "no model", "no JSON"],
)
def test_a_request_for_more_than_the_hold_covers_is_declined(body: bytes, reason: str) -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, body, SALT)  # for 100 tokens
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            answer = await send_offer(exchange, hold, body, SALT)
        assert isinstance(answer, Declined) and reason in answer.reason
        check_idle(get_executor(world, hold))

    simulate(play)


def test_an_honest_capture_may_be_disputed_but_the_payer_gains_nothing() -> None:
    async def play(world: World) -> None:
        hold = make_hold(world, 0, BODY, SALT)
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            await send_offer(exchange, hold, BODY, SALT)
            await exchange.send(encode_message(Payment(sign(world, hold))))
            _, final = await read_answer(exchange)
            assert isinstance(final, Completed)
            await exchange.abort("thanks")
        hold_id = compute_hold_id(world.members[0].public_key, hold)
        state = world.gateway.engine
        await eventually(
            lambda: (open_hold := state.state.hold(hold_id)) is not None and open_hold.unsettled_delivery is not None
        )
        dispute = sign_operation(world.members[0].key, world.genesis.chain_id, Dispute(hold_id))
        with pytest.raises(InvalidOperation):  # a stranger may not
            await state.submit(sign_operation(world.members[1].key, world.genesis.chain_id, Dispute(hold_id)))
        await state.submit(dispute)
        await world.settle(60)
        assert world.account(0).available <= 1_000 * CREDIT - final.delivery.amount
        assert state.state.totals.treasury >= final.delivery.amount

    simulate(play)


@pytest.mark.parametrize(("work_s", "times", "is_heard"), [(65.0, 2, False), (65.0, 1, True), (2.0, 10, True)])
def test_who_leaves_long_work_is_not_heard_for_a_while(work_s: float, times: int, is_heard: bool) -> None:
    """Before anything of an answer has come. Who leaves soon may do so now and then."""

    async def play(world: World) -> None:
        member = world.members[1]
        assert member.backend is not None
        member.backend.script.first_delay = 100.0
        for seq in range(times):
            hold = make_hold(world, 0, BODY, SALT, seq=seq)
            async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
                assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
                await exchange.send(encode_message(Payment(sign(world, hold))))
                with trio.move_on_after(work_s):
                    await read_answer(exchange)
                await exchange.abort("no longer wanted")
            await trio.sleep(0.5)
        hold = make_hold(world, 0, BODY, SALT, seq=times)
        async with world.gateway.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
            answer = await send_offer(exchange, hold, BODY, SALT)
            await exchange.abort("that is all")
        assert isinstance(answer, Accepted if is_heard else Declined)
        await world.settle(700)

    simulate(play, Options(executors=1))
