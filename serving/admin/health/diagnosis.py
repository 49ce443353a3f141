"""What is wrong with a node, as far as it knows: from the facts about it to its troubles and a verdict (pure).

:mod:`serving.admin.health.health` gathers the :class:`Facts`. What each trouble is called, and what mends it, is in
:mod:`serving.admin.health.troubles`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from chain.amounts import format_credits
from chain.cli.text import format_count
from consensus.stall import compute_stall
from serving.admin.health.troubles import Severity, Trouble, describe, format_bytes

MIN_SPAN_BLOCKS = 16
"""Blocks of a span after which the votes in it say something."""
CONNECTING_S = 10.0
"""Seconds after its start in which it says nothing of a node that it has no connection yet."""
LOW_CREDIT = 1_000_000
"""Micro-credits below which an owner is told that credit is low."""
MIN_FREE_BYTES = 2 << 30
"""Below this much space on the disk of the data directory it is a problem."""
SLOW_WRITE_S = 0.1
"""A synced write that takes longer is slow. A validator waits for three in a block: two votes and the block before it.
With 0.1 s each they take longer than the 0.25 s between two blocks of a busy chain."""
SLOW_WRITES_SHARE = 0.5
"""Part of the writes of a minute that must be slow until it is said, so that a bad moment is not."""
LATE_LOOP_S = 0.25
"""An event loop that comes later is late: by the time between two blocks of a busy chain, and by eight pieces of a
stream of tokens."""
LATE_LOOP_SHARE = 0.1
"""Part of the looks of a minute at which the loop must be late until it is said."""
EMBEDDED = "embedded"
"""The place of a backend that runs within the node."""
UNREADY = ("ending", "syncing")
"""The codes of notes that say that a node is not ready all the same: it takes nothing, or its ledger is old."""


class Verdict(StrEnum):
    """How the node is."""

    READY = "ready"
    DEGRADED = "degraded"
    STALLED = "stalled"
    ENDING = "ending"


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """A backend by its place and its models; ``fault`` says why it does not answer, as far as known."""

    place: str
    models: Sequence[str]
    is_alive: bool
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is known of the machine. ``free_bytes`` of the disk of ``directory`` are None until it was looked at.

    ``slow_writes`` is the part of the synced writes of the last minute that took longer than :data:`SLOW_WRITE_S`, and
    ``late_looks`` that of the looks at the event loop at which it was later than :data:`LATE_LOOP_S`.
    """

    directory: str = ""
    free_bytes: int | None = None
    slow_writes: float = 0.0
    late_looks: float = 0.0


@dataclass(frozen=True, slots=True)
class VotingFacts:
    """Whether a validator may vote; what is so of a node that is none is the default.

    It ``waits`` if it may have forgotten votes. If it ``is_handed_over``, another machine with its key votes, or will:
    this one votes up to the epoch ``last_epoch``, or not at all (None).
    """

    waits: bool = False
    is_handed_over: bool = False
    last_epoch: int | None = None


@dataclass(frozen=True, slots=True)
class EndingFacts:
    """A node that is told to stop: since when, for how many ``requests`` that are not answered and ``payments`` that
    are not final it waits, and for how long at most."""

    since_s: float
    left_s: float
    requests: int
    payments: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node knows of itself. Times in seconds, amounts in micro-credits.

    ``bootstrap`` is the configured addresses. ``is_dialable`` is None while nobody has tried to dial this node.
    ``jailed_until`` is the epoch, 0 for a validator that is not jailed and any other node. ``votes`` of the ``blocks``
    of its span so far are a validator's, and with fewer than ``needed`` it is jailed if the span ends now.
    """

    address: str
    uptime_s: float
    height: int
    final_age_s: float
    idle_beat_s: float
    is_syncing: bool
    backends: Sequence[BackendFacts]
    bootstrap: Sequence[str]
    connected: int
    known: int
    is_dialable: bool | None
    listens: bool
    jailed_until: int
    votes: int
    blocks: int
    needed: int
    spendable: int
    rights: VotingFacts = field(default_factory=VotingFacts)
    machine: MachineFacts = field(default_factory=MachineFacts)
    ending: EndingFacts | None = None


def find_troubles(facts: Facts) -> list[Trouble]:
    """What is wrong with a node as far as it knows, the worst first."""
    order = list(Severity)
    found = [*_look_at_ledger(facts), *_look_at_market(facts), *_look_at_machine(facts.machine)]
    found.sort(key=lambda each: (order.index(each.severity), each.code != "stalled"))
    return found if facts.ending is None else [_describe_ending(facts.ending), *found]


def judge(troubles: Iterable[Trouble]) -> Verdict:
    """How a node with these troubles is: ending if it was told to stop, stalled if nothing is paid, degraded if a part
    of it does not work."""
    reasons = list_reasons(troubles)
    if "ending" in reasons:
        return Verdict.ENDING
    if "stalled" in reasons:
        return Verdict.STALLED
    return Verdict.DEGRADED if reasons else Verdict.READY


def list_reasons(troubles: Iterable[Trouble]) -> list[str]:
    """The codes of what makes a node other than ready."""
    return [each.code for each in troubles if each.severity is Severity.PROBLEM or each.code in UNREADY]


def _describe_ending(ending: EndingFacts) -> Trouble:
    counts = (("request", ending.requests), ("payment", ending.payments))
    what = " and ".join(format_count(count, name) for name, count in counts if count) or "its goodbye to be sent"
    return describe("ending", since_s=ending.since_s, left_s=ending.left_s, what=what)


def _look_at_ledger(facts: Facts) -> Iterator[Trouble]:
    if facts.final_age_s > compute_stall(facts.idle_beat_s):
        yield describe("stalled", age_s=facts.final_age_s)
    if facts.is_syncing:
        yield describe("syncing", height=facts.height)
    if facts.rights.is_handed_over:
        last = facts.rights.last_epoch
        does = "only follows" if last is None else f"votes to the end of epoch {last:,}, and then no more"
        yield describe("handed_over", does=does)
    elif facts.rights.waits:
        yield describe("votes_later")
    if facts.jailed_until:
        yield describe("jailed", epoch=facts.jailed_until)
    elif facts.votes < facts.needed and facts.blocks >= MIN_SPAN_BLOCKS:
        yield describe("participation", votes=facts.votes, blocks=facts.blocks, needed=facts.needed)


def _look_at_market(facts: Facts) -> Iterator[Trouble]:
    for backend in facts.backends:
        if not backend.is_alive:
            name = f"{backend.place} ({', '.join(backend.models)})" if backend.models else backend.place
            code = "backend_loading" if backend.place == EMBEDDED else "backend"
            yield describe(code, name=name, fault=backend.fault or "does not answer")
    if not facts.connected and facts.bootstrap:
        code = "connecting" if facts.uptime_s < CONNECTING_S else "bootstrap"
        yield describe(code, peers=", ".join(facts.bootstrap))
    elif not facts.connected:
        yield describe("alone", known=facts.known or "none")
    if facts.listens and facts.is_dialable is False:
        yield describe("unreachable")
    if not facts.spendable:
        yield describe("no_credit", address=facts.address)
    elif facts.spendable < LOW_CREDIT:
        yield describe("low_credit", spendable=format_credits(facts.spendable), address=facts.address)


def _look_at_machine(facts: MachineFacts) -> Iterator[Trouble]:
    if facts.free_bytes is not None and facts.free_bytes < MIN_FREE_BYTES:
        yield describe("disk_full", free=format_bytes(facts.free_bytes), directory=facts.directory)
    if facts.slow_writes >= SLOW_WRITES_SHARE:
        bound_ms = 1000 * SLOW_WRITE_S
        yield describe("disk_busy", share=facts.slow_writes, bound_ms=bound_ms, directory=facts.directory)
    if facts.late_looks >= LATE_LOOP_SHARE:
        yield describe("loop_late", share=facts.late_looks, bound_ms=1000 * LATE_LOOP_S)
