"""What a node's owner hands to somebody who helps: findings, reports and log in one archive, without any secret.

Keys, tokens and passphrases are never read. In the configuration every value that may be a secret is replaced, and a
configuration that cannot be read is left out. Addresses, models, balances, names of API keys and the times of requests
are in it.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from chain.cli.contract import CommandError
from chain.files import SECRET_MODE
from serving.cli.running.admin_client import ask_node
from serving.config.data_directory import CONFIG_FILE
from serving.logs.file import read_events

REPORTS = ("/status", "/peers", "/models", "/requests", "/network/check", "/policy", "/chain/head")
"""What a running node is asked for."""
MAX_EVENTS = 5_000
"""Events of the log, the latest."""
HIDDEN = "(hidden)"
SECRET = re.compile(r"(?i)(^|[_-])(key|api_?key|secret|token|password|passphrase|authorization)$")
"""Names of keys and options whose values may be secrets."""
USER_IN_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/@\s]+@")
"""Name and password in a URL."""


def write_bundle(directory: Path, findings: dict[str, Any], path: Path) -> list[str]:
    """Write the archive (tar, gzip) that only its owner may read. Returns the names of what is in it.

    Raises:
        OSError: it cannot be written, or there is a file of that name.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    names = []
    with (
        open(os.open(path, flags, SECRET_MODE), "wb") as file,  # noqa: PTH123  # a descriptor, not a path
        tarfile.open(fileobj=file, mode="w:gz") as archive,
    ):
        for name, text in _collect(directory, findings):
            data = text.encode()
            entry = tarfile.TarInfo(f"wwwserve-doctor/{name}")
            entry.size, entry.mtime = len(data), int(time.time())
            archive.addfile(entry, io.BytesIO(data))
            names.append(name)
    return names


def _collect(directory: Path, findings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "doctor.json", json.dumps(findings, indent=1)
    yield "machine.json", json.dumps(_describe_machine(), indent=1)
    config = read_config(directory / CONFIG_FILE)
    if config is not None:
        yield "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    for report in REPORTS:
        try:
            content = ask_node(directory, "GET", report)
        except CommandError as error:
            content = {"error": error.failure.message}
        yield f"{report.strip('/').replace('/', '-')}.json", json.dumps(content, indent=1)
    try:
        events = list(read_events(directory))[-MAX_EVENTS:]
    except OSError:
        return
    yield "node.log", "".join(f"{json.dumps(event, ensure_ascii=False)}\n" for event in events)


def _describe_machine() -> dict[str, Any]:
    return {
        "wwwserve": version("wwwserve"),
        "libp2p": version("libp2p"),
        "python": sys.version,
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def read_config(path: Path) -> Any:
    """The configuration without secrets; None if it cannot be read."""
    try:
        return hide_secrets(yaml.safe_load(path.read_text()))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def hide_secrets(content: Any) -> Any:
    """Content of YAML in which the values of secret names, options of commands, and users in URLs are hidden."""
    match content:
        case dict():
            return {
                name: HIDDEN if SECRET.search(str(name)) else hide_secrets(value) for name, value in content.items()
            }
        case list():
            hidden, is_value = [], False
            for item in content:
                hidden.append(HIDDEN if is_value and isinstance(item, str) else hide_secrets(item))
                is_value = isinstance(item, str) and item.startswith("-") and SECRET.search(item) is not None
            return hidden
        case str():
            name, equals, _ = content.partition("=")
            if equals and SECRET.search(name):
                return f"{name}={HIDDEN}"
            return USER_IN_URL.sub(rf"\1{HIDDEN}@", content)
    return content
