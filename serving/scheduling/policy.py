"""The owner's policy: which requests a node serves, queues, offloads, accepts or declines.

``adaptive`` compares predicted times and needs no tuning. ``paper`` is that of the paper (WWW.Serve, section 4.3), with
its parameters. An owner may replace the whole class by an entry point in the group ``wwwserve.policies``.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import entry_points
from typing import Protocol

import msgspec

ENTRY_POINTS = "wwwserve.policies"
"""Group of entry points in which installed packages offer policies."""


class Decision(Enum):
    """What to do with a request."""

    SERVE = "serve"
    OFFLOAD = "offload"
    QUEUE = "queue"
    DECLINE = "decline"


class LoadSnapshot(msgspec.Struct, frozen=True, gc=False):
    """What a decision may depend on.

    Of any request: its ``model``, the ``utilization`` of its backend (0 to 1, more when requests wait), how many
    requests wait in the two queues, and ``wait_s``, the predicted seconds until one that arrives now gets a slot.

    Of a user's request: the predicted times here and with the executor that would be asked first, in seconds
    (:meth:`serving.prediction.predicted_time.PredictedTime.score`; None if there is no executor, infinite if the
    backend cannot take the request); the expected ``price`` of offloading it, in credits; and where its
    ``conversation`` should stay, SERVE or OFFLOAD, for the sake of the prefix cache (None: anywhere).
    """

    model: str
    utilization: float
    own_queue: int
    delegated_queue: int
    wait_s: float = 0.0
    here_s: float = 0.0
    there_s: float | None = None
    price: float = 0.0
    conversation: Decision | None = None


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
    """The numbers of the policies.

    Of the paper's policy, probabilities from 0 to 1: ``offload_frequency`` of trying to offload an own request above
    ``target_utilization``, ``accept_frequency`` of accepting an offer below it, ``queue_frequency`` of queueing an
    offer above it rather than declining. Of the adaptive policy: ``credit_price_s`` is how many seconds one credit is
    worth, and ``max_offer_wait_s`` the longest predicted wait for which an offer is accepted.

    Of any: ``max_queue`` bounds each of the two queues. ``max_tokens`` caps an answer's completion tokens.
    ``max_wait_s`` is for how long a request may wait for a slot, if it does not say so itself. ``models`` has quotas of
    single models. ``serve_others`` to ``time_zone`` say when offers are considered at all
    (:mod:`serving.scheduling.availability`).
    """

    offload_frequency: float = 0.8
    accept_frequency: float = 0.8
    queue_frequency: float = 0.2
    target_utilization: float = 0.7
    credit_price_s: float = 10.0
    max_offer_wait_s: float = 300.0
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

    def is_full(self, waiting: int) -> bool:
        """Whether a queue with so many requests is full. A node without a queue still serves requests that find a free
        slot."""
        return waiting >= max(1, self.max_queue)

    def get_max_tokens(self, model: str) -> int:
        """Most completion tokens of an answer of ``model``."""
        quota = self.models.get(model)
        return self.max_tokens if quota is None or quota.max_tokens is None else quota.max_tokens


class Policy(Protocol):
    """What an owner's own class must do. It is constructed with the :class:`PolicyParameters` of the configuration."""

    parameters: PolicyParameters

    def decide_request(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        """For a user's request: SERVE (at once or from the own queue) or OFFLOAD. It is asked once, on arrival."""

    def decide_offer(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        """For another node's offer: SERVE, QUEUE or DECLINE."""


class AdaptivePolicy:
    """Offloads a request if another node is expected to answer it sooner, by more than the price is worth.

    A conversation stays where it is cached. Offers are accepted while their predicted wait is short.
    """

    def __init__(self, parameters: PolicyParameters) -> None:
        self.parameters = parameters

    def decide_request(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        if load.there_s is None:
            return Decision.SERVE
        if load.conversation is not None:
            return load.conversation
        is_worth_it = load.here_s > load.there_s + self.parameters.credit_price_s * load.price
        return Decision.OFFLOAD if is_worth_it else Decision.SERVE

    def decide_offer(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        if self.parameters.is_full(load.delegated_queue) or load.wait_s > self.parameters.max_offer_wait_s:
            return Decision.DECLINE
        return Decision.QUEUE if load.wait_s > 0 else Decision.SERVE


class ProbabilisticPolicy:
    """The paper's policy."""

    def __init__(self, parameters: PolicyParameters) -> None:
        self.parameters = parameters

    def decide_request(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        if load.utilization < self.parameters.target_utilization:
            return Decision.SERVE
        return Decision.OFFLOAD if chance.random() < self.parameters.offload_frequency else Decision.SERVE

    def decide_offer(self, load: LoadSnapshot, chance: random.Random) -> Decision:
        if self.parameters.is_full(load.delegated_queue):
            return Decision.DECLINE
        if load.utilization < self.parameters.target_utilization:
            return Decision.SERVE if chance.random() < self.parameters.accept_frequency else Decision.DECLINE
        return Decision.QUEUE if chance.random() < self.parameters.queue_frequency else Decision.DECLINE


POLICIES: dict[str, type[AdaptivePolicy] | type[ProbabilisticPolicy]] = {
    "adaptive": AdaptivePolicy,
    "paper": ProbabilisticPolicy,
}
"""The policies that come with the node."""
DEFAULT_POLICY = "adaptive"
"""The policy of a node whose owner has configured none."""
PARAMETERS_OF = {
    "adaptive": ("credit_price_s", "max_offer_wait_s"),
    "paper": ("offload_frequency", "accept_frequency", "queue_frequency", "target_utilization"),
}
"""The parameters that only one of the policies reads; all others are for any policy."""


def describe_policy(policy: Policy) -> str:
    """The name of a policy that comes with the node; for any other, the name of its class."""
    return next((name for name, kind in POLICIES.items() if type(policy) is kind), type(policy).__name__)


def find_foreign_parameter(policy: Policy, names: Iterable[str]) -> tuple[str, str, str] | None:
    """The first of these parameters that ``policy`` does not read, with the policy that reads it and the name of
    ``policy``."""
    own = describe_policy(policy)
    foreign = {key: other for other, keys in PARAMETERS_OF.items() if own in POLICIES and own != other for key in keys}
    return next(((name, foreign[name], own) for name in names if name in foreign), None)


def load_policy(name: str, parameters: PolicyParameters) -> Policy:
    """The policy class called ``name``: one that comes with the node, or an installed entry point.

    Raises:
        ValueError: there is none of that name.
    """
    if name in POLICIES:
        return POLICIES[name](parameters)
    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        known = ", ".join([*POLICIES, *sorted(found)])
        raise ValueError(f"no policy called {name!r} is installed (known: {known})")
    policy: Policy = found[name].load()(parameters)
    return policy
