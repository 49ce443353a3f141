"""Requests of the command line to the admin listener of the node that runs in a data directory.

The running node writes the listener's address into ``admin.address``; the token is in ``admin.token``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chain.cli.app import get_default_data_dir
from chain.cli.format import print_line
from chain.printable import escape_unprintable
from serving.cli.errors import CommandError
from serving.config.data_directory import ADMIN_ADDRESS_FILE, ADMIN_TOKEN_FILE

ADMIN_TIMEOUT_S = 90.0
"""How long an answer may take, unless more is asked for."""


def ask_node(
    data_dir: Path | None, method: str, path: str, content: Any = None, timeout: float = ADMIN_TIMEOUT_S
) -> Any:
    """Send a request to the node's admin listener and return its JSON answer; ``timeout`` in seconds.

    Raises:
        CommandError: no node runs there, or it refuses.
    """
    import httpx

    directory = data_dir or get_default_data_dir()
    try:
        address = (directory / ADMIN_ADDRESS_FILE).read_text().strip()
        token = (directory / ADMIN_TOKEN_FILE).read_text().strip()
    except OSError as error:
        raise CommandError(f"no node runs in {directory}; start it with: wwwserve run -d {directory}") from error
    headers = {"Authorization": f"Bearer {token}"}
    try:
        response = httpx.request(
            method, f"http://{address}{path}", json=content, headers=headers, timeout=timeout, trust_env=False
        )
    except httpx.HTTPError as error:
        raise CommandError(
            f"the node in {directory} does not answer at {address}; is it running? (wwwserve run -d {directory})"
        ) from error
    answer = response.json() if response.headers.get("content-type", "").startswith("application/json") else {}
    if response.is_error:
        raise CommandError(escape_unprintable(str(answer.get("error", f"the node answered {response.status_code}"))))
    return answer


def print_fields(content: dict[str, Any], as_json: bool) -> None:
    """Print an answer, one field a line, or as JSON."""
    if as_json:
        print_line(json.dumps(content))
        return
    width = max(map(len, content), default=0)
    for name, value in content.items():
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        print_line(f"{name.replace('_', ' '):>{width}}  {'-' if value in (None, '') else value}")
