"""What ``wwwserve doctor`` looks at: one function for each subject. What it finds has a code of
:mod:`serving.admin.troubles`, which says how bad it is and what mends it.

They work whether the node runs or not, change nothing, and wait for no part longer than ``PROBE_TIMEOUT_S``.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chain.amounts import format_credits
from chain.cli.contract import CommandError, ExitCode
from chain.exceptions import LedgerError
from chain.genesis import load_genesis
from chain.keyfile import PassphraseNeeded, load_identity
from consensus.voting.disk import FAULT_FILE
from p2p.addresses import get_endpoint, parse_peer_address
from serving.admin.troubles import MIN_FREE_BYTES, SLOW_WRITE_S, Severity, Trouble, describe, format_bytes
from serving.cli.running.admin_client import ask_node
from serving.config.data_directory import CONFIG_FILE, GENESIS_FILE, KEY_FILE, OTHERS
from serving.config.file import load_config
from serving.config.schema import ConfigError, NodeConfig, OpenAIModel

PROBE_TIMEOUT_S = 2.0
"""Patience with a backend, a peer or a port."""
MAX_CLOCK_ERROR_MS = 5_000
"""A block that is newer than now by more says that the clock here is behind."""
PROBED = ("backend", "backend_loading", "bootstrap", "disk_full")
"""Codes of a running node whose subjects are looked at from here."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a subject: that it is well (``text`` says how), or what is wrong with it."""

    subject: str
    text: str = ""
    trouble: Trouble | None = None


@dataclass(slots=True)
class Patient:
    """The node that is looked at; what could not be read is None."""

    directory: Path
    config: NodeConfig | None = None
    status: dict[str, Any] | None = None


Check = Callable[[Patient], Iterator[Finding]]


def _find(code: str, *, of: str = "", **details: object) -> Finding:
    """That something is wrong, with one of several that are alike if ``of`` says which; the details are those of the
    trouble's templates."""
    trouble = describe(code, **details)
    return Finding(of or trouble.subject, trouble=trouble)


def check_directory(patient: Patient) -> Iterator[Finding]:
    """That there is a node, and that it is its owner's alone."""
    directory = patient.directory
    if not (directory / KEY_FILE).exists():
        yield _find("no_node", directory=directory)
        return
    for path in (directory, directory / KEY_FILE):
        if stat.S_IMODE(path.stat().st_mode) & OTHERS:
            yield _find("permissions", path=path, mode="700" if path == directory else "600")
    try:
        load_identity(directory / KEY_FILE, os.environ.get("WWWSERVE_PASSPHRASE"))
        yield Finding("key", "can be read")
    except PassphraseNeeded:
        yield Finding("key", "needs its passphrase (WWWSERVE_PASSPHRASE)")
    except LedgerError as error:
        if "chmod" not in str(error):  # that is said above
            yield _find("key", reason=error, path=directory / KEY_FILE)
    try:
        genesis = load_genesis(directory / GENESIS_FILE)
        yield Finding("genesis", f"chain {genesis.name} ({genesis.chain_id.hex()[:8]})")
    except LedgerError as error:
        yield _find("genesis", reason=error, path=directory / GENESIS_FILE)


def check_config(patient: Patient) -> Iterator[Finding]:
    """That the configuration can be used."""
    try:
        patient.config = load_config(patient.directory / CONFIG_FILE)
        yield Finding("config", str(patient.directory / CONFIG_FILE))
    except ConfigError as error:
        yield _find("config", reason=error, path=patient.directory / CONFIG_FILE)


def check_disk(patient: Patient) -> Iterator[Finding]:
    """Space, speed, and marks of damage."""
    directory = patient.directory
    free_bytes = shutil.disk_usage(directory).free
    free = format_bytes(free_bytes)
    if free_bytes < MIN_FREE_BYTES:
        yield _find("disk_full", free=free, directory=directory)
    else:
        yield _time_sync(directory, free)
    fault = directory / "chain" / FAULT_FILE
    if fault.exists():
        yield _find("database", reason=fault.read_text(errors="replace"), directory=directory)


def _time_sync(directory: Path, free: str) -> Finding:
    """How long a small file takes to be durable."""
    try:
        started = time.monotonic()
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        took = time.monotonic() - started
    except OSError as error:
        return _find("disk_unwritable", directory=directory, reason=error.strerror)
    if took >= SLOW_WRITE_S:
        return _find("disk_slow", free=free, took_ms=1000 * took)
    return Finding("disk", f"{free} free, fsync {1000 * took:.0f} ms")


def check_node(patient: Patient) -> Iterator[Finding]:
    """Whether it runs and answers, and what it says of itself."""
    try:
        patient.status = ask_node(patient.directory, "GET", "/status")
    except CommandError as error:
        if error.failure.code is ExitCode.NO_NODE:
            yield _find("not_running", directory=patient.directory)
        else:
            yield _find("no_answer", reason=error.failure.message, directory=patient.directory)
        return
    yield Finding("node", f"runs, height {patient.status['height']:,}")
    for each in patient.status["troubles"]:
        if each["code"] not in PROBED:
            trouble = Trouble(**{**each, "severity": Severity(each["severity"])})
            yield Finding(trouble.subject, trouble=trouble)
    if patient.status["available"]:
        yield Finding("credit", f"{format_credits(patient.status['available'])} credits available")


def check_clock(patient: Patient) -> Iterator[Finding]:
    """This machine's clock, against the newest final block."""
    if patient.status is None or not patient.status["height"]:
        return
    head = ask_node(patient.directory, "GET", "/chain/head")
    ahead = head["timestamp"] - int(time.time() * 1000)
    if ahead > MAX_CLOCK_ERROR_MS:
        yield _find("clock", ahead_s=ahead / 1000)
    else:
        yield Finding("clock", "not behind the chain")


def check_ports(patient: Patient) -> Iterator[Finding]:
    """That the ports of a node that does not run are free."""
    config = patient.config
    if config is None or patient.status is not None:
        return
    places = [("api.port", config.api.host, config.api.port), ("admin.port", config.admin.host, config.admin.port)]
    for address in config.listen:
        try:
            host, port = get_endpoint(address)
            places.append(("listen", str(host), int(port)))
        except ValueError:
            continue
    for key, host, port in places:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host, port))
        except OSError as error:
            yield _find("port", key=key, host=host, port=port, reason=error.strerror)


def check_backends(patient: Patient) -> Iterator[Finding]:
    """That each configured server answers, takes the key, and lists its models."""
    for number, entry in enumerate(patient.config.models if patient.config is not None else (), start=1):
        if not isinstance(entry, OpenAIModel):
            yield Finding("backend", "embedded")
            continue
        yield _check_server(number, entry)


def _check_server(number: int, entry: OpenAIModel) -> Finding:
    url = urlsplit(str(entry.base_url))
    name = f"backend {number}"
    try:
        key = entry.get_api_key()
    except ConfigError as error:
        return _find("backend_key_missing", of=name, reason=error, variable=entry.api_key_env)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=PROBE_TIMEOUT_S)
    try:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request("GET", f"{url.path.rstrip('/').removesuffix('/v1')}/v1/models", headers=headers)
        response = connection.getresponse()
        body = response.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error or "does not answer"
        return _find("backend_down", of=name, url=entry.base_url, reason=reason, port=url.port or 80)
    finally:
        connection.close()
    if response.status in (401, 403):
        return _find("backend_key_refused", of=name, url=entry.base_url)
    if response.status != 200:
        return _find("backend_fails", of=name, url=entry.base_url, status=response.status)
    try:
        listed = [str(each["id"]) for each in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return _find("backend_foreign", of=name, url=entry.base_url)
    missing = [model for model in entry.names if model not in listed]
    if missing:
        shown = {"missing": ", ".join(missing), "listed": ", ".join(listed) or "nothing"}
        return _find("backend_lacks_model", of=name, url=entry.base_url, **shown)
    return Finding(name, f"{entry.base_url}: {', '.join(listed) or 'no model'}")


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
            socket.create_connection((str(host), int(port)), PROBE_TIMEOUT_S).close()
            yield Finding("bootstrap", text)
            return
        except (OSError, ValueError) as error:
            failed.append(f"{text}: {getattr(error, 'strerror', None) or error or 'does not answer'}")
    yield _find("bootstrap_down", reason="; ".join(failed))


CHECKS: tuple[Check, ...] = (
    check_directory, check_config, check_disk, check_node, check_clock, check_ports, check_backends, check_peers,
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
