"""Payers in the committee that keep their holds back, and validators that keep back those of a payer.

A node leaves it to a member of the committee that it is connected with to share what it has signed, and shares it
itself only after a second (:data:`~consensus.rebroadcast.SHARED_DELAY_S`). Who abuses that gains nothing beyond the
credit that it has anyway, and waits longer for its answers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from chain.types.operations import Hold, SignedOperation, Transfer
from consensus.network.committee_streams import COMMITTEE_PROTOCOL
from consensus.network.gossip import GOSSIP_DELAY_S, OPERATIONS_INTERVAL_S, Batch
from consensus.rebroadcast import PERIOD_S, SHARED_DELAY_S
from consensus.simplex.messages import FORWARDED_KIND
from serving.accounting.receipts import sign_receipt
from serving.offload.protocol import (
    OFFLOAD_PROTOCOL,
    Accepted,
    Completed,
    Declined,
    KeepAlive,
    Message,
    Payment,
    Receipt,
    ResponseHead,
    encode_message,
)
from serving.offload.settings import ExecutorSettings
from tests.support.market.cheating_payer import SALT, CheatingPayer, read_answer
from tests.support.market.offers_by_hand import receive, send_offer
from tests.support.market_world import Member, Options, World, make_request, simulate
from tests.support.waiting import eventually

BODY = make_request().body
FAST = {"capture_grace_ms": 5_000}
SHARED_AT_LATEST_S = SHARED_DELAY_S + PERIOD_S + max(GOSSIP_DELAY_S, OPERATIONS_INTERVAL_S)
"""Seconds after which an executor has shared a hold that its payer keeps back."""


async def forward(payer: CheatingPayer, member: Member, signed: SignedOperation) -> None:
    """Put an operation into the mempool of one member alone, as a member of the committee can."""
    async with payer.streams.open(member.public_key, COMMITTEE_PROTOCOL) as exchange:
        await exchange.send(Batch((FORWARDED_KIND + Batch((signed.encoded,)).encode(),)).encode(), end=True)
        await eventually(lambda: member.node.engine.is_pending(signed.id), 2, interval=0.01)


async def buy(world: World, hold: Hold, *, is_forwarded: bool = False, submits: bool = False) -> tuple[float, float]:
    """Take an answer by hand. Seconds from the payment to the head and to the end of the answer."""
    payer, member = CheatingPayer.of_gateway(world), world.members[world.find(hold.payee)]
    signed = payer.sign(hold)
    async with payer.streams.open(hold.payee, OFFLOAD_PROTOCOL) as exchange:
        assert isinstance(await send_offer(exchange, hold, BODY, SALT), Accepted)
        if is_forwarded:
            await forward(payer, member, signed)
        if submits:
            await world.gateway.engine.submit(signed)
        paid_at = trio.current_time()
        await exchange.send(encode_message(Payment(signed)))
        message: Message = KeepAlive(False)
        while isinstance(message, KeepAlive):
            message = await receive(exchange)
        head_at = trio.current_time()
        assert isinstance(message, ResponseHead), message
        _, end = await read_answer(exchange)
        assert isinstance(end, Completed)
        receipt = sign_receipt(payer.key, world.genesis.chain_id, end.delivery)
        await exchange.send(encode_message(Receipt(receipt)), end=True)
        return head_at - paid_at, trio.current_time() - paid_at


async def empty_account(world: World) -> None:
    """Have the payer's own node send nearly all of its credit to another account, so that no hold can be paid."""
    amount, recipient = world.account(0).available - 1_000, world.members[1].public_key
    await world.gateway.wallet.submit(lambda nonce: Transfer(nonce, recipient, amount))


def make_price(payer: CheatingPayer) -> int:
    return payer.compute_price(BODY, 100)


@pytest.mark.parametrize("is_forwarded", [False, True])
def test_who_keeps_a_hold_back_waits_longer_and_pays_the_same(is_forwarded: bool) -> None:
    """Also where the executor had the hold already, from its payer and from nobody else: it shares it all the same."""

    async def play(world: World) -> None:
        payer, victim = CheatingPayer.of_gateway(world), world.members[1]
        holds = [payer.make_hold(seq, BODY, make_price(payer), victim) for seq in range(2)]
        honest_s, _ = await buy(world, holds[0], submits=True)
        await world.settle(60)
        before = world.account(1).available
        kept_s, _ = await buy(world, holds[1], is_forwarded=is_forwarded)
        assert honest_s < SHARED_DELAY_S < kept_s < SHARED_AT_LATEST_S + honest_s + 0.5
        await world.settle(60)
        amounts = [item.delivery.amount for item in world.captured]
        assert len(amounts) == 2 and amounts[0] == amounts[1] and world.account(1).available > before

    simulate(play, Options(executors=1, parameters=FAST))


@pytest.mark.parametrize("is_forwarded", [False, True])
def test_on_credit_a_hold_that_is_kept_back_is_paid_too(is_forwarded: bool) -> None:
    async def play(world: World) -> None:
        payer, victim = CheatingPayer.of_gateway(world), world.members[1]
        hold = payer.make_hold(0, BODY, make_price(payer), victim)
        world.introduce(10 * hold.amount)
        head_s, _ = await buy(world, hold, is_forwarded=is_forwarded)
        assert head_s < SHARED_DELAY_S and not victim.node.engine.is_final(payer.sign(hold).id)
        await world.settle(60)
        (item,) = world.captured
        assert item.delivery.amount > 0 and item.receipt is not None

    simulate(play, Options(executors=1, parameters=FAST))


def test_who_takes_back_what_it_has_had_on_credit_gains_that_once() -> None:
    """The price: all credit, and a minute in which it is not heard. It was a tenth of what the payer had paid."""

    async def play(world: World) -> None:
        payer, victim = CheatingPayer.of_gateway(world), world.members[1]
        deadline = world.gateway.engine.chain_time() + 80_000
        hold = replace(payer.make_hold(0, BODY, make_price(payer), victim), deadline=deadline)
        world.introduce(10 * hold.amount)
        await buy(world, hold)
        await empty_account(world)
        history = victim.node.payments.payee.history
        await eventually(lambda: history.get_suspension(payer.key.public_key, trio.current_time()) > 0, 120, interval=1)
        assert history.get_paid(payer.key.public_key) == 0
        assert not world.operations(Hold)

    simulate(play, Options(executors=1, parameters=FAST, executor=ExecutorSettings(min_hold_time_s=70.0)))


def test_work_for_holds_that_cannot_become_final_is_bounded_however_long_they_are_kept_back() -> None:
    """A payer without credit has two holds at once, for each of which a backend works no longer than the grace time."""

    async def play(world: World) -> None:
        payer, victim = CheatingPayer.of_gateway(world), world.members[1]
        assert victim.backend is not None
        victim.backend.script.first_delay = 600.0
        worked = 0.0

        async def take(seq: int) -> Message | None:
            return await payer.take(payer.make_hold(seq, BODY, make_price(payer), victim), BODY)

        async def measure() -> None:
            nonlocal worked
            while True:
                await trio.sleep(0.1)
                assert victim.backend is not None
                worked += 0.1 * victim.backend.running

        async with trio.open_nursery() as nursery:
            nursery.start_soon(measure)
            async with trio.open_nursery() as cheats:
                for seq in range(2):
                    cheats.start_soon(take, seq)
                await trio.sleep(0.3)
                await empty_account(world)
            nursery.cancel_scope.cancel()
        assert 0 < worked <= 2 * victim.node.executor._settings.hold_grace_s + 1
        declined = await take(2)
        assert isinstance(declined, Declined) and declined.retry_after > 50_000

    simulate(play, Options(executors=1, parameters=FAST))
