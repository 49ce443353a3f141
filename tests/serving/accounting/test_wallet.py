"""The wallet: one nonce after the other, none twice, none left out."""

from __future__ import annotations

import pytest
import trio

from chain.exceptions import InvalidOperation
from chain.parameters.parameters import CREDIT
from chain.types.operations import Serve, Transfer
from serving.accounting.wallet import FORGET_AFTER_S
from tests.support.market_world import Options, World, simulate
from tests.support.waiting import eventually


def test_operations_sent_at_once_get_consecutive_nonces_and_become_final() -> None:
    async def play(world: World) -> None:
        target = world.members[1].public_key

        async def send() -> None:
            await world.gateway.wallet.submit(lambda nonce: Transfer(nonce, target, 1))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(send)
        await eventually(lambda: len(world.operations(Transfer)) == 20)
        assert [transfer.nonce for transfer in world.operations(Transfer)] == list(range(20))
        assert world.account(1).available == 1_000 * CREDIT + 20

    simulate(play)


def test_a_refused_operation_leaves_its_nonce_free() -> None:
    async def play(world: World) -> None:
        target = world.members[1].public_key
        with pytest.raises(InvalidOperation):
            await world.gateway.wallet.submit(lambda nonce: Serve(nonce, ("b", "a")))  # not sorted
        signed = await world.gateway.wallet.submit(lambda nonce: Transfer(nonce, target, 1))
        assert signed.operation.nonce == 0  # type: ignore[union-attr]
        await world.gateway.engine.wait_final(signed.id, 10)

    simulate(play)


def test_an_operation_that_was_dropped_blocks_the_later_ones_only_for_a_while() -> None:
    async def play(world: World) -> None:
        member = world.members[1]
        target = world.members[2].public_key
        # What it sends while alone reaches no node, and its own mempool is lost with it.
        wallet = member.node.wallet
        wallet._next, wallet._used_at = 5, trio.current_time()
        lost = await wallet.submit(lambda nonce: Transfer(nonce, target, 1))
        assert lost.operation.nonce == 5  # type: ignore[union-attr]
        await trio.sleep(FORGET_AFTER_S + 1)
        signed = await wallet.submit(lambda nonce: Transfer(nonce, target, 2))
        assert signed.operation.nonce == 0  # type: ignore[union-attr]
        await member.node.engine.wait_final(signed.id, 10)

    simulate(play)


def test_the_same_again_after_a_halt_is_the_same_operation() -> None:
    async def play(world: World) -> None:
        target = world.members[2].public_key
        await world.kill(0)  # the only voter
        wallet = world.members[1].node.wallet
        first = await wallet.submit(lambda nonce: Transfer(nonce, target, 7))
        await trio.sleep(FORGET_AFTER_S + 1)
        again = await wallet.submit(lambda nonce: Transfer(nonce, target, 7))
        assert again.id == first.id
        await world.start(0)
        await eventually(lambda: world.operations(Transfer))
        await trio.sleep(5)
        assert len(world.operations(Transfer)) == 1

    simulate(play, Options())
