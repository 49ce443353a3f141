"""Orders that change the policy of the running node: all of it at once, or nothing if a part of it is wrong.

They change what is in force, and write no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from starlette.exceptions import HTTPException

from chain.amounts import CREDIT
from serving.admin.node_view import NodeView
from serving.admin.orders.bodies import validate_section
from serving.admin.orders.wallet_orders import OrderRefused
from serving.config.fields import ConfigError
from serving.config.file import load_config
from serving.config.policy import LivePolicy
from serving.scheduling.policy import describe_policy, find_foreign_parameter

log = structlog.get_logger(__name__)

Reload = Callable[[], dict[str, Any]]
"""Has the policy follow the configuration file again, and returns what is in force then."""


def report_policy(node: NodeView) -> dict[str, Any]:
    """The policy in force, in the units of ``config.yaml``: ``stake`` is in credits."""
    return {"name": describe_policy(node.policy), **_report_numbers(node)}


def _report_numbers(node: NodeView) -> dict[str, Any]:
    parameters, stake = node.policy.parameters, node.stake_keeper.stake
    in_credits = None if stake is None else stake / CREDIT
    return {**asdict(parameters), "schedule": list(parameters.schedule), "stake": in_credits}


def change_policy(node: NodeView, changes: dict[str, Any]) -> dict[str, Any]:
    """Change what is given, and leave the rest; null stands for the default. Returns what is in force then.

    Numbers in the quota of a model that are not given stay, too.

    Raises:
        HTTPException: 400; a change is not acceptable, and none is made.
    """
    _apply(node, plan_policy(node, changes))
    log.info("policy changed", changes=changes)
    return report_policy(node)


def plan_policy(node: NodeView, changes: dict[str, Any]) -> LivePolicy:
    """What the policy would be after changes, none of which is made.

    Raises:
        HTTPException: 400; a change is not acceptable.
    """
    own = describe_policy(node.policy)
    if changes.get("name", own) != own:
        raise HTTPException(400, f"name: {own!r} runs, and another policy takes a restart: name it in config.yaml")
    if (foreign := find_foreign_parameter(node.policy, changes)) is not None:
        key, other, _ = foreign
        raise HTTPException(400, f"{key}: is for the policy {other!r}, and this node's is {own!r}")
    present = _report_numbers(node)
    content = {**present, **{key: value for key, value in changes.items() if key != "name"}}
    quotas = changes.get("models")
    if isinstance(quotas, dict):
        content["models"] = {**present["models"], **{name: _merge(present, name, quotas[name]) for name in quotas}}
    return validate_section(content, LivePolicy)


def _merge(present: dict[str, Any], model: str, changes: Any) -> Any:
    return {**present["models"].get(model, {}), **changes} if isinstance(changes, dict) else changes


def reload_policy(node: NodeView, name: str, path: Path) -> dict[str, Any]:
    """Have the policy follow the configuration file at ``path`` again. Returns what is in force then.

    ``name`` is that of the policy that runs; another one takes a restart.

    Raises:
        OrderRefused: the file cannot be used, and nothing changes.
    """
    try:
        policy = load_config(path).policy
    except ConfigError as error:
        raise OrderRefused(str(error)) from None
    if policy.get_name() != name:
        raise OrderRefused(
            f"policy.name: {policy.get_name()!r} takes a restart; {name!r} runs, and nothing was changed"
        )
    _apply(node, policy)
    log.info("policy read again", file=str(path))
    return report_policy(node)


def reload_on_signal(reload: Reload) -> None:
    """Call ``reload`` where nobody waits for an answer: a refusal goes into the log."""
    try:
        reload()
    except OrderRefused as error:
        log.error("policy not read again", reason=str(error))


def _apply(node: NodeView, policy: LivePolicy) -> None:
    node.backend_pool.apply(policy.get_parameters())
    node.stake_keeper.stake = policy.get_stake()
