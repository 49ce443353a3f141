"""Whether the node does its work: ready, degraded or stalled, with what is wrong and what mends it.

*Stalled*: no block became final for long, so nothing is paid. *Degraded*: a part of what the owner configured does not
work, or the ledger is behind. The rules are in :mod:`serving.admin.health.diagnosis`; here a node is read for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import trio

from chain.types.validators import ValidatorSet
from serving.admin.health.diagnosis import (
    BackendFacts,
    EndingFacts,
    Facts,
    MachineFacts,
    VotingFacts,
    find_troubles,
    judge,
    list_reasons,
)
from serving.admin.health.self_checks import Finding, check_clock, check_config, check_disk, check_ports
from serving.admin.health.troubles import Trouble
from serving.admin.node_view import NodeView
from serving.backends.backend import Backend, LocatedBackend
from serving.scheduling.admission import Origin


def find_node_troubles(node: NodeView) -> list[Trouble]:
    """What is wrong with a node, the worst first."""
    return find_troubles(gather_facts(node))


def gather_facts(node: NodeView) -> Facts:
    """What :mod:`serving.admin.health.diagnosis` looks at."""
    status, me = node.engine.status(), node.key.public_key
    validator, standing = node.engine.state.validator_record(me), status.standing
    return Facts(
        address=node.key.address,
        uptime_s=node.engine.uptime,
        height=status.height,
        final_age_s=status.final_age,
        idle_beat_s=node.engine.genesis.parameters.idle_beat_ms / 1000,
        is_syncing=status.is_syncing,
        backends=[
            BackendFacts(each["place"], each["models"], each["is_alive"], each["fault"])
            for each in report_backends(node)
        ],
        bootstrap=[address for _, address in node.bootstrap],
        connected=status.peers,
        known=len(node.discovery.table),
        is_dialable=node.network.can_be_dialled(),
        listens=bool(node.network.listen_addresses),
        jailed_until=validator.jailed_until if validator is not None and validator.is_enrolled else 0,
        votes=0 if standing is None else standing.votes,
        blocks=0 if standing is None else standing.blocks,
        needed=0 if standing is None else standing.needed,
        spendable=node.payments.payer.spendable,
        rights=_gather_rights(node),
        machine=MachineFacts() if node.machine is None else node.machine.gather_facts(),
        ending=gather_ending(node),
    )


def gather_ending(node: NodeView) -> EndingFacts | None:
    """What a node waits for that was told to stop; None for any other."""
    ending, now = node.availability.ending, trio.current_time()
    if ending is None:
        return None
    requests = node.dispatcher.under_way + node.executor.under_way
    left_s = max(0.0, ending.until - now)
    return EndingFacts(round(now - ending.since, 1), round(left_s, 1), requests, node.payments.payee.uncaptured)


def _gather_rights(node: NodeView) -> VotingFacts:
    rights = node.engine.voting_rights
    if rights is None:
        return VotingFacts()
    last_epoch = rights.last_epoch if rights.first_epoch <= node.engine.epoch <= rights.last_epoch else None
    return VotingFacts(rights.nonce != b"", rights.is_handed_over, last_epoch)


def report_backends(node: NodeView) -> list[dict[str, Any]]:
    """Each backend: where it is, whether it answers, and how busy its slots are."""
    return [
        {
            **_locate(scheduled.backend),
            "models": list(scheduled.backend.models),
            "is_alive": scheduled.backend.is_alive(),
            "capacity": scheduled.admission.capacity,
            "running": scheduled.admission.running,
            "queued_own": scheduled.admission.waiting(Origin.OWN),
            "queued_delegated": scheduled.admission.waiting(Origin.DELEGATED),
            "drained_in_s": round(scheduled.admission.predict_drained(), 1) if scheduled.admission.total_waiting else 0,
        }
        for scheduled in node.backend_pool.scheduled
    ]


def _locate(backend: Backend) -> dict[str, str | None]:
    if isinstance(backend, LocatedBackend):
        return {"place": backend.place, "fault": backend.fault}
    return {"place": type(backend).__name__.lower(), "fault": None}


def report_health(node: NodeView) -> dict[str, Any]:
    """For programs that watch, and for anybody: the verdict, the codes of why, and how the ledger stands.

    ``final_age_s`` is the time since a block became final here. What is wrong where is for the owner (``/status``).
    """
    troubles = find_node_troubles(node)
    status = node.engine.status()
    return {
        "status": judge(troubles).value,
        "reasons": list_reasons(troubles),
        "height": status.height,
        "final_age_s": round(status.final_age, 1),
        "is_syncing": status.is_syncing,
    }


async def report_checks(node: NodeView) -> dict[str, Any]:
    """What the node finds when it looks at its machine now; nothing if it is told nothing of it."""
    if node.machine is None:
        return {"findings": []}
    listens, clock = bool(node.network.listen_addresses), trio.lowlevel.current_clock().current_time
    found = await node.runtime.run_sync(_look, node.machine.directory, listens, clock)
    if node.engine.header.height:
        found.append(check_clock(node.engine.header.timestamp, node.runtime.now()))
    return {"findings": [each.to_plain() for each in found]}


def _look(directory: Path, listens: bool, clock: Callable[[], float]) -> list[Finding]:
    config, found = check_config(directory)
    ports = () if config is None else check_ports(config, directory, runs=True, listens=listens)
    return [found, *check_disk(directory, clock), *ports]


def get_stake_share(validators: ValidatorSet, public_key: bytes) -> float:
    """The part of the stake of a committee that an account has, 0 to 1."""
    return validators.get_stake([public_key]) / validators.total_stake if public_key in validators else 0.0


@cache
def get_version() -> str:
    """The version of this program."""
    try:
        return version("wwwserve")
    except PackageNotFoundError:
        return "unknown"
