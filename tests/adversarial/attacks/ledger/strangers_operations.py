"""Keys without credit gossip operations, and the same neighbour brings those of a payer: are the payer's looked at?"""

from __future__ import annotations

from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.consensus_world import World, make_equal_genesis, simulate
from tests.support.keys import make_key, make_peer

PAYER, NEIGHBOUR = make_key(6).public_key, make_peer(99)
SECONDS, RATE, BATCH_BYTES = 60, 400, 145


def run() -> Outcome:
    """Each second there are 400 batches of ever new keys, and one of the payer amid them."""
    dropped = 0

    async def play(world: World) -> None:
        nonlocal dropped
        await world.start(1)
        gate = world.engine(1)._receiver._rate_limits["ops"]
        for number in range(SECONDS * RATE):
            now = number / RATE
            gate.admit(number.to_bytes(32, "big"), NEIGHBOUR, BATCH_BYTES, now)
            if number % RATE == RATE // 2:
                dropped += not gate.admit(PAYER, NEIGHBOUR, BATCH_BYTES, now)
        assert gate.dropped > SECONDS * RATE // 2

    simulate(make_equal_genesis(4, others=4), play)
    return Outcome(0, dropped, dropped, f"of {SECONDS} that a payer with credit sent", "batches dropped")


ATTACK = Attack(
    "operations of strangers crowd out those of payers",
    Outcome(0, 59, 59, "all but the first; 0.4 s to finality became up to 10.6 s", "batches dropped"),
    run,
)
