"""Whether the node does its work: ready, degraded or stalled, with what is wrong and what the owner does about it.

*Stalled*: no block became final for long, so nothing is paid. *Degraded*: a part of what the owner configured does not
work. Both name their reasons. Pure but for the clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from chain.types.validators import ValidatorSet
from serving.admin.node_view import NodeView
from serving.backends.backend import Backend, LocatedBackend
from serving.scheduling.admission import Origin

MIN_STALL_S = 30.0
"""No chain is called stalled sooner after its last final block, in seconds."""
STALL_BEATS = 3
"""An idle chain makes a block each idle beat; it is stalled after so many more."""


class Verdict(StrEnum):
    """How the node is."""

    READY = "ready"
    DEGRADED = "degraded"
    STALLED = "stalled"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong: a name for programs, and for people what it is and how to mend it."""

    kind: str
    text: str
    mend: str


def judge_health(node: NodeView) -> tuple[Verdict, list[Trouble]]:
    """How the node is, and why it is not ready."""
    stalls, others = list(_find_stalls(node)), list(_find_troubles(node))
    verdict = Verdict.STALLED if stalls else Verdict.DEGRADED if others else Verdict.READY
    return verdict, stalls + others


def _find_stalls(node: NodeView) -> Iterator[Trouble]:
    status = node.engine.status()
    limit = MIN_STALL_S + STALL_BEATS * node.engine.genesis.parameters.idle_beat_ms / 1000
    if status.final_age > limit:
        yield Trouble(
            "stalled",
            f"no block became final for {status.final_age:.0f} s",
            "more than a third of the stake may be away, or this node reaches no validator: see 'wwwserve peers' and "
            "'chain validators'",
        )


def _find_troubles(node: NodeView) -> Iterator[Trouble]:
    for backend in report_backends(node):
        if not backend["is_alive"]:
            place = backend["place"]
            mend = (
                "it is being loaded; if this stays, see the log"
                if place == "embedded"
                else ("start its server, or take it out of 'models' in config.yaml")
            )
            yield Trouble("backend", f"backend {place}: {backend['fault'] or 'does not answer'}", mend)
    status = node.engine.status()
    if node.bootstrap and not status.peers:
        peers = ", ".join(address for _, address in node.bootstrap)
        yield Trouble(
            "bootstrap",
            f"no peer is connected; the bootstrap peers do not answer: {peers}",
            "check the network and 'bootstrap' in config.yaml; it is tried again by itself",
        )
    if status.is_syncing:
        yield Trouble("syncing", f"catching up with the chain, at height {status.height:,}", "wait")
    standing = node.engine.state.validator_record(node.key.public_key)
    if standing is not None and standing.is_enrolled and standing.jailed_until:
        yield Trouble(
            "jailed",
            f"jailed until epoch {standing.jailed_until:,}: it took no part for too long",
            "keep the node running; it asks to return by itself",
        )


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
    """For programs that watch, and for anybody: the verdict, the kinds of trouble, and how the ledger stands.

    ``final_age_s`` is the time since a block became final here. What is wrong where is for the owner (``/status``).
    """
    verdict, troubles = judge_health(node)
    status = node.engine.status()
    return {
        "status": verdict.value,
        "reasons": [trouble.kind for trouble in troubles],
        "height": status.height,
        "final_age_s": round(status.final_age, 1),
        "is_syncing": status.is_syncing,
    }


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
