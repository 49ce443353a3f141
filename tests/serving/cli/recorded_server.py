"""A server on loopback that answers with recorded pages of a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

PAGES = Path(__file__).parents[1] / "pages"
LLAMACPP = {"/v1/models": "llamacpp_models.json", "/props": "llamacpp_props.json", "/metrics": "llamacpp.prom"}
LM_STUDIO = {"/v1/models": "lmstudio_models.json", "/api/v0/models": "lmstudio_models.json"}


class _Server(ThreadingHTTPServer):
    request_queue_size = 64
    """More than the default of five, or a connection is dropped, and tried again after a second."""


@contextmanager
def serve(pages: dict[str, str], key: str | None = None) -> Iterator[str]:
    """A server on loopback with recorded pages; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = pages.get(self.path)
            is_allowed = key is None or self.headers["authorization"] == f"Bearer {key}"
            body = b"{}" if name is None or not is_allowed else (PAGES / name).read_bytes()
            self.send_response(401 if not is_allowed else 200 if name else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
