"""The owner's policy: which requests a node serves, queues, offloads, accepts or declines.

The parameters are those of the paper (WWW.Serve, section 4.3). An owner may replace the whole class by an entry point
in the group ``wwwserve.policies``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import entry_points
from typing import Protocol

ENTRY_POINTS = "wwwserve.policies"
"""Group of entry points in which installed packages offer policies."""


class Decision(Enum):
    """What to do with a request."""

    SERVE = "serve"
    OFFLOAD = "offload"
    QUEUE = "queue"
    DECLINE = "decline"


@dataclass(frozen=True, slots=True)
class LoadSnapshot:
    """What a decision may depend on: utilization (0 to 1, more when requests wait) and the two queues' lengths."""

    model: str
    utilization: float
    own_queue: int
    delegated_queue: int


@dataclass(frozen=True, slots=True)
class ModelQuota:
    """What one model may take of each of its backends.

    ``max_own`` and ``max_delegated`` bound the requests that run at a time, of the node's users and of other nodes
    (None: the slots of the backend do). ``max_tokens`` caps an answer (None: the policy's number does). ``accept``:
    whether requests of other nodes are taken at all.
    """

    max_own: int | None = None
    max_delegated: int | None = None
    max_tokens: int | None = None
    accept: bool = True


@dataclass(frozen=True, slots=True)
class PolicyParameters:
    """The numbers of the default policy.

    Probabilities are 0 to 1: ``offload_frequency`` of trying to offload an own request above ``target_utilization``,
    ``accept_frequency`` of accepting an offer below it, ``queue_frequency`` of queueing an offer above it rather than
    declining. ``max_queue`` bounds each of the two queues. ``max_tokens`` caps an answer's completion tokens.
    ``max_wait_s`` is for how long a request may wait for a slot, if it does not say so itself. ``models`` has quotas of
    single models. ``serve_others`` to ``time_zone`` say when offers are considered at all
    (:mod:`serving.scheduling.availability`).
    """

    offload_frequency: float = 0.8
    accept_frequency: float = 0.8
    queue_frequency: float = 0.2
    target_utilization: float = 0.7
    max_queue: int = 64
    prioritize_own: bool = True
    max_tokens: int = 4096
    max_wait_s: float = 600.0
    models: Mapping[str, ModelQuota] = field(default_factory=dict)
    serve_others: str = "always"
    idle_after_minutes: float = 10.0
    schedule: tuple[str, ...] = ()
    time_zone: str = "UTC"

    def accepts(self, model: str) -> bool:
        """Whether offers for ``model`` are taken at all."""
        quota = self.models.get(model)
        return quota is None or quota.accept

    def get_max_tokens(self, model: str) -> int:
        """Most completion tokens of an answer of ``model``."""
        quota = self.models.get(model)
        return self.max_tokens if quota is None or quota.max_tokens is None else quota.max_tokens


class Policy(Protocol):
    """What an owner's own class must do. It is constructed with the :class:`PolicyParameters` of the configuration."""

    parameters: PolicyParameters

    def decide_request(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        """For a user's request: SERVE (at once or from the own queue) or OFFLOAD."""

    def decide_offer(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        """For another node's offer: SERVE, QUEUE or DECLINE."""


class DefaultPolicy:
    """The paper's policy."""

    def __init__(self, parameters: PolicyParameters) -> None:
        self.parameters = parameters

    def decide_request(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        if load.utilization < self.parameters.target_utilization:
            return Decision.SERVE
        return Decision.OFFLOAD if chance.random() < self.parameters.offload_frequency else Decision.SERVE

    def decide_offer(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        if load.delegated_queue >= self.parameters.max_queue:
            return Decision.DECLINE
        if load.utilization < self.parameters.target_utilization:
            return Decision.SERVE if chance.random() < self.parameters.accept_frequency else Decision.DECLINE
        return Decision.QUEUE if chance.random() < self.parameters.queue_frequency else Decision.DECLINE


def load_policy(name: str, parameters: PolicyParameters) -> Policy:
    """The policy class called ``name``: ``default``, or an installed entry point.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "default":
        return DefaultPolicy(parameters)
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        known = ", ".join(["default", *sorted(found)])
        raise ValueError(f"no policy called {name!r} is installed (known: {known})")
    policy: Policy = found[name].load()(parameters)
    return policy
