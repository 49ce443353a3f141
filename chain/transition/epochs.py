"""Epochs: which heights belong to one, who votes in it, and what its leaders are drawn from.

Heights 1 to E are epoch 0, and so on. The committee of epoch n is frozen after the last block of epoch n - 2, when the
beacon from which its leaders are drawn does not exist yet. Changes of who serves come sooner
(:mod:`chain.transition.rounds`).
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.exceptions import StoreDamaged
from chain.genesis import Genesis
from chain.parameters.parameters import Parameters
from chain.state.state import StateReader
from chain.types.validators import ValidatorSet


def get_epoch(parameters: Parameters, height: int) -> int:
    """The epoch of a height: heights 1 to E are epoch 0 (and so is genesis, height 0)."""
    return max(0, height - 1) // parameters.epoch_heights


def get_last_height(parameters: Parameters, epoch: int) -> int:
    """The last height of an epoch."""
    return (epoch + 1) * parameters.epoch_heights


@dataclass(frozen=True)
class Epoch:
    """What is fixed for all blocks of one epoch.

    ``previous_validators`` signed the last block before it (None for epoch 0), ``beacon`` is the source of its draws.
    """

    number: int
    last_height: int
    validators: ValidatorSet
    next_validators: ValidatorSet
    previous_validators: ValidatorSet | None
    beacon: bytes

    def compute_leader(self, view: int) -> bytes:
        """Public key of the leader of a view."""
        return self.validators.compute_leader(self.beacon, view)

    def find_validators(self, epoch: int) -> ValidatorSet | None:
        """The committee of this epoch or of one beside it; None for any other."""
        sets = {
            self.number - 1: self.previous_validators,
            self.number: self.validators,
            self.number + 1: self.next_validators,
        }
        return sets.get(epoch)


def get_next_epoch(genesis: Genesis, state: StateReader) -> Epoch:
    """The epoch of the block that comes next on ``state``.

    Raises:
        StoreDamaged: the state lacks what every state has.
    """
    beacon = state.beacon
    number = beacon.epoch
    validators, following = state.committee(number), state.committee(number + 1)
    if validators is None or following is None:
        raise StoreDamaged(f"the state knows no committee of epoch {number}")
    return Epoch(
        number=number,
        last_height=get_last_height(genesis.parameters, number),
        validators=validators,
        next_validators=following,
        previous_validators=state.committee(number - 1) if number else None,
        beacon=beacon.previous,
    )
