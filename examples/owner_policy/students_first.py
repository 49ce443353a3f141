"""A policy for a university's node: other nodes get what its students leave.

Install it beside the node (``pip install examples/owner_policy``), and name it in ``config.yaml``::

    policy: {name: students-first}
"""

from __future__ import annotations

import random

from serving.scheduling.policy import AdaptivePolicy, Decision, LoadSnapshot

RESERVE = 0.5
"""Part of each backend that is kept free for students."""


class StudentsFirst(AdaptivePolicy):
    """Decides on students' requests as the default policy does, and takes others only into what it need not reserve."""

    def decide_offer(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        if load.own_queue or load.utilization >= 1 - RESERVE:
            return Decision.DECLINE
        return super().decide_offer(load, chance)
