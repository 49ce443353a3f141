"""The command line's requests to a node, as a socket sees them."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from chain.cli.contract import CommandError
from chain.files import short_path
from serving.cli.running.admin_client import ADMIN_SOCKET_FILE, ask_node

BODY = "x" * (4 << 20)
"""More than the system holds for a reader that does not read."""
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{"done":true}'


@pytest.mark.parametrize("answer", [ANSWER, b""])
def test_an_answer_that_comes_before_the_body_is_read_is_an_answer(answer: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        with short_path(tmp_path / ADMIN_SOCKET_FILE) as name:
            listener.bind(name)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        if answer:
            assert ask_node(tmp_path, "POST", "/dashboard/code", {"text": BODY}) == {"done": True}
        else:
            with pytest.raises(CommandError, match="does not answer"):
                ask_node(tmp_path, "POST", "/dashboard/code", {"text": BODY})
        thread.join()
