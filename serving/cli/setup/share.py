"""``wwwserve share URL``: puts a server that runs already into the configuration of a node, as it describes itself.

What answers there is found out by :mod:`serving.backends.detection`. The models are named as the server names them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from chain.cli.contract import CommandError
from chain.cli.text import format_count, print_line
from chain.files import SECRET_MODE, write_atomically
from chain.printable import escape_unprintable
from chain.types.operations import MAX_MODELS
from serving.backends.backend import FEATURES
from serving.backends.detection import NAMES, Detection, DetectionFailed, FoundModel, FoundServer, Probe, Reply
from serving.backends.load_metrics import CONTINUING
from serving.config.data_directory import CONFIG_FILE, lock_data_dir
from serving.config.edit import edit_config
from serving.config.file import load_config
from serving.config.models import OpenAIModel
from serving.config.schema import NodeConfig
from serving.config.yaml_marks import KeyPath, parse_yaml
from serving.http.access import is_loopback
from serving.http.client import BaseUrl, HttpClientError, HttpPool, HttpTimeouts
from serving.openai.number_formats import is_label

PROBE_TIMEOUTS = HttpTimeouts(connect_s=3.0, first_byte_s=5.0, stall_s=5.0)
"""Patience with a server that is being found out about."""
MAX_REPLY_BYTES = 4 << 20
"""Longest reply that is read."""
FIRST_FREE_PORT = 8010
"""Where this node's own listeners go if the server has their port."""


def find_server(url: str, api_key_env: str | None = None) -> FoundServer:
    """What answers at ``url``; ``api_key_env`` names the environment variable with its API key.

    Raises:
        CommandError: nothing that can be shared.
    """
    api_key = None if api_key_env is None else os.environ.get(api_key_env)
    if api_key_env is not None and not api_key:
        raise CommandError(f"--api-key-env: {api_key_env} is not set")
    try:
        return trio.run(detect, HttpPool(url, api_key=api_key, timeouts=PROBE_TIMEOUTS))
    except DetectionFailed as error:
        raise CommandError(f"{url}: {error}") from None
    except ValueError as error:
        raise CommandError(str(error)) from None


async def detect(pool: HttpPool) -> FoundServer:
    """What answers at a server; the pool is closed.

    Raises:
        DetectionFailed: nothing usable.
    """
    detection = Detection()

    async def send(probe: Probe) -> None:
        detection.feed(probe, await _send(pool, probe))

    try:
        while probes := detection.ask():
            async with trio.open_nursery() as nursery:
                for probe in probes:
                    nursery.start_soon(send, probe)
        return detection.finish()
    finally:
        await pool.aclose()


async def _send(pool: HttpPool, probe: Probe) -> Reply:
    method = "GET" if probe.body is None else "POST"
    try:
        async with pool.request(method, probe.path, probe.body or b"") as response:
            return Reply(response.status, await response.read(MAX_REPLY_BYTES))
    except HttpClientError:
        return Reply(0)


def choose_models(server: FoundServer, wanted: Sequence[str]) -> list[FoundModel]:
    """The models to share: those ``wanted``, or all that make text and are loaded; all of them if none is loaded.

    Raises:
        CommandError: the server does not list one, or there are too many, or none.
    """
    by_name = {model.name: model for model in server.models}
    for name in wanted:
        if name not in by_name:
            raise CommandError(f"the server does not list {name!r}; it lists {', '.join(sorted(by_name))}")
    generators = [model for model in server.models if model.is_generator]
    chosen = [by_name[name] for name in wanted] or [model for model in generators if model.is_loaded] or generators
    if not chosen:
        raise CommandError("the server lists no model that makes text; name one with --model")
    if len(chosen) > MAX_MODELS:
        raise CommandError(f"a node shares {MAX_MODELS} models at most: name those with --model")
    return chosen


def describe_entry(
    url: str, server: FoundServer, chosen: Sequence[FoundModel], api_key_env: str | None, known_as: str | None = None
) -> dict[str, Any]:
    """The entry of ``models`` in the configuration for a server and some of its models.

    ``known_as`` is the name of the one that is chosen, to others.

    Raises:
        CommandError: there are several.
    """
    entry: dict[str, Any] = {"kind": "openai", "base_url": url, "names": [model.name for model in chosen]}
    labels = {model.name: model.label for model in chosen if is_label(model.label)}
    if known_as is not None:
        if len(chosen) > 1:
            raise CommandError("--as names one model: choose it with --model")
        entry.update(names=[known_as], aliases={known_as: chosen[0].name})
        labels = {known_as: labels[chosen[0].name]} if labels else {}
    if api_key_env is not None:
        entry["api_key_env"] = api_key_env
    if server.slots:
        entry["capacity"] = server.slots
    lengths = [model.context_length for model in chosen]
    if all(lengths) and server.kind not in ("vllm", "sglang"):  # which the node asks itself, model by model
        entry["context_length"] = min(lengths)
    known = [model.features for model in chosen if model.features is not None]
    if len(known) == len(chosen):
        common = frozenset.intersection(*known)
        entry["features"] = [feature for feature in FEATURES if feature in common]
    if labels:
        entry["quantizations"] = labels
    if server.load != "auto":
        entry["load"] = server.load
    if server.kind in CONTINUING and server.load not in (server.kind, "auto"):  # which no metrics page will tell
        entry["continues"] = True
    return entry


def plan_changes(text: str, config: NodeConfig, entry: Mapping[str, Any], *, only: bool) -> dict[KeyPath, object]:
    """What to change in a configuration file: the entry takes the place of one with its URL, and of the embedded model.

    ``only``: of all others too. A listener of the node that has the server's port moves to another.
    """
    data: Any = parse_yaml(text)[0]
    entries = (data or {}).get("models") or []
    url = BaseUrl.parse(str(entry["base_url"]))

    def stays(old: Any) -> bool:
        return old.get("kind") == "openai" and BaseUrl.parse(str(old.get("base_url"))) != url

    changes: dict[KeyPath, object] = {("models",): [*(old for old in entries if not only and stays(old)), dict(entry)]}
    ports = {url.port, config.api.port, config.admin.port}
    for section, host, port in (
        ("api", config.api.host, config.api.port),
        ("admin", config.admin.host, config.admin.port),
    ):
        if port == url.port and (is_loopback(url.host) or url.host == host):
            free = next(number for number in range(FIRST_FREE_PORT, 65536) if number not in ports)
            ports.add(free)
            changes[section, "port"] = free
    return changes


def change_config(directory: Path, entry: Mapping[str, Any], *, only: bool) -> dict[KeyPath, object]:
    """Put an entry into the configuration file of a node that is stopped. Returns what was changed.

    Raises:
        ConfigError: the file cannot be changed.
        StoreInUse: the node runs.
    """
    path = directory / CONFIG_FILE
    with lock_data_dir(directory):
        config = load_config(path)
        text = path.read_text(encoding="utf-8")
        changes = plan_changes(text, config, entry, only=only)
        write_atomically(path, edit_config(text, changes, str(path)).encode(), mode=SECRET_MODE)
    return changes


def print_server(url: str, server: FoundServer, chosen: Iterable[FoundModel]) -> None:
    """Show what was found, and which models are shared."""
    shared = {model.name for model in chosen}
    version = f" {server.version}" if server.version else ""
    listed = format_count(len(server.models), "model")
    print_line(f"{NAMES[server.kind]}{version} at {url} lists {listed}, of which {len(shared)} are shared:")
    table = Table("", "model", "weights", "quantization", "context", "beyond text", box=None)
    for model in server.models:
        weights = model.repository if model.repository != model.name else ""
        if model.revision:
            weights = f"{weights} {model.revision.removeprefix('sha256:')[:12]}".strip()
        context = f"{model.context_length:,}" if model.context_length else "-"
        beyond = "-" if model.features is None else ", ".join(sorted(model.features)) or "nothing"
        cells = ("+" if model.name in shared else "", model.name, weights or "-", model.label or "-", context)
        table.add_row(*(Text(escape_unprintable(cell)) for cell in (*cells, beyond)))
    Console(width=1000).print(table)


def check_entry(entry: Mapping[str, Any]) -> None:
    """Check that an entry can stand in a configuration, before anything is made of it.

    Raises:
        CommandError: it cannot.
    """
    try:
        OpenAIModel.model_validate(dict(entry))
    except ValueError as error:
        raise CommandError(f"the server cannot be shared: {error}") from None
