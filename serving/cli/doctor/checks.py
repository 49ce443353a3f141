"""What ``wwwserve doctor`` looks at: one function for each subject. What it finds has a code of
:mod:`serving.admin.health.troubles`, which says how bad it is and what mends it.

They work whether the node runs or not, and change nothing. They wait for a peer no longer than ``DIAL_TIMEOUT_S``, and
for a backend no longer than :mod:`serving.cli.doctor.backend_checks` says.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain.amounts import format_credits
from chain.cli.contract import CommandError, ExitCode
from chain.exceptions import LedgerError
from chain.genesis import load_genesis
from chain.keyfile import PassphraseNeeded, load_identity
from p2p.addresses import get_endpoint, parse_peer_address
from serving.admin.health.self_checks import Finding, check_clock, check_config, check_disk, check_ports, find
from serving.admin.health.troubles import Severity, Trouble
from serving.cli.doctor.backend_checks import list_models, probe_node, probe_server
from serving.cli.running.admin_client import NodeStarting, ask_node, describe_age
from serving.config.data_directory import GENESIS_FILE, KEY_FILE, OTHERS
from serving.config.models import OpenAIModel
from serving.config.schema import NodeConfig

DIAL_TIMEOUT_S = 2.0
"""Patience with a peer."""
PROBED = ("backend", "backend_loading", "bootstrap", "connecting", "disk_full")
"""Codes of a running node whose subjects are looked at from here."""


@dataclass(slots=True)
class Patient:
    """The node that is looked at; what could not be read is None."""

    directory: Path
    config: NodeConfig | None = None
    status: dict[str, Any] | None = None
    is_starting: bool = False


Check = Callable[[Patient], Iterator[Finding]]


def check_directory(patient: Patient) -> Iterator[Finding]:
    """That there is a node, and that it is its owner's alone."""
    directory = patient.directory
    if not (directory / KEY_FILE).exists():
        yield find("no_node", directory=directory)
        return
    for path in (directory, directory / KEY_FILE):
        if stat.S_IMODE(path.stat().st_mode) & OTHERS:
            yield find("permissions", path=path, mode="700" if path == directory else "600")
    try:
        load_identity(directory / KEY_FILE, os.environ.get("WWWSERVE_PASSPHRASE"))
        yield Finding("key", "can be read")
    except PassphraseNeeded:
        yield Finding("key", "needs its passphrase (WWWSERVE_PASSPHRASE)")
    except LedgerError as error:
        if "chmod" not in str(error):  # that is said above
            yield find("key", reason=error, path=directory / KEY_FILE)
    try:
        genesis = load_genesis(directory / GENESIS_FILE)
        yield Finding("genesis", f"chain {genesis.name} ({genesis.chain_id.hex()[:8]})")
    except LedgerError as error:
        yield find("genesis", reason=error, path=directory / GENESIS_FILE)


def read_config(patient: Patient) -> Iterator[Finding]:
    """That the configuration can be used."""
    patient.config, found = check_config(patient.directory)
    yield found


def look_at_disk(patient: Patient) -> Iterator[Finding]:
    """Space, speed, and marks of damage."""
    return check_disk(patient.directory, time.monotonic)


def check_node(patient: Patient) -> Iterator[Finding]:
    """Whether it runs and answers, and what it says of itself."""
    try:
        patient.status = ask_node(patient.directory, "GET", "/status")
    except NodeStarting as error:
        patient.is_starting = True
        yield find("starting", age=describe_age(error.start), doing=error.start.doing)
        return
    except CommandError as error:
        if error.failure.code is ExitCode.NO_NODE:
            yield find("not_running", directory=patient.directory)
        else:
            yield find("no_answer", reason=error.failure.message, directory=patient.directory)
        return
    yield Finding("node", f"runs, height {patient.status['height']:,}")
    for each in patient.status["troubles"]:
        if each["code"] not in PROBED:
            trouble = Trouble(**{**each, "severity": Severity(each["severity"])})
            yield Finding(trouble.subject, trouble=trouble)
    if patient.status["available"]:
        yield Finding("credit", f"{format_credits(patient.status['available'])} credits available")


def look_at_clock(patient: Patient) -> Iterator[Finding]:
    """This machine's clock, against the newest final block."""
    if patient.status is not None and patient.status["height"]:
        head = ask_node(patient.directory, "GET", "/chain/head")
        yield check_clock(head["timestamp"], int(time.time() * 1000))


def look_at_ports(patient: Patient) -> Iterator[Finding]:
    """That they are listened on, or free. A node that starts has some of them."""
    if patient.config is not None and not patient.is_starting:
        runs = patient.status is not None
        listens = patient.status is None or bool(patient.status["listening"])
        yield from check_ports(patient.config, patient.directory, runs=runs, listens=listens)


def check_backends(patient: Patient) -> Iterator[Finding]:
    """That each configured server answers, takes the key and lists its models, and that each backend gives a token."""
    servers: dict[int, OpenAIModel] = {}
    for number, entry in enumerate(patient.config.models if patient.config is not None else (), start=1):
        if not isinstance(entry, OpenAIModel):
            yield Finding("backend", "embedded")
            continue
        servers[number] = entry
        found, listed = list_models(number, entry)
        yield found
        if found.trouble is None and patient.status is None:
            yield from probe_server(number, entry, listed, patient.directory)
    if patient.status is not None:
        yield from probe_node(patient.directory, patient.status["backends"], servers)


def check_peers(patient: Patient) -> Iterator[Finding]:
    """That one of the configured nodes for the first contact answers."""
    config = patient.config
    if config is None or not config.bootstrap or config.socks5 is not None:
        return
    failed = []
    for text in config.bootstrap:
        try:
            _, address = parse_peer_address(text)
            host, port = get_endpoint(address)
            socket.create_connection((str(host), int(port)), DIAL_TIMEOUT_S).close()
            yield Finding("bootstrap", text)
            return
        except (OSError, ValueError) as error:
            failed.append(f"{text}: {getattr(error, 'strerror', None) or error or 'does not answer'}")
    yield find("bootstrap_down", reason="; ".join(failed))


CHECKS: tuple[Check, ...] = (
    check_directory, read_config, look_at_disk, check_node, look_at_clock, look_at_ports, check_backends, check_peers,
)  # fmt: skip
"""In this order; later ones use what earlier ones have read."""


def examine(directory: Path) -> list[Finding]:
    """Everything that is found of the node in a data directory."""
    patient = Patient(directory)
    found = list(check_directory(patient))
    if not (directory / KEY_FILE).exists():
        return found
    for check in CHECKS[1:]:
        found += check(patient)
    return found
