"""Epochs: which heights belong to one, who votes in it, and which beacon its draws come from.

The set of validators and the beacon are fixed by genesis: every epoch has the genesis committee, and draws from the
genesis beacon hashed with its number.
"""

from __future__ import annotations

from chain import crypto
from chain.genesis import Genesis, Parameters
from chain.validators import ValidatorSet


def get_epoch(parameters: Parameters, height: int) -> int:
    """The epoch of a height: heights 1 to E are epoch 0 (and so is genesis, height 0)."""
    return max(0, height - 1) // parameters.epoch_heights


def get_last_height(parameters: Parameters, epoch: int) -> int:
    """The last height of an epoch."""
    return (epoch + 1) * parameters.epoch_heights


def get_validators(genesis: Genesis, epoch: int) -> ValidatorSet:
    """The committee of an epoch."""
    del epoch  # every epoch has the first committee
    return genesis.validators


def get_beacon(genesis: Genesis, epoch: int) -> bytes:
    """The beacon from which the leaders and executors of ``epoch`` are drawn: that of the epoch before it."""
    return crypto.hash_bytes("beacon", genesis.beacon, epoch.to_bytes(8, "big"))
