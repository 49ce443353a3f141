"""What simulations of agreement have in common: committees, a bad time for everybody, and what must hold afterwards."""

from __future__ import annotations

from collections.abc import Callable

from chain.crypto import KeyPair, hash_bytes
from chain.types.validators import ValidatorSet
from chain.types.votes import is_slashable
from tests.support.agreement.agreement import Network, Simulation
from tests.support.agreement.conspirator import Conspirator, watch

HEALED = (0.005, 0.05)


def make_keys(count: int) -> list[KeyPair]:
    return [KeyPair(hash_bytes("agreement", bytes([number]))) for number in range(count)]


def make_set(keys: list[KeyPair], stakes: list[int] | None = None) -> ValidatorSet:
    return ValidatorSet.of(zip((key.public_key for key in keys), stakes or [1000] * len(keys), strict=True))


def always(committee: ValidatorSet) -> Callable[[int], ValidatorSet]:
    return lambda epoch: committee


def disturb(simulation: Simulation, crash_rate: float, phases: int = 6) -> None:
    """Random partitions, crashes one by one, and now and then all at once."""
    rng, count = simulation.rng, len(simulation.nodes)
    simulation.crash_rate = crash_rate
    simulation.start()
    for _ in range(phases):
        order = rng.sample(range(count), count)
        cut = rng.randrange(1, count)
        simulation.network.groups = (order[:cut], order[cut:]) if rng.random() < 0.6 else ()
        if crash_rate and rng.random() < 0.3:
            for node in simulation.nodes:
                if node.is_up:
                    node.crash()
                    node.restart_in(rng.uniform(0.0, 1.0))
        simulation.run(rng.uniform(1.0, 8.0))


def heal(simulation: Simulation) -> None:
    simulation.network.groups, simulation.network.loss, simulation.network.delay = (), 0.0, HEALED
    simulation.crash_rate = 0.0


def assert_recovers(simulation: Simulation, blocks: int = 4, seconds: float = 200.0) -> None:
    """Every watched node gets beyond the greatest height so far."""
    goal = max(simulation.heights) + blocks
    watched = [node for node in simulation.nodes if node.watched]
    assert simulation.run(seconds, lambda: min(node.disk.final.height for node in watched) >= goal), simulation.heights
    assert not simulation.violations


def fight(
    seed: int,
    adversary: type[Conspirator],
    *,
    count: int = 4,
    epoch_heights: int = 1000,
    calm: bool = False,
    least: int = 10,
) -> Simulation:
    """One of ``count`` validators, with less than a third of the stake, against the others.

    First on a network that loses and delays (unless ``calm``), then on a good one, on which the chain must go on. There
    is one chain, no honest validator signed a slashable pair, and only the adversary was accused, rightly. It
    goes on until it did ``least`` of its deeds.
    """
    watched = watch(adversary)
    keys = make_keys(count)
    simulation = Simulation(
        seed,
        keys,
        always(make_set(keys)),
        epoch_heights=epoch_heights,
        honest=range(1, count),
        network=Network() if calm else Network(delay=(0.005, 0.5), loss=0.1),
        cores={0: watched},
    )
    if calm:
        simulation.start()
        simulation.run(6.0)
    else:
        disturb(simulation, crash_rate=0.0, phases=4)
    heal(simulation)
    simulation.run(200.0, lambda: watched.deeds.total() >= least)
    assert_recovers(simulation)
    assert watched.deeds.total() >= least, f"{adversary.__name__} with seed {seed} did no more than {watched.deeds}"
    for conflict in simulation.conflicts:
        assert conflict.first.signer == conflict.second.signer == keys[0].public_key
        assert is_slashable(conflict.first, conflict.second)
        assert all(vote.is_valid(simulation.ledger.chain_id) for vote in (conflict.first, conflict.second))
    return simulation
