"""What the owner should know before anything else, each with what mends it (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["bad", "warn", "note"]

STALLED_BEATS = 4
"""Idle beats without a final block after which the ledger counts as stalled."""
MIN_SPAN_BLOCKS = 16
"""Blocks of a span after which the votes in it say something."""
LOW_CREDIT = 1_000_000
"""Micro-credits below which an owner is told that credit is low."""


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """A backend by its models (none known: by its number)."""

    name: str
    is_alive: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What is looked at. Times in seconds, amounts in micro-credits.

    ``is_dialable`` is None while nobody has tried to dial this node. ``votes`` of the ``blocks`` of its span so far are
    a validator's, and with fewer than ``needed`` it is jailed if the span ends now; 0 for any other node.
    """

    final_age_s: float
    idle_beat_s: float
    is_syncing: bool
    backends: Sequence[BackendFacts]
    connected: int
    known: int
    is_dialable: bool | None
    listens: bool
    is_jailed: bool
    votes: int
    blocks: int
    needed: int
    spendable: int
    bonded: int


@dataclass(frozen=True, slots=True)
class Attention:
    """One thing to know. ``mend`` is a command or what to do, empty if nothing is to be done."""

    severity: Severity
    text: str
    mend: str = ""


def find_attention(facts: Facts) -> list[Attention]:
    """What needs the owner's attention, the worst first."""
    found = [*_look_at_ledger(facts), *_look_at_market(facts)]
    order: Sequence[Severity] = ("bad", "warn", "note")
    return sorted(found, key=lambda each: order.index(each.severity))


def _look_at_ledger(facts: Facts) -> Iterator[Attention]:
    if facts.is_syncing:
        yield Attention("note", "The ledger is catching up with the others.")
    elif facts.final_age_s > STALLED_BEATS * facts.idle_beat_s:
        text = f"No block has become final for {facts.final_age_s:.0f} s: more than a third of the stake is away."
        yield Attention("bad", text, "wwwserve status")
    if facts.is_jailed:
        yield Attention("bad", "This validator is jailed: it missed too many blocks.", "wwwserve wallet unjail")
    elif facts.votes < facts.needed and facts.blocks >= MIN_SPAN_BLOCKS:
        text = f"This validator voted for {facts.votes} of {facts.blocks} blocks; below {facts.needed} it is jailed."
        yield Attention("warn", text, "wwwserve status")


def _look_at_market(facts: Facts) -> Iterator[Attention]:
    for backend in facts.backends:
        if not backend.is_alive:
            mend = "start the model's server, or take it out of models: in config.yaml"
            yield Attention("bad", f"The backend of {backend.name} does not answer.", mend)
    if not facts.connected:
        known = f"{facts.known} known" if facts.known else "none known"
        yield Attention("warn", f"No other node is connected ({known}).", "wwwserve peers")
    if facts.listens and facts.is_dialable is False:
        mend = "forward the port on the router, or set upnp: true in config.yaml"
        yield Attention("note", "Others cannot dial this node; relays serve it.", mend)
    if facts.spendable < LOW_CREDIT and not facts.bonded:
        text = "The account has no credit: requests cannot be offloaded."
        yield Attention("warn", text, "wwwserve wallet register")
    elif facts.spendable < LOW_CREDIT:
        yield Attention("warn", "Less than one credit can be spent.", "wwwserve wallet show")
