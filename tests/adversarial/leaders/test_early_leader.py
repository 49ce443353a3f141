"""A leader whose clock is ahead of another member's: that member puts its block off until its time, for no longer."""

from __future__ import annotations

from tests.support.consensus_world import World, make_equal_genesis, simulate


def test_a_clock_that_is_slow_holds_the_chain_up_but_does_not_stop_it() -> None:
    """One of four is down, so that all others must vote; one of these is two seconds slow, one more than the drift."""

    async def play(world: World) -> None:
        world.skews[3] = -2_000
        await world.start(1, 2, 3)
        for _ in range(4):
            operation = world.transfer(1, 2, 1)
            await world.engine(1).submit(operation)
            for number in (1, 2, 3):
                await world.engine(number).wait_final(operation.id, 60.0)
        world.check_same_chain()

    simulate(make_equal_genesis(4), play)
