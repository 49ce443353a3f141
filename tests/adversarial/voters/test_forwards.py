"""Members of the committee that abuse forwards: one that drops those of an account, and one that floods with them."""

from __future__ import annotations

import pytest
import trio

from chain.exceptions import InvalidOperation
from chain.parameters.parameters import Parameters
from chain.types.operations import SignedOperation, Transfer, sign_operation
from consensus.network.committee_streams import COMMITTEE_PROTOCOL
from consensus.network.gossip import TOPIC_LIMITS, Batch
from consensus.receiver import MAX_FORWARDED_BATCHES
from consensus.simplex.messages import FORWARDED_KIND
from p2p.network import GossipMessage, NetworkError
from serving.offload.settings import ExecutorSettings
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key

CENSOR, VICTIM, OTHER, PAYER = 1, 2, 3, 4
"""Validators of equal stake."""
FLOOD_BYTES = 256 << 10
"""Of each message of a flood."""


def refuse_operations(world: World, number: int, victim: int) -> None:
    """Have a validator take no operation of an account, from wherever it comes."""
    mempool = world.engine(number)._mempool
    check = mempool.check

    def check_others(signed: SignedOperation) -> None:
        if signed.signer == make_key(victim).public_key:
            raise InvalidOperation("dropped on purpose")
        check(signed)

    mempool.check = check_others  # type: ignore[method-assign]


async def measure_finality(world: World, number: int) -> float:
    """Seconds until a transfer of a validator is final on its own node."""
    started = trio.current_time()
    signed = await world.submit(number, lambda nonce: Transfer(nonce, make_key(OTHER).public_key, 1))
    await world.engine(number).wait_final(signed.id, 60)
    return trio.current_time() - started


@pytest.mark.parametrize("is_busy", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_leader_that_drops_what_one_account_forwards_delays_it_and_pays_for_it(is_busy: bool) -> None:
    """It starves nobody: the next leader has the same by gossip.

    Where there is nothing else to include, each of its views is given up, and it pays the fee for a missed lead. The
    ledger is silent meanwhile, which executors do not hold against a payer.
    """

    async def keep_busy(world: World) -> None:
        while True:
            await world.submit(PAYER, lambda nonce: Transfer(nonce, make_key(OTHER).public_key, 1))
            await trio.sleep(0.31)

    async def play(world: World) -> None:
        await world.start(CENSOR, VICTIM, OTHER, PAYER)
        refuse_operations(world, CENSOR, VICTIM)
        before = world.engine(OTHER).state.account(make_key(CENSOR).public_key).available
        async with trio.open_nursery() as nursery:
            if is_busy:
                nursery.start_soon(keep_busy, world)
            delays = []
            for _ in range(9):
                delays.append(await measure_finality(world, VICTIM))
                await trio.sleep(1.013)
            nursery.cancel_scope.cancel()
        paid = before - world.engine(OTHER).state.account(make_key(CENSOR).public_key).available
        given_up = sum(delay > 1.0 for delay in delays)
        assert max(delays) < ExecutorSettings().halt_after_s and (given_up == 0) == is_busy
        assert paid >= given_up * Parameters().missed_lead_fee

    simulate(make_equal_genesis(4), play)


def test_a_member_that_floods_with_forwards_fills_a_bounded_queue_and_delays_nobody() -> None:
    """Its operations are refused, not forged, so that it is not punished: their account owns nothing."""
    limits = TOPIC_LIMITS["ops"].member
    unpayable = sign_operation(make_key(9), bytes(32), Transfer(0, make_key(OTHER).public_key, 1)).encoded
    batch = FORWARDED_KIND + Batch((unpayable,) * (FLOOD_BYTES // len(unpayable))).encode()
    admitted, most_waiting = 0, 0

    async def play(world: World) -> None:
        nonlocal admitted, most_waiting
        await world.start(CENSOR, VICTIM, OTHER, PAYER)
        receiver, flooder = world.engine(VICTIM)._receiver, world.engine(CENSOR)._streams
        send = receiver._forwarded.send_nowait

        def count(message: GossipMessage) -> None:
            nonlocal admitted, most_waiting
            admitted += len(batch)
            send(message)
            most_waiting = max(most_waiting, receiver._forwarded.statistics().current_buffer_used)

        receiver._forwarded.send_nowait = count  # type: ignore[method-assign, assignment]

        async def flood() -> None:
            try:
                async with flooder.open(make_key(VICTIM).public_key, COMMITTEE_PROTOCOL) as exchange:
                    while True:
                        await exchange.send(Batch((batch,)).encode())
                        await trio.sleep(0.02)
            except NetworkError:
                pass

        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            delays = [await measure_finality(world, VICTIM) for _ in range(2)]
            nursery.cancel_scope.cancel()
        seconds = trio.current_time() - started
        assert len(batch) <= admitted <= limits.size * (limits.burst + seconds) + len(batch)
        assert most_waiting <= MAX_FORWARDED_BATCHES and max(delays) < 1.0

    simulate(make_equal_genesis(4), play)
