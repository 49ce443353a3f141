"""Agreement under everything that may happen to messages and machines: safe always, live once it stops."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from chain.types.validators import ValidatorSet
from tests.adversarial.voters.flip_flopper import FlipFlopper, Forgetful
from tests.support.agreement.agreement import Network, Runaway, Simulation
from tests.support.agreement.scenarios import always, assert_recovers, disturb, heal, make_keys, make_set
from tests.support.seeds import list_seeds


@pytest.mark.parametrize("seed", list_seeds(12, 30))
def test_loss_partitions_and_crashes(seed: int) -> None:
    """Unequal stakes, short and long epochs, delays beyond the timeout: one chain, no slashable pair, then progress."""
    rng = random.Random(seed)
    keys = make_keys(4 + seed % 4)
    committee = make_set(keys, [rng.choice((1000, 1000, 1500, 2000)) for _ in keys])
    network = Network(delay=(0.005, rng.choice((0.05, 0.5, 2.0))), loss=rng.choice((0.0, 0.05, 0.3)), duplication=0.1)
    heights = (1, 3, 7, 1000)[seed % 4]
    simulation = Simulation(seed, keys, always(committee), epoch_heights=heights, network=network)
    disturb(simulation, crash_rate=(0.0, 0.001, 0.01)[seed % 3])
    heal(simulation)
    assert_recovers(simulation)
    assert not simulation.conflicts
    assert not simulation.rejects


def test_committees_that_change_every_epoch() -> None:
    """Members leave and return; the ones outside follow, and vote again in their epoch."""
    keys = make_keys(6)

    def committee(epoch: int) -> ValidatorSet:
        return make_set([key for number, key in enumerate(keys) if number not in (epoch % 6, (epoch + 1) % 6)])

    simulation = Simulation(3, keys, committee, epoch_heights=3, network=Network(loss=0.05))
    simulation.start()
    assert simulation.run(300, lambda: min(simulation.heights) >= 60)
    assert not simulation.violations
    assert not simulation.rejects
    for node in simulation.nodes:
        epochs = {epoch for signer, epoch, _ in simulation.votes.votes if signer == node.key.public_key}
        assert epochs <= {epoch for epoch in range(100) if node.number not in (epoch % 6, (epoch + 1) % 6)}
        assert len(epochs) > 5


def test_everybody_loses_power_at_once_again_and_again() -> None:
    """Nothing that might be final is lost: what was voted for is on disk."""
    keys = make_keys(4)
    committee = make_set(keys)
    simulation = Simulation(5, keys, always(committee), epoch_heights=4)
    simulation.start()
    for _ in range(40):
        simulation.run(simulation.rng.uniform(0.05, 0.6))
        for node in simulation.nodes:
            node.crash()
        for node in simulation.nodes:
            node.start()
    assert_recovers(simulation)
    assert max(simulation.heights) > 20


def test_a_third_of_the_stake_stops_the_chain_and_its_return_continues_it() -> None:
    keys = make_keys(4)
    committee = make_set(keys, [1000, 1000, 1000, 1500])
    simulation = Simulation(2, keys, always(committee))
    simulation.start()
    simulation.run(3)
    heavy = simulation.nodes[3]
    heavy.crash()
    simulation.run(1)
    stopped = max(simulation.heights)
    simulation.run(60)
    assert max(simulation.heights) == stopped
    heavy.start()
    assert_recovers(simulation)


def test_silence_when_nothing_is_left_to_do() -> None:
    """With the work done no timer runs: the last events are the last deliveries."""
    keys = make_keys(4)
    committee = make_set(keys)
    simulation = Simulation(1, keys, always(committee))
    simulation.target = 10
    simulation.start()
    assert simulation.run(60, lambda: min(simulation.heights) >= 10)
    simulation.run(100)
    views = [node.core.view for node in simulation.nodes if node.core is not None]
    before = len(simulation.votes.durable)
    simulation.run(1000)
    assert [node.core.view for node in simulation.nodes if node.core is not None] == views
    assert len(simulation.votes.durable) == before
    assert max(simulation.heights) == 10


@pytest.mark.parametrize("epoch_heights", [2, *(pytest.param(count, marks=pytest.mark.long) for count in (3, 1000))])
def test_a_missed_last_finalization_arrives_although_no_other_node_is_busy(epoch_heights: int) -> None:
    keys = make_keys(5)
    committee = make_set(keys)
    for seed in range(40):
        network = Network(loss=0.35)
        simulation = Simulation(seed, keys, always(committee), epoch_heights=epoch_heights, network=network)
        simulation.target = 4
        simulation.start()
        simulation.run(60, simulation.is_done)
        network.loss = 0.0
        assert simulation.run(120, simulation.is_done), f"seed {seed}: {simulation.heights}"
        assert not simulation.violations, f"seed {seed}"


def test_an_observer_follows_and_never_signs() -> None:
    keys = make_keys(5)
    committee = make_set(keys[:4])
    simulation = Simulation(4, keys, always(committee), epoch_heights=5, network=Network(loss=0.1))
    simulation.start()
    assert simulation.run(200, lambda: min(simulation.heights) >= 40)
    assert keys[4].public_key not in {vote.signer for vote in simulation.votes.durable}
    assert not simulation.violations


@pytest.mark.parametrize("mutant", [FlipFlopper, Forgetful])
def test_the_vote_checker_catches(mutant: type[FlipFlopper] | type[Forgetful]) -> None:
    """A core without one rule of signing is caught by its votes, in most runs, even while agreement survives."""
    caught = 0
    keys = make_keys(4)
    committee = make_set(keys)
    for seed in range(10):
        network = Network(delay=(0.005, 1.5), loss=0.1)
        simulation = Simulation(seed, keys, always(committee), network=network, cores={0: mutant})
        disturb(simulation, crash_rate=0.02)
        caught += bool(simulation.votes.violations)
        assert all(keys[0].public_key.hex()[:8] in violation for violation in simulation.votes.violations)
    assert caught >= 5


def test_what_goes_round_in_circles_ends_with_its_seed() -> None:
    keys = make_keys(4)
    simulation = Simulation(17, keys, always(make_set(keys)))
    simulation.max_events = 1_000

    def again() -> None:
        simulation.at(0.0, again)

    again()
    with pytest.raises(Runaway, match="seed 17: 1001 events"):
        simulation.run(1.0)


TRACE = """
from tests.support.agreement.agreement import Network, Simulation
from tests.support.agreement.scenarios import always, disturb, make_keys, make_set
from tests.support.seeds import list_seeds
keys = make_keys(5)
committee = make_set(keys, [1000, 1200, 900, 1000, 1100])
simulation = Simulation(11, keys, always(committee), epoch_heights=4, network=Network(loss=0.1, duplication=0.1))
disturb(simulation, crash_rate=0.01)
print(simulation.compute_trace_hash())
"""


def test_one_seed_gives_one_trace() -> None:
    """In processes that order their hash tables differently."""
    traces = [
        subprocess.run(
            [sys.executable, "-c", TRACE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(traces[0]) == 65
    assert traces[0] == traces[1]
