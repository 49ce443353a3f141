"""The policy in a node's configuration file, and what of it can be changed while the node runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict, field_validator

from chain.amounts import CREDIT
from serving.config.fields import MAX_AMOUNT, ModelName, Probability, ScheduleEntry, Section, Text, TimeZone
from serving.scheduling.policy import DEFAULT_POLICY, PARAMETERS_OF, ModelQuota, PolicyParameters
from serving.scheduling.weekly_schedule import MAX_SPANS

MAX_QUOTAS = 256
"""Models that may have a quota."""

_POLICY = PolicyParameters()


class ModelQuotaConfig(Section):
    """What one model may take of each of its backends."""

    max_own: int | None = Field(
        default=None, ge=1, le=100_000, description="Requests of your users that run at a time; null: all slots."
    )
    max_delegated: int | None = Field(
        default=None, ge=1, le=100_000, description="Requests of other nodes that run at a time; null: all slots."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, le=10**7, description="Most completion tokens of an answer; null: those of the policy."
    )
    accept: bool = Field(default=True, description="Whether to accept requests of other nodes.")

    def get_quota(self) -> ModelQuota:
        """The quota, as a policy takes it."""
        return ModelQuota(self.max_own, self.max_delegated, self.max_tokens, self.accept)


def _fill_nulls(models: object) -> object:
    """``models`` with the defaults for those that have no value."""
    if not isinstance(models, dict):
        return models
    return {name: {} if quota is None else quota for name, quota in models.items()}


class PolicyBounds(Section):
    """The numbers of the policy, which all of a node's decisions follow."""

    offload_frequency: Probability = Field(
        default=_POLICY.offload_frequency,
        description="Policy 'paper': probability of offloading a request of your users when busy.",
    )
    accept_frequency: Probability = Field(
        default=_POLICY.accept_frequency,
        description="Policy 'paper': probability of accepting another node's request when not busy.",
    )
    queue_frequency: Probability = Field(
        default=_POLICY.queue_frequency,
        description="Policy 'paper': probability of queueing another node's request, not declining, when busy.",
    )
    target_utilization: Probability = Field(
        default=_POLICY.target_utilization,
        description="Policy 'paper': fraction of its capacity from which a backend counts as busy.",
    )
    credit_price_s: float = Field(
        default=_POLICY.credit_price_s,
        ge=0,
        le=10**6,
        description="How many seconds sooner an answer must come for each credit that it costs to offload it.",
    )
    max_offer_wait_s: float = Field(
        default=_POLICY.max_offer_wait_s,
        ge=0,
        le=10**6,
        description="Longest predicted wait for which another node's request is accepted, in seconds.",
    )
    max_queue: int = Field(
        default=_POLICY.max_queue,
        ge=0,
        le=100_000,
        description="Requests that may wait in each queue: your users' and other nodes'.",
    )
    prioritize_own: bool = Field(default=_POLICY.prioritize_own, description="Whether your users' queue goes first.")
    max_tokens: int = Field(
        default=_POLICY.max_tokens,
        ge=1,
        le=10**7,
        description="Most completion tokens of an answer, yours or another node's. Credit for 8 bytes of each is held.",
    )

    max_wait_s: float = Field(
        default=_POLICY.max_wait_s,
        gt=0,
        le=86_400,
        description="Longest wait for a slot, in seconds. A request that would wait longer is refused at once.",
    )
    models: Annotated[dict[ModelName, ModelQuotaConfig], BeforeValidator(_fill_nulls)] = Field(
        default={},
        max_length=MAX_QUOTAS,
        description="Quotas of single models by name: max_own, max_delegated, max_tokens, accept.",
    )

    serve_others: Literal["always", "idle", "never"] = Field(
        default="always", description="When to serve other nodes: always, never, or idle: while your users are quiet."
    )
    idle_after_minutes: float = Field(
        default=_POLICY.idle_after_minutes,
        ge=0,
        le=10_080,
        description="Minutes after the last request of your users from which on the node counts as idle.",
    )
    schedule: Annotated[tuple[ScheduleEntry, ...], Strict(False)] = Field(
        default=(),
        max_length=MAX_SPANS,
        description="Hours in which to serve other nodes, such as ['Mon-Fri 18:00-08:00', 'Sat-Sun']; [] is always.",
    )
    time_zone: TimeZone = Field(default="UTC", description="Time zone of the schedule, such as Europe/Berlin.")

    def get_parameters(self) -> PolicyParameters:
        """The numbers, as a policy takes them."""
        values = {field.name: getattr(self, field.name) for field in fields(PolicyParameters)}
        models = {name: section.get_quota() for name, section in self.models.items()}
        return PolicyParameters(**{**values, "models": models})


class LivePolicy(PolicyBounds):
    """All of the policy that may change while the node runs."""

    stake: float | None = Field(
        default=None,
        ge=0,
        le=MAX_AMOUNT // CREDIT,
        description="Credits to keep bonded behind the models, with at most six decimals; null leaves the bond as it "
        "is.",
    )

    @field_validator("stake")
    @classmethod
    def _check_decimals(cls, stake: float | None) -> float | None:
        if stake is not None and Decimal(repr(stake)) * CREDIT % 1:
            raise ValueError("has at most six decimals")
        return stake

    def get_stake(self) -> int | None:
        """:attr:`stake` in micro-credits."""
        return None if self.stake is None else int(Decimal(repr(self.stake)) * CREDIT)


class PolicyConfig(LivePolicy):
    """Which requests this node serves, offloads, accepts, queues or declines."""

    name: Text = Field(
        default="default",
        description="adaptive, paper, or a policy that is installed as an entry point. 'default' is adaptive, or paper "
        "if one of the numbers that are only its own is not the default.",
    )

    def get_name(self) -> str:
        """The policy that is meant."""
        if self.name != "default":
            return self.name
        return "paper" if next(self._find_changed("paper"), None) else DEFAULT_POLICY

    def find_conflicts(self) -> Iterator[tuple[str, str]]:
        """Numbers that mean nothing to the policy that is named, each with the reason."""
        for other in PARAMETERS_OF:
            if self.get_name() in PARAMETERS_OF and other != self.get_name():
                for key in self._find_changed(other):
                    yield key, f"is for the policy {other!r}, and {self._explain_name()}"

    def _explain_name(self) -> str:
        """Why the policy is the one that :meth:`get_name` says."""
        if self.name != "default":
            return f"name is {self.name!r}"
        return f"{next(self._find_changed('paper'))} makes this one 'paper'; set name to say which is meant"

    def _find_changed(self, name: str) -> Iterator[str]:
        """The numbers that only the policy ``name`` reads and that are not the default."""
        return (key for key in PARAMETERS_OF[name] if getattr(self, key) != getattr(_POLICY, key))
