"""What ``wwwserve doctor`` looks at: one function for each subject, each with what mends what it finds.

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
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chain.cli.contract import CommandError, ExitCode
from chain.cli.text import format_credits
from chain.exceptions import LedgerError
from chain.genesis import load_genesis
from chain.keyfile import PassphraseNeeded, load_identity
from consensus.voting.disk import FAULT_FILE
from p2p.addresses import get_endpoint, parse_peer_address
from serving.cli.admin_client import ask_node
from serving.config.data_directory import CONFIG_FILE, GENESIS_FILE, KEY_FILE, OTHERS
from serving.config.file import load_config
from serving.config.schema import ConfigError, NodeConfig, OpenAIModel

PROBE_TIMEOUT_S = 2.0
"""Patience with a backend, a peer or a port."""
MIN_FREE_BYTES = 2 << 30
"""Below this much space on the disk it is a problem."""
SLOW_SYNC_S = 0.1
"""A disk that takes longer to sync a small file makes a slow validator."""
MAX_CLOCK_ERROR_MS = 5_000
"""A block that is newer than now by more says that the clock here is behind."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    ADVICE = "advice"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a subject, and what mends it if that is needed."""

    subject: str
    level: Level
    text: str
    mend: str = ""


@dataclass(slots=True)
class Patient:
    """The node that is looked at; what could not be read is None."""

    directory: Path
    config: NodeConfig | None = None
    status: dict[str, Any] | None = None


Check = Callable[[Patient], Iterator[Finding]]


def check_directory(patient: Patient) -> Iterator[Finding]:
    """That there is a node, and that it is its owner's alone."""
    directory = patient.directory
    if not (directory / KEY_FILE).exists():
        mend = f"make one with: wwwserve init -d {directory} --new-chain NAME, or --genesis FILE"
        yield Finding("directory", Level.PROBLEM, f"no node in {directory}", mend)
        return
    for path in (directory, directory / KEY_FILE):
        if stat.S_IMODE(path.stat().st_mode) & OTHERS:
            mode = "700" if path == directory else "600"
            yield Finding("permissions", Level.PROBLEM, f"{path} is open to other users", f"run: chmod {mode} {path}")
    try:
        load_identity(directory / KEY_FILE, os.environ.get("WWWSERVE_PASSPHRASE"))
        yield Finding("key", Level.OK, "can be read")
    except PassphraseNeeded:
        yield Finding("key", Level.OK, "needs its passphrase (WWWSERVE_PASSPHRASE)")
    except LedgerError as error:
        if "chmod" not in str(error):  # that is said above
            yield Finding("key", Level.PROBLEM, str(error), f"put back a copy of {directory / KEY_FILE}")
    try:
        genesis = load_genesis(directory / GENESIS_FILE)
        yield Finding("genesis", Level.OK, f"chain {genesis.name} ({genesis.chain_id.hex()[:8]})")
    except LedgerError as error:
        mend = f"copy genesis.json from another node of the chain to {directory / GENESIS_FILE}"
        yield Finding("genesis", Level.PROBLEM, str(error), mend)


def check_config(patient: Patient) -> Iterator[Finding]:
    """That the configuration can be used."""
    try:
        patient.config = load_config(patient.directory / CONFIG_FILE)
        yield Finding("config", Level.OK, str(patient.directory / CONFIG_FILE))
    except ConfigError as error:
        yield Finding("config", Level.PROBLEM, str(error), f"edit {patient.directory / CONFIG_FILE}")


def check_disk(patient: Patient) -> Iterator[Finding]:
    """Space, speed, and marks of damage."""
    free = shutil.disk_usage(patient.directory).free
    text = f"{free / 2**30:,.1f} GiB free"
    if free < MIN_FREE_BYTES:
        mend = f"make room on the disk of {patient.directory}, or set keep_epochs in config.yaml"
        yield Finding("disk", Level.PROBLEM, text, mend)
    else:
        try:
            started = time.monotonic()
            with tempfile.TemporaryFile(dir=patient.directory) as file:
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
            took = time.monotonic() - started
            level = Level.OK if took < SLOW_SYNC_S else Level.ADVICE
            yield Finding(
                "disk", level, f"{text}, fsync {1000 * took:.0f} ms", "" if level is Level.OK else "use an SSD"
            )
        except OSError as error:
            mend = f"let this user write to {patient.directory}, on a disk that is not read-only"
            yield Finding("disk", Level.PROBLEM, f"{patient.directory} cannot be written: {error.strerror}", mend)
    fault = patient.directory / "chain" / FAULT_FILE
    if fault.exists():
        text = f"the chain's database is damaged: {fault.read_text(errors='replace')}"
        mend = "start the node again: it keeps the database aside and fetches the chain from others"
        yield Finding("database", Level.PROBLEM, text, mend)


def check_node(patient: Patient) -> Iterator[Finding]:
    """Whether it runs and answers, and what it says of itself."""
    try:
        patient.status = ask_node(patient.directory, "GET", "/status")
    except CommandError as error:
        if error.failure.code is ExitCode.NO_NODE:
            mend = f"start it with: wwwserve run -d {patient.directory}"
            yield Finding("node", Level.ADVICE, "does not run", mend)
        else:
            mend = f"end its process and start it again: wwwserve run -d {patient.directory}"
            yield Finding("node", Level.PROBLEM, error.failure.message, mend)
        return
    yield Finding("node", Level.OK, f"runs, height {patient.status['height']:,}")
    for trouble in patient.status["troubles"]:
        if trouble["kind"] not in ("backend", "bootstrap"):  # which are looked at by themselves
            yield Finding(trouble["kind"], Level.PROBLEM, trouble["text"], trouble["mend"])
    if patient.status["can_be_dialled"] is False:
        mend = "forward the peer port on the router, or set 'upnp: true' in config.yaml"
        yield Finding("reachable", Level.ADVICE, "nobody can dial this node; it works through relays", mend)
    if not patient.status["available"]:
        mend = f"have somebody send credits to {patient.status['address']}, or: wwwserve wallet register"
        yield Finding("credit", Level.ADVICE, "no credit: requests cannot be offloaded", mend)
    else:
        yield Finding("credit", Level.OK, f"{format_credits(patient.status['available'])} credits available")


def check_clock(patient: Patient) -> Iterator[Finding]:
    """This machine's clock, against the newest final block."""
    if patient.status is None or not patient.status["height"]:
        return
    head = ask_node(patient.directory, "GET", "/chain/head")
    ahead = head["timestamp"] - int(time.time() * 1000)
    if ahead > MAX_CLOCK_ERROR_MS:
        text = f"the last block is {ahead / 1000:.0f} s in the future of this machine's clock"
        yield Finding("clock", Level.PROBLEM, text, "set the clock: timedatectl set-ntp true")
    else:
        yield Finding("clock", Level.OK, "not behind the chain")


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
            mend = f"end what uses the port (ss -ltnp 'sport = :{port}'), or choose another with {key} in config.yaml"
            yield Finding("port", Level.PROBLEM, f"{key}: cannot listen on {host}:{port}: {error.strerror}", mend)


def check_backends(patient: Patient) -> Iterator[Finding]:
    """That each configured server answers, takes the key, and lists its models."""
    for number, entry in enumerate(patient.config.models if patient.config is not None else (), start=1):
        if not isinstance(entry, OpenAIModel):
            yield Finding("backend", Level.OK, "embedded")
            continue
        yield _check_server(number, entry)


def _check_server(number: int, entry: OpenAIModel) -> Finding:
    url = urlsplit(str(entry.base_url))
    name = f"backend {number}"
    out = "or take it out of 'models' in config.yaml"
    try:
        key = entry.get_api_key()
    except ConfigError as error:
        return Finding(name, Level.PROBLEM, str(error), f"export {entry.api_key_env}=…")
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=PROBE_TIMEOUT_S)
    try:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        connection.request("GET", f"{url.path.rstrip('/').removesuffix('/v1')}/v1/models", headers=headers)
        response = connection.getresponse()
        body = response.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        text = f"{entry.base_url}: {getattr(error, 'strerror', None) or error or 'does not answer'}"
        port = url.port or 80
        return Finding(name, Level.PROBLEM, text, f"start its server (vllm serve … --port {port}), {out}")
    finally:
        connection.close()
    if response.status in (401, 403):
        mend = "set api_key or api_key_env of this backend in config.yaml"
        return Finding(name, Level.PROBLEM, f"{entry.base_url} refuses the API key", mend)
    if response.status != 200:
        text = f"{entry.base_url} answers {response.status} to GET /v1/models"
        return Finding(name, Level.PROBLEM, text, f"see its log, {out}")
    try:
        listed = [str(each["id"]) for each in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        text = f"{entry.base_url} is no server with OpenAI's API"
        return Finding(name, Level.PROBLEM, text, f"correct base_url, {out}")
    missing = [model for model in entry.names if model not in listed]
    if missing:
        text = f"{entry.base_url} does not list {', '.join(missing)}, but {', '.join(listed) or 'nothing'}"
        return Finding(name, Level.PROBLEM, text, "correct 'names' of this backend in config.yaml")
    return Finding(name, Level.OK, f"{entry.base_url}: {', '.join(listed) or 'no model'}")


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
            yield Finding("bootstrap", Level.OK, text)
            return
        except (OSError, ValueError) as error:
            failed.append(f"{text}: {getattr(error, 'strerror', None) or error or 'does not answer'}")
    mend = "ask for the address of a node that runs ('peers at' of its wwwserve status), and put it into 'bootstrap'"
    yield Finding("bootstrap", Level.PROBLEM, "; ".join(failed), mend)


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
