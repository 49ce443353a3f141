"""What can be wrong with a node: a code, how bad it is, one line that says it, and what mends it (pure).

One catalogue for every place that says so: ``status``, ``/healthz``, ``doctor`` and the dashboard. What a node finds of
itself is in :mod:`serving.admin.health.diagnosis`; ``doctor`` finds more when it looks
(:mod:`serving.admin.health.self_checks`, :mod:`serving.cli.doctor.checks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Severity(StrEnum):
    """How bad it is, the worst first."""

    PROBLEM = "problem"
    """Something that the owner configured does not work."""
    ADVICE = "advice"
    """It works, and could work better."""
    NOTE = "note"
    """Good to know; nothing need be done."""


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


def describe(code: str, **details: object) -> Trouble:
    """The trouble of a code, with the details that its templates name."""
    kind = KINDS[code]
    texts = (each.format(**details) for each in (kind.text, kind.mend, kind.command))
    return Trouble(code, kind.subject, kind.severity, *texts)


def describe_mend(mend: str, command: str) -> str:
    """What is to be done, in one line."""
    return f"{mend}: {command}" if mend and command else mend or command


def format_bytes(count: int) -> str:
    """A size of a disk for people."""
    return f"{count / 2**30:,.1f} GiB"
