"""What another policy would have done to the last requests (pure).

Each request is decided anew from what was known when it arrived. The same random numbers are drawn for it every time,
so that two policies differ by their numbers alone. What would have followed (other queues and loads) is left out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from serving.scheduling.policy import Decision, LoadSnapshot, Policy, PolicyParameters

SEED = 2_026
"""Begins the random numbers of every replay."""


def count_offloads(policy: Policy, parameters: PolicyParameters, loads: Sequence[LoadSnapshot]) -> int:
    """How many of the requests with these loads a policy of the class of ``policy`` offloads with ``parameters``."""
    other: Policy = type(policy)(parameters)  # type: ignore[call-arg]  # every policy is made of its parameters
    decisions = [other.decide_request(load, random.Random(SEED + number)) for number, load in enumerate(loads)]
    return decisions.count(Decision.OFFLOAD)
