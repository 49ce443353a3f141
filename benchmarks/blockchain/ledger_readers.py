"""Readers of the ledger, in a process of their own: they ask a node, or what stands in for one, all the time.

They ask as commands do, over the Unix socket of a data directory and with a connection for each request. What stands in
is a server that has the same answers ready. Who measures beside it knows what the readers alone cost on this machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import Connection
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

from chain.files import short_path
from serving.cli.running.admin_client import ADMIN_SOCKET_FILE, open_answer
from tests.support.forked import FORKSERVER, end_with_parent

READS_PER_S = 100
"""Answers that the readers ask for."""
READERS = 2
"""Requests that may be under way at a time."""
PATIENCE_S = 120.0
"""Most seconds that an answer may take."""


@contextmanager
def reading(directory: Path, paths: Sequence[str]) -> Iterator[list[float]]:
    """Have ``paths`` read in turn within the context. How long each answer took, in ms, is in the list afterwards.

    Raises:
        RuntimeError: an answer was refused.
    """
    ours, theirs = FORKSERVER.Pipe()
    process = FORKSERVER.Process(target=_run_readers, args=(theirs, directory, tuple(paths)), daemon=True)
    process.start()
    theirs.close()  # so that its end is noticed
    taken: list[float] = []
    try:
        ours.recv()
        yield taken
        ours.send(None)
        found = ours.recv()
        if isinstance(found, str):
            raise RuntimeError(found)
        taken += found
    finally:
        process.kill()
        process.join()


def fetch(directory: Path, path: str) -> bytes:
    """What is answered to ``GET`` of ``path``.

    Raises:
        RuntimeError: it was refused.
    """
    with open_answer(directory, "GET", path, None, PATIENCE_S) as response:
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: status {response.status}")
        return body


def _run_readers(pipe: Connection, directory: Path, paths: tuple[str, ...]) -> None:
    """Read until told to stop; then send the times, or what went wrong."""
    end_with_parent()
    stopped = threading.Event()
    taken: list[float] = []
    faults: list[str] = []

    def read() -> None:
        due = time.perf_counter()
        while True:
            due += READERS / READS_PER_S
            time.sleep(max(0.0, due - time.perf_counter()))
            started = time.perf_counter()
            try:
                fetch(directory, paths[len(taken) % len(paths)])
            except Exception as error:
                faults.append(str(error))
            taken.append(1000 * (time.perf_counter() - started))
            if stopped.is_set() or faults:  # after one answer, however soon it is told to stop
                return

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    pipe.send(None)
    pipe.recv()
    stopped.set()
    for reader in readers:
        reader.join()
    pipe.send(faults[0] if faults else taken)


def serve_static(pipe: Connection, directory: Path, answers: Mapping[str, bytes]) -> None:
    """Answer what is in ``answers`` at the socket in ``directory``, until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers[self.path]
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with short_path(directory / ADMIN_SOCKET_FILE) as name:
        server = UnixStreamServer(str(name), Handler)
    pipe.send("")
    server.serve_forever()
