"""Requests of the command line to the node that runs in a data directory: HTTP over its Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from chain.cli.contract import CommandError, ExitCode, print_result
from chain.cli.options import get_default_data_dir
from chain.cli.text import format_duration, say_credits
from chain.files import short_path
from chain.printable import escape_unprintable
from serving.config.data_directory import KEY_FILE
from serving.config.start_note import Start, read_start

ADMIN_SOCKET_FILE = "admin.sock"
"""The socket in a data directory; see :mod:`serving.admin.local_sockets`."""
READ_TIMEOUT_S = 15.0
"""How long an answer may take that only reads."""
ADMIN_TIMEOUT_S = 90.0
"""How long an answer to an order may take, unless more is asked for; it may wait for an operation to be final."""
CODES = {409: ExitCode.REFUSED, 503: ExitCode.NO_NODE}
"""Exit codes by the status of a refusal, 503 by a node that is ending; of others it is that of a failure."""


def ask_node(data_dir: Path | None, method: str, path: str, content: Any = None, timeout: float | None = None) -> Any:
    """Send a request to the node's admin listener and return its JSON answer; ``timeout`` in seconds.

    Raises:
        CommandError: no node runs there, it is starting, it does not answer, or it refuses.
    """
    timeout = timeout or (READ_TIMEOUT_S if method == "GET" else ADMIN_TIMEOUT_S)
    with open_answer(data_dir, method, path, content, timeout) as response:
        answer = json.loads(response.read() or b"{}")
    if response.status >= 400:
        reason = say_credits(str(answer.get("error", f"the node answered {response.status}")))
        raise CommandError(escape_unprintable(reason), code=CODES.get(response.status, ExitCode.FAILED))
    return answer


@contextmanager
def open_answer(
    data_dir: Path | None,
    method: str,
    path: str,
    content: Any,
    timeout: float,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[http.client.HTTPResponse]:
    """Send a request to the node, and read its answer as it comes, each part within ``timeout`` seconds.

    Raises:
        NodeStarting: the node is starting.
        CommandError: no node runs there, or it does not answer; from the block, too.
    """
    directory = data_dir or get_default_data_dir()
    start = read_start(directory)
    if start is not None:
        raise NodeStarting(directory, start)
    kind = {} if content is None else {"Content-Type": "application/json"}
    body = None if content is None else json.dumps(content)
    connection = _Connection(directory / ADMIN_SOCKET_FILE, timeout)
    try:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may answer, and close, before it has read the body
            connection.request(method, path, body, {**kind, **headers})
        yield connection.getresponse()
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        is_made = (directory / KEY_FILE).exists()
        hint = f"start it with: wwwserve run -d {directory}" if is_made else _describe_none(directory)
        raise CommandError(f"no node runs in {directory}", code=ExitCode.NO_NODE, hint=hint) from error
    except TimeoutError as error:
        raise CommandError(
            f"the node in {directory} does not answer within {timeout:g} s",
            code=ExitCode.TIMEOUT,
            hint="its log says more; if it hangs, end it and start it again",
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CommandError(f"the node in {directory} does not answer: {error}") from error
    finally:
        connection.close()


class NodeStarting(CommandError):
    """The node is starting, and answers no command yet."""

    def __init__(self, directory: Path, start: Start) -> None:
        self.start = start
        what = f"the node in {directory} has been starting for {describe_age(start)}: {start.doing}"
        super().__init__(what, code=ExitCode.NO_NODE, hint="ask again when it is ready")


def _describe_none(directory: Path) -> str:
    """What the owner of a directory without a node may do."""
    return f"there is none: make one with: wwwserve init -d {directory}, or name its data directory with -d"


def describe_age(start: Start) -> str:
    """For how long a node has been starting."""
    return format_duration(max(0, round(1000 * time.time()) - start.since_ms))


class _Connection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with short_path(self._path) as path:
            self.sock.connect(path)


def print_fields(content: dict[str, Any], as_json: bool) -> None:
    """Print an answer, one field a line, or as JSON."""
    width = max(map(len, content), default=0)
    lines = []
    for name, value in content.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        shown = escape_unprintable(str("-" if shown in (None, "") else shown))
        lines.append(f"{escape_unprintable(name.replace('_', ' ')):>{width}}  {shown}")
    print_result(content, as_json, *lines)
