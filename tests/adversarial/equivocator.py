"""A validator that says one thing to some and another to others, by running twice under one key (Twins).

Both halves are honest by themselves, so every rule that looks at one vote at a time accepts all they say. Only the
size of a quorum stands between them and two chains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from chain.crypto import KeyPair
from chain.validators import ValidatorSet
from tests.simulation.agreement import Network, Simulation


class MajoritySet(ValidatorSet):
    """A committee whose quorum is a bare majority: what the 2/3 rule is measured against."""

    def is_quorum(self, signers: Iterable[bytes]) -> bool:
        return 2 * self.get_stake(signers) > self.total_stake


def make_twins(
    seed: int,
    keys: Sequence[KeyPair],
    committee: Callable[[int], ValidatorSet],
    equivocator: KeyPair,
    groups: Sequence[Sequence[int]],
) -> Simulation:
    """A simulation of ``keys`` in which ``equivocator`` runs twice, once at its place and once as the last node.

    ``groups`` are the sides of the partition, as positions of the honest; the first half of the twins joins the first
    side, the second half the second.
    """
    place = keys.index(equivocator)
    sides = ([*groups[0], place], [*groups[1], len(keys)])
    honest = [number for number in range(len(keys)) if number != place]
    return Simulation(seed, [*keys, equivocator], committee, honest=honest, network=Network(groups=sides))
