"""What can be wrong with a node: a code, how bad it is, one line that says it, and what mends it (pure).

One catalogue for every place that says so: ``status``, ``/healthz``, ``doctor`` and the dashboard. What a node finds of
itself is :func:`find_troubles`; ``doctor`` finds more when it looks (:mod:`serving.admin.health.self_checks`,
:mod:`serving.cli.doctor.checks`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from chain.amounts import format_credits
from chain.cli.text import format_count
from consensus.stall import compute_stall

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


class Severity(StrEnum):
    """How bad it is, the worst first."""

    PROBLEM = "problem"
    """Something that the owner configured does not work."""
    ADVICE = "advice"
    """It works, and could work better."""
    NOTE = "note"
    """Good to know; nothing need be done."""


class Verdict(StrEnum):
    """How the node is."""

    READY = "ready"
    DEGRADED = "degraded"
    STALLED = "stalled"
    ENDING = "ending"


class Kind(NamedTuple):
    """What a code stands for. ``text``, ``mend`` and ``command`` are templates, filled in by :func:`describe`.

    ``subject`` is the part of the node or of the machine. ``mend`` says what the owner does, and ``command`` is what is
    typed for it, empty if nothing is.
    """

    subject: str
    severity: Severity
    text: str
    mend: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong, as it is shown."""

    code: str
    subject: str
    severity: Severity
    text: str
    mend: str
    command: str = ""


_P, _A, _N = Severity
KINDS: Mapping[str, Kind] = {
    # What a node finds of itself.
    "ending": Kind(
        "node",
        _N,
        "this node has been ending for {since_s:.0f} s: it waits for {what}, {left_s:.0f} s more at most",
        "wait, or end it at once with one more Ctrl-C or SIGTERM",
    ),
    "stalled": Kind(
        "ledger",
        _P,
        "no block became final for {age_s:.0f} s: more than a third of the stake is away, or out of reach",
        "see who is connected, and which validators vote in 'chain validators'",
        "wwwserve peers",
    ),
    "syncing": Kind("ledger", _N, "the ledger catches up with the others, at height {height:,}", "wait"),
    "jailed": Kind(
        "validator",
        _P,
        "this validator is jailed until epoch {epoch:,}: it voted for too few blocks",
        "keep the node running; it asks to return by itself when the term is over",
    ),
    "participation": Kind(
        "validator",
        _A,
        "this validator voted for {votes} of {blocks} blocks of its span; below {needed} it is jailed",
        "see what keeps it: the clock, the disk, the network",
        "wwwserve doctor",
    ),
    "handed_over": Kind(
        "validator",
        _P,
        "another machine with this key has taken over the votes: this one {does}",
        "run one of the two: stop this node, or, to vote here again, end the other, stop this node, move votes.journal "
        "away and start it; if no other machine is yours, someone else has the key",
    ),
    "votes_later": Kind(
        "validator",
        _N,
        "this validator waits: it votes again in the epoch after the one in which an operation of it is final",
        "wait, with enough credit available for the fee",
    ),
    "backend": Kind(
        "backends",
        _P,
        "backend {name}: {fault}",
        "start its server, or take it out of 'models' in config.yaml",
    ),
    "backend_loading": Kind(
        "backends", _P, "backend {name}: {fault}", "it is being loaded; if this stays, see the log"
    ),
    "bootstrap": Kind(
        "peers",
        _P,
        "no peer is connected; the bootstrap peers do not answer: {peers}",
        "check the network and 'bootstrap' in config.yaml; it is tried again by itself",
        "wwwserve doctor",
    ),
    "connecting": Kind(
        "peers",
        _N,
        "no peer is connected yet; the bootstrap peers are being dialled: {peers}",
        "this takes some seconds after a start",
        "wwwserve peers",
    ),
    "alone": Kind(
        "peers",
        _N,
        "no other node is connected ({known} known): every request is served here",
        "give others an address of this node ('peers at')",
        "wwwserve status",
    ),
    "unreachable": Kind(
        "reachable",
        _A,
        "nobody can dial this node; it works through relays",
        "forward the peer port on the router, or set 'upnp: true' in config.yaml",
    ),
    "no_credit": Kind(
        "credit",
        _A,
        "no credit: requests cannot be offloaded",
        "have somebody send credits to {address}, or register",
        "wwwserve wallet register",
    ),
    "low_credit": Kind(
        "credit",
        _A,
        "{spendable} credits can be spent, less than one",
        "have somebody send credits to {address}, or serve others",
        "wwwserve wallet show",
    ),
    "disk_full": Kind(
        "disk",
        _P,
        "{free} free",
        "make room on the disk of {directory}, or set keep_epochs in config.yaml",
    ),
    "disk_busy": Kind(
        "disk",
        _A,
        "{share:.0%} of the writes of the last minute took longer than {bound_ms:.0f} ms: a validator votes late",
        "use an SSD, or move what else writes to the disk of {directory}",
    ),
    "loop_late": Kind(
        "processor",
        _A,
        "the event loop was late by more than {bound_ms:.0f} ms in {share:.0%} of the last minute: answers come in "
        "bursts, and a validator votes late",
        "leave the node a core, or let fewer requests in",
        "wwwserve top",
    ),
    # What doctor finds of the data directory and of this machine; some of it the page of a running node, too.
    "no_node": Kind(
        "directory", _P, "no node in {directory}", "make one", "wwwserve init -d {directory} --new-chain NAME"
    ),
    "permissions": Kind("permissions", _P, "{path} is open to other users", "close it", "chmod {mode} {path}"),
    "key": Kind("key", _P, "{reason}", "put back a copy of {path}"),
    "genesis": Kind("genesis", _P, "{reason}", "copy genesis.json from another node of the chain to {path}"),
    "config": Kind("config", _P, "{reason}", "edit {path}"),
    "disk_slow": Kind("disk", _A, "{free} free, fsync {took_ms:.0f} ms: a validator votes late", "use an SSD"),
    "disk_unwritable": Kind(
        "disk",
        _P,
        "{directory} cannot be written: {reason}",
        "let this user write to {directory}, on a disk that is not read-only",
    ),
    "database": Kind(
        "database",
        _P,
        "the chain's database is damaged: {reason}",
        "start the node again: it keeps the database aside and fetches the chain from others",
        "wwwserve run -d {directory}",
    ),
    "not_running": Kind("node", _A, "does not run", "start it", "wwwserve run -d {directory}"),
    "starting": Kind("node", _N, "has been starting for {age}: {doing}", "wait until it is ready"),
    "no_answer": Kind("node", _P, "{reason}", "end its process and start it again", "wwwserve run -d {directory}"),
    "clock": Kind(
        "clock",
        _P,
        "the last block is {ahead_s:.0f} s in the future of this machine's clock",
        "set the clock",
        "timedatectl set-ntp true",
    ),
    "port": Kind(
        "port",
        _P,
        "{key}: cannot listen on {host}:{port}: {reason}",
        "end what uses the port, or choose another with {key} in config.yaml",
        "ss -ltnp 'sport = :{port}'",
    ),
    "port_closed": Kind(
        "port",
        _P,
        "{key}: nothing listens on {host}:{port}",
        "start the node again: config.yaml has changed since, or the address has left this machine",
        "wwwserve run -d {directory}",
    ),
    "backend_key_missing": Kind("backends", _P, "{reason}", "set the variable", "export {variable}=…"),
    "backend_key_refused": Kind(
        "backends",
        _P,
        "{url} refuses the API key",
        "set api_key or api_key_env of this backend in config.yaml",
    ),
    "backend_down": Kind(
        "backends",
        _P,
        "{url}: {reason}",
        "start its server, or take it out of 'models' in config.yaml",
        "vllm serve … --port {port}",
    ),
    "backend_fails": Kind(
        "backends",
        _P,
        "{url} answers {status} to GET /v1/models",
        "see its log, or take it out of 'models' in config.yaml",
    ),
    "backend_foreign": Kind(
        "backends",
        _P,
        "{url} is no server with OpenAI's API",
        "correct base_url, or take it out of 'models' in config.yaml",
    ),
    "backend_lacks_model": Kind(
        "backends",
        _P,
        "{url} does not list {missing}, but {listed}",
        "correct 'names' of this backend in config.yaml",
    ),
    "probe_fails": Kind(
        "backends",
        _P,
        "{place} lists {model}, but gave no token when asked: {reason}",
        "see the log of its server, and start that again; then ask",
        "wwwserve ask -m {name} --local-only Hi -d {directory}",
    ),
    "probe_silent": Kind(
        "backends",
        _P,
        "{place} lists {model}, but gave no token in {seconds:.0f} s",
        "it hangs, or still loads the model: see the log of its server, and start that again; then ask",
        "wwwserve ask -m {name} --local-only Hi -d {directory}",
    ),
    "probe_busy": Kind(
        "backends",
        _A,
        "{place} has no slot to give a token of {model}: {reason}",
        "let fewer requests in, or see which wait",
        "wwwserve top -d {directory}",
    ),
    "bootstrap_down": Kind(
        "bootstrap",
        _P,
        "{reason}",
        "ask for the address of a node that runs ('peers at' of its wwwserve status), and put it into 'bootstrap'",
    ),
}
"""Every trouble by its code."""

UNREADY = ("ending", "syncing")
"""The codes of notes that say that a node is not ready all the same: it takes nothing, or its ledger is old."""


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


def describe(code: str, **details: object) -> Trouble:
    """The trouble of a code, with the details that its templates name."""
    kind = KINDS[code]
    texts = (each.format(**details) for each in (kind.text, kind.mend, kind.command))
    return Trouble(code, kind.subject, kind.severity, *texts)


def describe_mend(mend: str, command: str) -> str:
    """What is to be done, in one line."""
    return f"{mend}: {command}" if mend and command else mend or command


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


def format_bytes(count: int) -> str:
    """A size of a disk for people."""
    return f"{count / 2**30:,.1f} GiB"
