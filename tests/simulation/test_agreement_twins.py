"""Why a quorum is more than 2/3: one equivocator among five, a partition of the rest two against two."""

from __future__ import annotations

import pytest

from chain.crypto import KeyPair, hash_bytes
from chain.validators import ValidatorSet
from tests.adversarial.equivocator import MajoritySet, make_twins
from tests.simulation.agreement import Simulation
from tests.simulation.ledger import FakeLedger

SEEDS = 500

KEYS = [KeyPair(hash_bytes("twins", bytes([number]))) for number in range(5)]


def partition(seed: int, committee: ValidatorSet) -> Simulation:
    """Run until each side has had the time to finalize: the leader of the first view is the equivocator."""
    leader = committee.compute_leader(FakeLedger(seed, lambda epoch: committee, 1).get_beacon(0), 1)
    equivocator = next(key for key in KEYS if key.public_key == leader)
    rest = [number for number, key in enumerate(KEYS) if key is not equivocator]
    turn = seed % 3 + 1  # each of the three ways to split four in two
    rest[1], rest[turn] = rest[turn], rest[1]
    simulation = make_twins(seed, KEYS, lambda epoch: committee, equivocator, (rest[:2], rest[2:]))
    simulation.target = 3
    simulation.start()
    simulation.run(1.4)
    return simulation


@pytest.mark.parametrize("part", range(5))
def test_equivocator_under_a_partition(part: int) -> None:
    """Two finals at one height with a bare majority, in every seed; none with more than 2/3, and progress after it."""
    stakes = [(key.public_key, 1000) for key in KEYS]
    for seed in range(part, SEEDS, 5):
        weak = partition(seed, MajoritySet.of(stakes))
        assert weak.agreement.violations, f"seed {seed}: a bare majority held"

        simulation = partition(seed, ValidatorSet.of(stakes))
        assert max(simulation.heights) == 0, f"seed {seed}: final without a quorum"
        simulation.network.groups = ()
        assert simulation.run(120, simulation.is_done), f"seed {seed}: no progress after the partition"
        assert not simulation.violations, f"seed {seed}: {simulation.violations}"
